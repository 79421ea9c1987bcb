"""The four parts of a pattern, the terms between two positions, and the strongest pairs, against slow references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import MismatchError, NonFinite
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.split import PARTS, coefficients, four_parts, strongest_pairs
from crossproof.units import Attention
from tests.interaction.attention.toys import LAYOUTS, attentions, make_attention, make_heads, make_passage, passages

SIZES = st.sampled_from([1e-8, 1.0, 1e8])


def resized(heads: Heads, size: float) -> Heads:
    return heads_of(heads.attention, heads.directions * size, heads.bias, heads.name)


def mean_of(seed: int, size: float = 1.0) -> Tensor:
    return torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * size


def variation(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().sum(-1) / 2


@settings(deadline=None, max_examples=80)
@given(attentions(), passages(), SIZES, SIZES, st.integers(0, 99))
def test_t8_the_four_parts_sum_to_the_scores(
    attention: Attention, passage: Passage, size: float, mean_size: float, seed: int
) -> None:
    heads = resized(make_heads(attention), size)
    found = four_parts(heads, passage, 0, mean_of(seed, mean_size))
    scores = attention.scores(heads.input(passage, 0)[None])[0]
    magnitude = float(found.parts.abs().max())
    torch.testing.assert_close(found.scores, scores, rtol=0, atol=1e-10 * magnitude)
    assert len(found.parts) == len(PARTS)


@settings(deadline=None, max_examples=30)
@given(attentions(), passages(), st.integers(0, 99))
def test_each_part_is_the_score_of_one_half_of_the_input_on_another(
    attention: Attention, passage: Passage, seed: int
) -> None:
    """By differences of the unit's own scores: biases belong to the means."""
    heads, mean = make_heads(attention), mean_of(seed)
    x, means = heads.input(passage, 0), mean.expand(passage.positions, -1)

    def crossed(of_query: Tensor, of_key: Tensor) -> Tensor:
        """Scores of one text's queries on another text's keys."""
        n, group = len(x), len(attention.W_Q) // len(attention.W_K)
        expected = torch.zeros(len(attention.W_Q), n, n, dtype=torch.float64)
        for h in range(len(expected)):
            q = heads.rotated(of_query @ attention.W_Q[h] + attention.b_Q[h])
            k = heads.rotated(of_key @ attention.W_K[h // group] + attention.b_K[h // group])
            expected[h] = attention.scale * q @ k.T
        return expected

    both, query, key = crossed(means, means), crossed(x, means), crossed(means, x)
    expected = torch.stack([both, key - both, query - both, crossed(x, x) - query - key + both])
    found = four_parts(heads, passage, 0, mean).parts
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


@settings(deadline=None, max_examples=30)
@given(attentions(rotary=None), passages(), st.integers(0, 99))
def test_without_rotary_positions_what_the_mean_of_the_keys_adds_cancels(
    attention: Attention, passage: Passage, seed: int
) -> None:
    heads = make_heads(attention)
    found = four_parts(heads, passage, 0, mean_of(seed))
    both, _, deviating, _ = found.parts
    magnitude = float(found.parts.abs().max())
    torch.testing.assert_close(both, both[:, :1, :1].expand_as(both), rtol=0, atol=1e-12 * magnitude)
    torch.testing.assert_close(deviating, deviating[..., :1].expand_as(deviating), rtol=0, atol=1e-12 * magnitude)
    assert float(found.accounts_for[[0, 2]].max()) < 1e-10 * max(1, magnitude)


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(LAYOUTS[1:]), passages(), st.integers(0, 99))
def test_with_rotary_positions_mean_times_mean_depends_on_the_distance_alone(
    layout: str, passage: Passage, seed: int
) -> None:
    both = four_parts(make_heads(make_attention(seed, rotary=layout)), passage, 0, mean_of(seed)).parts[0]
    # the model's own angles are in float32
    for distance in range(passage.positions):
        along = both.diagonal(-distance, dim1=1, dim2=2)
        torch.testing.assert_close(along, along[:, :1].expand_as(along), rtol=0, atol=1e-5 * float(both.abs().max()))


@settings(deadline=None, max_examples=30)
@given(attentions(), passages(), st.integers(0, 99))
def test_a_part_accounts_for_how_far_the_pattern_moves_without_it(
    attention: Attention, passage: Passage, seed: int
) -> None:
    heads = make_heads(attention)
    found = four_parts(heads, passage, 0, mean_of(seed))
    x = heads.input(passage, 0)[None]
    own, hidden = attention.pattern(x)[0], ~attention.mask(passage.positions)
    torch.testing.assert_close(found.pattern, own)
    for part, its in zip(found.parts, found.accounts_for, strict=True):
        rest = (attention.scores(x)[0] - part).masked_fill(hidden, -torch.inf).softmax(-1)
        torch.testing.assert_close(its, variation(rest, own), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(attentions(), passages(), SIZES, st.data())
def test_the_terms_between_two_positions_sum_to_the_score(
    attention: Attention, passage: Passage, size: float, data: st.DataObject
) -> None:
    heads = resized(make_heads(attention), size)
    t, s = (data.draw(st.integers(0, passage.positions - 1)) for _ in "ts")
    found = coefficients(heads, passage, 0, t, s)
    scores = attention.scores(heads.input(passage, 0)[None])[0]
    terms = (found.pairs, found.on_background, found.of_background, found.background)
    magnitude = max(float(term.abs().max()) for term in terms if term.numel())
    torch.testing.assert_close(found.score, scores[:, t, s], rtol=0, atol=1e-10 * magnitude)


@settings(deadline=None, max_examples=30)
@given(attentions(), passages(), st.data())
def test_each_term_is_that_of_its_two_features(attention: Attention, passage: Passage, data: st.DataObject) -> None:
    heads, f = make_heads(attention), passage.codes.dense()
    t, s = (data.draw(st.integers(0, passage.positions - 1)) for _ in "ts")
    found = coefficients(heads, passage, 0, t, s)
    assert found.query_features.tolist() == f[t].nonzero().flatten().tolist()
    assert found.key_features.tolist() == f[s].nonzero().flatten().tolist()
    for a, i in enumerate(found.query_features.tolist()):
        for b, j in enumerate(found.key_features.tolist()):
            for h in range(len(attention.W_Q)):
                q = heads.rotated(heads.queries[h, i].expand(passage.positions, -1))[t]
                k = heads.rotated(heads.keys[h, j].expand(passage.positions, -1))[s]
                torch.testing.assert_close(found.pairs[h, a, b], f[t, i] * f[s, j] * (q @ k))


@settings(deadline=None, max_examples=30)
@given(attentions(), passages())
def test_the_strongest_pairs_are_those_of_a_search_through_all(attention: Attention, passage: Passage) -> None:
    heads, f = make_heads(attention), passage.codes.dense()
    x, head = heads.input(passage, 0), len(attention.W_Q) - 1
    pattern = attention.pattern(x[None])[0, head]
    group = len(attention.W_Q) // len(attention.W_K)
    y = (x @ attention.W_V[head // group] + attention.b_V[head // group]) @ attention.W_O[head]
    expected: dict[tuple[int, int], float] = {}
    for i in range(6):
        for j in range(6):
            q, k = (heads.rotated(f[:, n, None] * of[head, n]) for n, of in ((i, heads.queries), (j, heads.keys)))
            total = 0.0
            for A, c in zip(pattern, q @ k.T, strict=True):
                spread = (A * (c - A @ c).square()).sum().sqrt()
                total += float(spread * (A @ (y - A @ y).square().sum(1)).sqrt())
            expected[i, j] = total / max(1, int(passage.described.sum()))
    found = strongest_pairs(heads, passage, 0, head, top=4)
    values = sorted(expected.values(), reverse=True)[: len(found)]
    for pair, value in zip(found, values, strict=True):
        assert pair.interaction == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert expected[pair.i, pair.j] == pytest.approx(value, rel=1e-9, abs=1e-12)
        assert pair.key <= pair.query
        there = coefficients(heads, passage, 0, pair.query, pair.key)
        a = there.query_features.tolist().index(pair.i)
        assert pair.coefficient == pytest.approx(float(there.pairs[head, a, there.key_features.tolist().index(pair.j)]))
    assert (
        len(found) == 4
        or max(list(expected.values()), default=0) < 1e-8
        or len(found) >= sum(value > 1e-6 for value in expected.values())
    )


def test_the_programs_of_the_docs_run_and_the_terms_are_the_scores() -> None:
    page = (Path(__file__).parents[3] / "docs" / "attention.md").read_text()
    programs = [text.split("```")[0] for text in page.split("```python\n")[1:]]
    program = "\n".join(text for text in programs if "import crossproof as xp" not in text)
    assert "four_parts(" in program
    assert "second_differences(" in program
    names: dict[str, Any] = {"__name__": "docs"}
    torch.manual_seed(0)
    exec(compile(program, "docs/attention.md", "exec"), names)
    torch.testing.assert_close(names["terms"].score, names["split"].scores[:, 7, 3])


def test_what_does_not_fit_is_refused_by_name() -> None:
    heads, passage = make_heads(make_attention()), make_passage()
    with pytest.raises(MismatchError, match=r"mean: expected the shape \(5,\), not \(4,\)"):
        four_parts(heads, passage, 0, torch.zeros(4))
    with pytest.raises(NonFinite, match="mean"):
        four_parts(heads, passage, 0, torch.full((5,), torch.nan))
    with pytest.raises(MismatchError, match="key: there is no position 5; this text has 0 to 4"):
        coefficients(heads, passage, 0, 0, 5)
