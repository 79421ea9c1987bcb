"""How well a score tells poisoned texts from clean ones, with all resamples of the texts at once."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crossproof.study.estimates import Drawn


def auroc(
    positive: Float[Tensor, " text"], negative: Float[Tensor, " text"], weights: Float64[Tensor, "draw text"]
) -> Drawn | None:
    """How probably a poisoned text scores more than a clean one, equal scores half; None if either is missing.

    Text number i is poisoned in one and clean in the other, and a resample takes both or none. A score that is not a
    number stands for no text.
    """
    there = [~side.isnan() for side in (positive, negative)]
    if not all(bool(its.any()) for its in there):
        return None
    scores = torch.cat([positive[there[0]], negative[there[1]]]).double()
    values, place = scores.unique(return_inverse=True)
    once_each = torch.cat([weights.new_ones(1, weights.shape[1]), weights])
    found, split = [], int(there[0].sum())
    for mask, places in zip(there, (place[:split], place[split:]), strict=True):
        mass = torch.zeros(len(values), len(once_each), dtype=torch.float64)
        found.append(mass.index_add_(0, places, once_each[:, mask].T.contiguous()))
    hits, others = found
    below = others.cumsum(0) - others / 2
    of_each = (hits * below).sum(0) / (hits.sum(0) * others.sum(0))
    return Drawn(float(of_each[0]), of_each[1:])


def share_above(
    scores: Float[Tensor, " text"], threshold: float, weights: Float64[Tensor, "draw text"]
) -> Drawn | None:
    """Of the texts that have a score, those whose score is above the threshold."""
    there = ~scores.isnan()
    if not bool(there.any()):
        return None
    above = torch.where(there, scores > threshold, False).double()
    counts = there.double()
    return Drawn(float(above.sum() / counts.sum()), weights @ above / (weights @ counts))


def threshold_at(clean: Float[Tensor, " text"], false_alarms: float) -> float | None:
    """What no more than this share of clean texts is above: one of their own scores."""
    scores = clean[~clean.isnan()].sort().values
    if len(scores) == 0:
        return None
    allowed = int(false_alarms * len(scores))
    return float(scores[len(scores) - 1 - min(allowed, len(scores) - 1)])
