"""Verdicts follow from where the whole interval lies, ends on the bar included."""

from __future__ import annotations

import pytest

from crossproof.findings import Verdict
from crossproof.study.estimates import Estimate
from crossproof.study.verdicts import above, at_most


@pytest.mark.parametrize(
    ("low", "high", "is_above", "is_at_most"),
    [
        (1.1, 2.0, "holds", "does not hold"),
        (0.1, 0.9, "does not hold", "holds"),
        (0.5, 1.5, "cannot tell", "cannot tell"),
        (1.0, 1.5, "cannot tell", "cannot tell"),
        (0.5, 1.0, "does not hold", "holds"),
        (1.0, 1.0, "does not hold", "holds"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, is_above: Verdict, is_at_most: Verdict) -> None:
    its = Estimate(value=(low + high) / 2, low=low, high=high, each=[])
    assert above(its, 1.0) == is_above
    assert at_most(its, 1.0) == is_at_most


def test_without_an_interval_nothing_can_be_told() -> None:
    assert above(None, 0.0) == at_most(None, 0.0) == "cannot tell"
