"""Query-key tables against loops over pairs, coordinates and distances, and against the model's own scores."""

from __future__ import annotations

import cmath
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError, NonFinite
from crossproof.interaction.attention import tables as module
from crossproof.interaction.attention.heads import Heads, heads_of
from crossproof.interaction.attention.tables import At, CrossPosition, QueryKey, query_key
from crossproof.units import Attention
from tests.interaction.attention.toys import LAYOUTS, attentions, make_attention, make_heads

FEATURES = 4
SIZES = st.sampled_from([1e-8, 1.0, 1e8])
WEIGHTS = st.lists(st.integers(0, 3), min_size=FEATURES, max_size=FEATURES).filter(any)
ATS = st.one_of(
    st.integers(-3, 2000),
    st.lists(st.floats(0, 2), min_size=1, max_size=5).filter(any).map(lambda w: torch.tensor(w, dtype=torch.float64)),
)
layers = st.builds(make_heads, attentions(), st.integers(0, 10**6), st.just(FEATURES))


def close(found: Tensor, expected: Tensor, size: float | None = None, tolerance: float = 1e-10) -> None:
    largest = float(expected.abs().max()) if expected.numel() and size is None else size or 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


def by_hand(heads: Heads, head: int, distance: float) -> Tensor:
    """One head's table: every pair of coordinates of every query turned by an exact angle."""
    unit, rotary = heads.attention, heads.attention.rotary
    q = (heads.directions @ unit.W_Q[head] * unit.scale).clone()
    k = heads.directions @ unit.W_K[head // (len(unit.W_Q) // len(unit.W_K))]
    if rotary is not None:
        half = rotary.dim // 2
        for m, frequency in enumerate(rotary.inverse_frequencies.tolist()):
            a, b = (2 * m, 2 * m + 1) if rotary.adjacent else (m, m + half)
            for i in range(len(q)):
                turned = complex(q[i, a], q[i, b]) * cmath.exp(1j * frequency * distance)
                q[i, a], q[i, b] = turned.real, turned.imag
    return q @ k.T


def averaged(heads: Heads, head: int, at: At) -> Tensor:
    if isinstance(at, int):
        return by_hand(heads, head, at)
    return sum(w * by_hand(heads, head, d) for d, w in enumerate((at / at.sum()).tolist()))  # type: ignore[return-value]


def centred_by_hand(B: Tensor, p: Tensor) -> Tensor:
    out = torch.empty_like(B)
    for i in range(len(B)):
        for j in range(len(B)):
            column = sum(p[a] * B[a, j] for a in range(len(B)))
            row = sum(p[b] * B[i, b] for b in range(len(B)))
            both = sum(p[a] * p[b] * B[a, b] for a in range(len(B)) for b in range(len(B)))
            out[i, j] = B[i, j] - column - row + both
    return out


def size_of(found: QueryKey, head: int) -> float:
    return float(found.queries[head].norm(dim=1).max() * found.keys[head].norm(dim=1).max())


def shares(weights: list[int]) -> Tensor:
    p = torch.tensor(weights, dtype=torch.float64)
    return p / p.sum()


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
@given(layers, ATS, SIZES)
def test_tables_at_a_distance_or_over_distances_are_those_of_turned_queries(heads: Heads, at: At, size: float) -> None:
    heads = heads_of(heads.attention, heads.directions * size, heads.bias)
    found = query_key(heads)
    for head in range(heads.n_heads):
        close(found.table(head, at), averaged(heads, head, at), size_of(found, head))


@settings(deadline=None, max_examples=40)
@given(layers, st.data())
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
@given(layers, ATS, WEIGHTS, SIZES)
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
@given(layers, WEIGHTS, SIZES)
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


# -- cross-feature interaction -----------------------------------------------------------------------------------------


def cosines(found: CrossPosition, head: int, side: str, at: At) -> Tensor:
    """From whole tables, distance by distance."""
    w = {at: 1.0} if isinstance(at, int) else dict(enumerate((at / at.sum()).tolist()))
    rows = []
    for distance, share in w.items():
        table = found.table(head, distance)
        p, its = (found.key_weights, table) if side == "query" else (found.query_weights, table.T)
        rows.append(its * (share * p).sqrt())
    side_by_side = torch.cat(rows, dim=1)
    out = torch.zeros(*[len(side_by_side)] * 2, dtype=torch.float64)
    for i, a in enumerate(side_by_side):
        for j, b in enumerate(side_by_side):
            length = float(a.norm() * b.norm())
            out[i, j] = float(a @ b) / length if length > 1e-12 * size_of(found, head) ** 2 else 0.0
    return out


@settings(deadline=None, max_examples=40)
@given(layers, ATS, st.lists(st.integers(1, 3), min_size=FEATURES, max_size=FEATURES), SIZES)
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
@given(layers, ATS, WEIGHTS)
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
