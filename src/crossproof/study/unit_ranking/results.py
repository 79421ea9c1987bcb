"""What the ranking study of attention layers and norms found: its records, and the tables that are made of them."""

from __future__ import annotations

from typing import Any, Literal

from crossproof.study.ranking.results import Agreement, Level, Record, agreement_rows, unit_rows

Kind = Literal["attention", "norm"]
ALL: dict[Kind, str] = {"attention": "all attention layers", "norm": "all norms"}
"""The mean over the units in which the index puts pairs in any order."""


class UnitRecord(Record):
    """One attention layer or norm."""

    unit: str
    gap: float
    """The largest difference, at any sampled token, between the game with all players and the unit's own output, over
    the latter's length."""
    relative_error: float | None
    """Where the index is an estimate: the median over pairs of its standard error over its size."""
    halves: float | None
    """Spearman between the pairs' mean index over every other text and over the rest; None if too few are in both."""


class KindRecord(Record):
    """All units of one kind."""

    kind: Kind
    players: float
    """Mean number of players of a game."""
    estimated: int
    """At how many of the sampled tokens they are too many for exact values."""
    pairs: int
    """Met at any sampled token."""
    ranked_pairs: int
    """Those met often enough to rank by their mean."""
    units: tuple[UnitRecord, ...]
    agreements: tuple[Agreement, ...]


class UnitRanking(Record):
    """`results.json`."""

    subject: str
    texts: int
    tokens: int
    """Which the corpus metrics see."""
    sampled: int
    """At which the index was computed."""
    active: float
    """Mean number of active features at these."""
    seen: int
    """How often a pair has to be met to be ranked by its mean."""
    kinds: tuple[KindRecord, ...]


def agreement_table(found: KindRecord, level: Level, unit: str | None = None) -> list[dict[str, Any]]:
    """A row for each metric, the best first; of the mean over units unless one is named."""
    return agreement_rows(found.agreements, level, ALL[found.kind] if unit is None else unit)


def unit_table(found: KindRecord, level: Level) -> list[dict[str, Any]]:
    """A row for each metric, a column of Spearman correlations for each unit."""
    return unit_rows(found.agreements, level, ALL[found.kind])


def checks_table(found: KindRecord) -> list[dict[str, Any]]:
    """A row for each unit."""
    return [
        {
            "unit": unit.unit,
            "game less unit": f"{unit.gap:.1e}",
            "standard error of estimates": "–" if unit.relative_error is None else f"{unit.relative_error:.0%}",
            "Spearman between halves": "–" if unit.halves is None else f"{unit.halves:.2f}",
        }
        for unit in found.units
    ]


def tables(study: UnitRanking) -> dict[str, list[dict[str, Any]]]:
    """What to look at first, by title."""
    found = {}
    for its in study.kinds:
        found[f"{its.kind}: pairs of a token"] = agreement_table(its, "token")
        found[f"{its.kind}: all pairs"] = agreement_table(its, "pair")
        found[f"{its.kind}: checks"] = checks_table(its)
    return {title: rows for title, rows in found.items() if rows}


def summary(study: UnitRanking) -> str:
    """In words."""
    lines = [f"{study.subject}: {study.sampled} tokens of {study.texts} texts, {study.active:.1f} active features each"]
    for its in study.kinds:
        tops = sorted({k for row in its.agreements for k in row.precision})
        base = ", ".join(f"{min(1, k / its.ranked_pairs):.1%} at {k}" for k in tops)
        lines.append(
            f"{its.kind}: {its.players:.1f} players, too many for exact values at {its.estimated} tokens; "
            f"{its.ranked_pairs:,} of {its.pairs:,} pairs met at {study.seen} or more of them"
            + (f"; precision by chance {base}" if base else "")
        )
    return "\n".join(lines)
