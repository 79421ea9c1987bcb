"""What an interval says of a bar: a claim holds if all of it does, fails if none does, and is open in between."""

from __future__ import annotations

from crossproof.findings import Verdict
from crossproof.study.estimates import Estimate
from crossproof.study.extremes import Bounded


def above(its: Estimate | Bounded | None, bar: float) -> Verdict:
    """Whether it is larger than the bar."""
    if its is None:
        return "cannot tell"
    return "holds" if its.low > bar else "does not hold" if its.high <= bar else "cannot tell"


def at_most(its: Estimate | Bounded | None, bar: float) -> Verdict:
    """Whether it is no larger than the bar."""
    if its is None:
        return "cannot tell"
    return "holds" if its.high <= bar else "does not hold" if its.low > bar else "cannot tell"
