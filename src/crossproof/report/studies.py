"""Run folders of studies, read and checked; and the claims of many in one list."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from crossproof import runs
from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_json
from crossproof.findings import FINDINGS, Claim, Findings, Summary, SummaryRow
from crossproof.runs import RUN, Run


@dataclass(frozen=True)
class Study:
    name: str
    """The name of its folder, one of a kind among those that are read together."""
    folder: Path
    run: Run
    findings: Findings

    @property
    def data_file(self) -> str:
        return (self.folder / FINDINGS).as_posix()


def read_studies(folders: Sequence[Path]) -> list[Study]:
    """In the order given."""
    if not folders:
        raise CrossproofError("no run folders: name at least one that a study has written")
    names = Counter[str]()
    studies = []
    for folder in folders:
        run, findings = _read(folder)
        name = re.sub(r"[^\w.-]+", "-", folder.resolve().name).strip("-") or "study"
        names[name] += 1
        studies.append(Study(name if names[name] == 1 else f"{name}-{names[name]}", folder, run, findings))
    return studies


def run_folders(root: Path) -> dict[str, Path]:
    """Of studies, by their path below the root. Links to folders are not followed, and no file elsewhere is read."""
    real, found = root.resolve(), {}
    for place, folders, files in os.walk(real):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        needed = [Path(place, name) for name in (RUN, FINDINGS)]
        if {RUN, FINDINGS} <= set(files) and all(
            file.is_file() and file.resolve().is_relative_to(real) for file in needed
        ):
            found[Path(place).relative_to(real).as_posix()] = Path(place)
    return found


def those_in(folders: Sequence[Path]) -> list[Path]:
    """A run folder of a study is itself; any other folder stands for the studies below it, in order of their start."""
    found: list[Path] = []
    for folder in folders:
        below = [] if (folder / FINDINGS).exists() else [folder / name for name in run_folders(folder)]
        found += sorted(below, key=lambda place: runs.read(place).started) or [folder]
    return found


def summary(folders: Sequence[Path]) -> Summary:
    """What all studies claim."""
    rows = [
        SummaryRow(study=study.name, **claim.model_dump(exclude={"why"}))
        for study in read_studies(folders)
        for claim in study.findings.claims
    ]
    return Summary(claims=tuple(rows))


def _read(folder: Path) -> tuple[Run, Findings]:
    run, path = runs.read(folder), folder / FINDINGS
    if not run.finished:
        raise BadFile(f"{folder} has not finished. Repeat its command to resume it: {run.command}")
    if not path.exists():
        raise BadFile(
            f"{folder} holds a run of `{run.kind}` without {FINDINGS}: name folders that studies have written, or, if "
            f"the file was lost, {_anew(run)}"
        )
    try:
        findings = Findings.model_validate(read_json(path))
    except ValidationError as error:
        raise BadFile(f"{path}: {runs.first_problem(error)}; {_anew(run)}") from error
    except BadFile as error:
        raise BadFile(f"{error}; {_anew(run)}") from error
    _refuse_twice(path, "claims", [claim.id for claim in findings.claims])
    _refuse_twice(path, "figures", [figure.id for figure in findings.figures])
    for number, claim in enumerate(findings.claims):
        _refuse_unfounded(path, number, claim)
    return run, findings


def _anew(run: Run) -> str:
    """A study that finished writes its words again, from its results."""
    return f"repeat its command, which writes it again: {run.command}"


def _refuse_twice(path: Path, field: str, ids: Sequence[str]) -> None:
    for number, name in enumerate(ids):
        if name in ids[:number]:
            raise BadFile(f"{path}: {field}.{number}.id: {name!r} is the id of another one already")


def _refuse_unfounded(path: Path, number: int, claim: Claim) -> None:
    if claim.verdict == "holds" and None in (claim.ours, claim.low, claim.high):
        raise BadFile(f"{path}: claims.{number}.verdict: 'holds' without a number and its interval")
