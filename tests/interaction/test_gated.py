"""Own and cross terms of gated MLPs, and T5: ties, zero gates, one feature, none, huge and tiny magnitudes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import CHUNK, GatedNeurons, PlainNeurons, Table, chunks
from crossproof.interaction.gated import CrossSums, cross, gated_terms, slope
from crossproof.interaction.interpretations import Dominant, GatedBlock
from crossproof.interaction.interpretations.base import block_of
from crossproof.interaction.neurons import dominance
from crossproof.interaction.pairs import directed
from crossproof.units import ACTIVATIONS

# products of two of the smallest are no longer exact to a part of themselves
ORDINARY = st.floats(-3, 3).map(lambda x: x if abs(x) >= 1e-150 else 0.0)
NASTY = [0.0, 0.0, 0.0, 1.0, -1.0, 0.75, -0.75, 1e8, -1e8, 1e-8, -1e-8, 1e-300]
NAMES = ("relu", "gelu", "gelu_new", "silu")
TERMS = ("own", "cross", "gate_bias", "value_bias")


@st.composite
def gated_blocks(draw: st.DrawFn, slots: int = 6) -> GatedBlock:
    """Two tokens, of ordinary numbers, of nasty ones or of both; the whole gate may be closed."""
    n_slots, n_neurons = draw(st.integers(1, slots)), draw(st.integers(1, 3))
    number = draw(
        st.sampled_from(
            [
                ORDINARY,
                st.sampled_from(NASTY),
                ORDINARY | st.sampled_from(NASTY),
            ]
        )
    )

    def tensor(*shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        return torch.tensor(draw(st.lists(number, min_size=size, max_size=size)), dtype=torch.float64).reshape(shape)

    open_ = draw(st.sampled_from([0.0, 1.0, 1.0]))
    gate, beta = open_ * tensor(2, n_slots, n_neurons), open_ * tensor(n_neurons)
    activation = ACTIVATIONS[draw(st.sampled_from(NAMES))]
    return GatedBlock(gate, beta, tensor(2, n_slots, n_neurons), tensor(n_neurons), activation)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, GatedNeurons]:
    """Strengths of tokens × features and neurons: small integers times a power of 2, so that ties and zeros are common.

    Sums of them are exact in any order: a gate that cancels is 0, where the slope of ReLU jumps.
    """
    n_tokens, n_features, n_neurons = draw(st.integers(0, 5)), draw(st.integers(1, 6)), draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from((2.0**-27, 1.0, 2.0**27)))

    def whole(*shape: int, low: int = -2) -> Tensor:
        return torch.randint(low, 3, shape, generator=generator).double()

    strengths = whole(n_tokens, n_features).clamp(min=0) * draw(st.sampled_from((1.0, 0.25)))

    def table() -> Table:
        return Table(whole(n_features, n_neurons) * scale, whole(n_neurons))

    activation = ACTIVATIONS[draw(st.sampled_from(NAMES))]
    return strengths, GatedNeurons("gated", table(), table(), activation, whole(n_neurons, low=0))


def of_features(gate: dict[int, float], value: dict[int, float], bias: tuple[float, float] = (0.0, 0.0)) -> CrossSums:
    """One token with the features 0, 1 and 2 at strength 1, one ReLU neuron of loudness 1."""

    def table(reads: dict[int, float], beta: float) -> Table:
        A = torch.tensor([[reads.get(feature, 0.0)] for feature in range(3)], dtype=torch.float64)
        return Table(A, torch.tensor([beta], dtype=torch.float64))

    loudness = torch.ones(1, dtype=torch.float64)
    unit = GatedNeurons("one", table(gate, bias[0]), table(value, bias[1]), ACTIVATIONS["relu"], loudness)
    codes = Codes.from_dense(torch.ones(1, 3, dtype=torch.float64))
    return cross(codes, [unit], CoActive.of(codes))[0]


def found_in(sums: CrossSums) -> dict[str, list[float]]:
    """Totals, those of pairs in the order 01 02 10 12 20 21."""
    return {name: getattr(sums, name).total.tolist() for name in TERMS}


# -- at a token --------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=200)
@given(gated_blocks())
def test_the_terms_sum_to_what_the_neurons_put_out(block: GatedBlock) -> None:
    gap = (gated_terms(block).total() - block.output()).abs()
    assert (gap <= 1e-12 * block.magnitude()).all()


@settings(deadline=None, max_examples=100)
@given(gated_blocks())
def test_each_term_is_what_its_name_says(block: GatedBlock) -> None:
    terms, size = gated_terms(block), block.magnitude()
    slots = range(block.p_gate.shape[1])
    for t in range(2):
        for n in range(len(block.beta_gate)):
            p, q = block.p_gate[t, :, n].tolist(), block.p_value[t, :, n].tolist()
            b, c = float(block.beta_gate[n]), float(block.beta_value[n])
            g = block.gate()[t, n]
            s = float(block.activation.function(g) / g) if abs(g) > 1e-305 else 0.5
            expected = {
                "own": s * sum(p[i] * q[i] for i in slots),
                "cross": s * sum(p[i] * q[j] for i in slots for j in slots if i != j),
                "gate_bias": s * b * sum(q),
                "value_bias": s * c * sum(p),
                "background": s * b * c,
            }
            for name, value in expected.items():
                assert float(getattr(terms, name)[t, n]) == pytest.approx(value, rel=0, abs=1e-12 * float(size[t, n]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_slope_times_the_gate_is_the_activation_and_a_half_at_zero(name: str, dtype: torch.dtype) -> None:
    numbers = [0.0, -0.0, 1e-40, -1e-40, 1e-310, 1e-8, -1e-8, 1.0, -1.0, 30.0, -30.0, 1e8, -1e8]
    g, φ = torch.tensor(numbers, dtype=dtype), ACTIVATIONS[name].function
    s = slope(g, ACTIVATIONS[name])
    assert s.dtype == dtype
    assert bool(s.isfinite().all())
    assert s[:2].tolist() == [0.5, 0.5]
    eps = torch.finfo(dtype)
    assert ((s * g - φ(g)).abs() <= 4 * eps.eps * g.abs() + eps.tiny).all()


def test_what_the_own_term_is_far_above_does_not_round_the_cross_term_away() -> None:
    def row(*numbers: float) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[None, :, None]

    none = torch.zeros(1, dtype=torch.float64)
    block = GatedBlock(row(1.0, 0.0), none, row(1e8, 1e-9), none, ACTIVATIONS["relu"])
    assert gated_terms(block).cross.item() == 1e-9


# -- over tokens -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(cases())
def test_sums_over_tokens_are_those_of_plain_loops(case: tuple[Tensor, GatedNeurons]) -> None:
    strengths, unit = case
    n_tokens, n_features = strengths.shape
    n_neurons = len(unit.loudness)
    pair, each = torch.zeros(2, n_features, n_features).double(), torch.zeros(2, 2, n_features).double()
    for f in strengths:
        here, alone = torch.zeros(n_features, n_features).double(), torch.zeros(2, n_features).double()
        for n in range(n_neurons):
            p, q = (f * unit.gate.A[:, n]).tolist(), (f * unit.value.A[:, n]).tolist()
            g = sum(p) + unit.gate.beta[n]
            s = abs(float(slope(g, unit.activation))) * float(unit.loudness[n]) / n_neurons
            for i in range(n_features):
                for j in range(n_features):
                    here[i, j] += s * abs(p[i] * q[j])
                alone[0, i] += s * abs(float(unit.gate.beta[n]) * q[i])
                alone[1, i] += s * abs(p[i] * float(unit.value.beta[n]))
        pair += torch.stack([here, here**2])
        each += torch.stack([alone, alone**2])
    codes = Codes.from_dense(strengths)
    pairs = CoActive.of(codes)
    (found,) = cross(codes, [unit], pairs)
    expected = {
        "own": pair.diagonal(dim1=1, dim2=2),
        "cross": pair[:, pairs.i, pairs.j],
        "gate_bias": each[:, 0],
        "value_bias": each[:, 1],
    }
    for name, (total, squares) in expected.items():
        sums = getattr(found, name)
        assert sums.n_tokens == n_tokens
        assert torch.equal(sums.count, pairs.count if name == "cross" else pairs.firing)
        torch.testing.assert_close(sums.total, total, rtol=1e-12, atol=0)
        torch.testing.assert_close(sums.squares, squares, rtol=1e-12, atol=0)


def test_a_gate_that_a_bias_holds_open_interacts_with_nothing() -> None:
    assert found_in(of_features({}, {0: 1.0, 1: 2.0}, (3.0, 0.0))) == {
        "own": [0, 0, 0],
        "cross": [0] * 6,
        "gate_bias": [3, 6, 0],
        "value_bias": [0, 0, 0],
    }


def test_a_gate_times_a_bias_interacts_with_nothing() -> None:
    assert found_in(of_features({1: 2.0}, {}, (0.0, 5.0))) == {
        "own": [0, 0, 0],
        "cross": [0] * 6,
        "gate_bias": [0, 0, 0],
        "value_bias": [0, 10, 0],
    }


def test_a_feature_in_the_gate_and_another_in_the_value_cross_that_way_only() -> None:
    found = found_in(of_features({0: 2.0}, {2: -3.0}))
    assert found == {"own": [0, 0, 0], "cross": [0, 6, 0, 0, 0, 0], "gate_bias": [0] * 3, "value_bias": [0] * 3}


def test_a_feature_multiplied_by_itself_is_its_own_term_only() -> None:
    found = found_in(of_features({1: 2.0}, {1: -3.0}))
    assert found == {"own": [0, 6, 0], "cross": [0] * 6, "gate_bias": [0] * 3, "value_bias": [0] * 3}


def test_several_mlps_are_measured_apart_and_loudness_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = Codes.from_dense(torch.rand(9, 4, generator=generator).double())

    def table() -> Table:
        return Table(torch.randn(4, 5, generator=generator).double(), torch.randn(5, generator=generator).double())

    one = GatedNeurons("one", table(), table(), ACTIVATIONS["silu"], torch.ones(5).double())
    pairs = CoActive.of(codes)
    quiet, loud = cross(codes, [one, replace(one, loudness=3 * one.loudness)], pairs)
    for name in TERMS:
        torch.testing.assert_close(3 * getattr(quiet, name).total, getattr(loud, name).total)
    torch.testing.assert_close(quiet.cross.total, cross(codes, [one], pairs)[0].cross.total)


def test_plain_mlps_and_pairs_of_other_codes_are_refused_by_name() -> None:
    codes = Codes.from_dense(torch.ones(2, 3))
    table = Table(torch.ones(3, 1), torch.zeros(1))
    plain = PlainNeurons("blocks.7.mlp", table, ACTIVATIONS["relu"], torch.ones(1))
    with pytest.raises(UnsupportedModel, match=r"blocks\.7\.mlp: own and cross terms are those of gated MLPs"):
        cross(codes, [plain], CoActive.of(codes))
    gated = GatedNeurons("gated", table, table, ACTIVATIONS["relu"], torch.ones(1))
    with pytest.raises(MismatchError, match=r"CoActive\.of"):
        cross(codes, [gated], CoActive.of(Codes.from_dense(torch.ones(3, 3))))


# -- T5 ----------------------------------------------------------------------------------------------------------------


def slow_bound(block: GatedBlock, q: int, t: int, n: int) -> tuple[float, float]:
    """|φ(g)h − φ(g*)h*| and Lip |g − g*| |h| + |φ(g*)| |h − h*| of one neuron, from their definitions."""

    def number(x: float) -> Tensor:
        return torch.tensor(x, dtype=torch.float64)

    def sums(p: list[float], beta: float) -> tuple[float, float]:
        kept = sorted(range(len(p)), key=lambda slot: (-abs(p[slot]), slot))[:q]
        return beta + sum(p), beta + sum(p[slot] for slot in kept)

    g, g_kept = sums(block.p_gate[t, :, n].tolist(), float(block.beta_gate[n]))
    h, h_kept = sums(block.p_value[t, :, n].tolist(), float(block.beta_value[n]))
    φ = block.activation.function
    opened = float(φ(number(g_kept)))
    missed = abs(float(φ(number(g))) * h - opened * h_kept)
    return missed, block.activation.lipschitz * abs(g - g_kept) * abs(h) + abs(opened) * abs(h - h_kept)


@settings(deadline=None, max_examples=200)
@given(gated_blocks(), st.integers(1, 7))
def test_t5_bounds_what_dominant_misses_and_the_certified_size_is_no_smaller(block: GatedBlock, q: int) -> None:
    certified, residual = Dominant(q).certified(block), Dominant(q).residual(block).abs()
    for t in range(2):
        for n in range(len(block.beta_gate)):
            missed, t5 = slow_bound(block, q, t, n)
            rounding = 1e-13 * float(block.magnitude()[t, n]) + 1e-300
            assert missed <= t5 + rounding
            assert t5 <= float(certified[t, n]) + rounding
            assert float(residual[t, n]) == pytest.approx(missed, rel=0, abs=2 * rounding)


@settings(deadline=None, max_examples=60)
@given(cases())
def test_what_directed_charges_at_a_token_is_the_certified_size_of_t5(case: tuple[Tensor, GatedNeurons]) -> None:
    strengths, unit = case
    codes = Codes.from_dense(strengths)
    (found,) = dominance(codes, [unit])
    certified = torch.zeros(len(strengths), dtype=torch.float64)
    for chunk in chunks(codes, len(unit.loudness), CHUNK):
        certified[chunk.tokens] = Dominant().certified(block_of(chunk, unit)) @ unit.loudness
    torch.testing.assert_close(found.score, certified)
    charged = directed(codes, [unit], CoActive.of(codes))[0].total.sum() * len(unit.loudness)
    torch.testing.assert_close(charged, certified.sum())


def test_a_closed_gate_leaves_only_what_the_gate_itself_drops() -> None:
    def row(*numbers: float) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64)[None, :, None]

    none = torch.zeros(1, dtype=torch.float64)
    closed = GatedBlock(row(0.0, 0.0), none, row(5.0, 4.0), none, ACTIVATIONS["gelu"])
    assert Dominant().certified(closed).item() == Dominant().residual(closed).item() == 0
    tied = GatedBlock(row(1.0, -1.0), none, row(5.0, 4.0), none, ACTIVATIONS["relu"])  # g = 0, its dominant part is 1
    assert Dominant().residual(tied).item() == -5
    assert Dominant().certified(tied).item() == 1 * 9 + 1 * 4
