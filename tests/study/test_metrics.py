"""Every metric as one number per pair: finite, symmetric, and the same as by definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, contributions
from crossproof.interaction.gated import slope
from crossproof.interaction.weights import potential, typical_strengths
from crossproof.study import metrics
from crossproof.study.metrics import BASELINES, METRICS, cancellation, metrics_of, pair_scores, second_difference
from crossproof.units import MLP, GatedMLP

ON_TOKENS = (
    "directed",
    "directed, together",
    "mass",
    "mass, together",
    "cross",
    "cross, together",
    "ratio",
    "count",
    "cosine of activations",
)


class Example:
    """A random MLP and a random dictionary with a feature that never fires and two that never meet."""

    unit: MLP | GatedMLP

    def __init__(self, seed: int = 0, activation: str = "relu") -> None:
        draw = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=draw, dtype=torch.float64)

        self.unit = self.drawn_unit(normal, activation)
        self.directions, self.bias = normal(6, 5), normal(5)
        strengths = torch.rand(60, 6, generator=draw, dtype=torch.float64)
        strengths = strengths * (torch.rand(60, 6, generator=draw) < 0.5)
        strengths[:, 5] = 0
        strengths[30:, 0] = 0
        strengths[:30, 1] = 0
        self.codes = Codes.from_dense(strengths)
        self.i, self.j = torch.combinations(torch.arange(6)).unbind(1)

    def drawn_unit(self, normal: Callable[..., torch.Tensor], activation: str) -> MLP | GatedMLP:
        return MLP(W_in=normal(5, 7), b_in=normal(7), activation=activation, W_out=normal(7, 5), b_out=normal(5))

    @property
    def neurons(self) -> Neurons:
        return contributions(self.unit, self.directions, self.bias, "mlp")

    @property
    def plain(self) -> PlainNeurons:
        found = self.neurons
        assert isinstance(found, PlainNeurons)
        return found

    def scores(self, i: torch.Tensor, j: torch.Tensor) -> dict[str, torch.Tensor]:
        return pair_scores(self.codes, self.neurons, self.unit, self.directions, self.bias, i, j)


class GatedExample(Example):
    def drawn_unit(self, normal: Callable[..., torch.Tensor], activation: str) -> MLP | GatedMLP:
        return GatedMLP(
            W_gate=normal(5, 7),
            b_gate=normal(7),
            W_in=normal(5, 7),
            b_in=normal(7),
            activation=activation,
            W_out=normal(7, 5),
            b_out=normal(5),
        )

    @property
    def gated(self) -> GatedNeurons:
        found = self.neurons
        assert isinstance(found, GatedNeurons)
        return found


both_kinds = pytest.mark.parametrize("kind", [Example, GatedExample])


@both_kinds
def test_there_is_every_metric_and_every_baseline_and_all_are_finite(kind: type[Example]) -> None:
    example = kind()
    found = example.scores(example.i, example.j)
    assert list(found) == [*metrics_of(example.unit), *BASELINES]
    without = {"cross"} if kind is Example else {"mass", "mass, together", "potential, mass", "pair KL"}
    assert set(METRICS) - set(found) == without | ({"cross, together"} if kind is Example else set())
    assert all(bool(score.isfinite().all()) and score.dtype == torch.float64 for score in found.values())


@both_kinds
def test_no_score_depends_on_the_order_of_a_pair(kind: type[Example]) -> None:
    example = kind()
    found, swapped = example.scores(example.i, example.j), example.scores(example.j, example.i)
    assert all(torch.equal(found[name], swapped[name]) for name in found)


@both_kinds
def test_what_looks_at_tokens_with_both_gives_0_to_pairs_that_never_meet(kind: type[Example]) -> None:
    example = kind()
    found = example.scores(example.i, example.j)
    apart = (example.j == 5) | ((example.i == 0) & (example.j == 1))
    for name in (name for name in ON_TOKENS if name in found):
        assert (found[name] != 0).tolist() == (~apart).tolist(), name
    assert found["potential"][0] > 0
    assert found["hadamard, typical"][0] > 0


def test_directed_and_mass_add_up_what_happens_at_each_token() -> None:
    example = Example()
    neurons, dense = example.plain, example.codes.dense()
    weight = neurons.loudness / neurons.pre.n_neurons
    charged, cancelled = torch.zeros(6, 6, dtype=torch.float64), torch.zeros(6, 6, dtype=torch.float64)
    for strengths in dense:
        p = strengths[:, None] * neurons.pre.A
        for n in range(p.shape[1]):
            dominant = max(range(6), key=lambda f: float(p[f, n].abs()))
            for a in range(6):
                if a != dominant:
                    charged[dominant, a] += weight[n] * p[a, n].abs()
                for b in range(6):
                    if p[a, n] * p[b, n] < 0:
                        cancelled[a, b] += weight[n] * torch.minimum(p[a, n].abs(), p[b, n].abs())
    i, j = example.i, example.j
    found = example.scores(i, j)
    both = ((dense[:, i] > 0) & (dense[:, j] > 0)).sum(0)
    total = charged[i, j] + charged[j, i]
    torch.testing.assert_close(found["directed"], total / len(dense))
    torch.testing.assert_close(found["directed, together"], (total / both).nan_to_num(0))
    torch.testing.assert_close(found["mass"], cancelled[i, j] / len(dense))
    torch.testing.assert_close(found["mass, together"], (cancelled[i, j] / both).nan_to_num(0))
    torch.testing.assert_close(found["count"], both.double())


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["relu", "gelu", "silu"]), st.sampled_from([1e-8, 1.0, 1e8]))
def test_what_a_pair_would_do_alone_is_what_the_neurons_do(seed: int, activation: str, size: float) -> None:
    example = Example(seed, activation)
    neurons = example.plain
    strengths = typical_strengths(example.codes) * size
    φ, p, beta = neurons.activation.function, strengths[:, None] * neurons.pre.A, neurons.pre.beta
    weight = neurons.loudness / neurons.pre.n_neurons
    second, cancelled = second_difference(neurons, strengths, example.i, example.j), []
    for place, (a, b) in enumerate(zip(example.i.tolist(), example.j.tolist(), strict=True)):
        delta = φ(beta + p[a] + p[b]) - φ(beta + p[a]) - φ(beta + p[b]) + φ(beta)
        scale = float((p[a].abs() + p[b].abs() + beta.abs()).max())
        assert float(second[place]) == pytest.approx(float(delta.abs() @ weight), rel=1e-9, abs=1e-12 * scale)
        cancelled.append(float((torch.minimum(p[a].abs(), p[b].abs()) * (p[a] * p[b] < 0)) @ weight))
    assert cancellation(neurons, strengths, example.i, example.j).tolist() == pytest.approx(cancelled, rel=1e-12)


def test_potential_is_that_of_the_pairs_that_never_meet() -> None:
    example = Example()
    strengths, pairs = typical_strengths(example.codes), CoActive.of(example.codes)
    listed = potential([example.neurons], strengths, pairs)
    assert len(listed.i) == 1
    torch.testing.assert_close(second_difference(example.neurons, strengths, listed.i, listed.j), listed.exact[:, 0])
    torch.testing.assert_close(cancellation(example.plain, strengths, listed.i, listed.j), listed.mass[:, 0])


@both_kinds
def test_only_the_weights_alone_see_how_features_are_scaled(kind: type[Example]) -> None:
    example, other = kind(), kind()
    scale = torch.tensor([0.1, 3.0, 1.0, 7.0, 0.5, 2.0], dtype=torch.float64)
    other.codes = Codes.from_dense(example.codes.dense() * scale)
    other.directions = example.directions / scale[:, None]
    found, scaled = example.scores(example.i, example.j), other.scores(other.i, other.j)
    met = example.j < 5  # what never fires has no strength to make up for its direction
    for name in found:
        same = torch.allclose(found[name][met], scaled[name][met], rtol=1e-6, atol=1e-9)
        assert same == (name != "hadamard"), name


def test_what_takes_pairs_one_by_one_is_left_out_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    example = Example()
    monkeypatch.setattr(metrics, "MOST_KL_PAIRS", len(example.i) - 1)
    assert set(metrics_of(example.unit)) - set(example.scores(example.i, example.j)) == {"pair KL"}


@pytest.mark.parametrize(("i", "j"), [([0], [0]), ([0], [6]), ([-1], [2])])
def test_pairs_that_are_none_are_refused(i: list[int], j: list[int]) -> None:
    with pytest.raises(MismatchError, match="from 0 to 5"):
        Example().scores(torch.tensor(i), torch.tensor(j))


def test_an_affine_neuron_leaves_nothing_but_exact_zeros() -> None:
    example = Example()
    assert isinstance(example.unit, MLP)
    unit = replace(example.unit, b_in=example.unit.b_in + 1e4)
    neurons = contributions(unit, 1e3 * example.directions, example.bias)
    assert isinstance(neurons, PlainNeurons)
    strengths = typical_strengths(example.codes)
    p, beta = strengths[:, None] * neurons.pre.A, neurons.pre.beta
    a, b = p[example.i], p[example.j]
    assert bool(((beta + a + b) - (beta + a) - (beta + b) + beta).any()), "no rounding to look through"
    assert not second_difference(neurons, strengths, example.i, example.j).any()


# -- gated MLPs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_cross_adds_up_gate_times_value_at_each_token(activation: str) -> None:
    example = GatedExample(3, activation)
    neurons, dense = example.gated, example.codes.dense()
    weight = neurons.loudness / len(neurons.loudness)
    crossed = torch.zeros(6, 6, dtype=torch.float64)
    for strengths in dense:
        p, q = strengths[:, None] * neurons.gate.A, strengths[:, None] * neurons.value.A
        s = slope(p.sum(0) + neurons.gate.beta, neurons.activation)
        for a in range(6):
            for b in range(6):
                crossed[a, b] += (s * p[a] * q[b]).abs() @ weight
    i, j = example.i, example.j
    found, total = example.scores(i, j), crossed[i, j] + crossed[j, i]
    both = ((dense[:, i] > 0) & (dense[:, j] > 0)).sum(0)
    torch.testing.assert_close(found["cross"], total / len(dense))
    torch.testing.assert_close(found["cross, together"], (total / both).nan_to_num(0))


def test_hadamard_of_a_gated_mlp_is_that_of_both_orders() -> None:
    example = GatedExample()
    assert isinstance(example.unit, GatedMLP)
    found, reach = example.scores(example.i, example.j), example.directions + example.bias
    gate, value = reach @ example.unit.W_gate, reach @ example.unit.W_in
    for place, (a, b) in enumerate(zip(example.i.tolist(), example.j.tolist(), strict=True)):
        expected = (gate[a] * value[b]).norm() + (gate[b] * value[a]).norm()
        assert float(found["hadamard"][place]) == pytest.approx(float(expected), rel=1e-12)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from(["relu", "gelu", "silu"]), st.sampled_from([1e-8, 1.0, 1e8]))
def test_what_a_pair_would_do_alone_in_a_gated_mlp_is_what_its_neurons_do(
    seed: int, activation: str, size: float
) -> None:
    example = GatedExample(seed, activation)
    neurons = example.gated
    strengths = typical_strengths(example.codes) * size
    φ, weight = neurons.activation.function, neurons.loudness / len(neurons.loudness)
    p, q = strengths[:, None] * neurons.gate.A, strengths[:, None] * neurons.value.A

    def v(*features: int) -> torch.Tensor:
        C = list(features)
        return φ(neurons.gate.beta + p[C].sum(0)) * (neurons.value.beta + q[C].sum(0))

    found = second_difference(neurons, strengths, example.i, example.j)
    for place, (a, b) in enumerate(zip(example.i.tolist(), example.j.tolist(), strict=True)):
        delta = (v(a, b) - v(a) - v(b) + v()).abs()
        gate = p[a].abs() + p[b].abs() + neurons.gate.beta.abs()
        scale = float((gate * (q[a].abs() + q[b].abs() + neurons.value.beta.abs())).max())
        assert float(found[place]) == pytest.approx(float(delta @ weight), rel=1e-9, abs=1e-12 * scale)


def test_a_gate_that_is_held_open_leaves_nothing_but_exact_zeros() -> None:
    example = GatedExample()
    assert isinstance(example.unit, GatedMLP)
    closed = torch.zeros_like(example.unit.W_gate)
    unit = replace(example.unit, W_gate=closed, b_gate=torch.full((7,), 1.7, dtype=torch.float64))
    neurons = contributions(unit, example.directions, example.bias)
    assert isinstance(neurons, GatedNeurons)
    strengths = 1e3 * typical_strengths(example.codes)
    q, beta = strengths[:, None] * neurons.value.A, neurons.value.beta
    a, b = q[example.i], q[example.j]
    assert bool(((beta + a + b) - (beta + a) - (beta + b) + beta).any()), "no rounding to look through"
    assert not second_difference(neurons, strengths, example.i, example.j).any()
    found = pair_scores(example.codes, neurons, unit, example.directions, example.bias, example.i, example.j)
    assert not found["cross"].any()
    assert bool(found["directed"].any())
