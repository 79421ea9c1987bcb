"""What features add to queries, keys and values against the unit's own weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import MismatchError, NonFinite
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.units import Attention
from tests.interaction.attention.toys import attentions, make_attention, make_heads, make_passage, passages

SIZES = st.sampled_from([1e-8, 1.0, 1e8])


def close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * largest)


def projected(heads: Heads, x: Tensor, of: str) -> Tensor:
    """x W + b for the queries (scaled), keys or values, head by head."""
    unit = heads.attention
    W, b = {"q": (unit.W_Q, unit.b_Q), "k": (unit.W_K, unit.b_K), "v": (unit.W_V, unit.b_V)}[of]
    group = len(unit.W_Q) // len(W)
    rows = [x @ W[h // group] + b[h // group] for h in range(len(unit.W_Q))]
    return torch.stack(rows) * (unit.scale if of == "q" else 1.0)


def background(heads: Heads, passage: Passage) -> Tensor:
    """The input without its features."""
    x = heads.bias.expand(passage.positions, -1).clone()
    x[passage.given] = passage.inputs[0]
    return x


def resized(heads: Heads, size: float) -> Heads:
    return heads_of(heads.attention, heads.directions * size, heads.bias, heads.name)


@settings(deadline=None, max_examples=60)
@given(attentions(), passages(), SIZES)
def test_background_and_features_rebuild_the_scores_of_the_unit(
    attention: Attention, passage: Passage, size: float
) -> None:
    heads = resized(make_heads(attention), size)
    f, base = passage.codes.dense(), background(heads, passage)
    q = heads.rotated(projected(heads, base, "q") + f @ heads.queries)
    k = heads.rotated(projected(heads, base, "k") + f @ heads.keys)
    close(q @ k.mT, attention.scores(heads.input(passage, 0)[None])[0])


@settings(deadline=None, max_examples=30)
@given(attentions(), passages(), SIZES)
def test_background_and_features_rebuild_the_output_of_the_unit(
    attention: Attention, passage: Passage, size: float
) -> None:
    heads = resized(make_heads(attention), size)
    f, x = passage.codes.dense(), heads.input(passage, 0)
    pattern = attention.pattern(x[None])[0]
    v = projected(heads, background(heads, passage), "v")
    written = (pattern @ (v @ attention.W_O + f @ heads.written)).sum(0) + attention.b_O
    close(written, attention(x[None])[0])
    close(v + f @ heads.values, projected(heads, x, "v"))


@settings(deadline=None, max_examples=30)
@given(passages())
def test_the_input_is_what_is_given_or_else_the_reconstruction(passage: Passage) -> None:
    heads, f = make_heads(make_attention()), passage.codes.dense()
    x = heads.input(passage, 0)
    for t in range(passage.positions):
        there = (passage.given == t).nonzero().flatten().tolist()
        expected = heads.bias + sum((f[t, i] * heads.directions[i] for i in range(6)), torch.zeros(5).double())
        close(x[t], passage.inputs[0][there[0]] if there else expected)
    assert passage.described.tolist() == [t not in passage.given.tolist() for t in range(passage.positions)]


def test_each_layer_reads_its_own_given_input() -> None:
    heads, passage = make_heads(make_attention()), make_passage(layers=2, given=(0, 3))
    assert torch.equal(heads.input(passage, 1)[[0, 3]], passage.inputs[1])
    assert not torch.equal(passage.inputs[0], passage.inputs[1])


def test_single_precision_dictionaries_read_codes_of_either_precision() -> None:
    heads = make_heads(make_attention(dtype=torch.float32))
    assert heads.input(make_passage(), 0).dtype == torch.float32
    torch.testing.assert_close(
        heads.input(make_passage(), 0), heads.input(make_passage(dtype=torch.float32), 0), rtol=1e-5, atol=1e-6
    )


def test_nothing_turns_where_the_model_has_no_rotary_positions() -> None:
    vectors = torch.randn(2, 5, 4).double()
    assert make_heads(make_attention()).rotated(vectors) is vectors
    assert not torch.equal(make_heads(make_attention(rotary="halves")).rotated(vectors), vectors)


def test_the_heads_of_a_group_share_keys_and_values_but_not_queries() -> None:
    heads = make_heads(make_attention(heads=4, kv_heads=2))
    for table in (heads.keys, heads.values):
        assert torch.equal(table[0], table[1])
        assert torch.equal(table[2], table[3])
        assert not torch.equal(table[1], table[2])
    assert not torch.equal(heads.queries[0], heads.queries[1])
    assert heads.n_heads == 4


@pytest.mark.parametrize("shape", [(6, 4), (5,), (2, 6, 5)])
def test_directions_that_are_not_of_the_layer_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(MismatchError, match=r"directions: expected .feature, d_model. with d_model 5.*attention"):
        heads_of(make_attention(), torch.zeros(shape))


def test_a_bias_that_is_not_of_the_layer_is_refused() -> None:
    with pytest.raises(MismatchError, match="bias: expected the shape"):
        heads_of(make_attention(), torch.zeros(6, 5), torch.zeros(6))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    directions, bias = torch.zeros(6, 5), torch.zeros(5)
    with pytest.raises(NonFinite, match="directions"):
        heads_of(make_attention(), directions.clone().index_fill_(0, torch.tensor([2]), bad), bias)
    with pytest.raises(NonFinite, match="bias"):
        heads_of(make_attention(), directions, bias + bad)


def test_codes_of_another_dictionary_are_refused() -> None:
    with pytest.raises(MismatchError, match="7 features"):
        make_heads(make_attention()).input(make_passage(features=7), 0)
