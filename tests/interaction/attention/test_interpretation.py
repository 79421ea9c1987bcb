"""The dominant-q interpretation of a head: its residual against loops, and its certified sizes against everything."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError
from crossproof.interaction.attention import interpretation
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.interpretation import HeadResidual, dominant_pairs
from crossproof.units import Attention
from tests.interaction.attention.toys import attentions, make_attention, make_heads, make_passage, passages

ROUNDING = 1e-13
NUMBERS = st.floats(-1, 1)


def close(found: Tensor, expected: Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=atol)


def resized(heads: Heads, size: float) -> Heads:
    return heads_of(heads.attention, heads.directions * size, heads.bias)


def all_pairs(heads: Heads, passage: Passage) -> Tensor:
    """c [head, query, key, i, j] of all features of the dictionary."""
    f = passage.codes.dense().T[..., None]
    q = heads.rotated(heads.queries[:, :, None] * f)
    k = heads.rotated(heads.keys[:, :, None] * f)
    return torch.einsum("hitd,hjsd->htsij", q, k)


def slow(heads: Heads, passage: Passage, q: int) -> dict[str, Tensor]:
    unit, x = heads.attention, heads.input(passage, 0)
    scores, c, seen = unit.scores(x[None])[0], all_pairs(heads, passage), unit.mask(passage.positions)
    group = heads.n_heads // len(unit.W_V)
    y = torch.stack([(x @ unit.W_V[h // group] + unit.b_V[h // group]) @ unit.W_O[h] for h in range(heads.n_heads)])
    names = ("score", "score_certified", "upper", "lower", "kept_here", "mass_here")
    tables = {name: torch.zeros_like(scores) for name in names}
    for h in range(heads.n_heads):
        for t, s in seen.nonzero().tolist():
            terms = c[h, t, s].flatten().tolist()
            order = sorted(range(len(terms)), key=lambda n, terms=terms: (-abs(terms[n]), n))  # type: ignore[misc]
            dropped = [terms[n] for n in order[q:]]
            tables["score"][h, t, s] = abs(sum(dropped))
            tables["upper"][h, t, s] = sum(d for d in dropped if d > 0)
            tables["lower"][h, t, s] = sum(d for d in dropped if d < 0)
            tables["score_certified"][h, t, s] = sum(abs(d) for d in dropped)
            tables["kept_here"][h, t, s] = sum(abs(terms[n]) for n in order[:q])
            tables["mass_here"][h, t, s] = sum(abs(term) for term in terms)
    change = tables["upper"] + tables["lower"]
    hidden = ~seen
    before, after = (z.masked_fill(hidden, -torch.inf).softmax(-1) for z in (scores, scores - change))
    tables["pattern"] = (before - after).abs().sum(-1) / 2
    tables["output"] = ((before - after) @ y).norm(dim=-1)
    tables["diameter"] = torch.zeros_like(tables["pattern"])
    for t in range(passage.positions):
        some = y[:, seen[t]]
        tables["diameter"][:, t] = (some[:, :, None] - some[:, None]).norm(dim=-1).amax((1, 2))
    tables["kept"], tables["mass"] = tables["kept_here"].sum(-1), tables["mass_here"].sum(-1)
    tables["y"], tables["A"] = y, before
    return tables


@settings(deadline=None, max_examples=30)
@given(attentions(), passages(features=4), st.sampled_from([1e-8, 1.0]), st.integers(1, 4))
def test_residuals_are_their_definitions(attention: Attention, passage: Passage, size: float, q: int) -> None:
    heads = resized(make_heads(attention, features=4), size)
    found, expected = dominant_pairs(passage, 0, heads, q), slow(heads, passage, q)
    for name in ("score", "score_certified", "kept", "mass"):
        close(getattr(found, name), expected[name], 1e-10 * float(expected["mass"].max()))
    close(found.pattern, expected["pattern"])
    close(found.output, expected["output"])
    share = expected["kept"].sum(1) / expected["mass"].sum(1)
    torch.testing.assert_close(found.share, share, equal_nan=True)


@settings(deadline=None, max_examples=20)
@given(attentions(), passages(features=4, active=3), st.integers(1, 3))
def test_certified_sizes_are_those_of_the_docstring(attention: Attention, passage: Passage, q: int) -> None:
    heads = resized(make_heads(attention, features=4), 0.3)  # so that e^N takes no digits from what it multiplies
    found, of = dominant_pairs(passage, 0, heads, q), slow(heads, passage, q)
    for h in range(heads.n_heads):
        for t in range(passage.positions):
            P, N, A = of["upper"][h, t], -of["lower"][h, t], of["A"][h, t]
            by_range = math.tanh(float(P.max() + N.max()) / 4)
            u, Z = torch.maximum(N.exp() - 1, 1 - (-P).exp()), (A * (-P).exp()).sum()
            y = of["y"][h] - A @ of["y"][h]
            variation = min(by_range, float((A * u).sum() / Z))
            output = min(variation * float(of["diameter"][h, t]), float((A * u * y.norm(dim=1)).sum() / Z))
            assert float(found.pattern_certified[h, t]) == pytest.approx(variation, rel=1e-9, abs=1e-12)
            assert float(found.output_certified[h, t]) == pytest.approx(output, rel=1e-6, abs=1e-10)


def check_certified(found: HeadResidual, values: float) -> None:
    """Nothing is beyond its certified size, but for the rounding of what is summed."""
    assert not any(bool(table.isnan().any()) for table in vars(found).values())
    largest = found.score_certified.amax(-1)
    assert bool((found.score <= found.score_certified * (1 + 1e-12)).all())
    assert bool((found.pattern <= found.pattern_certified + ROUNDING).all())
    assert bool((found.output <= found.output_certified + ROUNDING * values).all())
    # never more than T9 says of the dropped magnitudes, nor than 1
    assert bool((found.pattern_certified <= (largest / 2).tanh() + ROUNDING).all())
    assert bool((found.kept <= found.mass * (1 + 1e-12)).all())


@settings(deadline=None, max_examples=60)
@given(attentions(), passages(), st.sampled_from([1e-8, 1e-2, 0.1, 1.0, 10.0, 1e8]), st.integers(1, 6))
def test_no_residual_is_beyond_its_certified_size(attention: Attention, passage: Passage, size: float, q: int) -> None:
    heads = resized(make_heads(attention), size)
    check_certified(dominant_pairs(passage, 0, heads, q), 100 * max(size, 1.0))


@settings(deadline=None, max_examples=20)
@given(attentions(), passages(features=4))
def test_nothing_is_missed_where_every_pair_is_kept(attention: Attention, passage: Passage) -> None:
    found = dominant_pairs(passage, 0, make_heads(attention, features=4), 16)
    for name in ("score", "score_certified", "pattern", "pattern_certified", "output", "output_certified"):
        assert not getattr(found, name).any(), name
    torch.testing.assert_close(found.kept, found.mass)


@settings(deadline=None, max_examples=20)
@given(attentions(), passages(features=4), st.integers(1, 5))
def test_keeping_more_drops_less(attention: Attention, passage: Passage, q: int) -> None:
    heads = make_heads(attention, features=4)
    few, more = (dominant_pairs(passage, 0, heads, n) for n in (q, q + 1))
    for name in ("score_certified", "pattern_certified"):
        assert bool((getattr(more, name) <= getattr(few, name) * (1 + 1e-9) + ROUNDING).all()), name
    assert bool((few.kept <= more.kept * (1 + 1e-12)).all())


def plain(queries: list[list[float]], keys: list[list[float]], f: list[list[float]]) -> tuple[Passage, Heads]:
    """One head without biases whose features have these queries and keys, and a text without given positions."""
    W_Q, W_K, rows = (torch.tensor(table).double() for table in (queries, keys, f))
    bias, b_O = torch.zeros(1, W_Q.shape[1]).double(), torch.zeros(len(W_Q)).double()
    unit = Attention(W_Q=W_Q[None], W_K=W_K[None], W_V=W_K[None], W_O=W_K.T[None], b_Q=bias, b_K=bias, b_V=bias,
                     b_O=b_O, scale=1.0, output_site="plain")  # fmt: skip
    passage = Passage(Codes.from_dense(rows), torch.zeros(0, dtype=torch.long), [torch.zeros(0, len(W_Q)).double()])
    return passage, heads_of(unit, torch.eye(len(W_Q)).double())


def test_ties_keep_the_lowest_query_feature_and_then_the_lowest_key_feature() -> None:
    # all as large, kept from left to right: c_00, c_01, c_10, c_11
    for queries, keys, dropped in (
        ([[1.0], [-1.0]], [[1.0], [1.0]], [1, 2, 1, 0]),  # c = 1 1 −1 −1; keeping c_10 second would drop 1 − 1
        ([[1.0], [1.0]], [[1.0], [-1.0]], [1, 0, 1, 0]),  # c = 1 −1 1 −1; keeping c_10 second would drop −1 − 1
    ):
        passage, heads = plain(queries, keys, [[1.0, 1.0]])
        found = [dominant_pairs(passage, 0, heads, q) for q in (1, 2, 3, 4)]
        assert [float(some.score[0, 0, 0]) for some in found] == dropped
        assert [float(some.score_certified[0, 0, 0]) for some in found] == [3, 2, 1, 0]


def softmax_change(scores: Tensor, change: Tensor) -> float:
    return float((scores.softmax(-1) - (scores + change).softmax(-1)).abs().sum() / 2)


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, st.booleans()), min_size=1, max_size=8),
       st.sampled_from([1e-8, 1e-3, 1.0, 5.0, 40.0, 1e8]), st.sampled_from([1e-8, 0.1, 1.0, 10.0, 1e8]))  # fmt: skip
def test_t9_a_pattern_moves_by_at_most_tanh_of_half_the_change(
    keys: list[tuple[float, float, bool]], size: float, eta: float
) -> None:
    scores, change = torch.tensor([key[:2] for key in keys]).double().T
    masked = torch.tensor([key[2] for key in keys])
    assume(not bool(masked.all()))
    scores = (scores * size).masked_fill(masked, -torch.inf)
    scores = scores - scores.max()
    seen = change[~masked] * eta
    moved = softmax_change(scores, change * eta)
    assert moved <= math.tanh(float(seen.abs().max()) / 2) + 1e-14
    # a constant changes nothing, but for rounding: half the range is enough
    assert moved <= math.tanh(float(seen.max() - seen.min()) / 4) + 1e-14 + 1e-16 * float(seen.abs().max())


@settings(deadline=None, max_examples=100)
@given(st.lists(NUMBERS, min_size=2, max_size=6), st.sampled_from([1e-8, 1e-3, 0.3, 1.0, 3.0, 15.0]),
       st.data())  # fmt: skip
def test_t9_is_attained_by_any_two_groups_that_weigh_the_right_amount(
    scores: list[float], eta: float, data: st.DataObject
) -> None:
    # groups that gain and lose η: attained where the gaining one weighs 1/(1 + e^η) before
    gains = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(scores), max_size=len(scores))))
    assume(bool(gains.any()) and not bool(gains.all()))
    z = torch.tensor(scores).double()
    z = torch.where(gains, z - z[gains].logsumexp(0) - eta, z - z[~gains].logsumexp(0))
    change = torch.where(gains, torch.tensor(eta, dtype=torch.float64), -eta)
    assert softmax_change(z, change) == pytest.approx(math.tanh(eta / 2), rel=1e-9, abs=1e-15)


def test_one_key_has_a_pattern_that_nothing_moves() -> None:
    assert softmax_change(torch.tensor([3.0]), torch.tensor([1e8])) == 0
    found = dominant_pairs(make_passage(positions=3), 0, make_heads(make_attention(window=1)))
    assert not found.pattern.any()
    assert not found.output.any()
    assert not found.output_certified.any()  # one value has no diameter
    assert found.score.any()


def test_the_certified_size_of_a_pattern_is_attained() -> None:
    # the two query features of the second position have 1 and 3 with the first key, −1 and 4 with the second: what is
    # dropped adds 1 to the first score, takes 1 from the second and turns which of them is larger by 1
    passage, heads = plain(
        [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0], [1.0, 3.0], [-1.0, 4.0]],
        [[0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 1.0]],
    )
    found = dominant_pairs(passage, 0, heads, 1)
    assert float(found.pattern[0, 1]) == pytest.approx(math.tanh(0.5), rel=1e-12)
    assert float(found.pattern_certified[0, 1]) == pytest.approx(math.tanh(0.5), rel=1e-12)
    distance = float((heads.written[0, 2] - heads.written[0, 3]).norm())
    assert float(found.output[0, 1]) == pytest.approx(math.tanh(0.5) * distance, rel=1e-12)
    assert float(found.output_certified[0, 1]) == pytest.approx(math.tanh(0.5) * distance, rel=1e-12)


def test_chunks_change_nothing() -> None:
    for window in (None, 2):
        heads = make_heads(make_attention(rotary="halves", window=window))
        passage = make_passage(positions=7)
        whole = dominant_pairs(passage, 0, heads, 2)
        for held in (1, 9, 20, 50):
            some = dominant_pairs(passage, 0, heads, 2, held)
            for name, table in vars(whole).items():
                close(getattr(some, name), table, 1e-13)


def test_no_more_is_held_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, largest = [], interpretation._largest

    def watched(c: Tensor, q: int) -> Tensor:
        sizes.append(c.numel())
        return largest(c, q)

    monkeypatch.setattr(interpretation, "_largest", watched)
    dominant_pairs(make_passage(positions=12), 0, make_heads(make_attention()), 1, 40)
    assert max(sizes) <= 40
    assert len(sizes) > 10


def test_a_text_without_features_has_no_residual() -> None:
    found = dominant_pairs(make_passage(active=0), 0, make_heads(make_attention()))
    assert not any(bool(table.any()) for table in vars(found).values())
    assert bool(found.share.isnan().all())


def test_a_text_of_no_positions_is_refused() -> None:
    with pytest.raises(CrossproofError, match="no positions"):
        dominant_pairs(make_passage(positions=0, given=(), empty=()), 0, make_heads(make_attention()))


def test_an_interpretation_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(CrossproofError, match="at least 1, not 0"):
        dominant_pairs(make_passage(), 0, make_heads(make_attention()), 0)
