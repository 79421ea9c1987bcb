"""Asking a language model: what is sent and kept, and what happens when the server does what servers do."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from crossproof.errors import BadFile
from crossproof.study.language_model import LanguageModel, LanguageModelConfig, LanguageModelError
from tests.study.chat import Reply, chat, saying

KEY = "CROSSPROOF_TEST_KEY"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY, raising=False)


def asking(endpoint: str, folder: Path, **settings: Any) -> LanguageModel:
    settings = {"model": "small", "key_variable": KEY, "retries": 2, "timeout": 5.0} | settings
    return LanguageModel(LanguageModelConfig(endpoint=endpoint, **settings), folder / "answers.jsonl", pause=0.001)


def test_a_question_is_sent_in_the_chat_format_and_its_answer_read(tmp_path: Path) -> None:
    with chat(lambda asked, before: saying(" 42 ")) as server:
        assert asking(server.endpoint + "/", tmp_path).ask("Be brief.", "How many?", int) == 42
    assert server.paths == ["/v1/chat/completions"]
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "How many?"}]
    assert server.asked == [{"model": "small", "messages": messages, "temperature": 0.0}]
    assert "Authorization" not in server.headers[0]


def test_the_key_is_sent_and_never_kept_or_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, "sesame")
    with chat(lambda asked, before: saying("1") if before == 0 else Reply(401, b"who are you")) as server:
        model = asking(server.endpoint, tmp_path, temperature=None)
        assert model.ask("", "first", int) == 1
        with pytest.raises(LanguageModelError, match=f"401 .*who are you.*{KEY}") as error:
            model.ask("", "second", int)
    assert [its["Authorization"] for its in server.headers] == ["Bearer sesame"] * 2
    assert "temperature" not in server.asked[0]
    assert "sesame" not in str(error.value)
    assert all("sesame" not in file.read_text() for file in tmp_path.iterdir())


def test_what_was_answered_is_kept_and_never_asked_again_even_after_a_kill(tmp_path: Path) -> None:
    with chat(lambda asked, before: saying(str(before))) as server:
        model = asking(server.endpoint, tmp_path)
        assert [model.ask("", question, int) for question in ("a", "b", "a")] == [0, 1, 0]
        file = tmp_path / "answers.jsonl"
        whole = file.read_text()
        file.write_text(whole[:-9])  # killed while it wrote the second answer
        again = asking(server.endpoint, tmp_path)
        assert [again.ask("", question, int) for question in ("a", "b")] == [0, 2]
        assert [asking(server.endpoint, tmp_path).ask("", question, int) for question in ("a", "b")] == [0, 2]
        assert len(server.asked) == 3
        assert asking(server.endpoint, tmp_path, model="other").ask("", "a", int) == 3
        assert asking(server.endpoint, tmp_path).ask("other", "a", int) == 4


def test_a_file_that_holds_no_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"question": "a"}\n')
    with pytest.raises(BadFile, match=r"answers.jsonl is no file of answers"):
        asking("http://localhost:1/v1", tmp_path)
    (tmp_path / "answers.jsonl").write_text("nonsense\n")
    with pytest.raises(BadFile, match=r"answers.jsonl is no file of answers"):
        asking("http://localhost:1/v1", tmp_path)


@pytest.mark.parametrize(
    "failure",
    [
        Reply(429, b"slow down", {"Retry-After": "0"}),
        Reply(429, b"slow down", {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
        Reply(503, b"busy"),
        Reply(200, b"<html>a page</html>"),
        Reply(200, b'{"choices": []}'),
        Reply(200, b'{"error": "loading"}'),
        Reply(200, b'["no object"]'),
        saying(None),
        saying(["no", "text"]),
        Reply(200, b"cut short", {"Content-Length": "100"}),
    ],
    ids=["429", "429-date", "503", "page", "no-choice", "error", "list", "null", "parts", "cut"],
)
def test_what_fails_in_passing_is_asked_again_and_named_when_it_goes_on(tmp_path: Path, failure: Reply) -> None:
    with chat(lambda asked, before: failure if before < 2 else saying("7")) as server:
        assert asking(server.endpoint, tmp_path, timeout=1.0).ask("", "q", int) == 7
        assert len(server.asked) == 3
    with chat(lambda asked, before: failure) as server:
        with pytest.raises(LanguageModelError, match=r"failed 3 times, the last time with: .*repeat the command"):
            asking(server.endpoint, tmp_path, timeout=1.0).ask("", "q", int)
        assert len(server.asked) == 3


def test_a_server_that_does_not_answer_in_time_is_asked_again(tmp_path: Path) -> None:
    late = threading.Event()
    with chat(lambda asked, before: Reply(after=late) if before == 0 else saying("7")) as server:
        assert asking(server.endpoint, tmp_path, timeout=0.3).ask("", "q", int) == 7
        late.set()
    assert len(server.asked) == 2


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
def test_what_will_not_pass_is_named_at_once(tmp_path: Path, status: int) -> None:
    with chat(lambda asked, before: Reply(status, b"no such thing")) as server:
        with pytest.raises(LanguageModelError, match=f"{status} .*no such thing"):
            asking(server.endpoint, tmp_path).ask("", "q", int)
        assert len(server.asked) == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_with_the_key_in_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    monkeypatch.setenv(KEY, "sesame")
    with chat(lambda asked, before: saying("1")) as elsewhere:
        to = {"Location": elsewhere.endpoint}
        with chat(lambda asked, before: Reply(status, b"", to)) as server, pytest.raises(LanguageModelError):
            asking(server.endpoint, tmp_path).ask("", "q", int)
        assert not elsewhere.paths


def test_a_port_where_nothing_listens_is_named(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(LanguageModelError, match=r"nothing listens at http://127.0.0.1"):
        asking(f"http://127.0.0.1:{port}/v1", tmp_path).ask("", "q", int)


def test_an_answer_that_cannot_be_read_is_asked_for_once_more_with_the_reason(tmp_path: Path) -> None:
    def read(answer: str) -> int:
        if not answer.isdigit():
            raise ValueError("that is no number")
        return int(answer)

    with chat(lambda asked, before: saying("many") if before == 0 else saying("3")) as server:
        assert asking(server.endpoint, tmp_path).ask("", "q", read) == 3
    assert [its["content"] for its in server.asked[1]["messages"][2:]] == [
        "many",
        "That could not be read: that is no number. Answer again, in the form asked for.",
    ]
    with chat(lambda asked, before: saying("many")) as server:
        assert asking(server.endpoint, tmp_path).ask("", "q", read) is None
        assert len(server.asked) == 2


def test_what_a_model_thought_aloud_is_no_part_of_its_answer(tmp_path: Path) -> None:
    with chat(lambda asked, before: saying("<think>5? No, 6.</think>\n\n6")) as server:
        assert asking(server.endpoint, tmp_path).ask("", "q", int) == 6
    assert json.loads((tmp_path / "answers.jsonl").read_text())["answer"] == "6"


@pytest.mark.parametrize(
    ("endpoint", "model", "why"),
    [
        (None, "small", "endpoint None: expected"),
        ("localhost:8000", "small", "expected one like"),
        ("file:///etc/passwd", "small", "expected one like"),
        ("http://localhost:8000/v1", "", "which model"),
    ],
)
def test_wrong_settings_are_refused_before_anything_is_asked(
    tmp_path: Path, endpoint: str | None, model: str, why: str
) -> None:
    with pytest.raises(LanguageModelError, match=why):
        LanguageModel(LanguageModelConfig(endpoint=endpoint, model=model), tmp_path / "answers.jsonl")
    assert not list(tmp_path.iterdir())
