"""`crossproof attention`: what it prints, what it writes, what it refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from crossproof.cli import main
from crossproof.files import read_safetensors
from crossproof.report import page
from crossproof.subject.subject import Subject
from tests.binding import coders
from tests.report.test_attention_page import folder_of, record

TEXT = "Lily saw a red ball"


@pytest.fixture(scope="module")
def coder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("coder")
    coders.on(Subject.load("tinytales-pythia"), "blocks.[12].ln1.hook_normalized").save_pretrained(folder)
    return str(folder)


def test_a_head_is_drawn_saved_and_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path, coder: str) -> None:
    out = tmp_path / "found"
    command = ["attention", "tinytales-pythia", "--coder", coder, "--text", TEXT, "--query", "ball", "--key", "Lily"]
    assert main([*command, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "query 5 ball · key 1 Lily; layer and head chosen where interaction is largest" in printed
    assert "the decoded pattern differs from the model's own by" in printed
    assert "deviation × deviation" in printed
    assert f"page: {out / 'attention.html'}" in printed
    assert {file.name for file in out.iterdir()} == {
        "run.json", "results.json", "attention.safetensors", "attention.html"
    }  # fmt: skip
    assert main(["show", str(out)]) == 0
    assert capsys.readouterr().out == printed
    assert main(["show", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert found["words"] == ["<|endoftext|>", "Lily", " saw", " a", " red", " ball"]
    assert found["layer"] in (1, 2)
    best = found["strongest"][0]
    assert f"{best['i']} → {best['j']}" in printed
    assert read_safetensors(out / "attention.safetensors")["parts"].shape == (4, 6, 6)
    assert "Layer" in (out / "attention.html").read_text()
    assert main([*command[:-1], "saw", "--out", str(out)]) == 1
    assert "key was 'Lily', now 'saw'" in capsys.readouterr().err


def test_words_are_printed_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ("[/bold]", "[red]", "[x", "a", "b")
    folder = folder_of(tmp_path, record(words=words, text=" ".join(words), query=3, key=1))
    assert main(["show", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "“[/bold] [red] [x a b”" in printed
    assert "key 1 [red]" in printed
    assert "2 [x" in printed


def test_what_is_asked_for_is_what_is_shown(capsys: pytest.CaptureFixture[str], coder: str) -> None:
    command = ["attention", "tinytales-pythia", "--coder", coder, "--text", TEXT, "--layer", "2", "--head", "3"]
    assert main([*command, "--query", "4", "--key", "0"]) == 0
    printed = capsys.readouterr().out
    assert "layer 2, head 3 of tinytales-pythia" in printed
    assert "query 4 red · key 0 <|endoftext|>\n" in printed
    assert "page:" not in printed


@pytest.mark.parametrize(("option", "value", "complaint"), [("--layer", "0", "ln1"), ("--query", "dog", "no token")])
def test_what_is_not_there_is_one_line_and_leaves_no_folder(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, coder: str, option: str, value: str, complaint: str
) -> None:
    out = tmp_path / "found"
    command = ["attention", "tinytales-pythia", "--coder", coder, "--text", TEXT, "--out", str(out)]
    assert main([*command, option, value]) == 1
    assert complaint in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_text_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert main(["attention", "no such model", "--coder", "none", "--text", text]) == 1
    assert "--text is empty" in capsys.readouterr().err


def test_what_is_not_read_of_the_text_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path, coder: str) -> None:
    command = ["attention", "tinytales-pythia", "--coder", coder, "--layer", "1", "--head", "0"]
    assert main([*command, "--text", " ".join([TEXT] * 40), "--out", str(tmp_path / "found")]) == 0
    says = "he first 159 of 200 tokens are read"
    assert says in " ".join(capsys.readouterr().out.split())
    assert says in (tmp_path / "found" / "attention.html").read_text()
    assert main([*command, "--text", "xyzzy plugh"]) == 0
    assert "knows no word of this text" in capsys.readouterr().out


def test_a_missing_plotly_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = importlib.util.find_spec
    monkeypatch.setattr(page, "find_spec", lambda name: None if name == "plotly" else there(name))
    command = ["attention", "no such model", "--coder", "none", "--text", TEXT, "--out", str(tmp_path / "found")]
    assert main(command) == 1
    assert "pip install 'crossproof[page]'" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()
