"""The checker's arithmetic: whatever the operands truly are, the truth is within the radius."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import flint
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checker.made import check

Real, Shape, operations, part = check.Real, check.Shape, check.operations, check.part

numbers = st.one_of(
    st.floats(-1e3, 1e3),
    st.sampled_from([0.0, 1.0, -1.0, 1e-300, -1e-300, 1e-160, 5e-324, 1e150, -1e150, 1e-8, 0.1, 709.0, -745.0, -800.0]),
)
radii = st.one_of(st.just(0.0), st.floats(0, 1e3), st.sampled_from([1e-300, 5e-324, 1e-16, 1e100]))


@pytest.fixture(autouse=True)
def _precise() -> Iterator[None]:
    with flint.ctx.workprec(2500):
        yield


def truth(mid: float, rad: float, where: float) -> Fraction:
    """A real number within the radius."""
    return Fraction(mid) + Fraction(rad) * Fraction(where)


def arb(x: Fraction) -> flint.arb:
    return flint.arb(flint.fmpz(x.numerator)) / flint.arb(flint.fmpz(x.denominator))


def holds(found: Any, true: flint.arb | Fraction) -> bool:
    true = arb(true) if isinstance(true, Fraction) else true
    mid, rad = float(found.mid.reshape(-1)[0]), float(found.rad.reshape(-1)[0])
    return not np.isfinite(mid) or not np.isfinite(rad) or bool(abs(true - flint.arb(mid)) <= flint.arb(rad))


OPERATIONS: list[tuple[Callable[[Any, Any], Any], Callable[[Fraction, Fraction], Fraction]]] = [
    (lambda a, b: a + b, lambda a, b: a + b),
    (lambda a, b: a - b, lambda a, b: a - b),
    (lambda a, b: a * b, lambda a, b: a * b),
    (lambda a, b: a / b, lambda a, b: a / b if b else Fraction(0)),
    (lambda a, b: a.maximum(b), max),
    (lambda a, b: a.minimum(b), min),
    (lambda a, b: a.relu(), lambda a, b: max(a, Fraction(0))),
    (lambda a, b: abs(a), lambda a, b: abs(a)),
    (lambda a, b: -a, lambda a, b: -a),
]


@settings(max_examples=400, deadline=None)
@given(numbers, radii, numbers, radii, st.sampled_from([-1.0, -0.5, 0.0, 1.0]), st.sampled_from([-1.0, 0.3, 1.0]))
def test_elementary_operations_hold_the_truth(a: float, r: float, b: float, s: float, i: float, j: float) -> None:
    x, y = Real(np.array([a]), np.array([r])), Real(np.array([b]), np.array([s]))
    with np.errstate(all="ignore"):
        for ours, exact in OPERATIONS:
            assert holds(ours(x, y), exact(truth(a, r, i), truth(b, s, j)))
        assert Fraction(min(float(x.upper().mid[0]), 1e308)) >= min(truth(a, r, i), Fraction(1e308))


@settings(max_examples=400, deadline=None)
@given(numbers, radii, st.sampled_from([-1.0, -0.5, 0.0, 1.0]))
def test_roots_exponentials_and_logarithms_hold_the_truth(a: float, r: float, i: float) -> None:
    x, true = Real(np.array([a]), np.array([r])), truth(a, r, i)
    with np.errstate(all="ignore"):
        if true < 1000:
            assert holds(x.exp(), arb(true).exp())
        if true >= 0:
            assert holds(x.sqrt(), arb(true).sqrt())
        if true > 0:
            assert holds(x.log(), arb(true).log())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.sampled_from([0.0, 1e-12, 1.0]), st.sampled_from([0, 8, 150]))
def test_sums_and_products_of_matrices_hold_the_truth(seed: int, n: int, rad: float, spread: int) -> None:
    """Also where terms cancel, and where radii or the other factor are zero."""
    rng = np.random.default_rng(seed)

    def some(*shape: int) -> tuple[Any, np.ndarray]:
        mid = rng.normal(size=shape) * 10.0 ** rng.integers(-spread, spread + 1, shape)
        mid[rng.random(shape) < 0.2] = 0
        its = Real(mid, rad * abs(rng.normal(size=shape)))
        where = rng.choice([-1.0, 0.0, 1.0], shape)
        true = [truth(*entry) for entry in zip(mid.flat, its.rad.flat, where.flat, strict=True)]
        return its, np.array(true, dtype=object).reshape(shape)

    (A, a), (B, b) = some(2, n), some(n, 1)
    product, total = A @ B, A.sum(1)
    codes = rng.integers(0, n, (1, 7))
    weighed, strengths = some(1, 7)
    for row in range(2):
        assert holds(product[row : row + 1], sum(a[row] * b[:, 0]))
        assert holds(total[row : row + 1], sum(a[row]))
    assert holds(B.combined(codes), sum(b[codes[0], 0]))
    assert holds(B.combined(codes, weighed), sum(b[codes[0], 0] * strengths[0]))


def test_what_overflows_or_is_not_defined_is_never_small() -> None:
    big, zero = Real(np.array([1e308])), Real(np.array([0.0]), np.array([1.0]))
    with np.errstate(all="ignore"):
        for lost in (
            big * 10.0,
            big + big,
            (big * 10.0) - (big * 10.0),
            big / zero,
            zero.log(),
            (big * 10.0) * 0.0,
            big.exp(),
        ):
            assert lost.upper().mid[0] == np.inf


@pytest.mark.parametrize("program", [
    lambda x, y: x @ y.T, lambda x, y: x * y + 1.0 - x / y, lambda x, y: check.softmax(x), lambda x, y: abs(x - y[0]),
    lambda x, y: check.shifted(x).exp().log(), lambda x, y: x.sum(0) + y.sum(-1)[:1],
    lambda x, y: (x.relu() - y.maximum(x)).max(1).sqrt(),
    lambda x, y: x.combined(np.array([[0, 1], [2, 2]]), y[:2, :2]), lambda x, y: x[:, None].sum(2).upper(),
])  # fmt: skip
def test_shapes_count_as_numbers_do(program: Callable[[Any, Any], Any]) -> None:
    rng = np.random.default_rng(0)
    counted = []
    for x, y in ((Real(rng.random((3, 5)) + 1), Real(rng.random((3, 5)) + 1)), (Shape(3, 5), Shape(3, 5))):
        operations.clear()
        with part("here"):
            shape = program(x, y).shape
        counted.append((dict(operations), shape))
    assert counted[0] == counted[1]
    assert set(counted[0][0]) == {"here"}


def test_operations_are_counted_as_docs_certificates_says() -> None:
    x, y = Real(np.ones((2, 3))), Real(np.ones((3, 4)))
    for program, expected in (
        (lambda: x @ y, 2 * 2 * 3 * 4), (lambda: x + x, 6), (lambda: x - 1.0, 6), (lambda: x / x, 6),
        (lambda: x.exp(), 6), (lambda: x.log(), 6), (lambda: x.sqrt(), 6), (lambda: x.relu(), 6), (lambda: x.sum(0), 6),
        (lambda: x.max(1), 6),
        (lambda: -x, 0), (lambda: abs(x), 0), (lambda: x[0], 0), (lambda: x.reshape(6), 0), (lambda: x.upper(), 0),
    ):  # fmt: skip
        operations.clear()
        program()
        assert operations.total() == expected
