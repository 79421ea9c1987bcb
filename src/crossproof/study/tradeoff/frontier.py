"""Frontiers, and what settings have at the same cost.

A frontier is what the dictionaries of one setting and one seed cost and what they have, in order of their weights from
0 on. Between two weights both are taken to go straight: cost against the number, or against its logarithm if it is one
that is compared by ratios. Beyond the dictionaries that there are nothing is said.

    at_cost(cost, value, 1.1)      # [point, draw] → [draw], not a number where the frontier does not reach the cost
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite

import torch
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.study.estimates import ENOUGH, MOST_UNDEFINED, Drawn, Estimate, combine, estimate

Points = Float64[Tensor, "point draw"]


def at_cost(cost: Points, value: Points, level: float, log: bool = False) -> Float64[Tensor, " draw"]:
    """What a frontier has where its cost last rises through `level`.

    Costs need not rise all the way: of several places the one with the greatest weight counts, where most is had for
    the money.
    """
    if len(cost) < 2:
        return torch.full_like(cost[0], torch.nan)
    below, above = cost[:-1], cost[1:]
    crosses = (below <= level) & (level <= above)
    number = torch.arange(1, len(cost))[:, None]
    last = (crosses * number).amax(0) - 1  # −1 where it never does
    start, end = last.clamp(min=0)[None], (last.clamp(min=0) + 1)[None]
    low, high = cost.gather(0, start)[0], cost.gather(0, end)[0]
    part = torch.where(high > low, (level - low) / (high - low), 1.0)
    ends = value.log() if log else value
    found = torch.lerp(ends.gather(0, start)[0], ends.gather(0, end)[0], part)
    found = found.exp() if log else found
    return torch.where((last >= 0) & found.isfinite(), found, torch.nan)


def drawn_at_cost(cost: Sequence[Drawn], value: Sequence[Drawn], level: float, log: bool = False) -> Drawn:
    """The same of numbers and all their resamples."""
    found = at_cost(_together(cost), _together(value), level, log)
    return Drawn(float(found[0]), found[1:])


def _together(points: Sequence[Drawn]) -> Points:
    """Numbers first, resamples beside them."""
    return torch.stack([torch.cat([point.draws.new_tensor([point.value]), point.draws]) for point in points])


class Cost(BaseModel):
    """What is paid, against the dictionary of the same seed without a penalty, and how much of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    measure: str
    words: str
    relative: bool
    """Its ratio to that dictionary's; or how much it lost of it."""
    level: float

    def of(self, its: Drawn, plain: Drawn) -> Drawn:
        return compared(its, plain, True) if self.relative else compared(plain, its, False)


def estimated(members: Sequence[Drawn], seed: int, ratio: bool = False) -> Estimate | None:
    """The mean over dictionaries, of ratios the geometric one; None if one is not defined.

    From `ENOUGH` dictionaries on these are resampled with the texts, and otherwise held fixed.
    """
    if not members:
        return None
    if ratio:
        members = [combine(torch.log, its) for its in members]
    draws = torch.stack([its.draws for its in members])
    undefined = (~draws.isfinite()).any(0).double().mean()
    if not all(isfinite(its.value) for its in members) or undefined > MOST_UNDEFINED:
        return None
    members = [Drawn(its.value, its.draws.where(its.draws.isfinite(), torch.nan)) for its in members]
    found = estimate(members, seed if len(members) >= ENOUGH else None)
    if not ratio:
        return found
    value, low, high, *each = map(exp, (found.value, found.low, found.high, *found.each))
    return Estimate(value=value, low=low, high=high, each=each)


def compared(one: Drawn, other: Drawn, ratio: bool) -> Drawn:
    """One over the other, or less it, resample by resample."""
    return combine(torch.div if ratio else torch.sub, one, other)


def paired(
    ones: Mapping[int, Drawn], others: Mapping[int, Drawn], seed: int, ratio: bool
) -> tuple[Estimate | None, list[int]]:
    """Compared with the other of the same seed; and the seeds of which both are defined, which the estimate is of."""
    both = [number for number in ones if number in others]
    found = {number: compared(ones[number], others[number], ratio) for number in both}
    defined = {number: its for number, its in found.items() if its.value == its.value}
    return estimated(list(defined.values()), seed, ratio), list(defined)
