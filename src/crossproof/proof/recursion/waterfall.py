"""How much each term of a walk adds to the radius at the end of the residual stream, and what the bound would be
without it.

Two numbers a term, both from walks in which some terms are taken to be nothing, so that nothing is approximated:

    share     of a reconstruction or an interaction: the radius at the end if what comes after it added nothing but
              growth, less the same without it too. The shares add up to the radius.
    without   the radius at the end if this term alone were nothing, all others as they are: a unit that let no distance
              grow, that had no interaction, a site that was reconstructed perfectly.

Radii are in lengths of the vector that the last norm divides by: from 1 on, its direction is not known at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from crossproof.proof.recursion.chain import Chain, Text
from crossproof.proof.recursion.walk import Switch, Term, walk
from crossproof.proof.recursion.ways import Way

SCORES = 2**19
"""Attention scores of a head that are held at a time, cases and pairs of positions together."""


@dataclass
class TermCost:
    """Means over tokens."""

    term: Term
    size: float
    """What it adds where it arises, in the model's own units."""
    share: float | None
    """None for growth, which adds nothing by itself."""
    without: float


@dataclass
class Waterfall:
    """Sums over positions, in the making."""

    sizes: dict[Term, float] = field(default_factory=dict)
    shares: dict[Term, float] = field(default_factory=dict)
    without: dict[Term, float] = field(default_factory=dict)
    positions: int = 0

    def add(self, chain: Chain, text: Text, way: Way, sizes: dict[Term, Float64[Tensor, " pos"]]) -> None:
        """`sizes`: the terms of the way, in order."""
        terms, keep = list(sizes), text.keep
        adding = [term for term in terms if term.kind != "growth"]
        cases = [frozenset(adding[n:]) for n in range(len(adding) + 1)] + [frozenset([term]) for term in terms]
        at_once = max(1, SCORES // len(keep) ** 2)
        parts = [cases[start : start + at_once] for start in range(0, len(cases), at_once)]
        ends = torch.cat([self._ends(chain, text, way, some) for some in parts])[:, keep].sum(1).tolist()
        steps, alone = ends[: len(adding) + 1], ends[len(adding) + 1 :]
        for term, before, after in zip(adding, steps, steps[1:], strict=False):
            _more(self.shares, term, after - before)
        for term, end in zip(terms, alone, strict=True):
            _more(self.without, term, end)
            _more(self.sizes, term, float(sizes[term][keep].sum()))
        self.positions += int(keep.sum())

    def costs(self) -> list[TermCost]:
        n = max(1, self.positions)
        return [
            TermCost(term, size / n, self.shares[term] / n if term in self.shares else None, self.without[term] / n)
            for term, size in self.sizes.items()
        ]

    @staticmethod
    def _ends(chain: Chain, text: Text, way: Way, off: Sequence[frozenset[Term]]) -> Float64[Tensor, "case pos"]:
        found = walk(chain, text, way, _switch(off))
        return (found.radius.mid / found.length.mid).expand(len(off), -1)


def _switch(off: Sequence[frozenset[Term]]) -> Switch:
    def counts(term: Term) -> Bool[Tensor, "case 1"]:
        return torch.tensor([[term not in its] for its in off])

    return counts


def _more(sums: dict[Term, float], term: Term, value: float) -> None:
    sums[term] = sums.get(term, 0.0) + value
