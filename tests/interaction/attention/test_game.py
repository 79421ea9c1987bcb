"""Games of an attention layer: against the layer run with some features taken out, and what must not interact."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.attention import game as games
from crossproof.interaction.attention.game import attention_game
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.output import pattern_value
from crossproof.interaction.shapley import exact
from crossproof.units import Attention
from tests.interaction.attention.toys import attentions, make_attention, make_heads, make_passage, passages

CHOSEN = st.lists(st.integers(0, 5), unique=True, max_size=3)


def close(found: Tensor, expected: Tensor, magnitude: float = 0.0) -> None:
    largest = max(magnitude, float(expected.abs().max()) if expected.numel() else 0.0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * largest)


def every(players: int) -> Tensor:
    return torch.tensor(list(product([False, True], repeat=players)), dtype=torch.bool).view(2**players, players)


def with_some(heads: Heads, passage: Passage, t: int, off: tuple[list[int], list[int], list[int]]) -> Tensor:
    """The layer's output at t, less b_O, with these features off in the query, in keys and in values."""
    unit, group = heads.attention, heads.n_heads // len(heads.attention.W_K)
    inputs = []
    for features in off:
        f = passage.codes.dense()
        f[:, features] = 0
        inputs.append(heads.input(Passage(Codes.from_dense(f), passage.given, passage.inputs), 0))
    out = torch.zeros(unit.W_Q.shape[1]).double()
    seen = unit.mask(passage.positions)[t]
    for h in range(heads.n_heads):
        q = heads.rotated(unit.scale * (inputs[0] @ unit.W_Q[h] + unit.b_Q[h]))[t]
        k = heads.rotated(inputs[1] @ unit.W_K[h // group] + unit.b_K[h // group])[seen]
        v = (inputs[2] @ unit.W_V[h // group] + unit.b_V[h // group])[seen]
        out += (k @ q).softmax(0) @ v @ unit.W_O[h]
    return out


@settings(deadline=None, max_examples=20)
@given(attentions(), passages(active=2), st.sampled_from([1e-8, 1.0]), CHOSEN, CHOSEN, st.integers(0, 5))
def test_a_coalition_is_the_layer_without_the_others(
    attention: Attention, passage: Passage, size: float, as_keys: list[int], as_values: list[int], t: int
) -> None:
    t, heads = min(t, passage.positions - 1), make_heads(attention)
    heads = heads_of(attention, heads.directions * size, heads.bias)
    game, queries = attention_game(passage, 0, heads, t, as_keys, as_values)
    assert queries.tolist() == passage.codes.dense()[t].nonzero().flatten().tolist()
    roles = [queries.tolist(), as_keys, as_values]
    for coalition in every(sum(map(len, roles)))[::5]:
        on = iter(coalition.tolist())
        off = tuple([feature for feature in features if not next(on)] for features in roles)
        close(game(coalition[None])[0], with_some(heads, passage, t, off))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=40)
@given(attentions(), passages(), st.sampled_from([1e-8, 1.0, 10.0]), CHOSEN, CHOSEN, st.integers(0, 5))
def test_the_coalition_of_everyone_is_the_layer(
    attention: Attention, passage: Passage, size: float, as_keys: list[int], as_values: list[int], t: int
) -> None:
    t, heads = min(t, passage.positions - 1), make_heads(attention)
    heads = heads_of(attention, heads.directions * size, heads.bias)
    game, queries = attention_game(passage, 0, heads, t, torch.tensor(as_keys, dtype=torch.long), as_values)
    everyone = torch.ones(1, len(queries) + len(as_keys) + len(as_values), dtype=torch.bool)
    expected = attention(heads.input(passage, 0)[None])[0, t] - attention.b_O
    close(game(everyone)[0], expected, float(attention.b_O.abs().max()))


@settings(deadline=None, max_examples=10)
@given(attentions(), passages(active=3), CHOSEN, CHOSEN)
def test_single_players_and_pairs_share_out_the_whole(
    attention: Attention, passage: Passage, as_keys: list[int], as_values: list[int]
) -> None:
    heads, t = make_heads(attention), passage.positions - 1
    game, queries = attention_game(passage, 0, heads, t, as_keys, as_values)
    found = exact(game, len(queries) + len(as_keys) + len(as_values))
    given_out = found.empty + found.single.sum(0) + found.pairs.sum((0, 1)) / 2
    close(given_out, found.full, float(found.pairs.abs().sum() + found.single.abs().sum()))


def with_weights(attention: Attention, **weights: Tensor) -> Attention:
    return Attention(**{**vars(attention), **weights})


def test_nothing_interacts_where_all_values_are_the_same() -> None:
    unit = make_attention(heads=1)
    unit = with_weights(unit, W_V=torch.zeros_like(unit.W_V))
    found = exact(attention_game(make_passage(), 0, make_heads(unit), 4, [0, 1, 2])[0], 6)
    assert float(found.strength().max()) < 1e-13
    assert float(found.single.abs().max()) < 1e-13
    assert float(found.full.norm()) > 0.1


def planted(queries: list[list[float]], keys: list[list[float]], b_Q: list[float], b_K: list[float]) -> Heads:
    """One head and four features with these queries and keys, and values of their own."""
    attention, n = make_attention(heads=1, d_model=4, d_head=2, scale=1.0), [1, 4, 2]
    return heads_of(
        with_weights(
            attention,
            W_Q=torch.tensor(queries).double().view(n),
            W_K=torch.tensor(keys).double().view(n),
            b_Q=torch.tensor([b_Q]).double(),
            b_K=torch.tensor([b_K]).double(),
        ),
        torch.eye(4).double(),
    )


def told(f: list[list[float]]) -> Passage:
    return Passage(Codes.from_dense(torch.tensor(f).double()), torch.zeros(0, dtype=torch.long), [torch.zeros(0, 4)])


TEXT = told([[0, 0, 1.0, 0], [0, 0, 0.3, 0.5], [0, 0, 0, 0], [0.7, 0.9, 0, 1.0]])


def test_a_query_feature_that_meets_no_key_does_nothing() -> None:
    # feature 0 asks for a coordinate that no key has; feature 1 asks for the one that keys have
    heads = planted([[0, 2], [1, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [1, 0], [-2, 0]], [0.5, 0], [1, 0])
    game, queries = attention_game(TEXT, 0, heads, 3, [2, 3])
    assert queries.tolist() == [0, 1, 3]
    found = exact(game, 5)
    assert float(found.single[0].norm()) == 0
    assert float(found.strength()[0].max()) < 1e-15
    assert float(found.strength()[1, 3]) > 0.01  # feature 1 with key feature 2, which it attracts
    assert float(found.single[3].norm()) > 0.01  # and the bias attracts key feature 2 by itself


@pytest.mark.parametrize("strength", [1e-2, 1e-3])
def test_features_that_do_not_meet_interact_by_the_curvature_of_the_softmax_alone(strength: float) -> None:
    # query feature 0 attracts key feature 2 alone, the bias attracts key feature 3 alone
    heads = planted([[0, strength], [0, 0], [0, 0], [0, 0]], [[0, 0], [0, 0], [0, 1], [strength, 0]], [1, 0], [0, 0])
    game, queries = attention_game(TEXT, 0, heads, 3, [3])
    assert queries.tolist() == [0, 1, 3]
    pair = exact(game, 4).pairs[0, 3]
    f, unit = TEXT.codes.dense(), heads.attention
    y = (f @ unit.W_V[0] + unit.b_V[0]) @ unit.W_O[0]
    a, b = 0.7 * strength * f[:, 2], strength * f[:, 3]
    A = torch.full((4,), 0.25).double()  # without the two all scores are 0
    curvature = (A * (a - A @ a) * (b - A @ b)) @ (y - A @ y)
    assert float((pair - curvature).norm()) < 3 * strength * float(curvature.norm())
    # of second order in their strengths, where features that meet have a pair of first order
    assert float(curvature.norm()) < strength**2


@settings(deadline=None, max_examples=20)
@given(attentions(heads=1, kv_heads=1), st.integers(0, 1000))
def test_a_query_and_a_value_feature_have_what_pattern_value_measures_to_first_order(
    attention: Attention, seed: int
) -> None:
    f = make_passage(seed, positions=4, given=(), empty=()).codes.dense()
    f[:3, 0], f[:, 5] = 0, 0
    f[3, 0], f[0, 4] = 1, 1
    passage = Passage(Codes.from_dense(f), torch.zeros(0, dtype=torch.long), [torch.zeros(0, 5).double()])
    heads = make_heads(attention)
    # feature 0 hardly moves the scores, so that a difference is a derivative
    weak = heads_of(attention, torch.cat([1e-5 * heads.directions[:1], heads.directions[1:]]), heads.bias)
    game, queries = attention_game(passage, 0, weak, 3, [], [4])
    on = torch.ones(4, len(queries) + 1, dtype=torch.bool)
    on[:2, 0] = on[::2, -1] = False
    neither, value, query, both = game(on)
    found = pattern_value(passage, 0, weak)
    expected = float(found.table[0, 0, found.features.tolist().index(4)])
    assert float((both - query - value + neither).norm()) == pytest.approx(expected, rel=1e-2, abs=1e-10)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, passage = make_heads(make_attention(rotary="halves")), make_passage()
    game, queries = attention_game(passage, 0, heads, 4, [0, 1], [2])
    coalitions = every(len(queries) + 3)
    whole = game(coalitions)
    monkeypatch.setattr(games, "HELD", 20)
    torch.testing.assert_close(game(coalitions), whole, rtol=1e-12, atol=1e-12)


def test_a_feature_that_is_not_in_the_text_is_a_player_who_does_nothing() -> None:
    f = make_passage().codes.dense()
    f[:, 3] = 0
    passage = Passage(Codes.from_dense(f), make_passage().given, make_passage().inputs)
    game, queries = attention_game(passage, 0, make_heads(make_attention()), 4, [3], [3])
    found = exact(game, len(queries) + 2)
    assert float(found.single[-2:].abs().max()) < 1e-14
    assert float(found.strength()[-2:].max()) < 1e-14


def test_a_given_position_has_no_query_features() -> None:
    heads, passage = make_heads(make_attention()), make_passage(given=(0, 3))
    game, queries = attention_game(passage, 0, heads, 3, [1])
    assert queries.tolist() == []
    close(game(torch.ones(1, 1, dtype=torch.bool))[0],
          heads.attention(heads.input(passage, 0)[None])[0, 3] - heads.attention.b_O)  # fmt: skip


def test_what_cannot_be_a_game_is_refused() -> None:
    heads, passage = make_heads(make_attention()), make_passage()
    for t in (-1, 5):
        with pytest.raises(MismatchError, match=f"position {t}: this text has the positions 0 to 4"):
            attention_game(passage, 0, heads, t, [])
    for bad in (-1, 6):
        with pytest.raises(MismatchError, match=r"key_features: .*features 0 to 5"):
            attention_game(passage, 0, heads, 1, [0, bad])
    with pytest.raises(MismatchError, match=r"value_features: .*twice"):
        attention_game(passage, 0, heads, 1, [], [2, 2])
