"""The studies of the paper's claims at the command line: options, what is shown, reports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crossproof.cli import main
from crossproof.cli.studies import CONFIGURED
from tests.report import made


def test_no_help_of_a_study_needs_torch_and_every_field_is_an_option() -> None:
    program = (
        "import sys, io, contextlib\n"
        "from crossproof.cli import main\n"
        "from crossproof.cli.studies import CONFIGURED\n"
        "for name, command in CONFIGURED.items():\n"
        "    printed = io.StringIO()\n"
        "    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        "    for field, its in command.config_class().model_fields.items():\n"
        "        option = '--' + field.replace('_', '-')\n"
        "        positional = any('Positional' in repr(each) for each in its.metadata)\n"
        "        assert positional or option in printed.getvalue(), (name, option)\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", CONFIGURED)
def test_a_config_says_what_it_is_for_and_what_each_field_means(name: str) -> None:
    config = CONFIGURED[name].config_class()
    assert config.__doc__
    missing = [field for field, its in config.model_fields.items() if not its.description]
    assert set(missing) <= {"out", "seed", "features", "texts", "batch_tokens", "penalty"}


def test_what_a_study_found_is_shown_as_words_claims_and_tables(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = made.run_folder(tmp_path / "study", made.findings())
    assert main(["show", str(folder)]) == 0
    printed = capsys.readouterr().out
    said = made.findings()
    assert said.title in printed
    assert all(its.verdict in printed for its in said.claims)
    assert main(["show", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads((folder / "results.json").read_text())


def test_a_report_is_written_as_a_page_or_as_markdown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = made.run_folder(tmp_path / "study", made.findings())
    page, text = tmp_path / "report.html", tmp_path / "report.md"
    assert main(["report", "--folders", str(folder), "--out", str(page)]) == 0
    assert main(["report", "--folders", str(folder), "--out", str(text), "--markdown"]) == 0
    assert page.read_text().startswith("<!doctype html>")
    assert text.read_text().startswith("## Summary")
    capsys.readouterr()
    assert main(["report", "--folders", str(tmp_path / "nothing"), "--out", str(page)]) == 1
    assert "is not a run folder" in capsys.readouterr().err


def test_a_folder_of_studies_stands_for_them_in_order_of_their_start(tmp_path: Path) -> None:
    made.run_folder(tmp_path / "runs" / "a", started="2026-01-02")
    made.run_folder(tmp_path / "runs" / "deep" / "z", started="2026-01-01")
    alone, page = made.run_folder(tmp_path / "alone"), tmp_path / "report.md"
    (tmp_path / "runs" / "report.html").write_text("a file beside them")
    assert main(["report", "--folders", str(alone), str(tmp_path / "runs"), "--out", str(page), "--markdown"]) == 0
    summary = page.read_text().split("### What the words mean")[0]
    assert list(dict.fromkeys(re.findall(r"^\| (alone|a|z) \|", summary, re.MULTILINE))) == ["alone", "z", "a"]


def test_a_study_whose_findings_are_lost_says_how_to_have_them_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = made.run_folder(tmp_path / "study", kind="clusters")
    (folder / "findings.json").unlink()
    assert main(["show", str(folder)]) == 1
    said = capsys.readouterr().err
    assert "without findings.json" in said
    assert "which writes it again: crossproof made" in said
    made.run_folder(folder, kind="clusters", finished=False)
    (folder / "findings.json").unlink()
    assert main(["show", str(folder)]) == 1
    assert "has not finished. Repeat its command" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_named_as_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = made.run_folder(tmp_path / "study")
    assert main(["report", "--folders", str(folder), "--out", str(tmp_path)]) == 1
    assert f"crossproof report: {tmp_path}: Is a directory" in capsys.readouterr().err
