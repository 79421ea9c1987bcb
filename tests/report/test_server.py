"""The local page shows the studies below its folder, to this machine, and nothing else."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from crossproof.errors import CrossproofError
from crossproof.report import server
from crossproof.report.server import app, serve
from crossproof.report.studies import run_folders
from tests.report.made import NASTY, findings, run_folder
from tests.report.test_attention_page import Parsed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")


def client(root: Path, host: str = "127.0.0.1:8000") -> TestClient:
    return TestClient(app(root), base_url=f"http://{host}")


def test_studies_are_listed_and_each_and_several_have_a_report(tmp_path: Path) -> None:
    run_folder(tmp_path / "demo" / "one")
    run_folder(tmp_path / "demo" / "t & <wo>", findings(title="Another"))
    page = client(tmp_path)
    index = Parsed(page.get("/").text)
    boxes = [its["value"] for tag, its in index.elements if tag == "input"]
    assert boxes == ["demo/one", "demo/t & <wo>"]
    links = [str(its["href"]) for tag, its in index.elements if tag == "a"]
    titles = [Parsed(page.get(link).text).text for link in links]
    assert all(title in text for title, text in zip(("A study", "Another"), titles, strict=True))
    both = Parsed(page.get("/report", params={"study": boxes}).text)
    assert [its["id"] for tag, its in both.elements if tag == "section"] == ["summary", "one", "t-wo", "provenance"]


def test_only_what_is_listed_is_read(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", run_folder(tmp_path / "outside")
    inside, linked = run_folder(root / "inside"), root / "linked"
    (root / "link").symlink_to(outside)
    (root / ".hidden").symlink_to(outside)
    run_folder(root / ".new")
    linked.mkdir()
    (linked / "run.json").symlink_to(inside / "run.json")
    (linked / "findings.json").symlink_to(outside / "findings.json")
    assert run_folders(root) == {"inside": inside}
    for name in (
        "../outside",
        "link",
        "linked",
        ".new",
        str(outside),
        "inside/../../outside",
        "inside/",
        "",
        "nothing",
    ):
        answer = client(root).get("/report", params={"study": name})
        assert answer.status_code == 404
        assert "A study" not in answer.text
    assert client(root).get("/report").status_code == 404
    assert client(root).get("/inside/run.json").status_code == 404
    # a folder that is itself reached by a link is what somebody named
    (tmp_path / "name").symlink_to(root)
    assert list(run_folders(tmp_path / "name")) == ["inside"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8000", "0.0.0.0"])
def test_it_answers_to_no_other_name(tmp_path: Path, host: str) -> None:
    run_folder(tmp_path / "one")
    assert client(tmp_path, host).get("/").status_code == 400
    assert client(tmp_path, "localhost:9").get("/").status_code == 200


def test_answers_may_load_nothing_be_framed_by_nobody_and_change_nothing(tmp_path: Path) -> None:
    run_folder(tmp_path / "one")
    for path in ("/", "/report?study=one", "/report?study=two"):
        answer = client(tmp_path).get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert client(tmp_path).post(path).status_code == 405


def test_what_is_broken_is_named_and_nothing_is_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)<script>"
    (run_folder(tmp_path / name) / "findings.json").write_text("{")
    index = client(tmp_path).get("/").text
    assert "&lt;script&gt;alert(1)" in index
    assert "is not valid JSON" in index
    assert "<script" not in index
    answer = client(tmp_path).get("/report", params={"study": name})
    assert answer.status_code == 422
    assert "is not valid JSON" in answer.text
    assert "<script" not in answer.text
    asked = client(tmp_path).get("/report", params={"study": NASTY})
    assert asked.status_code == 404
    assert "<script" not in asked.text


def test_a_folder_without_studies_says_so_and_what_is_none_is_refused(tmp_path: Path) -> None:
    assert "No studies below this folder yet" in client(tmp_path).get("/").text
    with pytest.raises(CrossproofError, match="is no folder"):
        app(tmp_path / "nothing")


def test_what_is_missing_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "find_spec", lambda name: None)
    with pytest.raises(CrossproofError, match=r"starlette and uvicorn: pip install 'crossproof\[page\]'"):
        app(tmp_path)


@pytest.mark.parametrize("port", [-1, 65536, None])
def test_a_port_that_cannot_be_had_is_refused_by_its_number(tmp_path: Path, port: int | None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1] if port is None else port
        with pytest.raises(CrossproofError, match=rf"port {port} of 127.0.0.1 cannot be used .*choose another, or 0"):
            serve(tmp_path, port, say=lambda address: pytest.fail(address))


def test_it_listens_on_this_machine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import uvicorn

    listening: list[tuple[str, int]] = []
    monkeypatch.setattr(
        uvicorn.Server, "run", lambda its, sockets: listening.extend(one.getsockname() for one in sockets)
    )
    said: list[str] = []
    serve(tmp_path, port=0, say=said.append)
    [(host, port)] = listening
    assert host == "127.0.0.1"
    assert said == [f"http://127.0.0.1:{port}"]
