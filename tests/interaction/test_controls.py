"""The controls: closed forms against plain loops, gradients against finite differences, and the matching."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.controls import MATCHED_ON, Control, ControlName, Matched
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.units import MLP, GatedMLP

NAMES = get_args(ControlName)
OF_FEATURES = [name for name in NAMES if name != "reconstruction"]
FEATURES, WIDTH, NEURONS = 7, 4, 5


def plain_mlp(seed: int) -> MLP:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return MLP(
        W_in=random(WIDTH, NEURONS),
        b_in=random(NEURONS),
        activation="relu",
        W_out=random(NEURONS, WIDTH),
        b_out=random(WIDTH),
    )


def gated_mlp(seed: int) -> GatedMLP:
    first, second = plain_mlp(seed), plain_mlp(seed + 100)
    return GatedMLP(
        W_gate=second.W_in,
        b_gate=second.b_in,
        W_in=first.W_in,
        b_in=first.b_in,
        activation="silu",
        W_out=first.W_out,
        b_out=first.b_out,
    )


def some_features(seed: int, tokens: int = 6, magnitude: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    f = torch.rand(tokens, FEATURES, generator=generator, dtype=torch.float64)
    return magnitude * f * (torch.rand(f.shape, generator=generator) < 0.4)


def some_directions(seed: int, units: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(FEATURES, WIDTH, generator=generator, dtype=torch.float64) for _ in range(units)]


def by_loops(name: str, f: Tensor, directions: list[Tensor], units: list[MLP | GatedMLP]) -> float:
    """Each control as its definition says it, one contribution at a time."""
    of_units = []
    for unit, d in zip(units, directions, strict=True):
        weights = [unit.W_in] if isinstance(unit, MLP) else [unit.W_gate, unit.W_in]
        neurons = [(W, n) for W in weights for n in range(W.shape[1])]
        active = [(t, i, float(f[t, i])) for t in range(len(f)) for i in range(f.shape[1]) if f[t, i] > 0]

        def a(i: int, W: Tensor, n: int, d: Tensor = d) -> float:
            return math.fsum(float(d[i, k] * W[k, n]) for k in range(WIDTH))

        if name == "l1_features":
            total = math.fsum(s * math.sqrt(math.fsum(float(x) ** 2 for x in d[i])) for _, i, s in active) / len(f)
        elif name == "l1_table":
            total = math.fsum(abs(a(i, W, n)) for i in range(len(d)) for W, n in neurons) / len(d) / len(neurons)
        else:
            power = 1 if name == "l1_contributions" else 2
            total = math.fsum(abs(s * a(i, W, n)) ** power for _, i, s in active for W, n in neurons)
            total /= len(f) * len(neurons)
        of_units.append(total)
    return math.fsum(of_units) / len(of_units)


@pytest.mark.parametrize("name", OF_FEATURES)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10**6), magnitude=st.sampled_from([0.0, 1e-8, 1.0, 1e8]), gated=st.booleans())
def test_a_control_is_what_its_definition_says(name: ControlName, seed: int, magnitude: float, gated: bool) -> None:
    units = [plain_mlp(seed), gated_mlp(seed) if gated else plain_mlp(seed + 1)]
    f, directions = some_features(seed, tokens=3, magnitude=magnitude), some_directions(seed, 2)
    expected = by_loops(name, f, directions, units)
    assert float(Control(name, units)(f, directions)) == pytest.approx(expected, rel=1e-10, abs=0)
    assert float(Control(name, units)(Codes.from_dense(f), directions)) == pytest.approx(expected, rel=1e-10, abs=0)


@pytest.mark.parametrize("name", OF_FEATURES)
def test_gradients_to_features_and_directions_are_finite_differences(name: ControlName) -> None:
    units = [plain_mlp(0), gated_mlp(1)]
    codes = Codes.from_dense(some_features(0))
    control = Control(name, units)

    def value(values: Tensor, *directions: Tensor) -> Tensor:
        return control(Codes(codes.pattern, values), directions)

    inputs = [tensor.detach().requires_grad_() for tensor in (codes.values, *some_directions(0, 2))]
    assert torch.autograd.gradcheck(value, tuple(inputs))
    value(*inputs).backward()
    assert all(bool(tensor.grad.any()) for tensor in inputs[1:])
    assert name == "l1_table" or bool(inputs[0].grad.any())


@pytest.mark.parametrize("name", ["l1_features", "l1_contributions", "l2_contributions"])
def test_stronger_features_with_shorter_directions_change_no_control_but_the_table(name: ControlName) -> None:
    units = [plain_mlp(0), plain_mlp(1)]
    f, directions = some_features(0), some_directions(0, 2)
    stretch = torch.arange(1.0, FEATURES + 1, dtype=torch.float64)

    def change(control: Control) -> float:
        return float(control(f * stretch, [d / stretch[:, None] for d in directions]) / control(f, directions))

    assert change(Control(name, units)) == pytest.approx(1, rel=1e-12)
    assert change(Control("l1_table", units)) < 0.9


def batches(count: int) -> list[Tensor]:
    """Of very different magnitudes, one without any active feature."""
    return [some_features(seed, magnitude=0.0 if seed == 3 else 1.5**seed) for seed in range(count)]


@pytest.mark.parametrize("scaling", ["paper", "relative"])
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_of_a_matched_control_is_the_mean_of_the_penalty(name: ControlName, scaling: str) -> None:
    units, directions = [plain_mlp(0), plain_mlp(1)], some_directions(0, 2)
    penalty, control = InteractionPenalty(units, scaling=scaling), Control(name, units)
    matched = Matched(InteractionPenalty(units, scaling=scaling), control)
    derived_sum = control_sum = 0.0
    for number, f in enumerate(batches(12)):
        error = torch.tensor(float(number + 1), dtype=torch.float64)
        plain = float(control(f, directions, None, error))
        derived_sum, control_sum = derived_sum + float(penalty(f, directions)), control_sum + plain
        value = float(matched(f, directions, None, error))
        assert value == pytest.approx(derived_sum / control_sum * plain, rel=1e-9)


def test_once_matched_the_weight_is_held_so_that_a_control_that_falls_is_not_chased() -> None:
    units, directions = [plain_mlp(0)], some_directions(0, 1)
    matched = Matched(InteractionPenalty(units), Control("l1_contributions", units))
    f = some_features(0)
    values = [float(matched(f, directions)) for _ in range(MATCHED_ON)]
    assert values == pytest.approx([values[0]] * MATCHED_ON)
    assert float(matched(f * 1e-3, directions)) == pytest.approx(1e-3 * values[0])


def test_only_the_control_of_a_matched_pair_has_a_gradient() -> None:
    units = [plain_mlp(0)]
    f, directions = some_features(0).requires_grad_(), [d.requires_grad_() for d in some_directions(0, 1)]
    matched = Matched(InteractionPenalty(units), Control("l2_contributions", units))
    matched(f, directions).backward()
    gradient, of_control = directions[0].grad.clone(), Control("l2_contributions", units)
    weight = float(matched.weight)
    directions[0].grad, f.grad = None, None
    of_control(f, directions).backward()
    torch.testing.assert_close(gradient, weight * directions[0].grad)


def test_batches_without_features_first_are_no_trouble() -> None:
    units, directions = [plain_mlp(0)], some_directions(0, 1)
    matched = Matched(InteractionPenalty(units), Control("l1_features", units))
    assert float(matched(torch.zeros(4, FEATURES, dtype=torch.float64), directions)) == 0
    f = some_features(0)
    expected = float(InteractionPenalty(units)(f, directions))
    assert float(matched(f, directions)) == pytest.approx(expected, rel=1e-9)


def test_a_matched_control_goes_on_from_its_state_and_changes_none_in_evaluation() -> None:
    units, directions = [plain_mlp(0), plain_mlp(1)], some_directions(0, 2)

    def fresh() -> Matched:
        penalty = InteractionPenalty(units, fraction=0.5, seed=3)
        return Matched(penalty, Control("l1_contributions", units))

    whole, first, second = fresh(), fresh(), fresh()
    expected = [float(whole(f, directions)) for f in batches(8)]
    found = [float(first(f, directions)) for f in batches(8)[:5]]
    first.eval()
    first(some_features(77, magnitude=100.0), directions)
    second.load_state_dict(first.state_dict())
    found += [float(second(f, directions)) for f in batches(8)[5:]]
    assert found == expected
    assert set(whole.state_dict()) == {"sums", "batches", "penalty.totals", "penalty.draws"}


def test_what_does_not_fit_is_named() -> None:
    units = [plain_mlp(0), plain_mlp(1)]
    f, directions = some_features(0), some_directions(0, 2)
    with pytest.raises(CrossproofError, match=r"no 'l3'; there are reconstruction, l1_features"):
        Control("l3", units)
    with pytest.raises(CrossproofError, match="no MLP"):
        Control("l1_table", [])
    with pytest.raises(CrossproofError, match="must be given"):
        Control("reconstruction", units)(f, directions)
    with pytest.raises(MismatchError, match="1 for 2 MLPs"):
        Control("l1_table", units)(f, directions[:1])
    with pytest.raises(MismatchError, match=r"directions\[0\].*d_model 4"):
        Control("l1_table", units)(f, [d[:, :3] for d in directions])
    with pytest.raises(MismatchError, match="different dictionaries"):
        Control("l1_features", units)(Codes.from_dense(f[:, :5]), directions)
