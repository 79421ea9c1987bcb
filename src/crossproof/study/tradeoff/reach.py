"""How near dictionaries come to the bar: one feature for each neuron keeps nearly all, in every MLP, at little cost.

The conditions are those of the study of fidelity, and so are the intervals (`extremes.py`): of each condition by
itself, with levels that allow for the number of settings and weights of which the nearest to the bar is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crossproof.study.dictionaries import PLAIN
from crossproof.study.estimates import ENOUGH, Drawn, combine, mean, text_weights
from crossproof.study.extremes import Bounded, least
from crossproof.study.fidelity.records import KEEPS, LOSES, WORSE
from crossproof.study.tradeoff.frontier import compared
from crossproof.study.tradeoff.measure import LARGEST, Measured
from crossproof.study.tradeoff.measures import MEASURES, of_mlp, over_positive
from crossproof.study.tradeoff.settings import Dictionary

DRAWS = 4000
"""Ends of intervals that allow for so many choices lie far out."""
Kind = tuple[str, float]
"""Setting and weight."""


@dataclass(frozen=True)
class Reach:
    """Of dictionaries trained alike, but for their seeds."""

    ratio: Bounded | None
    """Φ(only the largest) / Φ(all) in the MLP where it is least."""
    slack: Bounded | None
    """How far the condition that is met least is above the bar; None without a penalty."""


@dataclass(frozen=True, eq=False)
class _Numbers:
    """Of one dictionary."""

    every: dict[str, Drawn]
    largest: dict[str, Drawn]
    unexplained: Drawn


def reaches(here: Sequence[tuple[Dictionary, Measured]], seed: int) -> dict[Kind, Reach]:
    """Of dictionaries of one model and size, the plain ones among them."""
    weights = text_weights(len(here[0][1].tokens), seed, DRAWS)
    found: dict[Kind, dict[int, _Numbers]] = {}
    for about, its in here:
        found.setdefault((about.setting, about.weight), {})[about.seed] = _Numbers(
            of_mlp(its, "all", weights), of_mlp(its, LARGEST, weights), MEASURES["unexplained"].of(its, weights)
        )
    chosen_from = sum(setting != PLAIN for setting, _ in found)
    return {kind: _reach(kind, its, found[PLAIN, 0.0], chosen_from, seed) for kind, its in found.items()}


def _reach(
    kind: Kind, its: Mapping[int, _Numbers], plain: Mapping[int, _Numbers], chosen_from: int, seed: int
) -> Reach:
    def over(members: Sequence[Drawn]) -> Drawn | None:
        return mean(members, seed if len(members) >= ENOUGH else None) if members else None

    mlps = list(next(iter(its.values())).every)
    ratios = {
        mlp: over([combine(over_positive, one.largest[mlp], one.every[mlp]) for one in its.values()]) for mlp in mlps
    }
    if kind[0] == PLAIN:
        return Reach(least(ratios), None)
    both = [(one, plain[number]) for number, one in its.items() if number in plain]
    conditions: dict[str, Drawn | None] = {}
    for mlp in mlps:
        excess = [combine(_excess, one.largest[mlp], one.every[mlp]) for one in its.values()]
        left = [combine(_left, one.every[mlp], base.every[mlp]) for one, base in both]
        conditions[f"{mlp}: Φ(only the largest) − {KEEPS:g} Φ(all)"] = over(excess)
        conditions[f"{mlp}: Φ(all) + {LOSES:g} − Φ(all) without the penalty"] = over(left)
    times = over([combine(torch.log, compared(one.unexplained, base.unexplained, ratio=True)) for one, base in both])
    conditions[f"{WORSE:g} − unexplained ratio"] = times and combine(lambda log: WORSE - log.exp(), times)
    return Reach(least(ratios, chosen_from), least(conditions, chosen_from))


def _excess(largest: Tensor, every: Tensor) -> Tensor:
    return largest - KEEPS * every


def _left(every: Tensor, plain: Tensor) -> Tensor:
    return every + LOSES - plain
