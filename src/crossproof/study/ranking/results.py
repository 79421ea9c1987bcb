"""What the ranking study found: its records, and the tables that are made of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

ALL = "all MLPs"
"""The mean over the MLPs in which the index puts pairs in any order."""
Level = Literal["token", "pair"]


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Estimate(Record):
    """A number and its 95% interval over texts; None where too few resamples have the number."""

    value: float
    low: float | None
    high: float | None


class Agreement(Record):
    """How well one metric ranks pairs as the Shapley-Taylor index does."""

    level: Level
    """Among the pairs of one token, mean over tokens; or among all pairs, each its mean over tokens."""
    unit: str
    metric: str
    spearman: Estimate
    precision: dict[int, Estimate] = {}
    """Between pairs: the share of the index's first k among the metric's first k."""


class UnitRecord(Record):
    """One MLP."""

    unit: str
    neurons: int
    residual_gap: float
    """T2: the largest relative difference, at any sampled token and neuron, between the additive residual and the sum
    of the index over pairs."""
    relative_error: float | None
    """Where the index is an estimate: the median over pairs of its standard error over its size."""
    halves: float | None
    """Spearman between the pairs' mean index over every other text and over the rest: what a perfect metric that had
    seen other tokens could hope for. None where too few pairs are in both."""


class RankingStudy(Record):
    """`results.json`."""

    subject: str
    texts: int
    tokens: int
    """Which the corpus metrics see."""
    sampled: int
    """At which the index was computed."""
    estimated: int
    """How many of these have too many features for exact values."""
    unordered: int
    """How many of these have too few features to rank pairs within them."""
    passed_over: int
    """Tokens of the texts with fewer than two active features, which were not sampled from."""
    active: float
    """Mean number of active features at the sampled tokens."""
    pairs: int
    """Pairs of features seen at any sampled token."""
    ranked_pairs: int
    """Those seen often enough to rank by their mean."""
    seen: int
    """How often that is."""
    units: tuple[UnitRecord, ...]
    agreements: tuple[Agreement, ...]


def agreement_table(study: RankingStudy, level: Level, unit: str = ALL) -> list[dict[str, Any]]:
    """A row for each metric, the best first."""
    return agreement_rows(study.agreements, level, unit)


def agreement_rows(agreements: Iterable[Agreement], level: Level, unit: str) -> list[dict[str, Any]]:
    rows = [row for row in agreements if (row.level, row.unit) == (level, unit)]
    return [
        {"metric": row.metric, "Spearman": _with_interval(row.spearman)}
        | {f"precision at {k}": _with_interval(estimate) for k, estimate in row.precision.items()}
        for row in sorted(rows, key=lambda row: -row.spearman.value)
    ]


def unit_table(study: RankingStudy, level: Level) -> list[dict[str, Any]]:
    """A row for each metric, a column of Spearman correlations for each MLP."""
    return unit_rows(study.agreements, level, ALL)


def unit_rows(agreements: Iterable[Agreement], level: Level, mean: str) -> list[dict[str, Any]]:
    """Without those of the `mean` over units."""
    rows: dict[str, dict[str, Any]] = {}
    for row in agreements:
        if row.level == level and row.unit != mean:
            rows.setdefault(row.metric, {"metric": row.metric})[row.unit] = f"{row.spearman.value:.2f}"
    return list(rows.values())


def checks_table(study: RankingStudy) -> list[dict[str, Any]]:
    """A row for each MLP."""
    return [
        {
            "MLP": unit.unit,
            "neurons": unit.neurons,
            "T2, largest relative difference": f"{unit.residual_gap:.1e}",
            "standard error of estimates": "–" if unit.relative_error is None else f"{unit.relative_error:.0%}",
            "Spearman between halves": "–" if unit.halves is None else f"{unit.halves:.2f}",
        }
        for unit in study.units
    ]


def tables(study: RankingStudy) -> dict[str, list[dict[str, Any]]]:
    """What to look at first, by title."""
    found = {
        "pairs of a token": agreement_table(study, "token"),
        "all pairs": agreement_table(study, "pair"),
        "checks": checks_table(study),
    }
    return {title: rows for title, rows in found.items() if rows}


def summary(study: RankingStudy) -> str:
    """In words."""
    base = ", ".join(f"{min(1, k / study.ranked_pairs):.1%} at {k}" for k in _tops(study))
    return (
        f"{study.subject}: {study.sampled} tokens of {study.texts} texts, {study.active:.1f} active features each, "
        f"{study.estimated} with too many for exact values, {study.unordered} with too few to rank\n"
        f"{study.ranked_pairs:,} of {study.pairs:,} pairs seen at {study.seen} or more of them"
        + (f"; precision by chance {base}" if base else "")
        + "".join(f"\n{line}" for line in _left_out(study))
    )


def _left_out(study: RankingStudy) -> list[str]:
    """The MLPs that the means do without: those that have no row, at a level that has rows."""
    lines = []
    for level, pairs in (("token", "the pairs of a token"), ("pair", "all pairs")):
        told = {row.unit for row in study.agreements if row.level == level}
        without = [unit.unit for unit in study.units if told and unit.unit not in told]
        if without:
            lines.append(f"the index does not order {pairs} in {', '.join(without)}: left out of the mean over MLPs")
    return lines


def _tops(study: RankingStudy) -> list[int]:
    return sorted({k for row in study.agreements for k in row.precision})


def _with_interval(estimate: Estimate) -> str:
    reach = "–" if estimate.high is None else f"{estimate.high - estimate.value:.2f}"
    return f"{estimate.value:.2f} ± {reach}"
