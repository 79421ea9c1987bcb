"""The report: everything that studies say is on it, escaped; it needs nothing else; what is broken is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossproof.errors import BadFile, CrossproofError
from crossproof.findings import Findings, Summary
from crossproof.report import page as report_page
from crossproof.report.glossary import used
from crossproof.report.page import HERE
from crossproof.report.studies import read_studies, summary
from crossproof.report.study_page import PARTS, write_report
from tests.report.made import NASTY, claim, findings, run_folder
from tests.report.test_attention_page import Parsed

PLAIN = NASTY.replace("`", "")
"""As it is read on a page: what stands in backticks is set as code."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Most tests need none of plotly's five million characters."""
    if request.node.name != "test_plotly_is_in_the_page":
        monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "/* plotly */")


def report(tmp_path: Path, *folders: Path, title: str = "The claims", about: str = "") -> Parsed:
    return Parsed(write_report(folders, tmp_path / "report.html", title, about).read_text())


def ids(html: Parsed) -> list[str]:
    return [str(attributes["id"]) for _, attributes in html.elements if "id" in attributes]


def test_everything_that_a_study_says_is_on_the_page_and_nothing_of_it_is_markup(tmp_path: Path) -> None:
    html = report(tmp_path, run_folder(tmp_path / "made"), title=f"All {NASTY}", about=f"About {NASTY}")
    for text in ("All", "About", "A study", "Is it so?", "It is.", "It is so:", "Φ", "Above 0.3", "It rises", "Rows",
                 "A text", "Held out:"):  # fmt: skip
        assert f"{text} {PLAIN}" in html.text, text
    for text in ("A second paragraph.", "0.412 [0.398, 0.430]", "0.305", "holds", "cannot tell", "Blocks differ",
                 "Without a word", "No rows.", "2 claims: 1 holds, 1 cannot be told"):  # fmt: skip
        assert text in html.text, text
    assert len(html.scripts) == 3
    assert "alert(1)" not in "".join(html.scripts[1:])
    assert not [name for _, attributes in html.elements for name in attributes if name.startswith("on")]
    bold = [tag for tag, _ in html.elements if tag in ("b", "i", "em", "strong", "flag", "x", "img")]
    # one for each of our two numbers, in the summary and in the study
    assert bold == ["b"] * 4


def test_plotly_is_in_the_page(tmp_path: Path) -> None:
    html = report(tmp_path, run_folder(tmp_path / "made"))
    assert len(html.scripts) == 3
    assert "Plotly" in html.scripts[1]
    assert len(html.scripts[1]) > 1e6


def test_figures_tables_and_texts_are_in_the_page_as_they_are_in_the_folder(tmp_path: Path) -> None:
    found = findings()
    html = report(tmp_path, run_folder(tmp_path / "made"), run_folder(tmp_path / "other", findings(figures=())))
    data = json.loads(html.scripts[0])
    names = [figure.pop("file") for figure in data["figures"]]
    assert names == [f"made--{figure.id}" for figure in found.figures]
    assert data["figures"] == [figure.model_dump(mode="json") for figure in found.figures]
    assert [its.pop("file") for its in data["tables"]] == [f"{s}--table-{n}" for s in ("made", "other") for n in (1, 2)]
    assert data["tables"] == [its.model_dump(mode="json") for its in found.tables] * 2
    assert [its["layers"] for its in data["passages"][:2]] == [
        [layer.model_dump(mode="json") for layer in its.layers] for its in found.passages
    ]
    drawn = [attributes["data-figure"] for _, attributes in html.elements if attributes.get("class") == "plot"]
    assert drawn == ["0", "1", "2", "3"]
    for kind, count in (("figure", 4), ("table", 4)):
        buttons = [its for tag, its in html.elements if tag == "button" and f"data-{kind}" in its]
        assert [(its[f"data-{kind}"], its["data-as"]) for its in buttons] == [
            (str(n), form) for n in range(count) for form in ("csv", "json")
        ]
    assert html.text.count(f"crossproof made --out '{NASTY}'") == 4 + 2
    words = [its for tag, its in html.elements if its.get("class") == "word"]
    assert len(words) == 2 * 5
    assert "Lily saw </script> ⏎\n ball" in html.text


def test_every_link_leads_to_a_place_on_the_page_and_every_claim_has_one(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / place / "ma de") for place in ("a", "b")]
    html = report(tmp_path, *folders)
    places = ids(html)
    assert len(places) == len(set(places))
    links = [str(its["href"])[1:] for tag, its in html.elements if tag == "a" and "href" in its]
    assert set(links) <= set(places)
    assert {"summary", "provenance", "ma-de", "ma-de-2", "ma-de--made.first", "ma-de-2--made.second"} <= set(links)
    assert {"ma-de--run", "ma-de-2--run", "ma-de--curve"} <= set(places)


def test_where_it_comes_from_is_said_of_every_run(tmp_path: Path) -> None:
    html = report(tmp_path, run_folder(tmp_path / "made"), run_folder(tmp_path / "other", config={}, git_commit=None))
    for text in (
        "torch 2.13.0",
        "abc123",
        "2026-01-01, took 12 s",
        "2 threads",
        '"seed": 7',
        (tmp_path / "made").as_posix(),
    ):
        assert text in html.text


def test_the_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    html = report(tmp_path, run_folder(tmp_path / "made"))
    links = {str(its[name]) for _, its in html.elements for name in ("src", "href", "action") if name in its}
    assert all(link == "data:," or link.startswith("#") for link in links)
    [policy] = [its["content"] for _, its in html.elements if "http-equiv" in its]
    assert str(policy).startswith("default-src 'none'")
    for name in ("page.css", *PARTS):
        assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp|WebSocket|innerHTML", (HERE / name).read_text()), (
            name
        )


def test_the_same_folders_make_the_same_page_and_their_order_is_kept(tmp_path: Path) -> None:
    first, second = run_folder(tmp_path / "b"), run_folder(tmp_path / "a", findings(title="Another"))
    pages = [write_report([first, second], tmp_path / name, "T").read_text() for name in ("1.html", "2.html")]
    assert pages[0] == pages[1]
    sections = [name for name in ids(Parsed(pages[0])) if name in ("a", "b")]
    assert sections == ["b", "a"]


def test_studies_without_anything_have_a_report(tmp_path: Path) -> None:
    nothing = Findings(title="Empty", question="Is there anything?", answer="No.")
    html = report(tmp_path, run_folder(tmp_path / "empty", nothing))
    assert "These studies make no claims." in html.text
    assert json.loads(html.scripts[0]) == {"figures": [], "tables": [], "passages": []}
    with pytest.raises(CrossproofError, match="no run folders"):
        report(tmp_path)


def changed(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(found: dict[str, Any]) -> None:
        *names, last = [int(name) if name.isdigit() else name for name in path.split(".")]
        place: Any = found
        for name in names:
            place = place[name]
        place[last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("claims.0.verdict", "maybe", "claims.0.verdict: Input should be 'holds'"),
        ("claims.1.verdict", "holds", "claims.1.verdict: 'holds' without a number and its interval"),
        ("claims.0.low", None, "claims.0.verdict: 'holds' without a number and its interval"),
        ("claims.1.id", "made.first", "claims.1.id: 'made.first' is the id of another one already"),
        ("figures.2.id", "bars", "figures.2.id: 'bars' is the id of another one already"),
        ("figures.0.series.0.high", [1.0], r"figures.0.series.0: .*high: 1 values for 2 points"),
        ("figures.0.series.0.y", [1.0, float("nan")], "figures.0.series.0.y.1: .*finite number"),
        ("figures.0.kind", "grid", "figures.0: .*a figure of kind `grid` has a grid and no series"),
        ("figures.3.grid", None, "figures.3: .*a figure of kind `grid` has a grid and no series"),
        ("figures.3.grid.values", [[1.0]], "figures.3.grid: .*1 rows of values for 2 rows"),
        ("figures.3.grid.values", [[1.0], []], "figures.3.grid: .*row 1 has 0 values for 1 columns"),
        ("tables.0.rows.1", ["z"], "tables.0: .*row 1 has 1 values for 2 columns"),
        ("passages.0.layers.0.values", [1.0], "passages.0: .*1 values for 5 words"),
        ("answer", None, "answer: Input should be a valid string"),
        ("more", 1, "more: Extra inputs"),
    ],
)
def test_broken_findings_are_refused_by_file_and_field(tmp_path: Path, path: str, value: object, says: str) -> None:
    folder = run_folder(tmp_path / "made")
    found = json.loads((folder / "findings.json").read_text())
    changed(path, value)(found)
    (folder / "findings.json").write_text(json.dumps(found))
    with pytest.raises(BadFile, match=rf"made/findings.json: {says}"):
        report(tmp_path, folder)
    assert not (tmp_path / "report.html").exists()


def test_folders_without_findings_are_refused_by_name(tmp_path: Path) -> None:
    for name, spoil, says in (
        ("unfinished", lambda folder: run_folder(folder, finished=False), "unfinished has not finished. Repeat"),
        ("cut", lambda folder: (folder / "findings.json").write_text("{"), "cut/findings.json is not valid JSON"),
        (
            "train",
            lambda folder: (folder / "findings.json").unlink(),
            "train holds a run of `made` without findings.json",
        ),
        ("nothing", lambda folder: (folder / "run.json").unlink(), "nothing is not a run folder"),
    ):
        spoil(run_folder(tmp_path / name))
        with pytest.raises(BadFile, match=says):
            report(tmp_path, run_folder(tmp_path / "good"), tmp_path / name)


def test_a_missing_plotly_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "find_spec", lambda name: None)
    with pytest.raises(CrossproofError, match=r"pip install 'crossproof\[page\]'"):
        report(tmp_path, run_folder(tmp_path / "made"))


def test_all_claims_are_one_list(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / "one"), run_folder(tmp_path / "two", findings(claims=(claim("b"),)))]
    found = summary(folders).model_dump(mode="json")
    assert Summary.model_validate(json.loads(json.dumps(found, allow_nan=False))).model_dump(mode="json") == found
    assert [(its["study"], its["id"]) for its in found["claims"]] == [
        ("one", "made.first"), ("one", "made.second"), ("two", "b"),
    ]  # fmt: skip
    of = claim("b")
    assert found["claims"][2] == {**of.model_dump(exclude={"why"}), "study": "two"}


def test_a_report_needs_no_torch() -> None:
    rooms = "crossproof.report.study_page, crossproof.report.markdown, crossproof.report.server"
    code = f"import sys, {rooms}; sys.exit('torch' in sys.modules or 'plotly' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_words_are_explained_where_they_are_used_and_only_there(tmp_path: Path) -> None:
    plain = findings(title="t", question="q", answer="Texts.", claims=(), figures=(), tables=(), passages=(), notes=())
    run_folder(tmp_path / "plain", plain)
    run_folder(tmp_path / "used", plain.model_copy(update={"answer": "The AUROC is 1."}))
    assert used(read_studies([tmp_path / "plain"])) == []
    [meaning] = used(read_studies([tmp_path / "plain", tmp_path / "used"]))
    assert meaning.startswith("AUROC: ")
    assert meaning in report(tmp_path, tmp_path / "used").text
    assert "What the words mean" not in report(tmp_path, tmp_path / "plain").text
