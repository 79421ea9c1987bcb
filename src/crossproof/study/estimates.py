"""Estimates with intervals: what a study reports is resampled over texts, and over dictionaries of several seeds.

    weights = text_weights(texts, seed)                       # the same for everything that is to be compared
    full = drawn(loss_by_text, targets_by_text, weights)      # a mean over tokens, and that of every resample
    fidelity = combine(lambda kept, clean, none: 1 - (kept - clean) / (none - clean), kept, full, none)
    estimate([fidelity_of_one_dictionary, of_another, …])     # the mean over dictionaries, its 95 % interval

Texts are the unit of resampling, because tokens of one text are no independent draws. Resamples are paired: number 7
has the same texts in every estimate that was made with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

DRAWS = 1000
ENOUGH = 5
"""From so many dictionaries on, they are resampled too."""
LEVEL = 0.025
"""What lies beyond each end of an interval."""
MOST_UNDEFINED = 0.05
"""A number that is not defined in more of its resamples has no interval."""
_APART = 1_000_003
"""Between the seeds of texts and of dictionaries: drawn with one, which dictionaries would follow from which texts."""


class Estimate(BaseModel):
    """A mean over dictionaries, and its 95 % interval."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    value: float
    low: float
    high: float
    each: list[float]
    """Of each dictionary."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """A number, and what it is in each resample; not a number in a resample where it is not defined."""

    value: float
    draws: Float64[Tensor, " draw"]

    @property
    def known(self) -> bool:
        """Whether it is defined, and in nearly every resample: what hangs on one or two texts is not."""
        undefined = float((~self.draws.isfinite()).double().mean())
        return math.isfinite(self.value) and undefined <= MOST_UNDEFINED


def text_weights(texts: int, seed: int, draws: int = DRAWS) -> Float64[Tensor, "draw text"]:
    """How often each text is in each resample."""
    drawn = torch.randint(texts, (draws, texts), generator=torch.Generator().manual_seed(seed))
    weights = torch.zeros(draws, texts, dtype=torch.float64)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float64))


def by_text(values: Float[Tensor, " token"], text: Int[Tensor, " token"], texts: int) -> Float64[Tensor, " text"]:
    """Sums over each text's tokens."""
    return torch.zeros(texts, dtype=torch.float64).index_add_(0, text.cpu(), values.double().cpu())


def drawn(
    totals: Float[Tensor, " text"], counts: Float[Tensor, " text"], weights: Float64[Tensor, "draw text"]
) -> Drawn:
    """What is summed over texts, over how much there is of it: the mean over all tokens, not over texts."""
    totals, counts = totals.double(), counts.double()
    return Drawn(float(totals.sum() / counts.sum()), weights @ totals / (weights @ counts))


def combine(function: Callable[..., Tensor], *parts: Drawn) -> Drawn:
    """A function of several numbers, such as their ratio, in each resample."""
    value = function(*(torch.tensor(part.value, dtype=torch.float64) for part in parts))
    return Drawn(float(value), function(*(part.draws for part in parts)))


def mean(members: Sequence[Drawn], resample_members_with: int | None = None) -> Drawn:
    """Over dictionaries. These are held fixed, or, with a seed, resampled too: then the draws say what others that are
    trained alike would give. Two or three dictionaries are too few for that.
    """
    draws = torch.stack([member.draws for member in members])
    if resample_members_with is None:
        means = draws.mean(0)
    else:
        chosen = text_weights(len(members), resample_members_with + _APART, draws.shape[1])
        # a member that is not drawn has weight 0, and must not make the mean undefined
        means = torch.where(chosen.T > 0, draws * chosen.T, 0).sum(0) / len(members)
    return Drawn(sum(member.value for member in members) / len(members), means)


def estimate(members: Sequence[Drawn], resample_members_with: int | None = None, chosen_from: int = 1) -> Estimate:
    """The mean over dictionaries, as `mean` draws it, and its interval.

    `chosen_from`: of so many this one is shown because it does best, and its interval is as much surer (Bonferroni).
    """
    over, level = mean(members, resample_members_with), LEVEL / max(1, chosen_from)
    low, high = over.draws.nanquantile(torch.tensor([level, 1 - level], dtype=over.draws.dtype)).tolist()
    return Estimate(value=over.value, low=low, high=high, each=[member.value for member in members])
