"""The penalty against an obvious reference in float64, its gradient, its random part, and what it refuses."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.errors import CrossproofError, MismatchError, NonFinite, UnsupportedModel
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.units import ACTIVATIONS, MLP
from tests.interaction.penalty_toys import D, F, N, batch, make_gated, make_mlp, value_and_gradients


def reference(
    f: Tensor,
    directions: list[Tensor],
    biases: list[Tensor],
    mlps: list[MLP],
    form: str,
    q: int,
    scaling: str,
    weighted: bool,
) -> Tensor:
    """Token by token, neuron by neuron, with autograd's own gradient."""
    values = []
    for mlp, d, b in zip(mlps, directions, biases, strict=True):
        loudness = mlp.W_out.norm(dim=1)
        weight = loudness / loudness.mean() if weighted else torch.ones_like(loudness)
        phi = ACTIVATIONS[mlp.activation].function
        penalised, total = torch.zeros(()).double(), torch.zeros(()).double()
        n_neurons = mlp.W_in.shape[1]
        for t, n in itertools.product(range(len(f)), range(n_neurons)):
            active = [i for i in range(F) if f[t, i] > 0]
            p = [f[t, i] * (d[i] @ mlp.W_in[:, n]) for i in active]
            beta = b @ mlp.W_in[:, n] + mlp.b_in[n]
            everything = sum((each.abs() for each in p), torch.zeros(()).double())
            if form == "dominant":
                ranked = sorted(range(len(p)), key=lambda k: (-float(p[k].detach().abs()), k))
                missed = sum((p[k].abs() for k in ranked[q:]), torch.zeros(()).double())
            elif form == "mass":
                players = [beta, *p]
                plus = sum((each.relu() for each in players), torch.zeros(()).double())
                minus = sum(((-each).relu() for each in players), torch.zeros(()).double())
                missed = torch.minimum(plus, minus)
            else:
                account = phi(beta) + sum((phi(beta + each) - phi(beta) for each in p), torch.zeros(()).double())
                missed = (phi(beta + sum(p, torch.zeros(()).double())) - account).abs()
            penalised, total = penalised + weight[n] * missed, total + weight[n] * everything
        size = max(1, len(f) * n_neurons) if scaling == "paper" else (total.detach() if float(total.detach()) else 1.0)
        values.append(penalised / size)
    return torch.stack([torch.as_tensor(value) for value in values]).mean()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    n_mlps=st.integers(1, 3),
    form=st.sampled_from(["dominant", "mass", "additive"]),
    q=st.integers(1, 6),
    scaling=st.sampled_from(["paper", "relative"]),
    weighted=st.booleans(),
    magnitude=st.sampled_from([1.0, 1e-8, 1e8]),
)
def test_value_and_gradient_are_those_of_the_definition(
    seed: int,
    tokens: int,
    density: float,
    n_mlps: int,
    form: str,
    q: int,
    scaling: str,
    weighted: bool,
    magnitude: float,
) -> None:
    mlps = [make_mlp(seed + k, activation="gelu" if form == "additive" else "relu") for k in range(n_mlps)]
    dense, directions = batch(seed, tokens, density, n_mlps)
    f = (dense * magnitude).requires_grad_()
    directions = [(d / magnitude).requires_grad_() for d in directions]
    biases = [torch.randn(D, dtype=torch.float64) for _ in mlps]
    penalty = InteractionPenalty(mlps, form=form, q=q, scaling=scaling, weighted=weighted)
    leaves = [f, *directions]
    ours, our_gradients = value_and_gradients(lambda: penalty(f, directions, biases), leaves)
    theirs, their_gradients = value_and_gradients(
        lambda: reference(f, directions, biases, mlps, form, q, scaling, weighted), leaves
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    for ours_, theirs_, x in zip(our_gradients, their_gradients, leaves, strict=True):
        silent = x == 0 if x is f else torch.zeros_like(x, dtype=torch.bool)  # a feature that is off has no entry
        scale = 1 / magnitude if x is f else magnitude
        torch.testing.assert_close(ours_ / scale, theirs_.masked_fill(silent, 0) / scale, rtol=1e-9, atol=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 5),
    density=st.sampled_from([0.0, 0.4, 1.0]),
    q=st.integers(1, 3),
    scaling=st.sampled_from(["paper", "relative"]),
)
def test_a_tie_goes_to_the_lowest_feature_and_a_contribution_of_zero_has_no_gradient_to_its_direction(
    seed: int, tokens: int, density: float, q: int, scaling: str
) -> None:
    mlps = [make_mlp(seed, ties=True)]
    f, (d,) = batch(seed, tokens, density, 1, ties=True)
    f, d = f.requires_grad_(), d.requires_grad_()
    bias = [torch.zeros(D).double()]
    penalty = InteractionPenalty(mlps, q=q, scaling=scaling)
    _, ours = value_and_gradients(lambda: penalty(f, [d], bias), [f, d])
    _, theirs = value_and_gradients(lambda: reference(f, [d], bias, mlps, "dominant", q, scaling, False), [f, d])
    torch.testing.assert_close(ours[0], theirs[0] * (f > 0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("form", ["dominant", "mass", "additive"])
@pytest.mark.parametrize("n_mlps", [1, 6])
def test_the_gradient_is_that_of_finite_differences_for_any_number_of_mlps(form: str, n_mlps: int) -> None:
    mlps = [make_mlp(seed, activation="gelu") for seed in range(n_mlps)]
    f, directions = batch(0, 2, 1.0, n_mlps)
    penalty = InteractionPenalty(mlps, form=form, scaling="paper", weighted=True)
    biases = [torch.randn(D, dtype=torch.float64) for _ in mlps]

    def value(f: Tensor, *directions: Tensor) -> Tensor:
        return penalty(f, directions, biases)

    assert torch.autograd.gradcheck(value, [f.requires_grad_(), *(d.requires_grad_() for d in directions)])


def test_the_gradient_of_a_gated_mlp_is_that_of_finite_differences() -> None:
    f, (d,) = batch(3, 4, 0.8, 1)
    penalty = InteractionPenalty([make_gated(0)], scaling="paper")
    pattern = Codes.from_dense(f).pattern

    def value(values: Tensor, d: Tensor) -> Tensor:
        return penalty(Codes(pattern, values), [d])

    values = Codes.from_dense(f).values.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, [values, d.requires_grad_()])


def test_of_a_gated_mlp_gate_and_value_are_penalised_each_for_itself() -> None:
    gated = make_gated(0)
    f, (d,) = batch(1, 6, 0.7, 1)
    as_plain = [
        MLP(W_in=W, b_in=b, activation="silu", W_out=gated.W_out, b_out=gated.b_out)
        for W, b in ((gated.W_gate, gated.b_gate), (gated.W_in, gated.b_in))
    ]
    torch.testing.assert_close(InteractionPenalty([gated])(f, [d]), InteractionPenalty(as_plain)(f, [d, d]))


def test_where_no_feature_is_active_the_penalty_and_its_gradient_are_zero() -> None:
    f, d = torch.zeros(4, F).double().requires_grad_(), torch.randn(F, D).double().requires_grad_()
    for form, scaling in itertools.product(["dominant", "additive"], ["paper", "relative"]):
        value = InteractionPenalty([make_mlp(0)], form=form, scaling=scaling)(f, [d])
        assert float(value.detach()) == 0
        gradients = torch.autograd.grad(value, [f, d])
        assert not any(bool(gradient.any()) for gradient in gradients)


def test_a_batch_without_tokens_costs_nothing() -> None:
    assert float(InteractionPenalty([make_mlp(0)])(torch.zeros(0, F).double(), [torch.randn(F, D).double()])) == 0


def test_scaling_a_feature_up_and_its_directions_down_changes_nothing() -> None:
    f, (d,) = batch(2, 6, 0.6, 1)
    c = torch.tensor([1e-6, 1.0, 3.0, 1e6, 0.5]).double()
    for form in ("dominant", "mass", "additive"):
        penalty = InteractionPenalty([make_mlp(0)], form=form)
        torch.testing.assert_close(penalty(f * c, [d / c[:, None]]), penalty(f, [d]))


def test_relative_has_the_gradient_of_paper_in_units_of_the_mean_contribution() -> None:
    f, (d,) = batch(4, 6, 0.6, 1)
    d = d.requires_grad_()
    unit = make_mlp(0)
    paper, (slope,) = value_and_gradients(lambda: InteractionPenalty([unit], scaling="paper")(f, [d]), [d])
    relative, (relative_slope,) = value_and_gradients(lambda: InteractionPenalty([unit])(f, [d]), [d])
    mean = float((f.sum(0) @ (d.detach() @ unit.W_in).abs().sum(1)) / (len(f) * N))
    torch.testing.assert_close(relative, paper / mean)
    torch.testing.assert_close(relative_slope, slope / mean)
    assert 0 < float(relative) < 1


def test_float32_agrees_with_float64() -> None:
    units = [make_mlp(seed, neurons=64) for seed in range(3)]
    f, directions = batch(0, 50, 0.6, 3)
    exact = InteractionPenalty(units)(f, directions)
    single = InteractionPenalty([unit.to(torch.float32) for unit in units])(f.float(), [d.float() for d in directions])
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"fraction": 0.0}, CrossproofError, r"fraction.*\(0, 1\]"),
        ({"fraction": 1.5}, CrossproofError, r"fraction.*1\.5.*\(0, 1\]"),
        ({"fraction": -0.1}, CrossproofError, r"fraction"),
        ({"q": 0}, CrossproofError, r"q: 0 .*at least 1"),
        ({"form": "domnant"}, CrossproofError, r"form.*domnant.*dominant, mass, additive"),
        ({"scaling": "absolute"}, CrossproofError, r"scaling.*paper, relative"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(
    change: dict[str, object], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        InteractionPenalty([make_mlp(0)], **change)  # type: ignore[arg-type]


def test_what_is_for_plain_mlps_says_so_of_gated_ones() -> None:
    with pytest.raises(UnsupportedModel, match="mass is for plain MLPs; gated ones have dominant"):
        InteractionPenalty([make_gated(0)], form="mass")
    with pytest.raises(CrossproofError, match="no MLP"):
        InteractionPenalty([])


def test_input_that_does_not_fit_is_refused_with_the_tensor_and_the_axis() -> None:
    penalty = InteractionPenalty([make_mlp(0), make_mlp(1)])
    f, (d, e) = batch(0, 4, 0.5, 2)
    with pytest.raises(MismatchError, match=r"directions: 1 for 2 MLPs"):
        penalty(f, [d])
    with pytest.raises(MismatchError, match=r"directions\[1\].*d_model 3.*\(5, 2\)"):
        penalty(f, [d, e[:, :2]])
    with pytest.raises(MismatchError, match=r"codes: 4 features.*5 rows"):
        penalty(f[:, :4], [d, e])
    with pytest.raises(MismatchError, match=r"biases\[0\].*\(3,\).*\(2,\)"):
        penalty(f, [d, e], [torch.zeros(2).double(), torch.zeros(3).double()])
    with pytest.raises(MismatchError, match="features: some are negative"):
        penalty(f - 1, [d, e])
    with pytest.raises(NonFinite, match="features"):
        penalty(f.masked_fill(f == 0, torch.nan), [d, e])
    with pytest.raises(MismatchError, match=r"\[token, feature\]"):
        penalty(f[None], [d, e])


@pytest.mark.parametrize("form", ["dominant", "mass", "additive"])
def test_features_that_are_off_in_a_batch_cost_nothing_and_change_nothing(form: str) -> None:
    f, (d,) = batch(0, 6, 0.7, 1)
    where = torch.tensor([1, 30, 31, 64, 99])
    wide, far = torch.zeros(6, 100).double(), torch.randn(100, D).double()
    wide[:, where], far[where] = f, d
    penalty = InteractionPenalty([make_mlp(0, activation="gelu")], form=form)
    far.requires_grad_()
    value, (gradient,) = value_and_gradients(lambda: penalty(wide, [far]), [far])
    d.requires_grad_()
    expected, (narrow,) = value_and_gradients(lambda: penalty(f, [d]), [d])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[where], narrow)
    assert int(gradient.any(1).sum()) <= 5


@pytest.mark.parametrize("form", ["dominant", "mass", "additive"])
def test_an_entry_of_strength_0_has_no_gradient_and_no_effect(form: str) -> None:
    pattern = Pattern(torch.tensor([0, 2, 1, 3]), torch.tensor([0, 2, 2, 4]), F)
    values = torch.tensor([0.0, 0.0, 0.0, 1.5]).double().requires_grad_()
    d = torch.randn(F, D).double().requires_grad_()
    penalty = InteractionPenalty([make_mlp(0, activation="gelu")], form=form, scaling="paper")
    value = penalty(Codes(pattern, values), [d])
    torch.testing.assert_close(value, penalty(pattern.dense(values.detach()), [d]))
    to_values, to_d = torch.autograd.grad(value, [values, d])
    assert not bool(to_values[:3].any())
    assert not bool(to_d[:3].any())


def test_under_autocast_and_with_other_dtypes_it_computes_in_that_of_the_weights() -> None:
    f, (d,) = batch(0, 6, 0.6, 1)
    units = [make_mlp(0).to(torch.float32)]
    expected = InteractionPenalty(units)(f.float(), [d.float()])
    for form in ("dominant", "mass", "additive"):
        penalty = InteractionPenalty(units, form=form)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            torch.testing.assert_close(penalty(f.float(), [d.float()]), penalty(f.float(), [d.float()]))
            mixed = penalty(f.bfloat16(), [d.double()])
        assert mixed.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(InteractionPenalty(units)(f.float(), [d.float()]), expected)


def test_weights_that_are_being_trained_themselves_are_no_part_of_the_graph() -> None:
    f, (d,) = batch(0, 6, 0.6, 1)
    unit = make_mlp(0)
    live = MLP(
        W_in=unit.W_in.requires_grad_(), b_in=unit.b_in, activation="relu", W_out=unit.W_out.requires_grad_(),
        b_out=unit.b_out,
    )  # fmt: skip
    for form in ("dominant", "mass", "additive"):
        penalty = copy.deepcopy(InteractionPenalty([live], form=form, weighted=True))
        for _ in range(2):
            penalty(f, [d.requires_grad_()]).backward()
        assert live.W_in.grad is None


def test_where_one_feature_has_it_all_float32_gives_almost_nothing_and_never_less() -> None:
    units = [make_mlp(0, neurons=64).to(torch.float32)]
    for tail in (0.0, 1e-9, 1e-7, 1e-4):
        f = torch.zeros(50, F)
        f[:, 0], f[:, 1:] = 1.0, tail
        d = torch.randn(F, D)
        for form in ("dominant", "mass"):
            value = float(InteractionPenalty(units, form=form, scaling="paper")(f, [d]))
            exact = InteractionPenalty([units[0].to(torch.float64)], form=form, scaling="paper")
            assert value >= 0
            assert value == pytest.approx(float(exact(f.double(), [d.double()])), abs=3e-6)
