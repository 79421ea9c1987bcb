"""What every planted unit shares: features that come in pairs, random codes of them, and scores set beside a truth.

Features have axes as directions. What a metric sees is only what features contribute, so that any other orthonormal
directions would give the same numbers, and axes give exact zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from crossproof.study.planted_units.results import KindScore, Score, UnitName
from crossproof.study.retrieval import auroc, average_precision, percentile, precision_at

WEAKEST, STRONGEST = 1.0, 1.4
"""Strengths of active features: a threshold of STRONGEST needs two of them, and any two exceed it."""
BOTH, ALONE = 0.06, 0.05
"""How often the two features of a pair fire together, and each alone: four times as often together as by chance."""
NOTHING = 1e-12
"""A score below this share of the metric's largest is rounding of 0."""


def paired_codes(pairs: int, apart: Sequence[int], tokens: int, draw: torch.Generator) -> Float64[Tensor, "token f"]:
    """Features 2p and 2p + 1 are pair p. Pairs are independent of each other; those in `apart` never fire together."""
    both = torch.full((pairs,), BOTH)
    both[list(apart)] = 0
    alone = torch.full((pairs,), ALONE) + (BOTH - both)  # every feature fires equally often
    chance = torch.rand(tokens, pairs, generator=draw)
    first = chance < both + alone
    second = (chance < both) | ((chance >= both + alone) & (chance < both + 2 * alone))
    on = torch.stack([first, second], 2).flatten(1)
    return on * uniform(WEAKEST, STRONGEST, tokens, 2 * pairs, draw=draw)


def uniform(low: float, high: float, *shape: int, draw: torch.Generator) -> Float64[Tensor, "*shape"]:
    return low + (high - low) * torch.rand(*shape, generator=draw, dtype=torch.float64)


def cosines(strengths: Float64[Tensor, "token f"]) -> Float64[Tensor, "f f"]:
    """Of the features' strengths over tokens, zeros included."""
    unit = strengths / strengths.norm(dim=0).clamp(min=torch.finfo(strengths.dtype).tiny)
    return unit.T @ unit


@dataclass(frozen=True, eq=False)
class Scored:
    """One planted unit: for every item (a pair, or a pair in a head) what is true and what each metric says."""

    unit: UnitName
    interacts: Bool[Tensor, " item"]
    kinds: dict[str, list[int]]
    """Where the items of each kind are."""
    by_metric: dict[str, Float64[Tensor, " item"]]

    def scores(self, seed: int) -> list[Score]:
        planted = int(self.interacts.sum())
        return [
            Score(
                unit=self.unit,
                seed=seed,
                metric=metric,
                items=len(score),
                planted=planted,
                average_precision=average_precision(self.interacts, score),
                precision_at_k=precision_at(self.interacts, score, planted),
                auroc=auroc(self.interacts, score),
            )
            for metric, score in self._clean().items()
        ]

    def of_kinds(self) -> list[KindScore]:
        found = []
        for metric, score in self._clean().items():
            place = percentile(score)
            found += [
                KindScore(
                    unit=self.unit,
                    metric=metric,
                    kind=kind,
                    interacts=bool(self.interacts[where[0]]),
                    items=len(where),
                    percentile=float(place[where].mean()),
                    zero=not bool(score[where].any()),
                )
                for kind, where in self.kinds.items()
            ]
        return found

    def _clean(self) -> dict[str, Tensor]:
        return {m: s.masked_fill(s.abs() <= NOTHING * s.abs().max(), 0) for m, s in self.by_metric.items()}
