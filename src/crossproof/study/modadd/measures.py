"""The numbers of a dictionary, each with what it is in resamples of the held-out pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from crossproof.study.estimates import Drawn, combine, drawn
from crossproof.study.modadd.measure import Measured
from crossproof.study.modadd.sharing import STRONGEST
from crossproof.study.tradeoff import measures as tradeoff
from crossproof.study.tradeoff.measure import LARGEST
from crossproof.study.tradeoff.measures import Weights


@dataclass(frozen=True)
class Measure:
    title: str
    of: Callable[[Measured, Weights], Drawn]
    ratio: bool = False
    """Two dictionaries are compared by the ratio of theirs, and not by the difference."""


def _usual(name: str, title: str = "") -> Measure:
    """One of the trade-off study's."""
    its = tradeoff.MEASURES[name]
    return Measure(title or its.title, lambda found, weights: its.of(found.usual, weights), its.ratio)


def _unexplained(found: Measured, weights: Weights) -> Drawn:
    """At the answer the first sites hold the same for every pair, and nothing is to be explained there."""
    error, variance = found.usual.error, found.usual.variance
    varies = variance.sum(0) > 1e-6 * (error + variance).sum(0).max()
    return tradeoff.pooled(error[:, varies], variance[:, varies], weights)


def _share(part: str, whole: str) -> Callable[[Measured, Weights], Drawn]:
    return lambda found, weights: drawn(found.sums[part], found.sums[whole], weights)


def _explained(part: str, whole: str) -> Callable[[Measured, Weights], Drawn]:
    def of(found: Measured, weights: Weights) -> Drawn:
        left = drawn(found.sums[part], found.sums[whole], weights)
        return Drawn(1 - left.value, 1 - left.draws)

    return of


def _mean(name: str) -> Callable[[Measured, Weights], Drawn]:
    return lambda found, weights: drawn(found.sums[name], torch.ones_like(found.sums[name]), weights)


def _over(number: Drawn, by: float | None) -> Drawn:
    by = by or torch.nan
    return Drawn(number.value / by, number.draws / by)


def _said(value: Callable[[Measured], float]) -> Callable[[Measured, Weights], Drawn]:
    """What is said of all pairs, and not resampled."""

    def of(found: Measured, weights: Weights) -> Drawn:
        its: Tensor = torch.full((len(weights),), value(found), dtype=torch.float64)
        return Drawn(value(found), its)

    return of


PURE, CHANCE = _explained("impure", "variance"), _explained("chance", "variance")
SAME, TOGETHER = _share("same", "interaction"), _share("same meetings", "meetings")

MEASURES: dict[str, Measure] = {
    "unexplained": Measure("unexplained variance, mean over the sites that vary", _unexplained, ratio=True),
    "unexplained_mlp": _usual("unexplained_mlp", "unexplained variance at the MLP's input"),
    "l0": _usual("l0", "active features"),
    "dead": Measure("part of the features that fire at no position", _said(lambda found: found.said.dead)),
    "share": _usual("share", "dominant share"),
    "others": _usual("others", "Σ|p| − max|p|, mean over neurons"),
    "pairwise": _usual("pairwise", "mean pairwise interaction, over features × features"),
    "fidelity": _usual("fidelity", "Φ(all)"),
    "fidelity_largest": _usual("fidelity_largest", "Φ(only the largest)"),
    "fidelity_ratio": _usual("fidelity_ratio", "Φ(only the largest) / Φ(all)"),
    "right": Measure("right answers, all features kept", _mean("right all")),
    "right_largest": Measure("right answers, only the largest kept", _mean(f"right {LARGEST}")),
    "pure": Measure("purity: what one frequency for each feature explains", PURE),
    "pure_mlp": Measure("purity of what is written at the MLP's input", _explained("impure mlp", "variance mlp")),
    "pure_chance": Measure("purity if numbers stood in a random order", CHANCE),
    "pure_of_cut": Measure(
        "purity over that of cut-off waves as often active", lambda its, w: _over(PURE(its, w), its.said.cut)
    ),
    "pure_above_chance": Measure(
        "how far purity is from chance to those waves",
        lambda its, w: combine(lambda pure, chance: _way(pure, chance, its.said.cut), PURE(its, w), CHANCE(its, w)),
    ),
    "waves": Measure("frequencies that a feature has, in effect", _said(lambda found: found.said.waves)),
    "same": Measure("share of the interaction between features of the same frequency", SAME),
    "same_chance": Measure("that share if frequencies were dealt out at random", _said(lambda its: _chance(its))),
    "same_over_chance": Measure(
        "share of the interaction in the same frequency, over that if frequencies were dealt out at random",
        lambda its, w: _over(SAME(its, w), its.said.expected_share),
    ),
    "together": Measure("share of the meetings of active features in the same frequency", TOGETHER),
    "same_over_meetings": Measure(
        "share of the interaction in the same frequency, over that of meetings",
        lambda its, w: combine(torch.div, SAME(its, w), TOGETHER(its, w)),
    ),
    "strongest": Measure(
        f"share of the {STRONGEST} strongest pairs in the same frequency", _said(lambda found: found.said.strongest)
    ),
}


def _way(value: Tensor, start: Tensor, end: float) -> Tensor:
    """What part of it; not a number where there is none, since what lies before it would be further along."""
    return torch.where(end > start, (value - start) / (end - start), torch.nan)


def _chance(found: Measured) -> float:
    return torch.nan if found.said.expected_share is None else found.said.expected_share
