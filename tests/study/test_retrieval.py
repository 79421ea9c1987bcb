"""Scores of a ranking, beside what they are by definition."""

from __future__ import annotations

import math
from itertools import pairwise, permutations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossproof.study.retrieval import auroc, average_precision, percentile, precision_at

Items = st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1e-9, 3e8])), min_size=1, max_size=6)


def tensors(items: list[tuple[bool, float]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([r for r, _ in items]), torch.tensor([s for _, s in items], dtype=torch.float64)


@given(Items, st.integers(1, 8))
def test_precision_is_the_mean_over_all_orders_that_ties_leave_open(items: list[tuple[bool, float]], k: int) -> None:
    orders = [order for order in permutations(items) if all(a[1] >= b[1] for a, b in pairwise(order))]
    expected = sum(sum(r for r, _ in order[:k]) / k for order in orders) / len(orders)
    assert precision_at(*tensors(items), k) == pytest.approx(expected, abs=1e-12)


@given(Items)
def test_auroc_is_how_often_a_relevant_one_scores_more(items: list[tuple[bool, float]]) -> None:
    good, bad = [s for r, s in items if r], [s for r, s in items if not r]
    found = auroc(*tensors(items))
    if not good or not bad:
        assert math.isnan(found)
    else:
        wins = sum((a > b) + (a == b) / 2 for a in good for b in bad)
        assert found == pytest.approx(wins / len(good) / len(bad), abs=1e-12)


@given(Items)
def test_average_precision_is_the_mean_precision_down_to_each_relevant_item(items: list[tuple[bool, float]]) -> None:
    expected = []
    for relevant, score in items:
        if relevant:
            above = [r for r, s in items if s >= score]
            expected.append(sum(above) / len(above))
    found = average_precision(*tensors(items))
    assert math.isnan(found) if not expected else found == pytest.approx(sum(expected) / len(expected), abs=1e-12)


@given(Items)
def test_a_percentile_counts_those_below_and_half_of_those_beside(items: list[tuple[bool, float]]) -> None:
    scores = [s for _, s in items]
    expected = [sum((b < a) + (b == a) / 2 for b in scores) / len(scores) for a in scores]
    assert percentile(tensors(items)[1]).tolist() == pytest.approx(expected, abs=1e-12)
