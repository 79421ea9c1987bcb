"""Hadamard norms and potentials against loops over pairs and neurons."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.interaction import weights as module
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, contributions
from crossproof.interaction.weights import SCORES, Potential, hadamard, hadamard_of_pairs, potential, typical_strengths
from crossproof.units import MLP, GatedMLP


def unit(gated: bool, activation: str, seed: int, d_model: int = 4, neurons: int = 5) -> MLP | GatedMLP:
    draw = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    rest = {"activation": activation, "W_out": random(neurons, d_model), "b_out": random(d_model)}
    one = {"W_in": random(d_model, neurons), "b_in": random(neurons)}
    if not gated:
        return MLP(**one, **rest)
    return GatedMLP(W_gate=random(d_model, neurons), b_gate=random(neurons), **one, **rest)


units = st.builds(unit, st.booleans(), st.sampled_from(["relu", "gelu", "gelu_new", "silu"]), st.integers(0, 10**6))
sizes = st.sampled_from([0.0, 1e-100, 1e-8, 1.0, 1e8, 1e100])


@settings(deadline=None, max_examples=60)
@given(units, st.lists(sizes, min_size=1, max_size=5), st.booleans(), st.booleans(), st.integers(0, 10**6))
def test_hadamard_is_the_norm_of_the_product_of_what_both_reach(
    mlp: MLP | GatedMLP, scale: list[float], with_bias: bool, with_strengths: bool, seed: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    d = (
        torch.randn(len(scale), 4, generator=draw, dtype=torch.float64)
        * torch.tensor(scale, dtype=torch.float64)[:, None]
    )
    bias = torch.randn(4, generator=draw, dtype=torch.float64) if with_bias else None
    strengths = torch.rand(len(scale), generator=draw) if with_strengths else None
    W_left = mlp.W_in if isinstance(mlp, MLP) else mlp.W_gate
    b = bias if bias is not None else torch.zeros(4, dtype=torch.float64)
    f = strengths.double() if strengths is not None else torch.ones(len(scale), dtype=torch.float64)
    expected = torch.zeros(len(scale), len(scale), dtype=torch.float64)
    for i in range(len(scale)):
        for j in range(len(scale)):
            product = ((f[i] * d[i] + b) @ W_left) * ((f[j] * d[j] + b) @ mlp.W_in)
            expected[i, j] = math.hypot(*product.tolist())
    found = hadamard(mlp, d, bias, strengths)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    i, j = torch.meshgrid(*[torch.arange(len(scale))] * 2, indexing="ij")
    of_pairs = hadamard_of_pairs(mlp, d, i.flatten(), j.flatten(), bias, strengths)
    torch.testing.assert_close(of_pairs, expected.flatten(), rtol=1e-10, atol=0)


def test_hadamard_of_single_precision_weights_is_computed_in_double() -> None:
    single, d = unit(False, "relu", 0).to(torch.float32), torch.randn(3, 4)
    torch.testing.assert_close(hadamard(single, d), hadamard(single.to(torch.float64), d.double()), rtol=1e-13, atol=0)


def test_strengths_make_hadamard_invariant_to_the_scale_of_features() -> None:
    mlp, d = unit(False, "relu", 0), torch.randn(3, 4, dtype=torch.float64)
    strengths, c = torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([0.1, 10.0, 4.0]).double()
    torch.testing.assert_close(hadamard(mlp, d, None, strengths), hadamard(mlp, d / c[:, None], None, strengths * c))
    assert not torch.allclose(hadamard(mlp, d), hadamard(mlp, d / c[:, None]))


def test_typical_strengths_are_means_over_active_tokens() -> None:
    pattern = Pattern(torch.tensor([0, 2, 0, 3]), torch.tensor([0, 2, 4, 4]), 4)
    codes = Codes(pattern, torch.tensor([1.0, 5.0, 2.0, 0.0]))
    assert typical_strengths(codes).tolist() == [1.5, 0.0, 5.0, 0.0]


# -- potential ---------------------------------------------------------------------------------------------------------


def by_hand(neurons: Neurons, f: Tensor, i: int, j: int) -> dict[str, float]:
    """One pair's three scores, neuron by neuron."""
    phi, N, found = neurons.activation.function, len(neurons.loudness), {"exact": 0.0, "directed": 0.0, "mass": 0.0}
    for n in range(N):
        w = float(neurons.loudness[n]) / N
        if isinstance(neurons, PlainNeurons):
            p, beta = [f[k] * neurons.pre.A[k, n] for k in (i, j)], neurons.pre.beta[n]
            v = [phi(beta), phi(beta + p[0]), phi(beta + p[1]), phi(beta + p[0] + p[1])]
            smaller = min(abs(float(x)) for x in p)
            found["directed"] += w * smaller
            found["mass"] += w * smaller if p[0] * p[1] < 0 else 0.0
        else:
            g, h = ([f[k] * table.A[k, n] for k in (i, j)] for table in (neurons.gate, neurons.value))
            on_g, on_h = neurons.gate.beta[n], neurons.value.beta[n]
            cases = [(0, 0), (1, 0), (0, 1), (1, 1)]
            v = [phi(on_g + a * g[0] + b * g[1]) * (on_h + a * h[0] + b * h[1]) for a, b in cases]
            dominant = g[0] if abs(g[0]) >= abs(g[1]) else g[1]
            to_gate = min(abs(x) for x in g) * neurons.activation.lipschitz * abs(on_h + h[0] + h[1])
            found["directed"] += w * float(to_gate + phi(on_g + dominant).abs() * min(abs(x) for x in h))
            found["mass"] = math.nan
        found["exact"] += w * abs(float(v[3] - v[1] - v[2] + v[0]))
    return found


@settings(deadline=None, max_examples=40)
@given(
    st.lists(units, min_size=1, max_size=2),
    st.sampled_from(SCORES),
    st.sampled_from([1e-3, 1.0, 1e8]),
    st.sampled_from([5, 2**17]),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_potential_ranks_every_pair_that_never_fires_together(
    mlps: list[MLP | GatedMLP], by: str, size: float, held: int, top: int, seed: int
) -> None:
    if by == "mass" and any(isinstance(mlp, GatedMLP) for mlp in mlps):
        by = "exact"
    draw = torch.Generator().manual_seed(seed)
    directions = torch.randn(6, 4, generator=draw, dtype=torch.float64) * size
    directions[1] = directions[0]  # ties
    codes = Codes.from_dense(torch.rand(5, 6, generator=draw) * (torch.rand(5, 6, generator=draw) < 0.3))
    neurons = [contributions(mlp, directions, name=str(n)) for n, mlp in enumerate(mlps)]
    strengths, active = typical_strengths(codes), codes.dense() > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HELD", held)
        found = potential(neurons, strengths, CoActive.of(codes), by, top)  # type: ignore[arg-type]
    never = [
        (i, j)
        for i, j in combinations(range(6), 2)
        if active[:, i].any() and active[:, j].any() and not (active[:, i] & active[:, j]).any()
    ]
    assert found.n_pairs == len(never)
    scores = {(i, j): [by_hand(one, strengths, i, j) for one in neurons] for i, j in never}
    total = {pair: sum(each[by] for each in of_units) for pair, of_units in scores.items()}
    listed = list(zip(found.i.tolist(), found.j.tolist(), strict=True))
    assert len(set(listed)) == len(listed) <= top
    noise = 1e-12 * (1 + size) ** 2 if by == "exact" else 0.0  # of a difference of outputs of about this size
    assert len(listed) >= min(top, len([pair for pair in never if total[pair] > noise]))
    assert by == "exact" or all(total[pair] > 0 for pair in listed)
    for n, pair in enumerate(listed):
        for score in SCORES:
            expected = torch.tensor([each[score] for each in scores[pair]], dtype=torch.float64)
            got = getattr(found, score)[n]
            atol = 1e-13 * (1 + size) ** 2 if score == "exact" else 0.0
            torch.testing.assert_close(got, expected, rtol=1e-10, atol=atol, equal_nan=True)
    ranking = [total[pair] for pair in listed]
    assert all(a >= b * (1 - 1e-9) - noise for a, b in pairwise(ranking))
    best_left_out = max((total[pair] for pair in never if pair not in listed), default=0.0)
    assert len(listed) < top or best_left_out <= ranking[-1] * (1 + 1e-9) + noise


def never_together(n_features: int) -> CoActive:
    return CoActive.of(Codes.from_dense(torch.eye(n_features)))


def relu_neurons(A: list[list[float]], beta: list[float]) -> Neurons:
    """One row of A per feature."""
    n = len(beta)
    mlp = MLP(
        W_in=torch.eye(n, dtype=torch.float64),
        b_in=torch.tensor(beta).double(),
        activation="relu",
        W_out=torch.eye(n, dtype=torch.float64),
        b_out=torch.zeros(n, dtype=torch.float64),
    )
    return contributions(mlp, torch.tensor(A, dtype=torch.float64))


def score(neurons: Neurons, by: str) -> Potential:
    n_features = (neurons.gate if isinstance(neurons, GatedNeurons) else neurons.pre).n_features
    return potential([neurons], torch.ones(n_features), never_together(n_features), by)  # type: ignore[arg-type]


def test_only_the_exact_potential_sees_an_and_through_the_bias() -> None:
    found = score(relu_neurons([[0.75], [0.75]], [-1.0]), "exact")
    assert float(found.exact) == 0.5
    assert float(found.mass) == 0.0
    assert float(found.directed) == 0.75
    assert "0 × 1: 0.5" in repr(found)


@pytest.mark.parametrize("beta", [0.3, 1e8])
def test_pairs_that_add_up_score_nothing_and_are_not_listed(beta: float) -> None:
    apart = relu_neurons([[0.1, 0.0], [0.0, -0.7]], [beta, beta])
    assert len(score(apart, "exact").i) == 0
    same_sign = relu_neurons([[0.1], [0.7]], [beta])
    assert len(score(same_sign, "exact").i) == 0
    assert len(score(same_sign, "mass").i) == 0


def test_tiny_contributions_beside_a_huge_bias_keep_their_mass_and_magnitude() -> None:
    neurons = relu_neurons([[1e-12], [-3e-12]], [1e8])
    assert float(score(neurons, "mass").mass) == 1e-12
    assert float(score(neurons, "directed").directed) == 1e-12


def test_ties_go_to_the_lowest_pair() -> None:
    neurons = relu_neurons([[0.75]] * 5, [-1.0])
    found = potential([neurons], torch.ones(5), never_together(5), top=3)
    assert list(zip(found.i.tolist(), found.j.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3)]


def test_bad_input_is_refused() -> None:
    plain, gated = (
        contributions(unit(g, "relu", 0), torch.eye(4, dtype=torch.float64), name="m") for g in (False, True)
    )
    ones, pairs = torch.ones(4), never_together(4)
    with pytest.raises(UnsupportedModel, match="rank by exact or directed"):
        potential([plain, gated], ones, pairs, "mass")
    with pytest.raises(CrossproofError, match="no score 'ratio'"):
        module._check([plain], ones, pairs, "ratio", 1)
    with pytest.raises(CrossproofError, match="at least 1"):
        potential([plain], ones, pairs, top=0)
    with pytest.raises(CrossproofError, match="at least one MLP"):
        potential([], ones, pairs)
    with pytest.raises(MismatchError, match="different dictionaries"):
        potential([plain], torch.ones(5), never_together(5))
    with pytest.raises(MismatchError, match="one for each of 4 features"):
        potential([plain], torch.ones(3), pairs)
    with pytest.raises(MismatchError, match="as many i as j"):
        hadamard_of_pairs(unit(False, "relu", 0), torch.eye(4).double(), torch.tensor([0]), torch.tensor([4]))
