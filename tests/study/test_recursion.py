"""The study of the paper's recursion: what it says follows from the bounds, and a bound that says nothing is shown."""

from __future__ import annotations

import dataclasses
import math
from functools import cache
from pathlib import Path

import pytest
import torch

from crossproof.findings import FINDINGS, Findings
from crossproof.proof.recursion.recursion import Recursion, recursion
from crossproof.proof.recursion.ways import PAPER, WAYS
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.recursion.config import RecursionConfig
from crossproof.study.recursion.results import RecursionStudy, study_of
from crossproof.study.recursion.study import run
from tests.binding import coders
from tests.subject import tiny

FAMILY = "neox-sequential"
SITES = ("blocks.*.hook_resid_*", "blocks.*.ln1.hook_normalized", "blocks.*.ln2.hook_normalized")


@cache
def found() -> Recursion:
    subject = tiny.subject(FAMILY, torch.float32)
    return recursion(subject, coders.on(subject, *SITES, features=10), tiny.some_tokens(FAMILY, torch.float32))


def scaled(factor: float) -> Recursion:
    """As if the paper's bounds were so many times as large."""
    its = found()
    paper = its.ways[PAPER.name]
    return dataclasses.replace(its, ways=its.ways | {PAPER.name: dataclasses.replace(paper, loss=paper.loss * factor)})


def studied(*factors: tuple[str, float]) -> RecursionStudy:
    records = [
        (CoderRecord(coder=f"{penalty}-{number}", penalty=penalty, seed=number, unexplained=0.1), scaled(factor))
        for number, (penalty, factor) in enumerate(factors)
    ]
    return study_of("s", records, seed=0)


def test_claims_follow_from_the_bounds() -> None:
    said = studied(("penalty 1", 0.5), ("plain", 1.0)).findings()
    verdicts = {claim.id: claim for claim in said.claims}
    assert verdicts["recursion.paper"].verdict == "does not hold"
    assert verdicts["recursion.penalty"].ours == pytest.approx(0.5)
    assert verdicts["recursion.penalty"].verdict == "holds"
    assert "vacuous" in said.answer
    worse = studied(("penalty 1", 2.0), ("plain", 1.0)).findings()
    assert {claim.id: claim.verdict for claim in worse.claims}["recursion.penalty"] == "does not hold"
    alone = studied(("plain", 1e-12)).findings()
    assert {claim.id: claim.verdict for claim in alone.claims}["recursion.paper"] == "holds"
    assert "recursion.penalty" not in {claim.id for claim in alone.claims}


def test_an_infinite_bound_is_said_to_be_infinite() -> None:
    its = studied(("plain", math.inf))
    said = its.findings()
    assert its.groups[0].way(PAPER).loss is None
    claim = next(claim for claim in said.claims if claim.id == "recursion.paper")
    assert (claim.ours, claim.verdict) == (None, "does not hold")
    assert "infinitely many nat" in said.answer
    table = next(table for table in said.tables if table.title == "What each way certifies")
    assert "infinite" in table.by_column[table.columns.index("says")]
    assert RecursionStudy.model_validate_json(its.model_dump_json()) == its


def test_the_waterfall_shows_every_term_and_the_pairs_their_features() -> None:
    its = studied(("plain", 1.0), ("penalty 1", 0.9))
    said = its.findings()
    falls = [figure for figure in said.figures if figure.id.startswith("waterfall-paper")]
    assert len(falls) == 2
    paper = its.groups[0].way(PAPER)
    shown = sum(y for series in falls[0].series for y in series.y if y is not None)
    assert shown == pytest.approx(paper.radius)
    assert len({figure.id for figure in said.figures}) == len(said.figures)
    pairs = next(table for table in said.tables if table.title.startswith("Pairs"))
    assert pairs.rows
    assert all(row[1] != row[2] for row in pairs.rows)


def test_the_study_is_written_and_read_when_it_is_finished(tmp_path: Path) -> None:
    subject = tiny.subject(FAMILY, torch.float32)
    coders.on(subject, *SITES, features=10).save_pretrained(tmp_path / "coder")
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(f"w{i % 50} w{(7 * i) % 50} w{i // 50}" for i in range(60)))
    config = RecursionConfig(
        subject=str(tiny.folder(FAMILY)), coders=(str(tmp_path / "coder"),), out=tmp_path / "run", texts=2, data=data
    )
    result = run(config)
    said = Findings.model_validate_json((tmp_path / "run" / FINDINGS).read_text())
    assert said == result.findings()
    assert [way.way for way in result.groups[0].ways] == [way.name for way in WAYS]
    assert run(config) == result
