import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.spectral import eigenvectors, norm_bound

SEEDS = st.integers(0, 10**6)


def random_matrix(seed: int, rows: int, width: int, scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=generator, dtype=torch.float64) * scale


@given(SEEDS, st.integers(1, 7), st.integers(1, 7), st.sampled_from([1e-100, 1e-3, 1.0, 1e100]))
def test_with_good_eigenvectors_the_bound_is_the_norm_and_a_little_more(seed, rows, width, scale):
    matrix = random_matrix(seed, rows, width, scale)
    norm = float(torch.linalg.matrix_norm(matrix, 2))
    bound = float(norm_bound(exact(matrix), eigenvectors(matrix)).mid)
    assert norm * (1 - 1e-13) <= bound <= norm * (1 + 1e-6)


@given(SEEDS, st.integers(1, 6), st.sampled_from([0.0, 1e-8, 0.1, 1.0, 10.0]))
def test_no_claim_makes_the_bound_false(seed, width, wrong):
    matrix = random_matrix(seed, width + 1, width, 1.0)
    claimed = eigenvectors(matrix) + random_matrix(seed + 1, width, width, wrong)
    bound = float(norm_bound(exact(matrix), claimed).mid)
    assert bound >= float(torch.linalg.matrix_norm(matrix, 2)) * (1 - 1e-13)


@given(SEEDS, st.integers(1, 5))
def test_every_matrix_within_the_radius_is_bounded(seed, width):
    matrix = random_matrix(seed, width, width, 1.0)
    radius = random_matrix(seed + 1, width, width, 0.3).abs()
    bound = float(norm_bound(Ball(matrix, radius), eigenvectors(matrix)).mid)
    other = matrix + radius * random_matrix(seed + 2, width, width, 1.0).sign()
    assert bound >= float(torch.linalg.matrix_norm(other, 2)) * (1 - 1e-13)


def test_vectors_that_span_nothing_bound_nothing():
    matrix = torch.eye(3)
    for claimed in (torch.zeros(3, 3), torch.ones(3, 3), torch.diag(torch.tensor([1.0, 1.0, 0.0]))):
        assert float(norm_bound(exact(matrix), claimed).mid) == math.inf


def test_no_matrix_stretches_less_than_nothing():
    assert 0 <= float(norm_bound(exact(torch.zeros(2, 2)), torch.eye(2)).mid) < 1e-100


def test_eigenvectors_of_another_width_are_refused():
    with pytest.raises(MismatchError, match="eigenvectors"):
        norm_bound(exact(torch.eye(3)), torch.eye(2))
