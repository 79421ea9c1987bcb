"""How well a score finds what is known to be relevant. Ties count as if broken at random: no order is made up."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor


def average_precision(relevant: Bool[Tensor, " item"], score: Float[Tensor, " item"]) -> float:
    """Mean over the relevant of the precision among all that score at least as much; not a number without any."""
    found, taken = _at_least(relevant, score)
    gained = found.diff(prepend=found.new_zeros(1))
    return float((found / taken * gained).sum() / relevant.sum())


def precision_at(
    relevant: Bool[Tensor, " item"] | Float64[Tensor, " item"], score: Float[Tensor, " item"], k: int
) -> float:
    """The expected share of relevant ones among the k that score most. An item can be relevant in part."""
    found, taken = _at_least(relevant, score)
    start = taken.new_zeros(1)
    found, taken = torch.cat([start, found]), torch.cat([start, taken])
    last = int(torch.searchsorted(taken, taken.new_tensor(float(min(k, len(score))))))
    if last == 0:
        return float("nan")
    share = (min(k, len(score)) - taken[last - 1]) / (taken[last] - taken[last - 1])
    return float((found[last - 1] + share * (found[last] - found[last - 1])) / k)


def auroc(relevant: Bool[Tensor, " item"], score: Float[Tensor, " item"]) -> float:
    """How probably a relevant one scores more than one that is not; not a number unless there are both."""
    n = int(relevant.sum())
    below = percentile(score)[relevant].sum() * len(score) - n * n / 2
    others = n * (len(score) - n)
    return float(below / others) if others else float("nan")


def percentile(score: Float[Tensor, " item"]) -> Float64[Tensor, " item"]:
    """The share of all items that score less, of those that score the same (itself among them) a half."""
    _, which, counts = torch.unique(score, return_inverse=True, return_counts=True)
    counts = counts.double()
    return ((counts.cumsum(0) - counts / 2) / max(1, len(score)))[which]


def _at_least(relevant: Tensor, score: Tensor) -> tuple[Float64[Tensor, " value"], Float64[Tensor, " value"]]:
    """For each value that occurs, from the largest down: how many relevant items score that much or more, and items."""
    values, which, counts = torch.unique(score, return_inverse=True, return_counts=True)
    hits = torch.zeros(len(values), dtype=torch.float64, device=score.device)
    hits.index_add_(0, which, relevant.double())
    return hits.flip(0).cumsum(0), counts.double().flip(0).cumsum(0)
