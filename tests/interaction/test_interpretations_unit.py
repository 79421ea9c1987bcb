"""Interpretations of a whole MLP against slow references: its residual, the certified size, and the generic penalty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, Table, contributions, tables
from crossproof.interaction.interpretations import (
    Account,
    Additive,
    Block,
    Dominant,
    Gate,
    GatedBlock,
    Interpretation,
    Mass,
    PlainBlock,
    base,
    generic_penalty,
    interpretation,
    names,
    register,
    spectral_norm,
    unit_residual,
)
from crossproof.units import ACTIVATIONS, MLP, GatedMLP

WIDTH = 6
OF_PLAIN: list[Interpretation] = [Dominant(), Dominant(2), Additive(), Mass(), Gate(1.0)]
OF_GATED: list[Interpretation] = [Dominant(), Dominant(3), Additive()]


def random_features(seed: int, n_tokens: int = 9, n_features: int = 12) -> Tensor:
    """Empty tokens, tokens with one active feature, with a few, and with all of them."""
    generator = torch.Generator().manual_seed(seed)
    strengths = torch.rand(n_tokens, n_features, generator=generator, dtype=torch.float64)
    density = torch.tensor([0.0, 0.1, 0.3, 0.6, 1.1], dtype=torch.float64)[torch.arange(n_tokens) % 5]
    chosen = torch.rand(n_tokens, n_features, generator=generator, dtype=torch.float64) < density[:, None]
    return strengths * chosen


def random_neurons(seed: int, gated: bool, activation: str, n_features: int = 12, n_neurons: int = 7) -> Neurons:
    generator = torch.Generator().manual_seed(seed + 1)

    def table() -> Table:
        A = torch.randn(n_features, n_neurons, generator=generator, dtype=torch.float64)
        return Table(A, torch.randn(n_neurons, generator=generator, dtype=torch.float64))

    loudness = torch.ones(n_neurons, dtype=torch.float64)
    if gated:
        return GatedNeurons("toy", table(), table(), ACTIVATIONS[activation], loudness)
    return PlainNeurons("toy", table(), ACTIVATIONS[activation], loudness)


def slow_block(features: Tensor, neurons: Neurons, t: int) -> Block:
    """Of one token, all features side by side; gradients flow."""
    of_tables = [x for table in tables(neurons) for x in (features[t, :, None] * table.A, table.beta)]
    p_beta = [x[None] if x.dim() == 2 else x for x in of_tables]
    return (PlainBlock if isinstance(neurons, PlainNeurons) else GatedBlock)(*p_beta, neurons.activation)


settings_of_units = st.tuples(
    st.integers(0, 10**6), st.sampled_from(list(ACTIVATIONS)), st.booleans(), st.integers(0, 9)
)


def drawn(seed: int, activation: str, gated: bool, which: int) -> tuple[Interpretation, Tensor, Neurons]:
    chosen = OF_GATED if gated else OF_PLAIN
    return chosen[which % len(chosen)], random_features(seed), random_neurons(seed, gated, activation)


@settings(deadline=None, max_examples=40)
@given(settings_of_units, st.sampled_from([1, 50, 2**19]))
def test_a_unit_residual_equals_the_sum_over_neurons_token_by_token(
    drawing: tuple[int, str, bool, int], budget: int
) -> None:
    interpreted, features, neurons = drawn(*drawing)
    W_out = torch.randn(7, WIDTH, generator=torch.Generator().manual_seed(drawing[0]), dtype=torch.float64)
    result = unit_residual(interpreted, Codes.from_dense(features), neurons, W_out, budget)
    norm = float(np.linalg.svd(W_out.numpy(), compute_uv=False)[0])
    for t in range(len(features)):
        block = slow_block(features, neurons, t)
        r, c = interpreted.residual(block)[0], interpreted.certified(block)[0]
        vector = sum((r[n] * W_out[n] for n in range(7)), torch.zeros(WIDTH, dtype=torch.float64))
        loud = sum(float(W_out[n].norm() * c[n]) for n in range(7))
        assert result.size[t].item() == pytest.approx(float(vector.norm()), rel=1e-10, abs=1e-12)
        assert result.certified[t].item() == pytest.approx(min(loud, norm * float(c.norm())), rel=1e-7, abs=1e-10)


@settings(deadline=None, max_examples=40)
@given(
    settings_of_units,
    st.sampled_from([1e-8, 1.0, 1e8]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["random", "orthonormal", "parallel", "opposed", "silent"]),
)
def test_no_unit_residual_exceeds_its_certified_size_at_any_token(
    drawing: tuple[int, str, bool, int], magnitude: float, dtype: torch.dtype, kind: str
) -> None:
    interpreted, features, neurons = drawn(*drawing)
    W_out = {
        "random": torch.randn(7, WIDTH),
        "orthonormal": torch.linalg.qr(torch.randn(9, 7)).Q.T,
        "parallel": torch.ones(7, WIDTH),
        "opposed": torch.ones(7, WIDTH) * torch.tensor([1.0, -1, 1, -1, 1, -1, 1])[:, None],
        "silent": torch.zeros(7, WIDTH),
    }[kind]
    codes = Codes.from_dense((magnitude * features).to(dtype))
    result = unit_residual(interpreted, codes, neurons, W_out.to(dtype))
    assert result.size.dtype == result.certified.dtype == torch.float64
    assert (result.size <= result.certified).all()


def test_each_of_the_two_certified_sizes_is_the_smaller_one_somewhere() -> None:
    # every neuron misses 1 at the first token, the first neuron alone at the second
    neurons = PlainNeurons(
        "", Table(torch.tensor([[1.0, 1], [1, 1], [1, 0], [1, 0]]), torch.zeros(2)), ACTIVATIONS["relu"], torch.ones(2)
    )
    codes = Codes.from_dense(torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1]]))
    orthonormal = unit_residual(Dominant(), codes, neurons, torch.eye(2))
    assert orthonormal.certified[0].item() == pytest.approx(2**0.5)  # the spectral one; by loudness it is 2
    uneven = unit_residual(Dominant(), codes, neurons, torch.diag(torch.tensor([1.0, 9.0])))
    assert uneven.certified[1].item() == pytest.approx(1.0)  # by loudness; the spectral one is 9


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([1e-8, 1.0, 1e8]), st.integers(0, 10**6))
def test_the_spectral_norm_is_rounded_up_and_hardly(rows: int, columns: int, size: float, seed: int) -> None:
    torch.manual_seed(seed)
    for W in (
        size * torch.randn(rows, columns, dtype=torch.float64),
        size * torch.randn(rows, 1, dtype=torch.float64) * torch.randn(columns, dtype=torch.float64),
    ):
        exact = float(np.linalg.svd(W.numpy(), compute_uv=False)[0])
        assert exact * (1 + 1e-9) <= float(spectral_norm(W)) <= exact * (1 + 1e-7)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.sampled_from(["relu", "gelu"]), st.booleans())
def test_scaling_features_up_and_their_directions_down_changes_nothing(seed: int, activation: str, gated: bool) -> None:
    torch.manual_seed(seed)
    W, b, W_out = torch.randn(WIDTH, 7).double(), torch.randn(7).double(), torch.randn(7, WIDTH).double()
    if gated:
        unit: MLP | GatedMLP = GatedMLP(
            W_gate=torch.randn(WIDTH, 7).double(),
            b_gate=b.flip(0),
            W_in=W,
            b_in=b,
            activation=activation,
            W_out=W_out,
            b_out=torch.zeros(WIDTH).double(),
        )
    else:
        unit = MLP(W_in=W, b_in=b, activation=activation, W_out=W_out, b_out=torch.zeros(WIDTH).double())
    features, directions = random_features(seed), torch.randn(12, WIDTH).double()
    c = 10 ** (6 * torch.rand(12).double() - 3)
    before, after = (Codes.from_dense(f) for f in (features, features * c))
    table_before, table_after = (contributions(unit, d) for d in (directions, directions / c[:, None]))
    for interpreted in OF_GATED if gated else OF_PLAIN:
        old = unit_residual(interpreted, before, table_before, W_out)
        new = unit_residual(interpreted, after, table_after, W_out)
        torch.testing.assert_close(new.size, old.size, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(new.certified, old.certified, rtol=1e-10, atol=1e-10)
        penalties = [generic_penalty(interpreted, *x) for x in ((before, table_before), (after, table_after))]
        torch.testing.assert_close(*penalties, rtol=1e-10, atol=1e-10)


# -- the generic penalty -----------------------------------------------------------------------------------------------


def parameters_of(neurons: Neurons) -> list[Tensor]:
    return [x for table in tables(neurons) for x in (table.A, table.beta)]


def with_parameters(neurons: Neurons, parameters: tuple[Tensor, ...]) -> Neurons:
    made = [Table(A, beta) for A, beta in zip(parameters[0::2], parameters[1::2], strict=True)]
    kind = PlainNeurons if isinstance(neurons, PlainNeurons) else GatedNeurons
    return kind("", *made, neurons.activation, neurons.loudness)


@settings(deadline=None, max_examples=40)
@given(settings_of_units, st.sampled_from([1, 50, 2**19]), st.booleans())
def test_the_generic_penalty_and_its_gradient_equal_the_plain_formula(
    drawing: tuple[int, str, bool, int], budget: int, weighted: bool
) -> None:
    interpreted, features, neurons = drawn(*drawing)
    weights = torch.arange(7).double() if weighted else None
    leaves = [leaf.requires_grad_() for leaf in (features, *parameters_of(neurons))]

    ours = generic_penalty(interpreted, Codes.from_dense(features), neurons, weights, budget)
    our_gradients = torch.autograd.grad(3 * ours, leaves, allow_unused=True, materialize_grads=True)
    slow = torch.zeros((), dtype=torch.float64)
    for t in range(len(features)):
        penalised = interpreted.penalised(slow_block(features, neurons, t))[0]
        for n in range(7):
            slow = slow + penalised[n] * (1 if weights is None else weights[n]) / (len(features) * 7)
    slow_gradients = torch.autograd.grad(3 * slow, leaves, allow_unused=True, materialize_grads=True)

    torch.testing.assert_close(ours, slow, rtol=1e-10, atol=1e-12)
    active = features > 0
    torch.testing.assert_close(our_gradients[0][active], slow_gradients[0][active], rtol=1e-10, atol=1e-12)
    for got, expected in zip(our_gradients[1:], slow_gradients[1:], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gated", [False, True], ids=["plain", "gated"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_generic_penalty_passes_gradcheck_away_from_ties(activation: str, gated: bool) -> None:
    features, neurons = random_features(3, 5, 4), random_neurons(3, gated, activation, 4, 3)
    codes = Codes.from_dense(features)
    for interpreted in OF_GATED if gated else OF_PLAIN:

        def penalty(values: Tensor, *parameters: Tensor, of: Interpretation = interpreted) -> Tensor:
            return generic_penalty(of, Codes(codes.pattern, values), with_parameters(neurons, parameters), budget=8)

        inputs = [x.clone().requires_grad_() for x in (codes.values, *parameters_of(neurons))]
        assert penalty(*inputs).item() > 0
        assert torch.autograd.gradcheck(penalty, inputs, eps=1e-6, atol=1e-6)


def test_the_gradient_reaches_directions_and_whatever_made_the_codes() -> None:
    torch.manual_seed(0)
    mlp = MLP(
        W_in=torch.randn(WIDTH, 7),
        b_in=torch.randn(7),
        activation="relu",
        W_out=torch.randn(7, WIDTH),
        b_out=torch.zeros(WIDTH),
    )
    encoder, directions, bias = (torch.randn(*shape, requires_grad=True) for shape in ((3, 12), (12, WIDTH), (WIDTH,)))
    codes = Codes.from_dense((torch.randn(5, 3) @ encoder).relu())
    generic_penalty(Mass(), codes, contributions(mlp, directions, bias)).backward()
    for tensor in (encoder, directions, bias):
        assert tensor.grad is not None
        assert tensor.grad.abs().sum() > 0


@pytest.mark.parametrize("n_tokens", [0, 4])
def test_where_nothing_fires_the_penalty_and_its_gradient_are_zero(n_tokens: int) -> None:
    neurons = random_neurons(0, False, "relu")
    A = tables(neurons)[0].A.requires_grad_()
    codes = Codes.from_dense(torch.zeros(n_tokens, 12, dtype=torch.float64))
    for interpreted in OF_PLAIN:
        penalty = generic_penalty(interpreted, codes, neurons)
        assert penalty.item() == 0
        assert not torch.autograd.grad(penalty, A)[0].any()
        result = unit_residual(interpreted, codes, neurons, torch.ones(7, WIDTH))
        assert result.size.shape == (n_tokens,)
        assert (result.size <= result.certified).all()
        assert (result.certified <= 1e-12).all()


def test_the_penalty_keeps_the_dtype_of_the_codes_and_needs_no_gradient() -> None:
    neurons = random_neurons(0, False, "relu")
    single = with_parameters(neurons, tuple(x.float() for x in parameters_of(neurons)))
    penalty = generic_penalty(Dominant(), Codes.from_dense(random_features(0).float()), single)
    assert penalty.dtype == torch.float32
    assert not penalty.requires_grad
    tables(single)[0].A.requires_grad_()
    with torch.no_grad():
        assert torch.equal(generic_penalty(Dominant(), Codes.from_dense(random_features(0).float()), single), penalty)


# -- adding one, and bad input -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Silent(Interpretation):
    """A toy: the neuron is read as if no feature were active."""

    cost: float = 1.0

    name: ClassVar[str] = "silent"
    gated: ClassVar[bool] = False
    seen: ClassVar[list[int]] = []

    def account(self, block: Block) -> Account:
        block = self.only_plain(block)
        background = block.activation.function(block.beta)
        return Account(background.expand(len(block.p), -1), torch.zeros_like(block.p))

    def certified(self, block: Block) -> Tensor:
        return block.activation.lipschitz * self.only_plain(block).p.abs().sum(1)

    def penalised(self, block: Block) -> Tensor:
        self.seen.append(self.only_plain(block).p.numel())
        return self.cost * self.only_plain(block).p.abs().sum(1)


@pytest.fixture
def _silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_REGISTERED", dict(base._REGISTERED))
    register(Silent)


@pytest.mark.usefixtures("_silent")
def test_a_registered_interpretation_works_everywhere_under_its_name() -> None:
    toy = interpretation("silent", cost=2.0)
    assert "silent" in names()
    assert "silent" not in names(gated=True)
    features, neurons = random_features(1), random_neurons(1, False, "gelu")
    result = unit_residual(toy, Codes.from_dense(features), neurons, torch.randn(7, WIDTH))
    assert (result.size <= result.certified).all()
    mass = features @ tables(neurons)[0].A.abs()
    torch.testing.assert_close(generic_penalty(toy, Codes.from_dense(features), neurons), 2 * mass.mean())


@pytest.mark.usefixtures("_silent")
def test_no_more_contributions_than_the_budget_are_held_at_a_time() -> None:
    Silent.seen.clear()
    neurons = random_neurons(1, False, "relu")
    tables(neurons)[0].A.requires_grad_()
    generic_penalty(interpretation("silent"), Codes.from_dense(random_features(1, n_tokens=40)), neurons, budget=200)
    assert len(Silent.seen) > 5
    assert max(Silent.seen) <= 200


def test_interpretations_go_by_their_names_and_options() -> None:
    assert names() == ["additive", "dominant", "gate", "mass"]
    assert names(gated=True) == ["additive", "dominant"]
    assert interpretation("dominant", q=3) == Dominant(3)
    assert interpretation("mass") == Mass()
    gate = interpretation("gate", margin=0.5)
    assert isinstance(gate, Gate)
    assert gate.margin == 0.5


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("domiant", {}, "no interpretation 'domiant'; there are: additive, dominant, gate, mass"),
        ("dominant", {"q": 0}, "q is how many contributions a neuron keeps, at least 1, not 0"),
        ("mass", {"q": 1}, "'mass': got an unexpected keyword argument 'q'; it takes no options"),
        ("gate", {}, "'gate': missing a required argument: 'margin'; it takes margin"),
        ("gate", {"margin": -0.5}, "0 or more, not -0.5"),
        ("gate", {"margin": float("nan")}, "0 or more, not nan"),
        ("gate", {"margin": torch.tensor([1.0, -2.0])}, "0 or more, not -2"),
    ],
)
def test_bad_names_and_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CrossproofError, match=message):
        interpretation(name, **options)


def test_shapes_that_do_not_fit_are_refused() -> None:
    codes, neurons = Codes.from_dense(random_features(0)), random_neurons(0, False, "relu")
    with pytest.raises(MismatchError, match="W_out: 8 neurons on the first axis, but the contribution table has 7"):
        unit_residual(Mass(), codes, neurons, torch.ones(8, WIDTH))
    with pytest.raises(MismatchError, match=r"weights: one for each of 7 neurons, not the shape \(8,\)"):
        generic_penalty(Mass(), codes, neurons, torch.ones(8))
    fewer = Codes.from_dense(random_features(0, n_features=11))
    for call in (
        lambda: generic_penalty(Mass(), fewer, neurons),
        lambda: unit_residual(Mass(), fewer, neurons, torch.ones(7, 2)),
    ):
        with pytest.raises(MismatchError, match=r"codes: 11 features .* 12"):
            call()
