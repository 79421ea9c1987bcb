"""Which features ask alike and are found alike: cosines and lengths of a table's rows and columns."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.interaction.attention.heads import Heads, heads_of
from crossproof.interaction.attention.tables import At, QueryKey, query_key
from tests.interaction.attention.table_toys import (
    ATS,
    FEATURES,
    LAYERS,
    SIZES,
    WEIGHTS,
    by_hand,
    centred_by_hand,
    close,
    cosines,
    shares,
    size_of,
)
from tests.interaction.attention.toys import make_attention, make_heads


@settings(deadline=None, max_examples=40)
@given(LAYERS, ATS, st.lists(st.integers(1, 3), min_size=FEATURES, max_size=FEATURES), SIZES)
def test_cross_feature_interaction_is_the_cosine_of_weighted_rows_and_columns(
    heads: Heads, at: At, weights: list[int], size: float
) -> None:
    heads = heads_of(heads.attention, heads.directions * size, heads.bias)
    found = query_key(heads).centred(torch.tensor(weights))
    i, j = torch.tensor([0, 3, 2]), torch.tensor([1, 3, 0])
    for head in range(heads.n_heads):
        for side in ("query", "key"):
            expected = cosines(found, head, side, at)
            close(found.alike(head, side, at), expected, 1.0, 1e-8)
            close(found.alike_of_pairs(head, i, j, side, at), expected[i, j], 1.0, 1e-8)


def test_cosines_agree_with_the_dense_formula_to_ten_digits_where_rows_are_not_small() -> None:
    found = query_key(make_heads(make_attention(rotary="halves", rotary_dim=2), features=12)).centred(torch.arange(12))
    for side in ("query", "key"):
        for at in (3, torch.tensor([0.0, 1.0, 3.0])):
            close(found.alike(1, side, at), cosines(found, 1, side, at))


def test_over_distances_features_are_alike_where_they_are_so_at_each() -> None:
    found = query_key(make_heads(make_attention(rotary="halves"), features=12)).centred(torch.ones(12))
    over, first = found.alike(0, "query", torch.tensor([1.0, 1.0])), found.alike(0, "query", torch.tensor([1.0]))
    close(first, found.alike(0, "query", 0))
    assert float((over - first).abs().max()) > 1e-3


def test_queries_and_keys_may_be_features_of_different_dictionaries() -> None:
    queries, keys = torch.randn(1, 3, 4).double(), torch.randn(1, 7, 4).double()
    both = QueryKey("", queries, keys, torch.tensor([0.3], dtype=torch.float64))
    found = both.centred(torch.tensor([1, 2, 3]), torch.tensor([3, 0, 1, 1, 5, 2, 1]))
    for side, n in (("query", 3), ("key", 7)):
        assert found.alike(0, side, 2).shape == (n, n)
        close(found.alike(0, side, 2), cosines(found, 0, side, 2))


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_features_that_all_do_the_same_are_like_none(size: float) -> None:
    heads = make_heads(make_attention(), features=9)
    same = heads_of(heads.attention, heads.directions[:1].expand(9, -1) * size)
    left = 0.0
    for seed in range(5):
        found = query_key(same).centred(torch.rand(9, generator=torch.Generator().manual_seed(seed)))
        left += float(found.queries.abs().max())
        assert not bool(found.alike(0, "query").any())
        assert not bool(found.alike(0, "key").any())
    assert left > 0  # what there is left is rounding


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_queries_that_all_are_the_same_are_like_none_whatever_the_keys(size: float) -> None:
    queries, keys = size * torch.randn(1, 1, 4).double().expand(1, 9, 4), torch.randn(1, 9, 4).double()
    for seed in range(5):
        weights = torch.rand(9, generator=torch.Generator().manual_seed(seed))
        found = QueryKey("", queries, keys, torch.zeros(0).double()).centred(weights)
        assert not bool(found.alike(0, "query").any())


def test_small_differences_between_features_count() -> None:
    heads = make_heads(make_attention(), features=9)
    near = heads_of(heads.attention, heads.directions[:1] + 1e-5 * heads.directions)
    found = query_key(near).centred(torch.ones(9))
    close(found.alike(0, "query").diagonal(), torch.ones(9).double())
    close(found.alike(0, "query"), cosines(query_key(heads).centred(torch.ones(9)), 0, "query", 0), 1.0, 1e-3)


@settings(deadline=None, max_examples=30)
@given(LAYERS, ATS, WEIGHTS)
def test_lengths_are_those_of_rows_and_columns_and_after_centring_standard_deviations(
    heads: Heads, at: At, weights: list[int]
) -> None:
    found, p = query_key(heads), shares(weights)
    over = {at: 1.0} if isinstance(at, int) else dict(enumerate((at / at.sum()).tolist()))
    for head in range(heads.n_heads):
        squares, spread = torch.zeros(2, FEATURES).double(), torch.zeros(2, FEATURES).double()
        for distance, share in over.items():
            B = by_hand(heads, head, distance)
            centred = centred_by_hand(B, p)
            squares += share * torch.stack([B.square().sum(1), B.square().sum(0)])
            spread += share * torch.stack([centred.square() @ p, p @ centred.square()])
        for n, side in enumerate(("query", "key")):
            close(found.lengths(head, side, at), squares[n].sqrt(), size_of(found, head))
            close(found.centred(torch.tensor(weights)).lengths(head, side, at), spread[n].sqrt(), size_of(found, head))
