"""The statistics that rankings are compared with: ranks and tops with their ties, and intervals."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.study.ranking.agreement import bootstrap, precision_of_top, spearman


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=12))
def test_spearman_is_the_correlation_of_ranks_that_ties_share(both: list[tuple[int, int]]) -> None:
    a, b = ([float(x) for x in side] for side in zip(*both, strict=True))

    def ranks(values: list[float]) -> list[float]:
        return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]

    x, y, middle = ranks(a), ranks(b), (len(a) + 1) / 2
    top = sum((p - middle) * (q - middle) for p, q in zip(x, y, strict=True))
    bottom = (sum((p - middle) ** 2 for p in x) * sum((q - middle) ** 2 for q in y)) ** 0.5
    assert spearman(torch.tensor(a), torch.tensor(b)) == pytest.approx(top / bottom if bottom else 0.0, abs=1e-12)


def test_precision_of_the_top_is_the_share_that_both_have() -> None:
    reference = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0])
    assert precision_of_top(reference, torch.tensor([9.0, 1.0, 8.0, 7.0, 0.0]), 3) == pytest.approx(2 / 3)


Reference = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=4)


@given(Reference, st.integers(1, 5))
def test_precision_of_the_top_is_the_mean_over_all_orders_that_ties_of_either_leave_open(
    both: list[tuple[int, int]], k: int
) -> None:
    reference, score = ([float(x) for x in side] for side in zip(*both, strict=True))

    def tops(values: list[float]) -> list[set[int]]:
        orders = permutations(range(len(values)))
        return [set(o[:k]) for o in orders if [values[x] for x in o] == sorted(values, reverse=True)]

    shares = [len(truth & mine) / k for truth in tops(reference) for mine in tops(score)]
    found = precision_of_top(torch.tensor(reference), torch.tensor(score), k)
    assert found == pytest.approx(sum(shares) / len(shares), abs=1e-12)


def test_no_score_finds_more_of_the_top_than_the_reference_does_where_its_zeros_tie() -> None:
    reference = torch.zeros(200)
    reference[:5] = torch.arange(5, 0, -1)
    best = precision_of_top(reference, reference, 20)
    assert best == pytest.approx((5 + 15 * 15 / 195) / 20)
    for score in (-torch.arange(200.0), torch.arange(200.0), -reference):
        assert precision_of_top(reference, score, 20) <= best + 1e-12


def test_the_interval_of_a_mean_over_texts_is_that_of_its_standard_error() -> None:
    of_text = torch.randn(400, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    estimate, reach = bootstrap(lambda weights: (weights @ of_text / weights.sum())[None], 400, 1000, 0)
    assert float(estimate) == pytest.approx(float(of_text.mean()))
    assert float(reach) == pytest.approx(1.96 * float(of_text.std()) / 20, rel=0.1)
