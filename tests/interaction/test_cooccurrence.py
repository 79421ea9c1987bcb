"""Co-occurrence against integer arithmetic, real permutations and loops over all pairs."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction import cooccurrence as module
from crossproof.interaction.cooccurrence import cooccurrence, firing, pair_sums


def random_active(tokens: int, features: int, seed: int) -> Tensor:
    """0 and 1 in float64: some features on no token, some on all, some equal to another."""
    draw = torch.Generator().manual_seed(seed)
    density = torch.tensor([0.0, 0.1, 0.4, 0.8, 1.0])[torch.randint(5, (features,), generator=draw)]
    active = (torch.rand(tokens, features, generator=draw) < density).double()
    if features > 2:
        active[:, 1] = active[:, 0]
    return active


samples = st.builds(random_active, st.integers(1, 40), st.integers(1, 9), st.integers(0, 10**6))


def hypergeometric(tokens: int, a: int, b: int) -> dict[int, Fraction]:
    support = range(max(0, a + b - tokens), min(a, b) + 1)
    return {k: Fraction(math.comb(a, k) * math.comb(tokens - a, b - k), math.comb(tokens, b)) for k in support}


def two_sided(law: dict[int, Fraction], count: int) -> float:
    lower = sum((p for k, p in law.items() if k <= count), Fraction(0))
    upper = sum((p for k, p in law.items() if k >= count), Fraction(0))
    return float(min(Fraction(1), 2 * min(lower, upper)))


def grouped_law(active: Tensor, groups: Tensor, i: int, j: int) -> dict[int, Fraction]:
    law = {0: Fraction(1)}
    for group in groups.unique():
        a, b = (int(active[groups == group, f].sum()) for f in (i, j))
        one, both = hypergeometric(int((groups == group).sum()), a, b), {}
        for k, p in law.items():
            for m, q in one.items():
                both[k + m] = both.get(k + m, Fraction(0)) + p * q
        law = both
    return law


@settings(deadline=None, max_examples=40)
@given(samples, st.sampled_from([7, 2**22]), st.sampled_from([1e-8, 1.0, 1e8]))
def test_sums_over_tokens_equal_the_dense_product_above_the_diagonal(active: Tensor, block: int, size: float) -> None:
    values = active * size * torch.rand(active.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        blocks = list(pair_sums(Codes.from_dense(values)))
    sums = torch.cat([sums for _, sums in blocks])
    assert [start for start, _ in blocks] == torch.tensor([0] + [len(b) for _, b in blocks[:-1]]).cumsum(0).tolist()
    torch.testing.assert_close(sums, (values.T @ values).triu(1), rtol=1e-12, atol=1e-13 * size**2)


@settings(deadline=None, max_examples=60)
@given(samples, st.sampled_from([5, 2**22]))
def test_p_values_are_those_of_integer_arithmetic_and_every_pair_that_matters_is_listed(
    active: Tensor, block: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found = cooccurrence(Codes.from_dense(active), level=0.2)
    at = {pair: n for n, pair in enumerate(zip(found.i.tolist(), found.j.tolist(), strict=True))}
    assert len(at) == len(found.i)
    firing_counts = active.sum(0).long().tolist()
    alive = [f for f, n in enumerate(firing_counts) if n]
    assert found.n_tests == len(alive) * (len(alive) - 1) // 2
    p_values = {}
    for i, j in combinations(alive, 2):
        law = hypergeometric(len(active), firing_counts[i], firing_counts[j])
        count = int((active[:, i] * active[:, j]).sum())
        p_values[i, j] = p = two_sided(law, count)
        if (i, j) not in at:
            assert count == 0
            assert p > 0.2
            continue
        n = at.pop((i, j))
        mean = sum(k * q for k, q in law.items())
        variance = float(sum((k - mean) ** 2 * q for k, q in law.items()))
        assert int(found.count[n]) == count
        assert float(found.expected[n]) == pytest.approx(float(mean), rel=1e-12)
        assert math.exp(found.log_p[n]) == pytest.approx(p, rel=1e-10)
        z = (count - float(mean)) / math.sqrt(variance) if variance else 0.0
        assert float(found.z[n]) == pytest.approx(z, rel=1e-6, abs=1e-6)
    assert not at  # nothing else is listed
    # Benjamini–Hochberg, written as it is defined
    ordered = sorted(p_values.values())
    passed = [p for rank, p in enumerate(ordered, 1) if p <= 0.2 * rank / len(ordered) * (1 + 1e-9)]
    expected_marks = {pair for pair, p in p_values.items() if passed and p <= max(passed) * (1 + 1e-9)}
    marked = found.marked != 0
    assert set(zip(found.i[marked].tolist(), found.j[marked].tolist(), strict=True)) == expected_marks
    assert torch.equal(found.marked[marked] > 0, found.count[marked] > found.expected[marked])


@settings(deadline=None, max_examples=40)
@given(samples, st.integers(0, 10**6))
def test_within_groups_moments_are_exact_and_no_p_value_is_too_small(active: Tensor, seed: int) -> None:
    groups = torch.randint(3, (len(active),), generator=torch.Generator().manual_seed(seed)) * 5 - 4
    found = cooccurrence(Codes.from_dense(active), groups)
    for n, (i, j) in enumerate(zip(found.i.tolist(), found.j.tolist(), strict=True)):
        law = grouped_law(active, groups, i, j)
        mean = float(sum(k * q for k, q in law.items()))
        variance = float(sum(k * k * q for k, q in law.items()) - sum(k * q for k, q in law.items()) ** 2)
        count = int(found.count[n])
        assert float(found.expected[n]) == pytest.approx(mean, rel=1e-12)
        z = (count - mean) / math.sqrt(variance) if variance else 0.0
        assert float(found.z[n]) == pytest.approx(z, rel=1e-6, abs=1e-6)
        p = math.exp(found.log_p[n])
        assert p >= two_sided(law, count) * (1 - 1e-9)
        # and it is the binomial bound, no other
        terms = min(int(active[:, f].sum()) for f in (i, j))
        binomial = [
            math.comb(terms, k) * (mean / terms) ** k * (1 - mean / terms) ** (terms - k) for k in range(terms + 1)
        ]
        side = sum(binomial[count:]) if count > mean else sum(binomial[: count + 1])
        if abs(abs(count - mean) - 1) > 1e-9:  # at 1 itself, rounding decides between the bound and 1: both are right
            assert p == pytest.approx(min(1.0, 2 * side) if abs(count - mean) > 1 else 1.0, rel=1e-8)


def test_the_closed_forms_are_what_permuting_tokens_gives() -> None:
    torch.manual_seed(0)
    active = (torch.rand(60, 2) < torch.tensor([0.3, 0.5])).double()
    groups = torch.arange(60) // 20
    for within in (None, groups):
        found = cooccurrence(Codes.from_dense(active), within)
        shuffled = torch.rand(20000, 60) + (0 if within is None else within)  # sorting keeps groups apart
        counts = (active[:, 0] * active[:, 1][shuffled.argsort(1)]).sum(1)
        assert float(found.expected) == pytest.approx(float(counts.mean()), abs=0.07)
        sd = float((found.count - found.expected) / found.z)
        assert sd == pytest.approx(float(counts.std()), rel=0.03)
        if within is None:
            tails = [(counts <= found.count).double().mean(), (counts >= found.count).double().mean()]
            assert math.exp(found.log_p) == pytest.approx(min(1.0, 2 * float(min(tails))), abs=0.03)


def test_independent_features_are_marked_at_the_nominal_rate_and_planted_ones_are_found() -> None:
    torch.manual_seed(1)
    active = (torch.rand(4000, 60) < torch.linspace(0.05, 0.6, 60)).double()
    found = cooccurrence(Codes.from_dense(active))
    assert 0.03 < float((found.log_p <= math.log(0.05)).double().mean()) < 0.065
    assert int((found.marked != 0).sum()) <= 2
    active[:, 3] = torch.where(torch.rand(4000) < 0.5, active[:, 50], active[:, 3])  # more often together
    active[:, 20] *= 1 - active[:, 30]  # never together
    found = cooccurrence(Codes.from_dense(active))
    marks = {(int(found.i[n]), int(found.j[n])): int(found.marked[n]) for n in found.marked.nonzero()}
    assert marks[3, 50] == 1
    assert marks[20, 30] == -1
    assert len(marks) <= 4
    assert "1 below" in repr(found)
    never = found.count == 0
    assert bool((found.pmi[never] == -math.inf).all())
    assert float(found.pmi[(found.i == 3) & (found.j == 50)]) > 0.3


def test_pairs_that_are_discoveries_together_only_are_marked_together() -> None:
    active = torch.eye(3).repeat(4, 1)  # each pair never meets, with p = 2 · 70 / 495: too much for one of three alone
    found = cooccurrence(Codes.from_dense(active), level=0.3)
    assert found.log_p.exp().tolist() == pytest.approx(3 * [140 / 495])
    assert found.marked.tolist() == [-1, -1, -1]
    assert cooccurrence(Codes.from_dense(active), level=0.28).marked.tolist() == []


def test_what_only_texts_explain_is_marked_across_texts_but_not_within() -> None:
    torch.manual_seed(2)
    text = torch.arange(6000) // 60
    subject = torch.rand(100) < 0.3
    active = (torch.rand(6000, 2) < torch.where(subject, 0.5, 0.02)[text][:, None]).double()
    codes = Codes.from_dense(active)
    assert cooccurrence(codes).marked.tolist() == [1]
    within = cooccurrence(codes, text)
    assert within.marked.tolist() == [0]
    assert abs(float(within.z)) < 3


def test_features_on_all_tokens_and_on_none_are_never_marked() -> None:
    torch.manual_seed(3)
    active = (torch.rand(500, 4) < 0.3).double()
    active[:, 0], active[:, 1] = 1.0, 0.0
    for groups in (None, torch.arange(500) % 7):
        found = cooccurrence(Codes.from_dense(active), groups)
        with_constant = found.i == 0
        assert int(with_constant.sum()) == 2
        assert torch.equal(found.log_p[with_constant], torch.zeros(2, dtype=torch.float64))
        assert torch.equal(found.z[with_constant], torch.zeros(2, dtype=torch.float64))
        assert not bool(((found.i == 1) | (found.j == 1)).any())
        assert found.n_tests == 3


def test_p_values_far_below_the_smallest_float_are_right() -> None:
    tokens, a, b, both = 20000, 3000, 4000, 2500
    first, second = torch.zeros(tokens), torch.zeros(tokens)
    first[:a] = 1
    second[a - both : a - both + b] = 1
    found = cooccurrence(Codes.from_dense(torch.stack([first, second], 1)))
    ways = sum(math.comb(a, k) * math.comb(tokens - a, b - k) for k in range(both, a + 1))
    exact = math.log(2) + math.log(ways) - math.log(math.comb(tokens, b))
    assert exact < -1000
    assert float(found.log_p) == pytest.approx(exact, rel=1e-9)


def test_entries_of_strength_zero_are_not_active() -> None:
    pattern = Pattern(torch.tensor([0, 1, 2, 0, 2]), torch.tensor([0, 3, 3, 5]), 3)
    codes = Codes(pattern, torch.tensor([1.0, 0.0, 2.0, 0.0, 3.0]))
    assert torch.equal(firing(codes).dense(), (codes.dense() > 0).double())
    found = cooccurrence(codes)
    assert (found.i.tolist(), found.j.tolist(), found.count.tolist()) == ([0], [2], [1])


def test_no_token_and_no_feature_give_an_empty_table() -> None:
    for shape in ((0, 3), (4, 3), (4, 1), (4, 0), (0, 0)):
        found = cooccurrence(Codes.from_dense(torch.zeros(shape)))
        assert (len(found.i), found.n_tests) == (0, 0)


@settings(deadline=None, max_examples=20)
@given(samples)
def test_positions_are_those_of_listed_pairs_in_either_order_and_one_past_the_end_for_others(active: Tensor) -> None:
    found, features = cooccurrence(Codes.from_dense(active)), active.shape[1]
    rows = {pair: row for row, pair in enumerate(zip(found.i.tolist(), found.j.tolist(), strict=True))}
    asked = [(i, j) for i in range(features) for j in range(features)]
    positions = found.positions(*torch.tensor(asked).T)
    assert positions.tolist() == [rows.get((min(pair), max(pair)), len(rows)) for pair in asked]


def test_bad_input_is_refused() -> None:
    codes = Codes.from_dense(torch.ones(4, 2))
    with pytest.raises(MismatchError, match="one for each of the 4 tokens"):
        cooccurrence(codes, torch.zeros(3, dtype=torch.long))
    with pytest.raises(CrossproofError, match="between 0 and 1"):
        cooccurrence(codes, level=1.0)
