"""What the largest contributions miss of an MLP's output: against the definition, and what is refused."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.kept import kept
from crossproof.interaction.output_penalty import ALL, OutputPenalty
from crossproof.units import ACTIVATIONS, MLP, GatedMLP
from tests.interaction.penalty_toys import D, F, batch, make_gated, make_mlp, value_and_gradients


def kept_sums(f: Tensor, A: Tensor, q: int) -> Tensor:
    """Token by token, neuron by neuron, with autograd's own gradient."""
    rows = []
    for t in range(len(f)):
        active = [i for i in range(f.shape[1]) if f[t, i] > 0]
        sums = []
        for n in range(A.shape[1]):
            p = [f[t, i] * A[i, n] for i in active]
            ranked = sorted(range(len(p)), key=lambda k: (-float(p[k].detach().abs()), k))
            sums.append(sum((p[k] for k in ranked[:q]), torch.zeros(()).double()))
        rows.append(torch.stack(sums))
    return torch.stack(rows)


def reference(
    f: Tensor, directions: list[Tensor], x: list[Tensor], biases: list[Tensor], units: list, q: int
) -> Tensor:
    values = []
    for unit, d, its, bias in zip(units, directions, x, biases, strict=True):
        phi = ACTIVATIONS[unit.activation].function
        value = kept_sums(f, d @ unit.W_in, q) + bias @ unit.W_in + unit.b_in
        if isinstance(unit, MLP):
            neurons = phi(value)
        else:
            neurons = phi(kept_sums(f, d @ unit.W_gate, q) + bias @ unit.W_gate + unit.b_gate) * value
        written = unit(its).detach()
        spread = (written - written.mean(0)).square().sum()
        missed = (neurons @ unit.W_out + unit.b_out - written).square().sum()
        values.append(missed / (spread if spread > 0 else 1.0))
    # the root of a sum that is zero has no slope; what pushes nothing has none either
    mean_square = torch.stack(values).square().mean()
    return mean_square.sqrt() if mean_square > 0 else mean_square


def units_of(kinds: str, seed: int, ties: bool) -> list[MLP | GatedMLP]:
    makers = {
        "relu": lambda s: make_mlp(s, ties=ties),
        "gelu": lambda s: make_mlp(s, activation="gelu", ties=ties),
        "gated": make_gated,
    }
    return [makers[kind](seed + number) for number, kind in enumerate(kinds.split())]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    kinds=st.sampled_from(["relu", "gelu", "gated", "gelu gated relu"]),
    q=st.sampled_from([1, 2, 4, F, ALL]),
    magnitude=st.sampled_from([1.0, 1e-8, 1e8]),
    ties=st.booleans(),
)
def test_value_and_gradient_are_those_of_the_definition(
    seed: int, tokens: int, density: float, kinds: str, q: int, magnitude: float, ties: bool
) -> None:
    units = units_of(kinds, seed, ties)
    f, directions = batch(seed, tokens, density, len(units), ties)
    generator = torch.Generator().manual_seed(seed)
    x = [torch.randn(tokens, D, generator=generator, dtype=torch.float64) for _ in units]
    biases = [torch.randn(D, generator=generator, dtype=torch.float64) for _ in units]
    leaves = [tensor.requires_grad_() for tensor in (f.mul_(magnitude), *(d for d in directions), *biases)]
    penalty = OutputPenalty(units, q)
    value, gradients = value_and_gradients(lambda: penalty(f, directions, x, biases), leaves)
    expected, theirs = value_and_gradients(lambda: reference(f, directions, x, biases, units, q), leaves)
    torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-12)
    on = f.detach() > 0
    for mine, their in zip(gradients, theirs, strict=True):
        # what is not active has no contribution, and no gradient through this penalty
        mine, their = (mine * on, their * on) if mine.shape == f.shape else (mine, their)
        torch.testing.assert_close(mine, their, rtol=1e-7, atol=1e-9 * (1 + float(their.abs().max())))


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 5), q=st.sampled_from([1, 2, 3, ALL]), ties=st.booleans())
def test_what_is_kept_is_the_largest_and_ties_go_to_the_lowest_feature(
    seed: int, tokens: int, q: int, ties: bool
) -> None:
    f, (d,) = batch(seed, tokens, 0.6, 1, ties)
    A = d @ make_mlp(seed, ties=ties).W_in
    torch.testing.assert_close(kept(Codes.from_dense(f), A, q), kept_sums(f, A, q), rtol=1e-12, atol=1e-12)


def test_the_mlp_that_misses_most_is_pushed_most() -> None:
    units = [make_mlp(0), make_mlp(1)]
    f, directions = batch(0, 4, 0.6, 2, False)
    x = [torch.randn(4, D, generator=torch.Generator().manual_seed(5)).double() for _ in units]
    misses = [float(OutputPenalty([unit])(f, [d], [its])) for unit, d, its in zip(units, directions, x, strict=True)]
    # the slope of the whole along the miss of one MLP is in proportion to that miss
    slopes = []
    for number, (unit, d, its) in enumerate(zip(units, directions, x, strict=True)):
        leaves = [each.clone().requires_grad_() for each in directions]
        OutputPenalty(units)(f, leaves, x).backward()
        alone = d.clone().requires_grad_()
        OutputPenalty([unit])(f, [alone], [its]).backward()
        slopes.append(float((leaves[number].grad * alone.grad).sum() / alone.grad.square().sum()))
    assert misses[0] != misses[1]
    assert slopes[0] / slopes[1] == pytest.approx(misses[0] / misses[1], rel=1e-9)


def test_a_dictionary_in_which_one_feature_says_all_of_each_neuron_costs_nothing() -> None:
    mlp = MLP(
        W_in=torch.eye(3).double(),
        b_in=torch.zeros(3).double(),
        activation="relu",
        W_out=torch.randn(3, 3, generator=torch.Generator().manual_seed(0)).double(),
        b_out=torch.zeros(3).double(),
    )
    f = torch.tensor([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]]).double()
    directions = torch.eye(3).double()  # feature i touches neuron i alone
    assert float(OutputPenalty([mlp])(f, [directions], [f @ directions])) < 1e-20
    rotated = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(1)).double())[0]
    g = f @ rotated.T
    g, rotated = g.abs(), rotated * torch.where(g.sum(0) < 0, -1.0, 1.0)[:, None]
    assert float(OutputPenalty([mlp])(g, [rotated], [f])) > 0.05


def test_no_feature_at_all_leaves_the_background() -> None:
    mlp, x = make_mlp(0), torch.randn(4, D, generator=torch.Generator().manual_seed(0)).double()
    value = OutputPenalty([mlp])(torch.zeros(4, F).double(), [torch.ones(F, D).double()], [x])
    written, constant = mlp(x), mlp(torch.zeros(D).double())
    expected = (written - constant).square().sum() / (written - written.mean(0)).square().sum()
    torch.testing.assert_close(value, expected)


def test_an_output_that_never_varies_divides_nothing_by_nothing() -> None:
    f, directions = batch(0, 3, 0.7, 1)
    same = torch.ones(3, D).double()
    assert bool(OutputPenalty([make_mlp(0)])(f, directions, [same]).isfinite())


def test_what_does_not_fit_is_named() -> None:
    f, directions = batch(0, 3, 0.7, 1)
    x = torch.ones(3, D).double()
    with pytest.raises(CrossproofError, match="units"):
        OutputPenalty([])
    with pytest.raises(CrossproofError, match="q: 0"):
        OutputPenalty([make_mlp(0)], q=0)
    with pytest.raises(MismatchError, match=r"inputs: 2 for 1"):
        OutputPenalty([make_mlp(0)])(f, directions, [x, x])
    with pytest.raises(MismatchError, match=r"inputs\[0\]: expected \[token, d_model\] = \(3, 3\)"):
        OutputPenalty([make_mlp(0)])(f, directions, [x[:2]])
    with pytest.raises(MismatchError, match=r"biases: 0 for 1"):
        OutputPenalty([make_mlp(0)])(f, directions, [x], [])
