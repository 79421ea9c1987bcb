"""Norms, and MLPs behind them, run with features removed; and how loudly a norm's output is heard."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import GatedNeurons, contributions
from crossproof.interaction.norms.features import norm_features
from crossproof.interaction.norms.reach import (
    TypicalNeurons,
    heard_at_once,
    heard_by_attention,
    heard_by_gated_mlp,
    heard_by_mlp,
    typical_neurons,
)
from crossproof.interaction.norms.removal import norm_game, norm_share, second_differences
from crossproof.interaction.shapley import exact
from crossproof.units import ACTIVATIONS, MLP, Attention, GatedMLP, Norm
from tests.interaction.norm_toys import Case, agree, cases, run, size, toy

D, N = 8, 12


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def plain(activation: str = "relu", width: int = D, seed: int = 0) -> MLP:
    return MLP(
        W_in=random(width, N, seed=seed),
        b_in=random(N, seed=seed + 1),
        activation=activation,
        W_out=random(N, width, seed=seed + 2),
        b_out=random(width, seed=seed + 3),
    )


def gated(activation: str = "silu", width: int = D, seed: int = 0) -> GatedMLP:
    base = plain(activation, width, seed)
    return GatedMLP(
        W_gate=random(width, N, seed=seed + 4),
        b_gate=random(N, seed=seed + 5),
        W_in=base.W_in,
        b_in=base.b_in,
        activation=activation,
        W_out=base.W_out,
        b_out=base.b_out,
    )


# -- removal -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(cases())
def test_second_differences_are_those_of_the_norm_when_it_is_run(case: Case) -> None:
    for token in range(len(case.strengths)):
        features, found = second_differences(case.codes, token, case.features)
        assert features.tolist() == case.active(token)
        assert not found.diagonal().any()
        assert torch.equal(found, found.T)
        for (a, i), (b, j) in combinations(enumerate(features.tolist()), 2):
            y, without_i, without_j, without_both = (
                run(case.norm, case.input(token, removed)) for removed in ((), (i,), (j,), (i, j))
            )
            magnitude = size(case.norm, y, without_i, without_j, without_both)
            agree(found[a, b], (y - without_i - without_j + without_both).norm(), magnitude)


def test_parallel_features_leave_no_second_difference_behind_to_the_last_digit() -> None:
    """From Gram entries it would be the root of a rounding error, 1e-8."""
    case = toy(random(1, D).expand(3, D) * torch.tensor([[1.0], [0.3], [0.7]]), torch.ones(1, 3).double(), eps=0.0)
    case = replace(case, bias=case.directions[0])
    _, found = second_differences(case.codes, 0, case.features)
    assert float(found.max()) < 1e-14


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_game_is_the_norm_and_its_index_shares_out_what_it_gives(case: Case) -> None:
    for token in range(len(case.strengths)):
        features = torch.tensor(case.active(token), dtype=torch.long)
        strengths = case.strengths[token, features]
        game = norm_game(case.norm, case.directions, case.bias, strengths, features)
        coalitions = torch.rand(8, len(features), generator=torch.Generator().manual_seed(token)) < 0.5
        for coalition, ours in zip(coalitions, game(coalitions), strict=True):
            theirs = run(case.norm, case.input(token, tuple(features[~coalition].tolist())))
            agree(ours, theirs, size(case.norm, theirs))
        index = exact(game, len(features))
        everything = run(case.norm, case.input(token))
        agree(index.full, everything, size(case.norm, everything))
        shared = index.empty + index.single.sum(0) + index.pairs.sum((0, 1)) / 2
        agree(shared, everything, 10 * size(case.norm, everything, *(index.empty + index.single), index.empty))


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("mlp", [plain("gelu"), gated()])
def test_the_norms_share_is_made_of_second_differences_with_the_norm_running_and_frozen(
    kind: str, mlp: MLP | GatedMLP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossproof.interaction.norms.removal.CHUNK", 2 * N)  # several chunks
    case = toy(random(6, D), random(3, 6, seed=1).relu(), kind=kind)  # type: ignore[arg-type]
    case = replace(case, bias=random(D, seed=2))
    rows = [2, 0]
    found = norm_share(case.codes, case.norm, mlp, case.directions, case.bias, torch.tensor(rows))
    for place, token in enumerate(rows):
        sigma = (case.norm.gain * (case.input(token) - (case.input(token).mean() if kind == "layer" else 0))) / (
            case.norm(case.input(token)) - case.norm.bias
        )

        def frozen(x: Tensor, sigma: Tensor = sigma) -> Tensor:
            centred = x - x.mean() if kind == "layer" else x
            return mlp(case.norm.gain * centred / sigma + case.norm.bias)

        sums = torch.zeros(3).double()
        for i, j in combinations(case.active(token), 2):
            ours, linear = (
                sum(sign * unit(case.input(token, out)) for sign, out in ((1, ()), (-1, (i,)), (-1, (j,)), (1, (i, j))))
                for unit in (lambda x: mlp(case.norm(x)), frozen)
            )
            assert isinstance(ours, Tensor)
            assert isinstance(linear, Tensor)
            sums += torch.stack([ours.norm(), linear.norm(), (ours - linear).norm()])
        agree(torch.stack([found.total[place], found.frozen[place], found.scale_only[place]]), sums, sums.max())


def test_where_the_mlp_is_linear_all_its_interaction_is_the_norms() -> None:
    case = toy(random(5, D), torch.ones(2, 5).double())
    always_on = replace(plain("relu"), b_in=torch.full((N,), 1000.0).double())
    found = norm_share(case.codes, case.norm, always_on, case.directions, case.bias, torch.arange(2))
    assert float(found.total.min()) > 1
    assert float(found.frozen.max()) < 1e-9
    assert found.share == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("mlp", [plain("relu"), gated()])
def test_a_norm_whose_scale_cannot_change_has_no_share(mlp: MLP | GatedMLP) -> None:
    case = toy(1e6 * random(5, D), torch.ones(2, 5).double(), eps=1e26)
    stiff = replace(case.norm, gain=case.norm.gain * 1e7)
    found = norm_share(case.codes, stiff, mlp, case.directions, case.bias, torch.arange(2))
    assert float(found.frozen.min()) > 1
    assert found.share < 1e-9


def test_with_fewer_than_two_features_there_is_nothing_to_share() -> None:
    case = toy(random(3, D), torch.tensor([[0, 0, 0], [0, 2, 0]]).double(), eps=0.0)
    found = norm_share(case.codes, case.norm, plain(), case.directions, None, torch.arange(2))
    assert not torch.stack([found.total, found.frozen, found.scale_only]).any()
    with pytest.raises(MismatchError, match="row 2"):
        norm_share(case.codes, case.norm, plain(), case.directions, None, torch.tensor([2]))
    with pytest.raises(MismatchError, match="row -1"):
        second_differences(case.codes, -1, case.features)


# -- reach -------------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000))
def test_a_plain_mlp_of_relus_never_moves_further_than_its_reach(seed: int) -> None:
    mlp, x, v = plain(seed=seed), random(30, D, seed=seed + 10), random(30, D, seed=seed + 11)
    reach = heard_by_mlp(mlp)(v)
    assert bool(((mlp(x + v) - mlp(x)).norm(dim=1) <= reach * (1 + 1e-12)).all())
    one = replace(mlp, W_in=mlp.W_in[:, :1], b_in=mlp.b_in[:1] + 1000, W_out=mlp.W_out[:1])
    agree((one(x + v) - one(x)).norm(dim=1), heard_by_mlp(one)(v), 1e6)  # attained by a single neuron that is on


def test_a_gated_mlp_hears_with_both_factors_as_large_as_they_usually_are() -> None:
    mlp, v = gated(), random(4, D, seed=9)
    typical = TypicalNeurons(random(N, seed=10).abs(), random(N, seed=11).abs())
    slow = torch.zeros(4).double()
    for k in range(4):
        for n in range(N):
            of_gate = ACTIVATIONS["silu"].lipschitz * typical.value[n] * (v[k] @ mlp.W_gate[:, n]).abs()
            of_value = typical.activation[n] * (v[k] @ mlp.W_in[:, n]).abs()
            slow[k] += mlp.W_out[n].norm() * (of_gate + of_value)
    agree(heard_by_gated_mlp(mlp, typical)(v), slow, slow)


def test_how_large_a_gated_mlps_factors_are_is_a_mean_over_tokens() -> None:
    mlp, directions, bias, f = gated(), random(5, D, seed=6), random(D, seed=7), random(9, 5, seed=8).relu()
    neurons = contributions(mlp, directions, bias)
    assert isinstance(neurons, GatedNeurons)
    typical, x = typical_neurons(Codes.from_dense(f), neurons), f @ directions + bias
    agree(typical.activation, torch.nn.functional.silu(mlp.gate(x)).abs().mean(0), 10)
    agree(typical.value, mlp.value(x).abs().mean(0), 10)
    with pytest.raises(MismatchError, match="no tokens"):
        typical_neurons(Codes.from_dense(f[:0]), neurons)


@pytest.mark.parametrize("groups", [1, 2])
def test_attention_hears_what_its_heads_would_write_from_here_alone(groups: int) -> None:
    heads, width = 4, 3
    attention = Attention(
        W_Q=random(heads, D, width),
        W_K=random(heads // groups, D, width, seed=1),
        W_V=random(heads // groups, D, width, seed=2),
        W_O=random(heads, width, D, seed=3),
        b_Q=random(heads, width, seed=4),
        b_K=random(heads // groups, width, seed=5),
        b_V=random(heads // groups, width, seed=6),
        b_O=random(D, seed=7),
        scale=0.5,
    )
    v, slow = random(5, D, seed=8), torch.zeros(5).double()
    for head in range(heads):  # a head alone, reading a text of one position
        kv = slice(head // groups, head // groups + 1)
        of_kv = {name: getattr(attention, name)[kv] for name in ("W_K", "b_K", "W_V", "b_V")}
        of_head = {name: getattr(attention, name)[head : head + 1] for name in ("W_Q", "b_Q", "W_O")}
        alone = replace(attention, **of_kv, **of_head)
        slow += (alone(v[:, None]) - alone(torch.zeros_like(v[:, None]))).norm(dim=2)[:, 0]
    agree(heard_by_attention(attention)(v), slow, slow)


def test_reach_is_of_centred_directions_with_the_norms_gain() -> None:
    norm = Norm(kind="layer", gain=torch.tensor([2.0, 1.0]), bias=torch.zeros(2), eps=0.0)
    found = norm_features(norm, torch.tensor([[4.0, 0.0], [3.0, 3.0]]), torch.tensor([0.0, 2.0]))
    torch.testing.assert_close(found.reach, torch.tensor([20.0**0.5, 0.0]))
    torch.testing.assert_close(found.background_reach, torch.tensor(5.0**0.5))
    louder = norm_features(norm, torch.tensor([[4.0, 0.0]]), heard=lambda v: 3 * heard_at_once(v))
    torch.testing.assert_close(louder.reach, 3 * found.reach[:1])
