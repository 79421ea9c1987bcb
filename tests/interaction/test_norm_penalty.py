"""The penalty on norms against running the norm with features removed, its gradient, and what it refuses."""

from __future__ import annotations

import itertools
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.norm_penalty import NormPenalty
from crossproof.units import Norm
from tests.interaction.penalty_toys import D, F, batch, value_and_gradients


def make_norm(seed: int = 0, kind: Literal["layer", "rms"] = "layer", eps: float = 1e-5) -> Norm:
    generator = torch.Generator().manual_seed(seed)
    gain, bias = torch.randn(2, D, generator=generator, dtype=torch.float64)
    return Norm(kind=kind, gain=gain, bias=bias, eps=eps)


def biases_of(seed: int, norms: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(D, generator=generator, dtype=torch.float64) for _ in range(norms)]


def scale(norm: Norm, x: Tensor) -> Tensor:
    centred = x - x.mean() if norm.kind == "layer" else x
    return (centred.square().mean() + norm.eps).sqrt()


def share(norm: Norm, own: Tensor, x: Tensor) -> Tensor:
    """What is due to a part of the input x in the norm's output at x."""
    centred = own - own.mean() if norm.kind == "layer" else own
    return norm.gain * centred / scale(norm, x)


def reference(f: Tensor, directions: list[Tensor], biases: list[Tensor], norms: list[Norm], scaling: str) -> Tensor:
    """Token by token and pair by pair, the input summed anew without each feature, with autograd's own gradient."""
    values = []
    for norm, d, b in zip(norms, directions, biases, strict=True):
        penalised, total = torch.zeros(()).double(), torch.zeros(()).double()
        for t in range(len(f)):
            active = [i for i in range(F) if f[t, i] > 0]
            x = b + sum((f[t, i] * d[i] for i in active), torch.zeros(D).double())
            for i, j in itertools.permutations(active, 2):
                left = b + sum((f[t, k] * d[k] for k in active if k != i), torch.zeros(D).double())
                own = f[t, j] * d[j]
                penalised = penalised + (share(norm, own, x) - share(norm, own, left)).norm()
            total = total + sum((share(norm, f[t, j] * d[j], x).norm() for j in active), torch.zeros(()).double())
        pooled = float(total.detach()) or 1.0
        values.append(penalised / (max(1, len(f)) if scaling == "paper" else pooled))
    return torch.stack(values).mean()


def test_the_shares_and_the_background_s_are_the_output_of_the_norm() -> None:
    (b,), (f, (d,)) = biases_of(0), batch(0, 1, 1.0, 1)
    for kind in ("layer", "rms"):
        norm = make_norm(1, kind)
        x = b + f[0] @ d
        parts = sum(share(norm, part, x) for part in (b, *(f[0, i] * d[i] for i in range(F))))
        torch.testing.assert_close(norm(x), parts + norm.bias)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    n_norms=st.integers(1, 2),
    kind=st.sampled_from(["layer", "rms"]),
    scaling=st.sampled_from(["paper", "relative"]),
    eps=st.sampled_from([1e-5, 1.0]),
    magnitude=st.sampled_from([1.0, 1e-8, 1e8]),
)
def test_value_and_gradient_are_those_of_the_definition(
    seed: int,
    tokens: int,
    density: float,
    n_norms: int,
    kind: Literal["layer", "rms"],
    scaling: str,
    eps: float,
    magnitude: float,
) -> None:
    norms = [make_norm(seed + k, kind, eps) for k in range(n_norms)]
    dense, directions = batch(seed, tokens, density, n_norms)
    f = (dense * magnitude).requires_grad_()
    directions = [(d / magnitude).requires_grad_() for d in directions]
    biases = [b.requires_grad_() for b in biases_of(seed, n_norms)]
    penalty, leaves = NormPenalty(norms, scaling), [f, *directions, *biases]
    ours, gradients = value_and_gradients(lambda: penalty(f, directions, biases), leaves)
    theirs, expected = value_and_gradients(lambda: reference(f, directions, biases, norms, scaling), leaves)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)
    for ours_, theirs_, leaf in zip(gradients, expected, leaves, strict=True):
        theirs_ = theirs_ * (f > 0) if leaf is f else theirs_  # a feature that is off has no entry
        unit = magnitude if leaf is f else 1.0 if leaf.dim() == 1 else 1 / magnitude
        # next to a cancelled input the slope is as steep as 1/σ³
        torch.testing.assert_close(
            ours_ * unit, theirs_ * unit, rtol=1e-7, atol=1e-8 * (1 + float((theirs_ * unit).abs().max()))
        )


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_the_gradient_is_that_of_finite_differences(kind: Literal["layer", "rms"]) -> None:
    norms = [make_norm(seed, kind) for seed in range(2)]
    f, (d, e) = batch(0, 3, 0.8, 2)
    pattern, penalty = Codes.from_dense(f).pattern, NormPenalty(norms, "paper")

    def value(values: Tensor, d: Tensor, e: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return penalty(Codes(pattern, values), [d, e], [b, c])

    leaves = [Codes.from_dense(f).values.clone(), d, e, *biases_of(0, 2)]
    assert torch.autograd.gradcheck(value, [leaf.requires_grad_() for leaf in leaves])


@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_in_float32_digits_are_kept_where_one_feature_is_nearly_all_of_the_input(kind: Literal["layer", "rms"]) -> None:
    norm = make_norm(0, kind, eps=1e-12)
    f, (d,) = batch(1, 6, 1.0, 1)
    f[:, 0] = torch.tensor([1.0, 10.0, 1e2, 1e3, 1e4, 3e4])
    nothing = [torch.zeros(D).double()]
    for t in range(6):
        row = f[t : t + 1].float()
        exact = reference(
            row.double(), [d.float().double()], nothing, [norm.to(torch.float32).to(torch.float64)], "paper"
        )
        found = NormPenalty([norm.to(torch.float32)], "paper")(row, [d.float()], [nothing[0].float()])
        torch.testing.assert_close(found.double(), exact, rtol=1e-2, atol=0)


def test_norms_of_different_widths_have_the_mean_of_what_each_has_alone() -> None:
    f, (d,) = batch(3, 6, 0.6, 1)
    (b,), norm = biases_of(0), make_norm(0)
    wide = Norm(kind="rms", gain=norm.gain.repeat(2), bias=norm.bias.repeat(2), eps=1e-3)
    wide_d, wide_b = torch.cat([d, d.flip(0)], 1), torch.ones(2 * D).double()
    both = NormPenalty([norm, wide])(f, [d, wide_d], [b, wide_b])
    alone = NormPenalty([norm])(f, [d], [b]), NormPenalty([wide])(f, [wide_d], [wide_b])
    torch.testing.assert_close(both, torch.stack(alone).mean())
    assert not torch.allclose(*alone)


def test_a_norm_in_half_precision_is_computed_in_single() -> None:
    half = make_norm(0).to(torch.bfloat16)
    f, (d,) = batch(1, 6, 0.8, 1)
    leaves = [f.float().requires_grad_(), d.to(torch.bfloat16).requires_grad_()]
    b = [its.to(torch.bfloat16) for its in biases_of(0)]
    found, gradients = value_and_gradients(lambda: NormPenalty([half])(leaves[0], [leaves[1]], b), leaves)
    exact = NormPenalty([half.to(torch.float64)])(f, [leaves[1].detach().double()], [its.double() for its in b])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=0)
    assert [its.dtype for its in gradients] == [torch.float32, torch.bfloat16]


def test_a_feature_alone_and_features_across_each_other_at_a_constant_scale_cost_nothing() -> None:
    norm = make_norm(0)
    f, (d,) = batch(2, 4, 1.0, 1)
    alone = f * (torch.arange(F) == 2)
    assert float(NormPenalty([norm])(alone, [d], biases_of(0))) == 0
    # ε so large that it is all of the scale
    huge = Norm(kind="rms", gain=norm.gain, bias=norm.bias, eps=1e12)
    assert float(NormPenalty([huge])(f, [d], biases_of(0))) < 1e-10


def test_where_nothing_is_active_or_there_is_no_token_value_and_gradient_are_zero() -> None:
    for tokens, scaling, eps in itertools.product([0, 1, 4], ["paper", "relative"], [0.0, 1e-5]):
        leaves = [torch.zeros(tokens, F).double(), torch.randn(F, D).double(), torch.zeros(D).double()]
        f, d, b = (leaf.requires_grad_() for leaf in leaves)
        value = NormPenalty([make_norm(0, eps=eps)], scaling)(f, [d], [b])
        assert float(value.detach()) == 0
        assert not any(bool(its.any()) for its in torch.autograd.grad(value, [f, d, b]))


def test_where_a_norm_without_epsilon_has_no_input_value_and_gradient_are_finite() -> None:
    norm = make_norm(0, "rms", eps=0.0)
    f, d, b = torch.zeros(3, F).double(), torch.randn(F, D).double(), torch.zeros(D).double()
    f[0, 0], f[1, :2] = 1.0, 1.0
    d[1] = 0  # without feature 0, nothing is left of the second token
    value, gradients = value_and_gradients(
        lambda: NormPenalty([norm])(f, [d], [b]), [its.requires_grad_() for its in (f, d, b)]
    )
    assert all(bool(torch.isfinite(its).all()) for its in (value, *gradients))


def test_features_that_cancel_in_a_norm_without_epsilon_cost_the_shares_that_each_leaves_the_other() -> None:
    norm, (_, (d,)) = make_norm(0, "rms", eps=0.0), batch(0, 1, 1.0, 1)
    f, nothing = torch.tensor([[1.0, 1.0, 0, 0, 0]]).double(), torch.zeros(D).double()
    d[1] = -d[0]
    torch.testing.assert_close(NormPenalty([norm], "paper")(f, [d], [nothing]), 2 * share(norm, d[0], d[0]).norm())


@pytest.mark.parametrize("size", [1e-14, 1e14])
def test_without_epsilon_the_size_of_the_input_is_nothing_to_the_penalty_in_float32_too(size: float) -> None:
    norm = make_norm(0, eps=0.0).to(torch.float32)
    f, (d,) = batch(1, 6, 0.8, 1)
    f, d, (b,) = f.float(), d.float(), (its.float() for its in biases_of(0))
    found = NormPenalty([norm])(f, [d * size], [b * size])
    torch.testing.assert_close(found, NormPenalty([norm])(f, [d], [b]), rtol=1e-4, atol=0)


def test_relative_has_the_gradient_of_paper_in_units_of_the_mean_output() -> None:
    f, (d,) = batch(4, 6, 0.6, 1)
    d, norm, b = d.requires_grad_(), make_norm(0), biases_of(0)
    paper, (slope,) = value_and_gradients(lambda: NormPenalty([norm], "paper")(f, [d], b), [d])
    relative, (its,) = value_and_gradients(lambda: NormPenalty([norm])(f, [d], b), [d])
    torch.testing.assert_close(its, slope * relative / paper)
    assert float(relative) > 0


def test_scaling_a_feature_up_and_its_directions_down_changes_nothing_and_an_entry_of_strength_0_neither() -> None:
    f, (d,) = batch(2, 6, 0.6, 1)
    c = torch.tensor([1e-6, 1.0, 3.0, 1e6, 0.5]).double()
    penalty, b = NormPenalty([make_norm(0)]), biases_of(0)
    torch.testing.assert_close(penalty(f * c, [d / c[:, None]], b), penalty(f, [d], b))
    pattern = Pattern(torch.tensor([0, 2, 1, 3]), torch.tensor([0, 2, 4]), F)
    values = torch.tensor([0.0, 1.0, 2.0, 1.5]).double().requires_grad_()
    value = penalty(Codes(pattern, values), [d], b)
    torch.testing.assert_close(value, penalty(pattern.dense(values.detach()), [d], b))
    assert float(torch.autograd.grad(value, values)[0][0]) == 0


def test_features_that_are_off_in_a_batch_have_no_gradient_and_change_nothing() -> None:
    f, (d,) = batch(0, 6, 0.7, 1)
    where = torch.tensor([1, 30, 31, 64, 99])
    wide, far = torch.zeros(6, 100).double(), torch.randn(100, D).double()
    wide[:, where], far[where] = f, d
    penalty, b = NormPenalty([make_norm(0)]), biases_of(0)
    value, (gradient,) = value_and_gradients(lambda: penalty(wide, [far], b), [far.requires_grad_()])
    torch.testing.assert_close(value, penalty(f, [d], b))
    assert int(gradient.any(1).sum()) == 5


def test_what_does_not_fit_is_refused_by_name() -> None:
    with pytest.raises(CrossproofError, match="norms: there is no norm"):
        NormPenalty([])
    with pytest.raises(CrossproofError, match=r"scaling.*paper, relative"):
        NormPenalty([make_norm(0)], "absolute")
    penalty = NormPenalty([make_norm(0), make_norm(1)])
    (f, (d, e)), b = batch(0, 4, 0.5, 2), biases_of(0, 2)
    with pytest.raises(MismatchError, match="directions: 1 for 2 norms"):
        penalty(f, [d], b)
    with pytest.raises(MismatchError, match=r"directions\[1\].*d_model 3.*norm.*\(5, 2\)"):
        penalty(f, [d, e[:, :2]], b)
    with pytest.raises(MismatchError, match="biases: 1 for 2 norms"):
        penalty(f, [d, e], b[:1])
    with pytest.raises(MismatchError, match=r"biases\[0\].*\(3,\).*\(2,\)"):
        penalty(f, [d, e], [b[0][:2], b[1]])
