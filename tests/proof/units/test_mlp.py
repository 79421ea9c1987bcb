"""An MLP at a decoded point and around it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.units.accounts import ACCOUNTS
from crossproof.proof.units.mlp import BoundedMLP
from crossproof.proof.units.search import highest
from crossproof.units import ACTIVATIONS, MLP, GatedMLP
from tests.proof.units.numbers import rows, seeds

WIDTH, NEURONS, FEATURES, ROW, SLOT = 4, 9, 6, 5, 3
names, kinds = st.sampled_from(sorted(ACTIVATIONS)), st.sampled_from(sorted(ACCOUNTS))


def mlp(name: str, seed: int) -> MLP:
    W_in, b_in = rows(WIDTH, NEURONS, seed=seed, hard=False), rows(NEURONS, seed=seed + 1, hard=False)
    W_out, b_out = rows(NEURONS, WIDTH, seed=seed + 2, hard=False), rows(WIDTH, seed=seed + 3, hard=False)
    return MLP(W_in=W_in, b_in=b_in, activation=name, W_out=W_out, b_out=b_out)


def dictionary(seed: int) -> tuple[Tensor, Tensor]:
    return rows(FEATURES, WIDTH, seed=seed + 4, hard=False), rows(WIDTH, seed=seed + 5, hard=False)


@settings(deadline=None, max_examples=50)
@given(
    seed=seeds, name=names, kind=kinds, by_norms=st.booleans(), hard=st.booleans(), part=st.sampled_from([0, 0.5, 9])
)
def test_what_an_mlp_writes_is_where_its_features_and_the_distance_say(
    seed: int, name: str, kind: str, by_norms: bool, hard: bool, part: float
) -> None:
    unit, (directions, bias) = mlp(name, seed), dictionary(seed)
    features = torch.stack(
        [torch.randperm(FEATURES, generator=torch.Generator().manual_seed(seed + r))[:SLOT] for r in range(ROW)]
    )
    strengths = rows(ROW, SLOT, seed=seed + 6, hard=hard).abs()
    bounded = BoundedMLP(unit, exact(directions), exact(bias))
    written = bounded.decoded(features, strengths, kind, by_norms)  # type: ignore[arg-type]
    decoded = (directions[features] * strengths[:, :, None]).sum(1) + bias
    radius = part * (1 + decoded.norm(dim=1))
    step = torch.randn(50, ROW, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out = unit(decoded + step / step.norm(dim=-1, keepdim=True) * radius[:, None])
    away = (out - written.centre.mid).norm(dim=-1).amax(0)
    reach = written.radius.mid + bounded.carry(Ball(radius)).mid
    size = (decoded.abs() @ unit.W_in.abs() + unit.b_in.abs()) @ unit.W_out.abs()
    assert bool((away <= reach + 1e-12 * size.sum(1)).all())
    assert bool(((bounded.run(exact(decoded)).mid - unit(decoded)).abs() <= 1e-12 * (1 + size)).all())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_not_even_the_worst_input_in_the_ball_leaves_it(name: str) -> None:
    unit, x = mlp(name, 3), rows(1, WIDTH, seed=9, hard=False)
    growth = float(BoundedMLP(unit).growth.mid)
    for radius in (0.01, 1.0, 100.0):
        reach = torch.full((1,), radius, dtype=torch.float64)
        found = highest(lambda p: (unit(p) - unit(x)).norm(dim=-1)[:, 0], x, reach)
        assert found <= growth * radius


def test_a_gated_mlp_is_refused_by_name_with_what_would_help() -> None:
    W = rows(WIDTH, NEURONS, seed=0, hard=False)
    b = torch.zeros(NEURONS, dtype=torch.float64)
    gated = GatedMLP(
        output_site="blocks.0.hook_mlp_out", W_gate=W, b_gate=b, W_in=W, b_in=b, activation="silu", W_out=W.T.clone(),
        b_out=torch.zeros(WIDTH, dtype=torch.float64),
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.hook_mlp_out is gated.*plain MLPs"):
        BoundedMLP(gated)


def test_weights_that_are_not_finite_are_refused() -> None:
    unit = mlp("relu", 0)
    unit.W_in[0, 0] = torch.nan
    with pytest.raises(CrossproofError, match="not finite"):
        BoundedMLP(unit)


def test_where_an_activation_is_steepest_a_distance_grows_as_much_as_is_said() -> None:
    one = torch.ones(1, 1, dtype=torch.float64)
    unit = MLP(W_in=2 * one, b_in=one[0] * 0, activation="gelu", W_out=3 * one, b_out=one[0] * 0)
    x, radius = one / 2**0.5, 1e-4 * one[0]
    found = highest(lambda p: (unit(p) - unit(x)).norm(dim=-1)[:, 0], x, radius)
    growth = float(BoundedMLP(unit).growth.mid)
    assert 0.999 * growth * 1e-4 <= found <= growth * 1e-4
