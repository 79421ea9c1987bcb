"""Which features are active, against definitions written out with sorting."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.crosscoder import selection


def pre_activations(rows: int, features: int, seed: int, kind: str) -> Tensor:
    torch.manual_seed(seed)
    if kind == "ties":
        return torch.randint(-2, 3, (rows, features)).float()
    if kind == "negative":
        return -torch.rand(rows, features) - 0.1
    return torch.randn(rows, features) * {"normal": 1.0, "tiny": 1e-30, "huge": 1e30}[kind]


cases = st.builds(
    pre_activations,
    rows=st.integers(1, 6),
    features=st.integers(1, 12),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(["normal", "ties", "negative", "tiny", "huge"]),
)


def active(pattern: selection.Pattern) -> set[tuple[int, int]]:
    return set(zip(pattern.rows.tolist(), pattern.features.tolist(), strict=True))


def largest(entries: list[tuple[float, int, int]], count: int) -> set[tuple[int, int]]:
    """By value, then by row and feature: the lowest index wins a tie."""
    best = sorted(entries, key=lambda e: (-e[0], e[1], e[2]))[:count]
    return {(row, feature) for _, row, feature in best}


def positives(pre: Tensor) -> list[tuple[float, int, int]]:
    rows, features = pre.shape
    return [(float(pre[r, f]), r, f) for r in range(rows) for f in range(features) if pre[r, f] > 0]


@settings(deadline=None, max_examples=150)
@given(cases, st.integers(1, 12))
def test_topk_keeps_the_k_largest_positive_of_every_token(pre: Tensor, k: int) -> None:
    k = min(k, pre.shape[1])
    expected = set().union(*(largest([e for e in positives(pre) if e[1] == row], k) for row in range(pre.shape[0])))
    assert active(selection.topk(pre, k)) == expected


@settings(deadline=None, max_examples=150)
@given(cases, st.integers(1, 12), st.sampled_from([0.0, 0.5, 1.5, 1e9]))
def test_batchtopk_keeps_the_largest_positive_of_the_batch_whatever_the_guess(
    pre: Tensor, k: int, below: float
) -> None:
    k = min(k, pre.shape[1])
    expected = largest(positives(pre), k * pre.shape[0])
    got = active(selection.batchtopk(pre, k, below))
    assert got == expected


@settings(deadline=None, max_examples=60)
@given(cases)
def test_relu_keeps_exactly_the_positive(pre: Tensor) -> None:
    assert active(selection.positive(pre)) == {(r, f) for _, r, f in positives(pre)}


@settings(deadline=None, max_examples=60)
@given(cases)
def test_a_threshold_below_zero_never_admits_a_negative_feature(pre: Tensor) -> None:
    got = selection.above(pre, torch.full((pre.shape[1],), -1e9))
    assert active(got) == {(r, f) for _, r, f in positives(pre)}


def test_the_jump_gradient_is_the_rectangle_window_estimate() -> None:
    theta = torch.tensor([0.5, 0.5, 0.5], dtype=torch.float64, requires_grad=True)
    z = torch.tensor([0.48, 0.52, 0.9], dtype=torch.float64, requires_grad=True)
    selection.Jump.apply(z, theta, 0.1).sum().backward()
    assert z.grad.tolist() == [0.0, 1.0, 1.0]
    torch.testing.assert_close(theta.grad, torch.tensor([-5.0, -5.0, 0.0], dtype=torch.float64))
    theta.grad = None
    selection.Step.apply(z, theta, 0.1).sum().backward()
    torch.testing.assert_close(theta.grad, torch.tensor([-10.0, -10.0, 0.0], dtype=torch.float64))
