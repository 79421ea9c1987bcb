"""Attacks the numbers with radii by the same operations at 2500 bits, which hold sums of 1e300 and 1e-300 exactly."""

import math
from collections.abc import Callable

import pytest
import torch
from flint import arb, ctx
from hypothesis import given
from hypothesis import strategies as st

from crossproof.errors import CrossproofError
from crossproof.proof.arithmetic.ball import Ball, as_ball, concatenate, exact
from crossproof.proof.arithmetic.tally import tallied

Number = tuple[float, float | None, float]
"""Midpoint, radius, and where between the ends the true number is: −1 to 1."""


@pytest.fixture(autouse=True)
def _many_bits():
    ctx.prec = 2500
    yield
    ctx.prec = 53


MIDPOINTS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 1e-300, -1e-300, 1e300, -1e300, 5e-324, 2.0**-1022, 1 / 3, 700.0, -800.0]),
    st.floats(-50, 50),
    st.floats(allow_nan=False, allow_infinity=False),
)
RADII = st.one_of(
    st.none(),
    st.sampled_from([0.0, 5e-324, 1e-300, 1e-16, 1e-3, 1.0, 750.0, 1e300]),
    st.floats(0, 1e3),
    st.floats(0, 1e308),
)
NUMBERS = st.tuples(MIDPOINTS, RADII, st.one_of(st.sampled_from([-1.0, 0.0, 1.0]), st.floats(-1, 1)))


def ball(numbers: list[Number]) -> Ball:
    mid = torch.tensor([m for m, _, _ in numbers], dtype=torch.float64)
    if all(r is None for _, r, _ in numbers):
        return Ball(mid)
    return Ball(mid, torch.tensor([r or 0.0 for _, r, _ in numbers], dtype=torch.float64))


def _stacked(rows: list[list[Number]]) -> Ball:
    return concatenate([ball(row)[None] for row in rows])


def truth(number: Number) -> arb:
    mid, rad, where = number
    return arb(mid) + arb(rad or 0.0) * arb(where)


def encloses(result: Ball, index: int, true: arb) -> bool:
    mid, rad = float(result.mid.flatten()[index]), float(result.radius.flatten()[index])
    assert math.isfinite(mid)
    assert not math.isnan(rad)
    return rad == math.inf or not abs(true - arb(mid)) > arb(rad)


OF_TWO: dict[str, tuple[Callable[[Ball, Ball], Ball], Callable[[arb, arb], arb]]] = {
    "sum": (lambda x, y: x + y, lambda x, y: x + y),
    "difference": (lambda x, y: x - y, lambda x, y: x - y),
    "product": (lambda x, y: x * y, lambda x, y: x * y),
    "quotient": (lambda x, y: x / y, lambda x, y: x / y),
    "maximum": (lambda x, y: x.maximum(y), lambda x, y: x.max(y)),
    "minimum": (lambda x, y: x.minimum(y), lambda x, y: x.min(y)),
}
OF_ONE: dict[str, tuple[Callable[[Ball], Ball], Callable[[arb], arb]]] = {
    "exp": (Ball.exp, arb.exp),
    "log": (Ball.log, arb.log),
    "relu": (Ball.relu, lambda x: x.max(arb(0))),
    "abs": (Ball.abs, abs),
    "negative": (lambda x: -x, lambda x: -x),
    "number minus": (lambda x: 1.0 - x, lambda x: arb(1) - x),
    "number over": (lambda x: 2.0 / x, lambda x: arb(2) / x),
}


@given(st.sampled_from(sorted(OF_TWO)), st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=4))
def test_the_true_result_of_two_numbers_is_within_the_radius(name, pairs):
    of_balls, of_truths = OF_TWO[name]
    result = of_balls(ball([x for x, _ in pairs]), ball([y for _, y in pairs]))
    for index, (x, y) in enumerate(pairs):
        if name != "quotient" or truth(y) != 0:
            assert encloses(result, index, of_truths(truth(x), truth(y)))


@given(st.sampled_from(sorted(OF_ONE)), st.lists(NUMBERS, min_size=1, max_size=4))
def test_the_true_result_of_one_number_is_within_the_radius(name, numbers):
    of_ball, of_truth = OF_ONE[name]
    result = of_ball(ball(numbers))
    for index, number in enumerate(numbers):
        true = truth(number)
        if (name == "log" and true <= 0) or (name == "number over" and true == 0) or (name == "exp" and true > 1e6):
            assert math.isinf(float(result.radius[index]))
        elif name != "exp" or true > -1e6:
            assert encloses(result, index, of_truth(true))


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_the_true_root_of_what_is_not_negative_is_within_the_radius(numbers):
    result = ball(numbers).sqrt()
    for index, number in enumerate(numbers):
        mid, rad, _ = number
        if mid + (rad or 0.0) >= 0:
            assert encloses(result, index, truth(number).max(arb(0)).sqrt())


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_true_sums_and_maxima_are_within_the_radius(numbers):
    its, trues = ball(numbers), [truth(number) for number in numbers]
    assert encloses(its.sum(0), 0, sum(trues, arb(0)))
    largest = trues[0]
    for true in trues:
        largest = largest.max(true)
    assert encloses(its.amax(0), 0, largest)


@given(
    st.integers(1, 3).flatmap(
        lambda n: st.tuples(*[st.lists(st.lists(NUMBERS, min_size=n, max_size=n), min_size=1, max_size=3)] * 2)
    )
)
def test_true_matrix_products_are_within_the_radius(rows_and_columns):
    rows, columns = rows_and_columns
    left, right = _stacked(rows), _stacked(columns).mT
    product = left @ right
    for index in range(len(rows) * len(columns)):
        i, j = divmod(index, len(columns))
        true = sum((truth(x) * truth(y) for x, y in zip(rows[i], columns[j], strict=True)), arb(0))
        assert encloses(product, index, true)


@given(st.integers(0, 10**6), st.integers(2, 60), st.sampled_from([1e-8, 1.0, 1e8]))
def test_long_products_that_cancel_are_within_the_radius(seed, terms, scale):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(1, terms, generator=generator, dtype=torch.float64) * scale
    y = torch.randn(terms, 1, generator=generator, dtype=torch.float64)
    y[-1] = -(x[:, :-1] @ y[:-1])[0] / x[0, -1]
    true = sum((arb(float(a)) * arb(float(b)) for a, b in zip(x[0], y[:, 0], strict=True)), arb(0))
    product = Ball(x) @ Ball(y)
    assert encloses(product, 0, true)
    assert float(product.rad) < 1e-12 * float(x.abs() @ y.abs())


@given(st.lists(st.tuples(st.floats(-300, 300), st.floats(0, 3), st.floats(-1, 1)), min_size=1, max_size=5))
def test_the_true_log_of_summed_exponentials_is_within_the_radius(numbers):
    result = ball(numbers).reshape(1, -1).logsumexp(1)
    assert encloses(result, 0, sum((truth(number).exp() for number in numbers), arb(0)).log())


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_no_true_number_is_outside_the_ends(numbers):
    its = ball(numbers)
    upper, lower = its.upper(), its.lower()
    assert upper.rad is None
    assert lower.rad is None
    for index, number in enumerate(numbers):
        assert not truth(number) > arb(float(upper.mid[index]))
        assert not truth(number) < arb(float(lower.mid[index]))


@pytest.mark.parametrize(
    "undefined",
    [
        lambda x: x / Ball(torch.zeros(1).double()),
        lambda x: x / Ball(torch.ones(1).double(), torch.ones(1).double()),
        lambda x: (x * 0.0).log(),
        lambda x: Ball(x.mid, x.mid).log(),
        lambda x: (-x).log(),
        lambda x: (x * 1e300) * 1e300,
        lambda x: (x * 1e3).exp(),
        lambda x: (x * 1e300) * 1e300 - (x * 1e300) * 1e300,
        lambda x: (x / 0.0) * 0.0,
        lambda x: (Ball(torch.zeros(1, 1).double()) @ (x / 0.0)[None])[0],
        lambda x: (x / 0.0).exp().log().sqrt(),
    ],
)
def test_nothing_is_known_of_what_is_not_defined(undefined):
    result = undefined(exact(torch.ones(1)))
    assert float(result.upper().mid) == math.inf
    assert float(result.lower().mid) == -math.inf


def test_a_number_that_is_not_finite_is_refused():
    for bad in (math.nan, math.inf):
        with pytest.raises(CrossproofError, match="not finite"):
            exact(torch.tensor([1.0, bad]))


def test_stored_numbers_are_taken_as_they_are():
    x = torch.tensor([0.1, 1e-45], dtype=torch.float32)
    assert exact(x).rad is None
    assert exact(x).mid.tolist() == x.tolist()
    with pytest.raises(CrossproofError, match="whole number"):
        exact(torch.tensor([2**53 + 1]))


def test_radii_are_no_wider_than_they_need_be():
    x = exact(torch.tensor([3.0]))
    for result in (x + 0.1, x * 0.1, x / 7.0, x.exp(), x.log(), x.sqrt()):
        assert 0 < float(result.rad) < 2e-15 * float(result.mid.abs())
    assert float(concatenate([x, x + 1.0]).radius[0]) == 0


def test_what_is_done_without_numbers_counts_the_same():
    def work(x: Ball, y: Ball) -> Ball:
        z = (x @ y.mT).exp() / (x * x).sum(1).sqrt()[:, None] - as_ball(2.0, x)
        return z.maximum(0.0).relu().minimum(5.0).logsumexp(1).amax(0) + z.abs().log().sum(0)

    numbers = exact(torch.rand(3, 4)), exact(torch.rand(5, 4))
    with tallied() as real:
        work(*numbers)
    with tallied() as counted:
        result = work(Ball.unknown(3, 4), Ball.unknown(5, 4))
    assert counted.parts == real.parts
    assert result.mid.is_meta


@pytest.mark.parametrize(("where", "true"), [(1.0, 16.0), (-1.0, 0.0)])
def test_both_factors_may_be_wrong_at_once(where, true):
    x = (2.0, 2.0, where)
    assert encloses(ball([x]) * ball([x]), 0, arb(true))
    assert encloses(ball([x])[None] @ ball([x])[:, None], 0, arb(true))


def test_an_exponential_that_underflows_may_be_large_at_the_end_of_its_radius():
    number = (-800.0, 700.0, 1.0)
    assert encloses(ball([number]).exp(), 0, truth(number).exp())
