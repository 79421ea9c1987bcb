"""The loss from a ball at the last site, or from boxes of logits: an upper bound, and a tight one for small balls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.units.around import Around
from crossproof.proof.units.loss import BoundedLoss, _psi
from crossproof.proof.units.search import highest
from crossproof.units import Unembedding
from tests.proof.units.numbers import rows, seeds

WIDTH, VOCAB, ROW = 4, 7, 5


def unembedding(seed: int, hard: bool = False) -> Unembedding:
    return Unembedding(W_U=rows(WIDTH, VOCAB, seed=seed, hard=hard), b_U=rows(VOCAB, seed=seed + 1, hard=False))


def losses(unit: Unembedding, x: Tensor, target: Tensor) -> Tensor:
    z = unit(x)
    return torch.logsumexp(z, -1) - z.gather(-1, target.expand(z.shape[:-1])[..., None])[..., 0]


@settings(deadline=None, max_examples=60)
@given(seed=seeds, hard=st.booleans(), part=st.sampled_from([0.0, 1e-8, 0.01, 0.3, 2.0, 100.0]))
def test_no_point_of_the_ball_has_a_larger_loss_and_what_is_right_for_sure_is_right(
    seed: int, hard: bool, part: float
) -> None:
    unit, x = unembedding(seed, hard), rows(ROW, WIDTH, seed=seed + 2, hard=hard)
    target, radius = torch.arange(ROW) % VOCAB, part * (1 + x.norm(dim=1))
    bound, right = BoundedLoss(unit).around(Around(exact(x), Ball(radius)), target)
    step = torch.randn(60, ROW, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = x + step / step.norm(dim=-1, keepdim=True) * radius[:, None]
    size = (points.abs() @ unit.W_U.abs()).amax((0, 2)) + unit.b_U.abs().max()
    assert bool((losses(unit, points, target).amax(0) <= bound.mid + 1e-14 * size).all())
    predicted = unit(points).argmax(-1)
    assert bool((predicted[:, right] == target[right]).all())


@pytest.mark.parametrize("part", [0.01, 0.1, 0.5])
def test_the_bound_is_near_the_worst_point_that_ascent_finds(part: float) -> None:
    slack = []
    for seed in range(6):
        unit, x, target = unembedding(seed), rows(1, WIDTH, seed=seed + 9, hard=False), torch.tensor([seed % VOCAB])
        radius = torch.full((1,), part, dtype=torch.float64)
        bound = float(BoundedLoss(unit).around(Around(exact(x), Ball(radius)), target)[0].mid)

        def loss(points: Tensor, unit: Unembedding = unit, target: Tensor = target) -> Tensor:
            return losses(unit, points, target)[:, 0]

        found = highest(loss, x, radius)
        assert found <= bound * (1 + 1e-12)
        own = float(losses(unit, x, target))
        slack.append((bound - own + 1e-9) / (found - own + 1e-9))
    assert sum(slack) / len(slack) < 2


def test_a_point_that_is_known_exactly_has_its_own_loss() -> None:
    unit, x, target = unembedding(0), rows(ROW, WIDTH, seed=4, hard=False), torch.arange(ROW)
    bound, right = BoundedLoss(unit).around(Around(exact(x), Ball(torch.zeros(ROW, dtype=torch.float64))), target)
    assert torch.allclose(bound.mid, F.cross_entropy(unit(x), target, reduction="none"), atol=1e-12)
    assert torch.equal(right, unit(x).argmax(1) == target)


def test_an_infinite_radius_gives_an_infinite_bound_and_no_other_row_suffers() -> None:
    unit, x, target = unembedding(0), rows(2, WIDTH, seed=4, hard=False), torch.tensor([0, 1])
    bound, right = BoundedLoss(unit).around(Around(exact(x), Ball(torch.tensor([torch.inf, 0.0]))), target)
    assert float(bound.mid[0]) == float("inf")
    assert float(bound.mid[1]) < 1e3
    assert not bool(right[0])


@settings(deadline=None, max_examples=30)
@given(seed=seeds, hard=st.booleans(), size=st.sampled_from([0.0, 0.5, 40.0]))
def test_a_box_of_logits_bounds_the_loss_and_is_attained(seed: int, hard: bool, size: float) -> None:
    unit, x = unembedding(seed), rows(ROW, WIDTH, seed=seed + 2, hard=hard)
    target = torch.arange(ROW)
    up = rows(ROW, VOCAB, seed=seed + 3, hard=False).abs() * size
    bound, _ = BoundedLoss(unit).in_box(exact(x), exact(up), target)
    worst = unit(x) + up.scatter(1, target[:, None], 0.0)
    attained = F.cross_entropy(worst, target, reduction="none")
    assert bool((attained <= bound.mid * (1 + 1e-12) + 1e-12 * (1 + worst.abs().amax(1))).all())
    assert bool((bound.mid <= attained + 1e-9 * (1 + worst.abs().amax(1))).all())


def test_psi_is_an_upper_end_for_tiny_and_huge_numbers() -> None:
    import mpmath

    t = torch.tensor([0.0, 1e-12, 1e-4, 9.99e-4, 1.01e-3, 0.1, 1.0, 30.0, 700.0], dtype=torch.float64)
    for at, bound in zip(t.tolist(), _psi(exact(t)).mid.tolist(), strict=True):
        with mpmath.workdps(60):
            true = float((mpmath.exp(at) - at - 1) / mpmath.mpf(at) ** 2) if at else 0.5
        assert true * (1 - 1e-15) <= bound <= true * 1.001
