"""What the ground-truth study found: its records, means over seeds, and the tables that are made of them."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from crossproof.runs import read_results
from crossproof.study.metrics import BASELINES, METRICS, ONLY_GATED

REFERENCE = "Shapley-Taylor"
OTHERS = "all other pairs"
TOP = 0.95
"""A metric calls a kind of pair interaction when these pairs score more than this share of all, on average."""
DictionaryName = Literal["true", "learned"]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Score(_Record):
    """How well one metric finds the planted pairs, in one block, with one dictionary."""

    dictionary: DictionaryName
    seed: int
    block: int
    metric: str
    pairs: int
    planted: int
    """How many of the pairs interact."""
    average_precision: float | None
    """None where no pair interacts."""
    precision_at_k: float | None
    """Among the `planted` pairs that score most. It is also the recall there."""
    recall_at_2k: float | None
    """Of the planted pairs, among twice as many that score most."""
    auroc: float | None
    average_precision_seen: float | None
    """Among the pairs that are active together on some token."""


class Summary(_Record):
    """The mean over seeds of a metric's scores, and the least and largest average precision."""

    dictionary: DictionaryName
    block: int
    metric: str
    average_precision: float
    low: float
    high: float
    precision_at_k: float
    recall_at_2k: float
    auroc: float
    average_precision_seen: float
    seeds: int


class KindScore(_Record):
    """What one metric gives the planted pairs of one kind; the mean over these pairs and over seeds."""

    dictionary: DictionaryName
    block: int
    metric: str
    kind: str
    interacts: bool
    pairs: float
    """How many, on average."""
    percentile: float
    """The share of all pairs that score less, ties counting half."""
    relative: float
    """Of the largest score of any pair."""
    zero: bool
    """Whether it is exactly 0 for every one of them."""


class Learned(_Record):
    """How much of the truth a learned dictionary found."""

    seed: int
    features: int
    alive: int
    l0: float
    unexplained: float
    """Squared error over variance, the mean over both sites."""
    true_features: int
    """Those that fire, that an MLP reads, and that can be told from others."""
    by_cosine: int
    by_correlation: int
    by_both: int
    """How many of them have a learned feature of like decoder, of like strengths, and of both."""


class GroundTruthStudy(_Record):
    """`results.json`."""

    scores: tuple[Score, ...]
    summary: tuple[Summary, ...]
    kinds: tuple[KindScore, ...]
    learned: tuple[Learned, ...]


def summarised(scores: Iterable[Score]) -> tuple[Summary, ...]:
    """Over seeds, of those in which a pair interacts."""
    groups: dict[tuple[DictionaryName, int, str], list[Score]] = defaultdict(list)
    for score in scores:
        if score.planted:
            groups[score.dictionary, score.block, score.metric].append(score)
    found = []
    for (dictionary, block, metric), group in groups.items():
        precision = [score.average_precision or 0.0 for score in group]
        found.append(
            Summary(
                dictionary=dictionary,
                block=block,
                metric=metric,
                average_precision=fmean(precision),
                low=min(precision),
                high=max(precision),
                precision_at_k=_mean(score.precision_at_k for score in group),
                recall_at_2k=_mean(score.recall_at_2k for score in group),
                auroc=_mean(score.auroc for score in group),
                average_precision_seen=_mean(score.average_precision_seen for score in group),
                seeds=len(group),
            )
        )
    return tuple(found)


def merged(kinds: Iterable[KindScore], seeds: int) -> tuple[KindScore, ...]:
    """Over seeds, each pair counting once."""
    groups: dict[tuple[DictionaryName, int, str, str], list[KindScore]] = defaultdict(list)
    for kind in kinds:
        groups[kind.dictionary, kind.block, kind.metric, kind.kind].append(kind)
    found = []
    for group in groups.values():
        pairs = sum(kind.pairs for kind in group)
        means = {
            name: sum(kind.pairs * getattr(kind, name) for kind in group) / pairs for name in ("percentile", "relative")
        }
        zero = all(kind.zero for kind in group)
        found.append(group[0].model_copy(update={**means, "pairs": pairs / seeds, "zero": zero}))
    return tuple(found)


def score_table(study: GroundTruthStudy, dictionary: DictionaryName, block: int) -> list[dict[str, Any]]:
    """A row for each metric: how well it finds the planted pairs."""
    return [
        {
            "metric": row.metric,
            "average precision": f"{row.average_precision:.2f}",
            "low–high": f"{row.low:.2f}–{row.high:.2f}" if row.seeds > 1 else "–",
            "precision at k": f"{row.precision_at_k:.2f}",
            "recall at 2k": f"{row.recall_at_2k:.2f}",
            "AUROC": f"{row.auroc:.2f}",
            "AP, seen pairs": f"{row.average_precision_seen:.2f}",
        }
        for row in study.summary
        if (row.dictionary, row.block) == (dictionary, block)
    ]


def kind_table(study: GroundTruthStudy, dictionary: DictionaryName, block: int) -> list[dict[str, Any]]:
    """A row for each kind, a column for each metric: its percentile among all pairs, or 0 where the score itself is."""
    rows: dict[str, dict[str, Any]] = {}
    mine = [kind for kind in study.kinds if (kind.dictionary, kind.block) == (dictionary, block)]
    for kind in mine:
        row = rows.setdefault(kind.kind, {"kind": kind.kind, "interacts": "yes" if kind.interacts else "no"})
        row[kind.metric] = "0" if kind.zero else f"{kind.percentile:.0%}"
    shown = [REFERENCE, *(metric for metric in METRICS if metric not in ONLY_GATED), *BASELINES]
    return [
        {name: row.get(name, "–") for name in ("kind", "interacts", *shown)}
        for row in sorted(rows.values(), key=lambda row: (row["kind"] == OTHERS, row["interacts"] == "no"))
    ]


def verdict_table(study: GroundTruthStudy, dictionary: DictionaryName, block: int) -> list[dict[str, Any]]:
    """A row for each metric: the kinds that it puts among the top pairs, rightly or not, and those it misses."""
    rows: dict[str, dict[str, list[str]]] = {}
    for kind in study.kinds:
        if (kind.dictionary, kind.block) == (dictionary, block) and kind.kind != OTHERS:
            row = rows.setdefault(kind.metric, {"finds": [], "misses": [], "wrongly calls interaction": []})
            top = not kind.zero and kind.percentile >= TOP
            if kind.interacts:
                row["finds" if top else "misses"].append(kind.kind)
            elif top:
                row["wrongly calls interaction"].append(kind.kind)
    return [
        {"metric": metric, **{name: "; ".join(kinds) or "–" for name, kinds in row.items()}}
        for metric, row in rows.items()
    ]


def learned_table(study: GroundTruthStudy) -> list[dict[str, Any]]:
    """A row for each learned dictionary: how much of the truth it found."""
    kept = {(s.seed, s.block): s.planted for s in study.scores if s.dictionary == "learned"}
    blocks = sorted({block for _, block in kept})
    return [
        {
            "seed": row.seed,
            "alive": f"{row.alive} of {row.features}",
            "L0": f"{row.l0:.2f}",
            "unexplained": f"{row.unexplained:.4%}",
            "by decoder": f"{row.by_cosine} of {row.true_features}",
            "by codes": f"{row.by_correlation} of {row.true_features}",
            "by both": f"{row.by_both} of {row.true_features}",
            **{f"pairs left, block {block}": kept.get((row.seed, block), 0) for block in blocks},
        }
        for row in study.learned
    ]


def tables(study: GroundTruthStudy) -> dict[str, list[dict[str, Any]]]:
    """How well each metric finds the planted pairs, by title."""
    scored = {f"{d} dictionary, block {b}": score_table(study, d, b) for d, b in _parts(study)}
    return {"learned dictionaries": learned_table(study)} | scored


def verdicts(study: GroundTruthStudy) -> list[str]:
    """What each metric calls interaction and what it misses, as text: these tables are wide."""
    found = []
    for dictionary, block in _parts(study):
        lines = [f"{dictionary} dictionary, block {block}: what each metric puts among its top {1 - TOP:.0%} of pairs"]
        for row in verdict_table(study, dictionary, block):
            said = [f"{name} {kinds}" for name, kinds in row.items() if name != "metric" and kinds != "–"]
            lines.append(f"  {row['metric']}: {'. '.join(said)}")
        found.append("\n".join(lines) + "\n")
    return found


def page(study: GroundTruthStudy) -> str:
    """Everything as Markdown."""
    found = tables(study)
    for dictionary, block in _parts(study):
        found[f"{dictionary} dictionary, block {block}: by kind"] = verdict_table(study, dictionary, block)
        found[f"{dictionary} dictionary, block {block}: percentiles"] = kind_table(study, dictionary, block)
    return "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in found.items())


def _parts(study: GroundTruthStudy) -> list[tuple[DictionaryName, int]]:
    return list(dict.fromkeys((row.dictionary, row.block) for row in study.summary))


def markdown(rows: list[dict[str, Any]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(str, row.values())) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(values: Iterable[float | None]) -> float:
    return fmean(value or 0.0 for value in values)


def main() -> None:
    """`python -m crossproof.study.ground_truth.results FOLDER` prints the page of a run."""
    print(page(read_results(Path(sys.argv[1]), GroundTruthStudy)))


if __name__ == "__main__":
    main()
