"""How alike two rankings are, and how sure that is: rank correlation, precision at k, and resampling of whole texts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crossproof.study.retrieval import percentile, precision_at

Statistic = Callable[[Float64[Tensor, " text"]], Float64[Tensor, "*shape"]]
"""Numbers made from texts, of which each counts as often as its weight says."""


def spearman(a: Float[Tensor, " item"], b: Float[Tensor, " item"]) -> float:
    """Rank correlation, tied items sharing their ranks. Where either has no order at all it is 0."""
    x, y = (ranks - ranks.mean() for ranks in (percentile(a), percentile(b)))
    norm = float(x.norm() * y.norm())
    return float(x @ y) / norm if norm > 0 else 0.0


def precision_of_top(reference: Float[Tensor, " item"], score: Float[Tensor, " item"], k: int) -> float:
    """The share of the k largest by reference among the k largest by score; of those that tie, either takes any."""
    least = reference.sort(descending=True).values[:k][-1:]
    above, tied = reference > least, reference == least
    places = min(k, len(reference)) - above.sum()
    return precision_at(above + tied * places.double() / tied.sum(), score, k)


def bootstrap(
    statistic: Statistic, texts: int, draws: int, seed: int
) -> tuple[Float64[Tensor, "*shape"], Float64[Tensor, "*shape"]]:
    """A statistic of all texts, and how far a 95% interval reaches on either side of it.

    Tokens of one text are alike, so whole texts are drawn, with replacement. The reach is 1.96 standard deviations over
    the draws. Their quantiles would not do: a draw has fewer different texts than there are, so that its averages are
    noisier than those of all texts, and agree less. Draws in which the statistic is not a number are left out; where
    fewer than two are left, the reach is not a number.
    """
    draw = torch.Generator().manual_seed(seed)
    estimate = statistic(torch.ones(texts, dtype=torch.float64))
    found = []
    for _ in range(draws):
        drawn = torch.randint(texts, (texts,), generator=draw)
        found.append(statistic(torch.bincount(drawn, minlength=texts).double()))
    draws_of = torch.stack(found)
    told = draws_of.isfinite().sum(0)
    apart = draws_of - draws_of.nanmean(0)
    reach = 1.96 * (apart.square().nansum(0) / (told - 1)).sqrt()
    return estimate, reach.masked_fill(told < 2, torch.nan)
