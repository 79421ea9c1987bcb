"""The numbers of a dictionary, each with what it is in resamples of the texts.

The published *mean pairwise interaction* needs no pairs: summed over all pairs it is, at each token, what the dominant
features leave to the others, (1/N) Σ_n w_n (Σ|p| − max|p|) (T7), and that over features × features is its mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.study.estimates import Drawn, combine, drawn
from crossproof.study.fidelity.measure import fidelity
from crossproof.study.tradeoff.measure import LARGEST, Measured

Weights = Float64[Tensor, "draw text"]
"""How often each text is in each resample."""


def pooled(totals: Tensor, counts: Tensor, weights: Weights) -> Drawn:
    """Of each column what is summed over texts over how much there is of it; then the mean over columns."""
    value = (totals.sum(0) / counts.sum(0)).mean()
    return Drawn(float(value), ((weights @ totals) / (weights @ counts)).mean(1))


def of_mlp(its: Measured, scheme: str, weights: Weights) -> dict[str, Drawn]:
    """Φ of each MLP under a scheme."""
    found = its.losses
    return {mlp: fidelity(found, mlp, scheme, weights) for mlp in its.mlps}


def _mean_fidelity(its: Measured, scheme: str, weights: Weights) -> Drawn:
    return combine(lambda *of: torch.stack(of).mean(0), *of_mlp(its, scheme, weights).values())


def _fidelity_ratio(its: Measured, weights: Weights) -> Drawn:
    parts = [_mean_fidelity(its, scheme, weights) for scheme in (LARGEST, "all")]
    return combine(over_positive, *parts)


def over_positive(part: Tensor, whole: Tensor) -> Tensor:
    """What part of the MLP's work is kept; of one that does none, nothing can be said."""
    return torch.where(whole > 0, part / whole, torch.nan)


def _pairwise(its: Measured, weights: Weights) -> Drawn:
    """Per token, summed over MLPs and pairs."""
    return combine(lambda mean: mean * len(its.mlps), pooled(its.score / its.neurons, its.tokens[:, None], weights))


def _divided(found: Drawn, by: float) -> Drawn:
    return (
        Drawn(found.value / by, found.draws / by) if by else Drawn(torch.nan, torch.full_like(found.draws, torch.nan))
    )


@dataclass(frozen=True)
class Measure:
    """One number of a dictionary."""

    title: str
    of: Callable[[Measured, Weights], Drawn]
    ratio: bool = False
    """Two dictionaries are compared by the ratio of theirs, and not by the difference; it is positive."""


def _constant(value: float, weights: Weights) -> Drawn:
    return Drawn(value, torch.full((len(weights),), value, dtype=torch.float64))


MEASURES: dict[str, Measure] = {
    "reconstruction": Measure(
        "reconstruction loss (scaled units, sum over sites and coordinates, per token)",
        lambda its, w: drawn(its.error.sum(1), its.tokens, w),
        ratio=True,
    ),
    "unexplained": Measure(
        "unexplained variance, mean over all sites", lambda its, w: pooled(its.error, its.variance, w), ratio=True
    ),
    "unexplained_mlp": Measure(
        "unexplained variance, mean over the MLPs' inputs",
        lambda its, w: pooled(its.error[:, its.inputs], its.variance[:, its.inputs], w),
        ratio=True,
    ),
    "l0": Measure("active features per token", lambda its, w: drawn(its.active, its.tokens, w)),
    "dead": Measure(
        "part of the features that fire on none of these tokens",
        lambda its, w: _constant(1 - int(its.alive) / int(its.features), w),
    ),
    "share": Measure("dominant share, mean over MLPs", lambda its, w: pooled(its.share, its.touched, w)),
    "pairwise": Measure(
        "mean pairwise interaction, over features × features, MLPs summed",
        lambda its, w: _divided(_pairwise(its, w), float(its.features) ** 2),
        ratio=True,
    ),
    "pairwise_alive": Measure(
        "mean pairwise interaction, over ordered pairs of features that fire, MLPs summed",
        lambda its, w: _divided(_pairwise(its, w), float(its.alive * (its.alive - 1))),
        ratio=True,
    ),
    "total": Measure(
        "Σ|p|, mean over tokens, neurons and MLPs",
        lambda its, w: pooled(its.total / its.pre_activations, its.tokens[:, None], w),
        ratio=True,
    ),
    "others": Measure(
        "Σ|p| − max|p|, mean over tokens, neurons and MLPs",
        lambda its, w: pooled(its.others / its.pre_activations, its.tokens[:, None], w),
        ratio=True,
    ),
    "fidelity": Measure("Φ(all), mean over MLPs", lambda its, w: _mean_fidelity(its, "all", w)),
    "fidelity_largest": Measure("Φ(only the largest), mean over MLPs", lambda its, w: _mean_fidelity(its, LARGEST, w)),
    "fidelity_ratio": Measure("Φ(only the largest) / Φ(all), of their means over MLPs", _fidelity_ratio),
}
