"""Intervals of the least and the largest of several numbers, and of the best of several groups."""

from __future__ import annotations

import pytest
import torch

from crossproof.study.estimates import Drawn
from crossproof.study.extremes import greatest, least


def test_intervals_of_the_worst_and_of_a_chosen_one_cover_what_they_should() -> None:
    """Four blocks, or settings, that are all exactly at the bar: neither side may be claimed more often than it is."""
    generator = torch.Generator().manual_seed(0)
    trials, count = 300, 4
    below = above = chosen = naive = 0
    for _ in range(trials):
        means = torch.randn(count, generator=generator, dtype=torch.float64)
        draws = means + torch.randn(1000, count, generator=generator, dtype=torch.float64)
        numbers = [Drawn(float(mean), its) for mean, its in zip(means, draws.T, strict=True)]
        worst = least({str(number): its for number, its in enumerate(numbers)}, 1)
        assert worst is not None
        assert worst.value == float(means.min())
        assert worst.where == str(int(means.argmin()))
        below, above = below + (worst.high < 0), above + (worst.low > 0)
        naive += float(draws.amin(1).quantile(0.975)) < 0
        lows = [its.low for its in (least({"": number}, count) for number in numbers) if its is not None]
        chosen += max(lows) > 0
    assert naive / trials > 0.3  # what resampling the worst one would say
    for wrong in (below, above, chosen):
        assert wrong / trials < 0.06
    assert below + chosen > 0  # an interval that always covers says nothing


def test_one_number_has_its_own_interval_and_none_is_none() -> None:
    its = Drawn(0.5, torch.linspace(0, 1, 1001, dtype=torch.float64))
    one = least({"only": its}, 1)
    assert one is not None
    assert (one.value, one.low, one.high) == pytest.approx((0.5, 0.025, 0.975))
    assert least({"only": its, "missing": None}, 1) is None
    assert least({}, 1) is None
    wider = least({"only": its}, 5)
    assert wider is not None
    assert (wider.low, wider.high) == pytest.approx((0.005, 0.995))


def test_what_is_not_defined_in_some_resample_has_no_least() -> None:
    its, holed = Drawn(0.5, torch.ones(20).double()), torch.ones(20).double()
    holed[3] = torch.nan
    assert least({"whole": its, "holed": Drawn(0.5, holed)}) is None
    assert greatest({"whole": its, "holed": Drawn(0.5, holed)}) is None


def test_the_largest_is_the_least_of_what_is_negated() -> None:
    generator = torch.Generator().manual_seed(0)
    numbers: dict[str, Drawn | None] = {
        str(number): Drawn(float(number), number + torch.randn(500, generator=generator, dtype=torch.float64))
        for number in range(4)
    }
    found = greatest(numbers)
    assert found is not None
    assert (found.value, found.where) == (3.0, "3")
    each = [its.draws for its in numbers.values() if its]
    assert found.high == pytest.approx(max(float(its.quantile(0.975)) for its in each))
    assert found.low == pytest.approx(max(float(its.quantile(0.025 / 4)) for its in each))
    assert greatest({"only": numbers["1"], "missing": None}) is None


def test_the_largest_of_several_alike_is_not_said_to_be_above_them() -> None:
    """Resampling the largest of many that are exactly at the bar says in most cases that it is above."""
    generator = torch.Generator().manual_seed(0)
    above = naive = 0
    for _ in range(100):
        means = torch.randn(10, generator=generator, dtype=torch.float64)
        draws = means + torch.randn(500, 10, generator=generator, dtype=torch.float64)
        found = greatest({str(n): Drawn(float(mean), draws[:, n]) for n, mean in enumerate(means)})
        assert found is not None
        above += found.low > 0
        naive += float(draws.amax(1).quantile(0.025)) > 0
    assert naive > 50
    assert above < 8
