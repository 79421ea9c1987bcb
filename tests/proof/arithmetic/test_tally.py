import torch

from crossproof.proof.arithmetic.ball import Ball, concatenate, exact
from crossproof.proof.arithmetic.tally import OTHER, Tally, count, part, tallied


def test_operations_belong_to_the_innermost_part():
    with tallied() as tally:
        count(1)
        with part("a"):
            count(10)
            with part("b"):
                count(100)
            count(1000)
        count(10_000)
    assert tally.parts == {OTHER: 10_001, "a": 1010, "b": 100}
    assert tally.total == 11_111


def test_a_count_inside_another_does_not_reach_the_outer_one():
    with tallied() as outer:
        count(1)
        with tallied() as inner:
            count(5)
        count(2)
    assert (outer.total, inner.total) == (3, 5)


def test_counting_without_a_tally_is_allowed_and_parts_end_with_an_error():
    count(7)
    try:
        with part("lost"):
            raise ValueError
    except ValueError:
        pass
    with tallied() as tally:
        count(1)
    assert tally.parts == {OTHER: 1}
    assert Tally().total == 0


def test_each_operation_counts_as_it_is_defined():
    x, y = exact(torch.rand(3, 4) + 1), exact(torch.rand(3, 4) + 1)
    expected = {
        "sum of two": (lambda: x + y, 12),
        "against one number": (lambda: 2.0 - x, 12),
        "product": (lambda: x * y[0], 12),
        "quotient": (lambda: 1.0 / x, 12),
        "matrix product": (lambda: x @ y.mT, 2 * 3 * 3 * 4),
        "sum": (lambda: x.sum(1), 12),
        "maximum of all": (lambda: x.amax(0), 12),
        "maximum of two": (lambda: x.maximum(y), 12),
        "minimum of two": (lambda: x.minimum(0.0), 12),
        "relu": (lambda: x.relu(), 12),
        "exp": (lambda: x.exp(), 12),
        "log": (lambda: x.log(), 12),
        "root": (lambda: x.sqrt(), 12),
        # shift found, taken off, exponentials, their sum, its log, shift put back
        "log of summed exponentials": (lambda: x.logsumexp(1), 4 * 12 + 2 * 3),
        "looking up": (lambda: concatenate([-x, x[[0, 0]].abs()]).reshape(-1).upper(), 0),
    }
    for name, (work, operations) in expected.items():
        with tallied() as tally:
            assert isinstance(work(), Ball)
        assert tally.total == operations, name
