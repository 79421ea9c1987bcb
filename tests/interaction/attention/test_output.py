"""What an attention layer writes, feature by feature, against the layer itself and its derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.attention import output
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.output import Brought, brought, pattern_value
from crossproof.units import Attention
from tests.interaction.attention.toys import attentions, make_attention, make_heads, make_passage, passages

SIZES = st.sampled_from([1e-8, 1.0, 1e8])


def close(found: Tensor, expected: Tensor, magnitude: Tensor | None = None) -> None:
    sizes = expected if magnitude is None else magnitude
    largest = float(sizes.abs().max()) if sizes.numel() else 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * largest)


def resized(heads: Heads, size: float) -> Heads:
    return heads_of(heads.attention, heads.directions * size, heads.bias, heads.name)


def whole_queries(heads: Heads, x: Tensor) -> Tensor:
    unit = heads.attention
    return heads.rotated(unit.scale * (torch.einsum("pd,hde->hpe", x, unit.W_Q) + unit.b_Q[:, None]))


def whole_keys(heads: Heads, x: Tensor) -> Tensor:
    unit, group = heads.attention, heads.n_heads // len(heads.attention.W_K)
    return heads.rotated(torch.stack([x @ unit.W_K[h // group] + unit.b_K[h // group] for h in range(heads.n_heads)]))


def slow_pattern_value(heads: Heads, passage: Passage) -> Tensor:
    """The definition, feature by feature; all features of the dictionary."""
    f, x = passage.codes.dense(), heads.input(passage, 0)
    A, keys, n = heads.attention.pattern(x[None])[0], whole_keys(heads, x), heads.n_features
    table = torch.zeros(heads.n_heads, n, n, dtype=torch.float64)
    for h in range(heads.n_heads):
        for t in range(passage.positions):
            for i in range(n):
                if not passage.described[t]:
                    continue
                at_t = torch.zeros(passage.positions, keys.shape[2]).double()
                at_t[t] = f[t, i] * heads.queries[h, i]
                c = keys[h] @ heads.rotated(at_t)[t]
                mean = float(A[h, t] @ c)
                for k in range(n):
                    first = sum(float(A[h, t, s] * (c[s] - mean) * f[s, k]) for s in range(t + 1))
                    table[h, i, k] += abs(first) * heads.written[h, k].norm()
    return table


@settings(deadline=None, max_examples=60)
@given(attentions(), passages(), SIZES)
def test_the_code_brought_is_the_layers_output(attention: Attention, passage: Passage, size: float) -> None:
    heads = resized(make_heads(attention), size)
    found, x = brought(passage, 0, heads), heads.input(passage, 0)
    close(found.output().sum(0) + attention.b_O, attention(x[None])[0])


@settings(deadline=None, max_examples=40)
@given(attentions(), passages())
def test_coefficients_are_mean_strengths_where_a_head_looks(attention: Attention, passage: Passage) -> None:
    heads = make_heads(attention)
    found, f = brought(passage, 0, heads), passage.codes.dense()
    A = attention.pattern(heads.input(passage, 0)[None])[0]
    assert found.features.tolist() == (f > 0).any(0).nonzero().flatten().tolist()
    for place, j in enumerate(found.features.tolist()):
        for h in range(heads.n_heads):
            expected = torch.stack([(A[h, t] * f[:, j]).sum() for t in range(passage.positions)])
            close(found.coefficients[h, :, place], expected)
            close(found.sizes[h, :, place], expected * heads.written[h, j].norm())
    close(found.written, heads.written[:, found.features])


@pytest.mark.parametrize("rotary", [None, "halves"])
def test_each_head_is_told_apart(rotary: str | None) -> None:
    attention = make_attention(heads=4, kv_heads=2, rotary=rotary)
    heads, passage = make_heads(attention), make_passage()
    x = heads.input(passage, 0)
    z = attention.pattern(x[None])[0] @ (x @ attention.W_V + attention.b_V[:, None]).repeat_interleave(2, 0)
    close(brought(passage, 0, heads).output(), z @ attention.W_O)


def test_the_strongest_come_first_and_ties_go_to_the_lowest_feature() -> None:
    attention = make_attention(heads=1)
    heads = make_heads(attention)
    same = heads_of(attention, heads.directions[[0, 1, 1, 0, 1, 2]], heads.bias)
    f = torch.zeros(4, 6).double()
    f[1:, [5, 1, 2, 4]] = torch.tensor([1e-12, 0.5, 0.5, 0.5]).double()
    found = brought(make_passage(positions=4), 0, same)
    tied = brought(Passage(Codes.from_dense(f), torch.tensor([0]), [torch.randn(1, 5).double()]), 0, same)
    assert tied.strongest(0, 3).features.tolist() == [1, 2, 4, 5]
    assert tied.strongest(0, 3, top=2).features.tolist() == [1, 2]
    assert tied.strongest(0, 0).features.tolist() == []
    some = found.strongest(0, 3)
    assert some.sizes.tolist() == sorted(some.sizes.tolist(), reverse=True)
    places = torch.searchsorted(found.features, some.features)
    assert torch.equal(some.coefficients, found.coefficients[0, 3, places])
    for head, t in ((1, 0), (-1, 0), (0, 4), (0, -1)):
        with pytest.raises(MismatchError, match="heads 0 to 0 and positions 0 to 3"):
            found.strongest(head, t)


def test_ties_go_to_the_lowest_feature_among_many() -> None:
    coefficients = torch.zeros(1, 1, 5000).double()
    coefficients[..., ::3] = 1
    many = Brought(torch.arange(5000), coefficients, torch.ones(1, 5000, 1).double(), torch.zeros(1, 1, 1).double())
    assert many.strongest(0, 0, 4).features.tolist() == [0, 3, 6, 9]


@settings(deadline=None, max_examples=25)
@given(attentions(), passages(), SIZES)
def test_pattern_value_is_its_definition(attention: Attention, passage: Passage, size: float) -> None:
    heads = resized(make_heads(attention), size if size < 1 else 1.0)
    found, expected = pattern_value(passage, 0, heads), slow_pattern_value(heads, passage)
    at = found.features
    # what rounding of sums is measured against, c having been centred
    rounding = passage.positions * whole_queries(heads, heads.input(passage, 0)).abs().max() * heads.written.norm()
    torch.testing.assert_close(found.table, expected[:, at[:, None], at], rtol=1e-10, atol=1e-15 * float(rounding))
    assert float(expected.sum()) == pytest.approx(float(found.table.sum()), rel=1e-10, abs=1e-13 * float(rounding))


@settings(deadline=None, max_examples=25)
@given(attentions(), passages(active=3))
def test_pattern_value_is_the_derivative_by_a_query_features_strength(attention: Attention, passage: Passage) -> None:
    heads = make_heads(attention)
    f, x = passage.codes.dense(), heads.input(passage, 0)
    q, k, hidden = whole_queries(heads, x), whole_keys(heads, x), ~attention.mask(passage.positions)
    added = torch.stack([heads.rotated(of[:, None] * f.T[..., None]) for of in heads.queries])
    expected = torch.zeros(heads.n_heads, 6, 6).double()
    for i in range(6):

        def read(log_strength: Tensor, added: Tensor = added[:, i]) -> Tensor:
            scores = (q + (log_strength.exp() - 1) * added) @ k.mT
            return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ f

        zero, one = torch.zeros(1, 1).double(), torch.ones(1, 1).double()
        slope = torch.func.jvp(read, (zero,), (one,))[1]
        expected[:, i] = slope.abs().sum(1) * heads.written.norm(dim=-1)
    found = pattern_value(passage, 0, heads)
    at = found.features
    torch.testing.assert_close(found.table, expected[:, at[:, None], at], rtol=1e-9, atol=1e-12)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heads, passage = make_heads(make_attention(rotary="adjacent")), make_passage(positions=7)
    whole = pattern_value(passage, 0, heads).table
    monkeypatch.setattr(output, "HELD", 1)
    torch.testing.assert_close(pattern_value(passage, 0, heads).table, whole, rtol=1e-13, atol=1e-15)


def test_single_precision_is_read_in_double() -> None:
    heads, passage = make_heads(make_attention(dtype=torch.float32)), make_passage(dtype=torch.float32)
    double = make_heads(heads.attention.to(torch.float64))
    double = heads_of(double.attention, heads.directions.double(), heads.bias.double())
    same = Passage(Codes(passage.codes.pattern, passage.codes.values.double()), passage.given,
                   [x.double() for x in passage.inputs])  # fmt: skip
    close(pattern_value(passage, 0, heads).table, pattern_value(same, 0, double).table)
    close(brought(passage, 0, heads).output(), brought(same, 0, double).output())


def test_entries_of_strength_0_are_no_features() -> None:
    heads, passage = make_heads(make_attention()), make_passage()
    f = passage.codes.dense()
    padded = Codes(Codes.from_dense(torch.ones_like(f)).pattern, f.flatten())
    silent = Passage(padded, passage.given, passage.inputs)
    assert torch.equal(pattern_value(silent, 0, heads).table, pattern_value(passage, 0, heads).table)
    assert torch.equal(brought(silent, 0, heads).features, brought(passage, 0, heads).features)


def test_each_layer_reads_its_own_given_input() -> None:
    heads, passage = make_heads(make_attention()), make_passage(layers=2)
    close(brought(passage, 1, heads).output().sum(0) + heads.attention.b_O,
          heads.attention(heads.input(passage, 1)[None])[0])  # fmt: skip


def test_what_is_not_of_the_dictionary_is_refused() -> None:
    with pytest.raises(MismatchError, match="7 features"):
        brought(make_passage(features=7), 0, make_heads(make_attention()))
    negative = make_passage()
    negative = Passage(Codes(negative.codes.pattern, -negative.codes.values), negative.given, negative.inputs)
    with pytest.raises(MismatchError, match="negative"):
        pattern_value(negative, 0, make_heads(make_attention()))
