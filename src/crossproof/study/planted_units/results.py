"""What the study of planted units found: its records, means over seeds, and the tables that are made of them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from crossproof.runs import read_results
from crossproof.study.ground_truth.results import markdown

UnitName = Literal["gated MLP, ReLU", "gated MLP, SiLU", "attention", "attention, rotary", "LayerNorm", "RMSNorm"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Record):
    """How well one metric finds what was planted in one unit."""

    unit: UnitName
    seed: int
    metric: str
    items: int
    """Pairs of features; of attention, a query feature, a key feature and a head; of norms, ordered pairs."""
    planted: int
    """How many of them interact."""
    average_precision: float
    precision_at_k: float
    """Among the `planted` items that score most."""
    auroc: float


class Summary(_Record):
    """The mean over seeds of a metric's scores, and the least and largest average precision."""

    unit: UnitName
    metric: str
    average_precision: float
    low: float
    high: float
    precision_at_k: float
    auroc: float
    seeds: int


class KindScore(_Record):
    """What one metric gives the items of one kind; the mean over these items and over seeds."""

    unit: UnitName
    metric: str
    kind: str
    interacts: bool
    items: int
    percentile: float
    """The share of all items that score less, ties counting half."""
    zero: bool
    """Whether it is 0 for every one of them, in every seed."""


class PlantedUnitsStudy(_Record):
    """`results.json`."""

    scores: tuple[Score, ...]
    summary: tuple[Summary, ...]
    kinds: tuple[KindScore, ...]


def collected(scores: Iterable[Score], kinds: Iterable[KindScore]) -> PlantedUnitsStudy:
    """With the means over seeds."""
    scores = tuple(scores)
    by_metric: dict[tuple[UnitName, str], list[Score]] = defaultdict(list)
    for score in scores:
        by_metric[score.unit, score.metric].append(score)
    by_kind: dict[tuple[UnitName, str, str], list[KindScore]] = defaultdict(list)
    for kind in kinds:
        by_kind[kind.unit, kind.metric, kind.kind].append(kind)
    return PlantedUnitsStudy(
        scores=scores,
        summary=tuple(
            Summary(
                unit=unit,
                metric=metric,
                average_precision=fmean(its.average_precision for its in group),
                low=min(its.average_precision for its in group),
                high=max(its.average_precision for its in group),
                precision_at_k=fmean(its.precision_at_k for its in group),
                auroc=fmean(its.auroc for its in group),
                seeds=len(group),
            )
            for (unit, metric), group in by_metric.items()
        ),
        kinds=tuple(
            group[0].model_copy(
                update={
                    "percentile": fmean(its.percentile for its in group),
                    "zero": all(its.zero for its in group),
                }
            )
            for group in by_kind.values()
        ),
    )


def score_table(study: PlantedUnitsStudy, unit: UnitName) -> list[dict[str, Any]]:
    """A row for each metric: how well it finds what was planted."""
    return [
        {
            "metric": row.metric,
            "average precision": f"{row.average_precision:.2f}",
            "low–high": f"{row.low:.2f}–{row.high:.2f}" if row.seeds > 1 else "–",
            "precision at k": f"{row.precision_at_k:.2f}",
            "AUROC": f"{row.auroc:.2f}",
        }
        for row in study.summary
        if row.unit == unit
    ]


def kind_table(study: PlantedUnitsStudy, unit: UnitName) -> list[dict[str, Any]]:
    """A row for each kind, a column for each metric: its percentile among all items, or 0 where the score itself is."""
    rows: dict[str, dict[str, Any]] = {}
    for kind in (kind for kind in study.kinds if kind.unit == unit):
        row = rows.setdefault(kind.kind, {"kind": kind.kind, "interacts": "yes" if kind.interacts else "no"})
        row[kind.metric] = "0" if kind.zero else f"{kind.percentile:.0%}"
    return sorted(rows.values(), key=lambda row: row["interacts"] == "no")


def tables(study: PlantedUnitsStudy) -> dict[str, list[dict[str, Any]]]:
    """How well each metric finds what was planted, by unit."""
    found: dict[str, list[dict[str, Any]]] = {}
    for unit in dict.fromkeys(row.unit for row in study.summary):
        first = next(score for score in study.scores if score.unit == unit)
        found[f"{unit}: {first.planted} of {first.items} interact"] = score_table(study, unit)
    return found


def page(study: PlantedUnitsStudy) -> str:
    """Everything as Markdown."""
    found = tables(study)
    found |= {f"{unit}: by kind": kind_table(study, unit) for unit in dict.fromkeys(row.unit for row in study.summary)}
    return "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in found.items())


def main() -> None:
    """`python -m crossproof.study.planted_units.results FOLDER` prints the page of a run."""
    print(page(read_results(Path(sys.argv[1]), PlantedUnitsStudy)))


if __name__ == "__main__":
    main()
