"""Run folders of studies, read and checked; and the claims of many in one list."""

from __future__ import annotations

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
from crossproof.runs import Run


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
            f"{folder} holds a run of `{run.kind}` without {FINDINGS}: name folders that studies have written"
        )
    try:
        findings = Findings.model_validate(read_json(path))
    except ValidationError as error:
        raise BadFile(f"{path}: {runs.first_problem(error)}; run its command again: {run.command}") from error
    _refuse_twice(path, "claims", [claim.id for claim in findings.claims])
    _refuse_twice(path, "figures", [figure.id for figure in findings.figures])
    for number, claim in enumerate(findings.claims):
        _refuse_unfounded(path, number, claim)
    return run, findings


def _refuse_twice(path: Path, field: str, ids: Sequence[str]) -> None:
    for number, name in enumerate(ids):
        if name in ids[:number]:
            raise BadFile(f"{path}: {field}.{number}.id: {name!r} is the id of another one already")


def _refuse_unfounded(path: Path, number: int, claim: Claim) -> None:
    if claim.verdict == "holds" and None in (claim.ours, claim.low, claim.high):
        raise BadFile(f"{path}: claims.{number}.verdict: 'holds' without a number and its interval")
