"""Query-key tables against loops over pairs, coordinates and distances, and against the model's own scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.errors import CrossproofError, MismatchError, NonFinite
from crossproof.interaction.attention import tables as module
from crossproof.interaction.attention.heads import Heads, heads_of
from crossproof.interaction.attention.tables import At, QueryKey, query_key
from crossproof.units import Attention
from tests.interaction.attention.table_toys import (
    ATS,
    FEATURES,
    LAYERS,
    SIZES,
    WEIGHTS,
    averaged,
    by_hand,
    centred_by_hand,
    close,
    cosines,
    shares,
    size_of,
)
from tests.interaction.attention.toys import LAYOUTS, attentions, make_attention, make_heads

# -- tables ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(attentions(biases=False, window=None), st.integers(0, 10**6), st.integers(0, 5), st.integers(0, 5))
def test_the_table_is_the_models_own_score_of_one_feature_on_one_feature(
    attention: Attention, seed: int, t: int, s: int
) -> None:
    heads = make_heads(attention, seed, FEATURES, bias=False)
    found = query_key(heads)
    for i in range(FEATURES):
        for j in range(FEATURES):
            if t == s and i != j:
                continue
            x = torch.zeros(6, heads.directions.shape[1], dtype=torch.float64)
            x[t], x[s] = heads.directions[i], heads.directions[j]
            scores = attention.scores(x[None])[0, :, t, s]
            for head in range(heads.n_heads):
                # the model rounds its angles to float32; without rotary positions nothing is rounded
                tolerance = 1e-12 if attention.rotary is None else 1e-5
                close(found.table(head, t - s)[i, j], scores[head], size_of(found, head), tolerance)


@settings(deadline=None, max_examples=50)
@given(LAYERS, ATS, SIZES)
def test_tables_at_a_distance_or_over_distances_are_those_of_turned_queries(heads: Heads, at: At, size: float) -> None:
    heads = heads_of(heads.attention, heads.directions * size, heads.bias)
    found = query_key(heads)
    for head in range(heads.n_heads):
        close(found.table(head, at), averaged(heads, head, at), size_of(found, head))


@settings(deadline=None, max_examples=40)
@given(LAYERS, st.data())
def test_waves_give_pairs_at_any_distances_and_on_average(heads: Heads, data: st.DataObject) -> None:
    index = st.lists(st.integers(0, FEATURES - 1), min_size=3, max_size=3).map(torch.tensor)
    i, j = data.draw(index), data.draw(index)
    distances = torch.tensor(data.draw(st.lists(st.integers(-5, 3000), max_size=4)), dtype=torch.long)
    weights = torch.tensor(data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5).filter(any)))
    found = query_key(heads)
    waves = found.of_pairs(i, j)
    assert waves.at(distances).shape == (3, heads.n_heads, len(distances))
    for head in range(heads.n_heads):
        size = size_of(found, head)
        for n, distance in enumerate(distances.tolist()):
            close(waves.at(distances)[:, head, n], by_hand(heads, head, distance)[i, j], size)
        close(waves.mean(weights)[:, head], averaged(heads, head, weights.double())[i, j], size)


@pytest.mark.parametrize("layout", LAYOUTS[1:])
def test_amplitudes_are_how_far_each_frequency_moves_an_entry(layout: str) -> None:
    heads = make_heads(make_attention(rotary=layout))
    assert heads.attention.rotary is not None
    i = j = torch.arange(3)
    waves = query_key(heads).of_pairs(i, j)
    for m in range(len(waves.frequencies)):
        only = torch.zeros_like(waves.coefficients)
        only[..., m] = waves.coefficients[..., m]
        one = module.Waves(torch.zeros_like(waves.rest), only, torch.ones_like(waves.frequencies) * math.pi / 1000)
        close(one.at(torch.arange(2000)).amax(-1), waves.amplitudes[..., m], tolerance=1e-5)


def test_without_rotary_positions_there_are_no_waves_and_distance_makes_no_difference() -> None:
    found = query_key(make_heads(make_attention()))
    waves = found.of_pairs(torch.tensor([0]), torch.tensor([1]))
    assert waves.amplitudes.shape == (1, 2, 0)
    assert torch.equal(found.table(1, 0), found.table(1, 900))
    close(waves.rest[0], torch.stack([found.table(h)[0, 1] for h in range(2)]))


def test_many_distances_are_averaged_in_pieces() -> None:
    heads = make_heads(make_attention(rotary="halves"))
    weights = torch.rand(200, dtype=torch.float64)
    close(query_key(heads).table(0, weights), averaged(heads, 0, weights))
    found = query_key(heads).centred(torch.ones(6))
    close(found.alike(0, "query", weights), cosines(found, 0, "query", weights))


def test_single_precision_layers_are_measured_in_double() -> None:
    single = make_heads(make_attention(dtype=torch.float32))
    double = heads_of(single.attention.to(torch.float64), single.directions.double(), single.bias.double())
    close(query_key(single).table(1), query_key(double).table(1), tolerance=1e-13)


def test_typical_strengths_make_every_number_invariant_to_the_scale_of_features() -> None:
    heads = make_heads(make_attention(rotary="adjacent"))
    strengths, c = torch.rand(6).double() + 0.5, torch.tensor([0.1, 10.0, 4.0, 1.0, 1e4, 1e-4]).double()
    scaled = heads_of(heads.attention, heads.directions / c[:, None], heads.bias)
    one, other = query_key(heads, strengths), query_key(scaled, strengths * c)
    close(one.table(1, 3), other.table(1, 3))
    p = torch.tensor([1, 2, 0, 3, 1, 1])
    close(one.centred(p).table(1, 3), other.centred(p).table(1, 3))
    close(one.centred(p).alike(1, "key", 3), other.centred(p).alike(1, "key", 3))
    assert not torch.allclose(query_key(heads).table(1, 3), query_key(scaled).table(1, 3))


# -- cross-position interaction ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(LAYERS, ATS, WEIGHTS, SIZES)
def test_cross_position_interaction_is_the_doubly_centred_table(
    heads: Heads, at: At, weights: list[int], size: float
) -> None:
    heads = heads_of(heads.attention, heads.directions * size, heads.bias)
    found, p = query_key(heads), shares(weights)
    centred = found.centred(torch.tensor(weights))
    i, j = (x.flatten() for x in torch.meshgrid(*[torch.arange(FEATURES)] * 2, indexing="ij"))
    for head in range(heads.n_heads):
        expected, largest = centred_by_hand(averaged(heads, head, at), p), size_of(found, head)
        table = centred.table(head, at)
        close(table, expected, largest)
        close(p @ table, torch.zeros(FEATURES).double(), largest, 1e-13)
        close(table @ p, torch.zeros(FEATURES).double(), largest, 1e-13)
        waves = centred.of_pairs(i, j)
        of_pairs = waves.at(torch.tensor([at]))[:, head, 0] if isinstance(at, int) else waves.mean(at)[:, head]
        close(of_pairs, expected.flatten(), largest)


@settings(deadline=None, max_examples=40)
@given(LAYERS, WEIGHTS, SIZES)
def test_functions_of_one_feature_alone_are_no_cross_position_interaction(
    heads: Heads, weights: list[int], size: float
) -> None:
    found = query_key(heads)
    ones, alone = (
        found.queries.new_ones(heads.n_heads, FEATURES, 1),
        torch.randn(2, heads.n_heads, FEATURES, 1).double(),
    )
    queries = torch.cat([found.queries, size * alone[0], ones], dim=2)
    keys = torch.cat([found.keys, ones, size * alone[1]], dim=2)
    more, p = QueryKey("", queries, keys, found.frequencies), torch.tensor(weights)
    close((more.table(0, 2) - found.table(0, 2)) / size, alone[0, 0] + alone[1, 0].T, tolerance=1e-6)
    close(more.centred(p).table(0, 2), found.centred(p).table(0, 2), max(size, size_of(found, 0)))


def test_all_weight_on_one_feature_leaves_nothing_of_its_row_and_column() -> None:
    found = query_key(make_heads(make_attention(rotary="halves"), features=FEATURES))
    centred = found.centred(torch.tensor([0, 7, 0, 0]))
    table = centred.table(0, 3)
    assert not bool(table[1].any())
    assert not bool(table[:, 1].any())
    B = found.table(0, 3)
    close(table[2, 3], B[2, 3] - B[1, 3] - B[2, 1] + B[1, 1])
    for side in ("query", "key"):
        # on the one key that counts all centred rows are 0, to rounding
        assert not bool(centred.alike(0, side, 3).any())
    assert len(centred.strongest(0).value) == 0


def test_keys_may_have_weights_of_their_own() -> None:
    found = query_key(make_heads(make_attention(), features=3))
    p, r = shares([1, 2, 3]), shares([3, 0, 1])
    B = found.table(0)
    expected = B - (p @ B)[None] - (B @ r)[:, None] + p @ B @ r
    close(found.centred(torch.tensor([1, 2, 3]), torch.tensor([3, 0, 1])).table(0), expected)


# -- the strongest pairs -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 12), st.sampled_from([None, WEIGHTS]), st.data())
def test_the_strongest_pairs_are_those_of_a_stable_sort_however_few_rows_are_held(
    seed: int, top: int, held: int, weights: st.SearchStrategy[list[int]] | None, data: st.DataObject
) -> None:
    draw = torch.Generator().manual_seed(seed)
    q, k = (torch.randint(-1, 2, (2, FEATURES, 2), generator=draw).double() for _ in range(2))
    found, alive = QueryKey("", q, k, torch.zeros(0).double()), [True] * FEATURES
    if weights is not None:
        p = data.draw(weights)
        # a power of two in all, so that shares and means are exact and ties stay ties
        p = [int(bool(x)) * (4 if sum(map(bool, p)) == 1 else 1) for x in p]
        if sum(p) == 3:
            p[p.index(1)] = 2
        found, alive = found.centred(torch.tensor(p)), [bool(x) for x in p]
    table = found.table(1)
    entries = [
        (-abs(float(table[i, j])), i, j)
        for i in range(FEATURES)
        for j in range(FEATURES)
        if alive[i] and alive[j] and float(table[i, j]) != 0
    ]
    expected = sorted(entries)[:top]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HELD", held)
        strongest = found.strongest(1, top)
    assert list(zip(strongest.query.tolist(), strongest.key.tolist(), strict=True)) == [(i, j) for _, i, j in expected]
    assert torch.equal(strongest.value, table[strongest.query, strongest.key])


def test_the_strongest_pairs_are_at_the_distance_asked_for() -> None:
    found = query_key(make_heads(make_attention(rotary="adjacent")))
    for at in (0, 4, torch.tensor([1.0, 0.0, 2.0])):
        (value,), table = found.strongest(0, 1, at).value, found.table(0, at)
        close(value.abs(), table.abs().max())


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_what_no_weight_or_strength_can_be_is_refused_by_name() -> None:
    heads = make_heads(make_attention(), features=3)
    found = query_key(heads)
    with pytest.raises(CrossproofError, match="weights: all are 0"):
        found.centred(torch.zeros(3))
    with pytest.raises(CrossproofError, match="key_weights: all are 0"):
        found.centred(torch.ones(3), torch.zeros(3))
    with pytest.raises(MismatchError, match="weights: some are negative"):
        found.centred(torch.tensor([1, -1, 2]))
    with pytest.raises(NonFinite, match="weights"):
        found.centred(torch.tensor([1, torch.nan, 2]))
    with pytest.raises(MismatchError, match="weights: expected the shape"):
        found.centred(torch.ones(4))
    with pytest.raises(MismatchError, match="strengths: expected the shape"):
        query_key(heads, torch.ones(4))
    with pytest.raises(MismatchError, match="strengths: some are negative"):
        query_key(heads, torch.tensor([1.0, -1.0, 2.0]))


def test_what_is_not_there_is_refused_by_name() -> None:
    found = query_key(make_heads(make_attention(rotary="halves"), features=3)).centred(torch.ones(3))
    one = torch.tensor([0])
    for head in (-1, 2):
        for call in (found.table, found.strongest, found.alike):
            with pytest.raises(MismatchError, match="head: attention has heads 0 to 1"):
                call(head)
    with pytest.raises(MismatchError, match="pairs i, j"):
        found.of_pairs(one, torch.tensor([3]))
    with pytest.raises(MismatchError, match="pairs i, j"):
        found.alike_of_pairs(0, torch.tensor([-1]), one)
    with pytest.raises(CrossproofError, match="top: asks for 0"):
        found.strongest(0, 0)
    with pytest.raises(CrossproofError, match="at: all weights"):
        found.table(0, torch.zeros(3))
    with pytest.raises(MismatchError, match="at: some are negative"):
        found.table(0, torch.tensor([1.0, -1.0]))
    with pytest.raises(CrossproofError, match="side: no 'value'"):
        module.check_side("value")
