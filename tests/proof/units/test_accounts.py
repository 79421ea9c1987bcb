"""What features make of a neuron one by one, and what they miss: true of anything that a neuron can hear."""

from __future__ import annotations

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from crossproof.errors import UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.units.accounts import ACCOUNTS, Account, dominant, exactly, masses, pairs
from crossproof.proof.units.search import highest
from crossproof.proof.units.smooth import CURVATURE, activated, curvature
from crossproof.units import ACTIVATIONS
from tests.proof.units.numbers import HARD, rows, seeds

ROW, NEURON = 16, 5
names = st.sampled_from(sorted(ACTIVATIONS))
features = st.integers(0, 5)


def heard(seed: int, k: int, hard: bool) -> tuple[Ball, Ball]:
    return exact(rows(ROW, k, NEURON, seed=seed, hard=hard)), exact(rows(1, NEURON, seed=seed + 1, hard=hard))


def residual(account: Account, p: Ball, beta: Ball, name: str) -> torch.Tensor:
    return ACTIVATIONS[name].function(p.mid.sum(1) + beta.mid) - account.known.mid


@settings(deadline=None, max_examples=60)
@given(seed=seeds, k=features, hard=st.booleans(), name=names, kind=st.sampled_from(sorted(ACCOUNTS)))
def test_no_account_misses_more_than_it_says(seed: int, k: int, hard: bool, name: str, kind: str) -> None:
    p, beta = heard(seed, k, hard)
    account = ACCOUNTS[kind](p, beta, name)  # type: ignore[index]
    r = residual(account, p, beta, name)
    rounding = account.known.radius + 1e-15 * (p.mid.abs().sum(1) + beta.mid.abs())
    assert account.missed.rad is None
    assert bool((r.abs() <= account.missed.mid + rounding).all())
    assert not account.one_sided or bool((r <= rounding).all())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
@pytest.mark.parametrize("kind", ["dominant", "masses", "pairs"])
def test_not_even_the_worst_contributions_that_ascent_finds_break_an_account(name: str, kind: str) -> None:
    def excess(x: torch.Tensor) -> torch.Tensor:
        p, beta = Ball(x[:, :3].T[None]), Ball(x[:, 3:].T)  # each restart is a neuron of its own
        account = ACCOUNTS[kind](p, beta, name)  # type: ignore[index]
        return (residual(account, p, beta, name).abs() - account.missed.mid)[0]

    for size in (0.5, 2.0, 8.0):
        centre, radius = torch.zeros(4, dtype=torch.float64), torch.tensor(size, dtype=torch.float64)
        assert highest(excess, centre, radius, restarts=64, steps=60) <= 1e-12


@settings(deadline=None, max_examples=40)
@given(seed=seeds, k=features, hard=st.booleans(), name=names)
def test_masses_miss_no_more_than_pairs_do(seed: int, k: int, hard: bool, name: str) -> None:
    p, beta = heard(seed, k, hard)
    by_mass, by_pairs = masses(p, beta, name), pairs(p, beta, name)
    assert torch.equal(by_mass.known.mid, by_pairs.known.mid) or name != "relu"
    size = p.mid.abs().sum(1) + beta.mid.abs()
    underflow = 1e-300  # upper ends of nothing are the smallest number there is
    assert bool((by_mass.missed.mid <= by_pairs.missed.mid * (1 + 1e-12) + 1e-14 * size + underflow).all())


@settings(deadline=None, max_examples=30)
@given(seed=seeds, k=features, hard=st.booleans())
def test_masses_of_a_relu_miss_exactly_what_they_say(seed: int, k: int, hard: bool) -> None:
    p, beta = heard(seed, k, hard)
    account = masses(p, beta, "relu")
    size = p.mid.abs().sum(1) + beta.mid.abs()
    assert torch.allclose(
        -residual(account, p, beta, "relu"), account.missed.mid, rtol=0, atol=1e-14 * float(size.max())
    )


def test_pairs_of_a_relu_are_exact_for_one_conflict_and_not_for_three() -> None:
    beta = exact(torch.zeros(1, 1, dtype=torch.float64))
    one = exact(torch.tensor([[[3.0], [-2.0]]]))
    assert float(pairs(one, beta, "relu").missed.mid) == pytest.approx(2.0)
    three = exact(torch.tensor([[[3.0], [-2.0], [-2.0]]]))
    assert float(pairs(three, beta, "relu").missed.mid) == pytest.approx(4.0)
    assert float(masses(three, beta, "relu").missed.mid) == pytest.approx(3.0)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_one_feature_or_none_interacts_with_nothing_but_the_bias_of_a_relu(name: str) -> None:
    for k in (0, 1):
        p, beta = heard(3, k, hard=True)
        for account in (dominant, exactly) if name == "relu" else (dominant, exactly, masses, pairs):
            assert float(account(p, beta, name).missed.mid.max()) < 1e-290


def test_a_tie_for_the_dominant_feature_goes_to_the_lowest() -> None:
    p, beta = exact(torch.tensor([[[2.0], [-2.0]]])), exact(torch.zeros(1, 1))
    account = dominant(p, beta, "relu")
    assert float(account.known.mid) == 2.0
    assert float(account.missed.mid) == pytest.approx(2.0)


@pytest.mark.parametrize("name", sorted(CURVATURE))
def test_the_constants_of_smooth_activations_are_no_smaller_than_their_functions_say_and_not_by_much(name: str) -> None:
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ACTIVATIONS[name].function(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    swing, second = float(slope.detach().max() - slope.detach().min()), float(bend.abs().max())
    its = curvature(name)
    assert swing <= its.swing <= swing * 1.0001
    assert second <= its.second <= second * 1.0001


def test_an_activation_whose_constants_are_not_known_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match=r"mish.*CURVATURE"):
        curvature("mish")


REAL = {
    "relu": lambda x: max(x, mpmath.mpf(0)),
    "gelu": lambda x: x * mpmath.ncdf(x),
    "gelu_new": lambda x: x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))),
    "silu": lambda x: x / (1 + mpmath.exp(-x)),
}


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_hold_their_true_values_whatever_torch_rounds(name: str) -> None:
    x = torch.cat([rows(400, seed=1, hard=False) * 5, torch.tensor(HARD, dtype=torch.float64)])
    found = activated(exact(x), name)
    with mpmath.workdps(40):
        for at, mid, rad in zip(x.tolist(), found.mid.tolist(), found.radius.tolist(), strict=True):
            assert abs(REAL[name](mpmath.mpf(at)) - mid) <= rad, at
    wide = activated(Ball(x, torch.full_like(x, 0.3)), name)
    for shift in (-0.3, 0.0, 0.3):
        assert bool(((ACTIVATIONS[name].function(x + shift) - wide.mid).abs() <= wide.radius + 1e-15 * x.abs()).all())
    assert F.relu(x).equal(activated(exact(x), "relu").mid)
