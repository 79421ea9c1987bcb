"""The least, or the largest, of several numbers, with an interval that allows for the choice.

The least of several estimates is too low, and the least of each resample is lower still: of four blocks that are
exactly at the bar, resampling the worst one says in half of all cases that it is below. So the ends of the interval are
taken of each number by itself. One that is below makes the least one below, hence the lower end is the least of the
lower ends, however many there are; all must be above to make the least one above, hence the upper end is the least of
the upper ends at 1 − .025 / their number. The same holds for a group that is shown because it does best: both levels
are divided by the number of groups that it was chosen from (Bonferroni). The largest is the least of what is negated.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict

from crossproof.study.estimates import LEVEL, Drawn, combine


class Bounded(BaseModel):
    """The least or the largest of several numbers, and its interval."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    value: float
    low: float
    high: float
    where: str
    """Which of them it is."""


def least(numbers: Mapping[str, Drawn | None], chosen_from: int = 1) -> Bounded | None:
    """The least of these and which it is, with its interval; None unless all of them are defined in every resample."""
    drawn = {name: its for name, its in numbers.items() if its is not None and bool(its.draws.isfinite().all())}
    if not drawn or len(drawn) < len(numbers):
        return None
    level = LEVEL / max(1, chosen_from)
    where = min(drawn, key=lambda name: drawn[name].value)
    low = min(float(its.draws.quantile(level)) for its in drawn.values())
    high = min(float(its.draws.quantile(1 - level / len(drawn))) for its in drawn.values())
    return Bounded(value=drawn[where].value, low=low, high=high, where=where)


def greatest(numbers: Mapping[str, Drawn | None]) -> Bounded | None:
    """The same of the largest."""
    found = least({name: its and combine(torch.neg, its) for name, its in numbers.items()})
    return found and Bounded(value=-found.value, low=-found.high, high=-found.low, where=found.where)
