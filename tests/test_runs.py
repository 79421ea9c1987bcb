"""A run folder read back: results that do not fit are refused once, and by who wrote them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict

from crossproof import runs
from crossproof.errors import BadFile
from crossproof.files import write_json


class Row(BaseModel):
    model_config = ConfigDict(extra="forbid")
    size: float


class Results(BaseModel):
    model_config = ConfigDict(extra="forbid")
    rows: list[Row]


def finished(folder: Path) -> Path:
    run = runs.begin(folder, "test", Row(size=1))
    runs.finish(folder, run, Results(rows=[Row(size=n) for n in range(8)]), 1.0)
    return folder


def edit(path: Path, **fields: object) -> None:
    write_json(path, json.loads(path.read_text()) | fields)


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert [row.size for row in runs.read_results(finished(tmp_path), Results).rows] == list(range(8))


def test_results_with_the_fields_of_another_version_are_refused_once_and_by_version(tmp_path: Path) -> None:
    finished(tmp_path)
    edit(tmp_path / "results.json", rows=[{"size": n, "share": 1} for n in range(8)])
    edit(tmp_path / "run.json", versions={"crossproof": "0.0.1"}, git_commit=None, command="crossproof train 'a b'")
    with pytest.raises(BadFile) as raised:
        runs.read_results(tmp_path, Results)
    said = str(raised.value)
    assert f"{tmp_path / 'results.json'} was written by crossproof 0.0.1 (this is crossproof " in said
    assert "with other fields: rows.0.share: Extra inputs are not permitted; run its command again" in said
    assert said.endswith("crossproof train 'a b'")
    assert said.count("share") == 1


def test_a_commit_tells_apart_what_a_version_does_not(tmp_path: Path) -> None:
    finished(tmp_path)
    edit(tmp_path / "results.json", rows=None)
    edit(tmp_path / "run.json", git_commit="0" * 40 + "+changes")
    with pytest.raises(BadFile, match=r"written by crossproof \S+ at commit 0000000000 .* other fields: rows: "):
        runs.read_results(tmp_path, Results)


def test_results_that_were_edited_are_refused_at_their_first_field(tmp_path: Path) -> None:
    finished(tmp_path)
    edit(tmp_path / "results.json", rows=[{"size": "large"}] * 8)
    with pytest.raises(BadFile, match=r"results\.json was edited, or this code was: rows\.0\.size: [^;]*$"):
        runs.read_results(tmp_path, Results)


def test_settings_that_were_edited_are_refused_at_their_first_field(tmp_path: Path) -> None:
    finished(tmp_path)
    edit(tmp_path / "run.json", colour="red", kind=3)
    with pytest.raises(BadFile, match=r"run\.json: kind: Input should be a valid string$"):
        runs.read(tmp_path)
