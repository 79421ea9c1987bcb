"""Own and cross terms of gated MLPs (MATHS §3).

Every activation here is φ(g) = s g, with s = φ(g)/g. At a token s is a number, so that a neuron φ(g) h is a product of
two sums and falls apart exactly:

    s (β_g + Σ_i p^g_i) (β_h + Σ_j p^h_j) = Σ_i s p^g_i p^h_i        own: a feature multiplied by itself
                                          + Σ_{i≠j} s p^g_i p^h_j    cross: i in the gate, j in the value
                                          + s β_g Σ_j p^h_j + s β_h Σ_i p^g_i    one feature and a bias
                                          + s β_g β_h                background

What a feature does to s itself is not in these terms: s is that of the token as it is. At g = 0, where φ(g)/g is not
defined, s is 1/2, the mean of its limits from both sides; all terms together are 0 there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from crossproof.codes import Codes
from crossproof.errors import UnsupportedModel
from crossproof.interaction.coactive import CoActive, PairSums, Summing
from crossproof.interaction.contributions import Chunk, GatedNeurons, Neurons, chunks
from crossproof.interaction.interpretations.base import GatedBlock
from crossproof.interaction.neurons import most_neurons, prepared
from crossproof.progress import progress
from crossproof.units import Activation


@dataclass(frozen=True, eq=False)
class GatedTerms:
    """What the neurons of a gated MLP put out, by what is multiplied with what. The five sum to the output."""

    own: Float[Tensor, "token neuron"]
    """Σ_i s p^g_i p^h_i."""
    cross: Float[Tensor, "token neuron"]
    """Σ_{i≠j} s p^g_i p^h_j."""
    gate_bias: Float[Tensor, "token neuron"]
    """s β_g Σ_j p^h_j: features in the value, opened by the gate's bias."""
    value_bias: Float[Tensor, "token neuron"]
    """s β_h Σ_i p^g_i: features in the gate, let through to the value's bias."""
    background: Float[Tensor, "token neuron"]
    """s β_g β_h: no feature's own, though the features make s."""

    def total(self) -> Float[Tensor, "token neuron"]:
        return self.own + self.cross + self.gate_bias + self.value_bias + self.background


def gated_terms(block: GatedBlock) -> GatedTerms:
    """At each token of a block (`block_of(chunk, neurons)`)."""
    s, p, q = slope(block.gate(), block.activation), block.p_gate, block.p_value
    # summed without i rather than less i, which would round away others far below it
    before, after = F.pad(q[:, :-1].cumsum(1), (0, 0, 1, 0)), F.pad(q[:, 1:].flip(1).cumsum(1).flip(1), (0, 0, 0, 1))
    return GatedTerms(
        own=s * (p * q).sum(1),
        cross=s * (p * (before + after)).sum(1),
        gate_bias=s * block.beta_gate * q.sum(1),
        value_bias=s * p.sum(1) * block.beta_value,
        background=s * block.beta_gate * block.beta_value,
    )


def slope(g: Float[Tensor, "*any"], activation: Activation) -> Float[Tensor, "*any"]:
    """φ(g)/g, and 1/2 at 0."""
    # a number below the smallest normal one has lost its digits, and its quotient with it
    tiny = g.abs() < torch.finfo(g.dtype).tiny
    return torch.where(tiny, 0.5, activation.function(g) / torch.where(tiny, 1, g))


@dataclass(frozen=True, eq=False)
class CrossSums:
    """Sums over tokens of Σ_n (w_n / N) |term|, for each term of one gated MLP that holds a feature."""

    cross: PairSums
    """i in the gate, j in the value: directed, on the axis of pairs."""
    own: PairSums
    """A feature in both; on the axis of features, as the next two."""
    gate_bias: PairSums
    """β_g and a feature in the value."""
    value_bias: PairSums
    """A feature in the gate and β_h."""
    score: Float64[Tensor, " token"]
    """The cross terms of each token, its pairs summed."""


def cross(codes: Codes, units: Sequence[Neurons], pairs: CoActive) -> list[CrossSums]:
    """Of each of these gated MLPs; magnitudes are summed over neurons, so that nothing cancels between them."""
    codes, units = prepared(codes, units)
    pairs.check(codes)
    gated = [_gated(unit) for unit in units]
    sums = [_Sums(pairs, unit) for unit in gated]
    with progress("cross terms", codes.pattern.n_rows, "tokens") as bar:
        for chunk in chunks(codes, most_neurons(units)):
            for its in sums:
                its.add(chunk)
            bar(len(chunk.tokens))
    return [its.result() for its in sums]


def _gated(unit: Neurons) -> GatedNeurons:
    if not isinstance(unit, GatedNeurons):
        raise UnsupportedModel(
            f"{unit.name}: own and cross terms are those of gated MLPs, and this one is plain; use directed, mass or "
            "ratio"
        )
    return unit


class _Sums:
    """A unit's sums in the making."""

    def __init__(self, pairs: CoActive, unit: GatedNeurons) -> None:
        self.pairs, self.unit, device = pairs, unit, unit.loudness.device
        self.cross = Summing(len(pairs), device)
        self.own, self.gate_bias, self.value_bias = (Summing(pairs.n_features, device) for _ in range(3))
        self.score = torch.zeros(pairs.n_tokens, dtype=torch.float64, device=device)

    def add(self, chunk: Chunk) -> None:
        gate, value, weight = _factors(chunk, self.unit)
        between = gate @ value.mT
        self.own.add(chunk.features, between.diagonal(dim1=1, dim2=2))
        between.diagonal(dim1=1, dim2=2).zero_()
        self.cross.add(self.pairs.in_chunk(chunk), between)
        self.score[chunk.tokens] = between.double().sum((1, 2))
        beta_gate, beta_value = self.unit.gate.beta, self.unit.value.beta
        self.gate_bias.add(chunk.features, (value @ (weight * beta_gate.abs())[:, :, None])[..., 0])
        self.value_bias.add(chunk.features, gate @ beta_value.abs())

    def result(self) -> CrossSums:
        pairs = self.pairs

        def of_features(its: Summing) -> PairSums:
            return its.result(pairs.firing, pairs.n_tokens)

        return CrossSums(
            self.cross.result(pairs.count, pairs.n_tokens),
            of_features(self.own),
            of_features(self.gate_bias),
            of_features(self.value_bias),
            self.score,
        )


def cross_at(chunk: Chunk, unit: GatedNeurons) -> Float[Tensor, "token slot slot"]:
    """Σ_n (w_n / N) |s p^g_ni p^h_nj|: i in the gate, j in the value; 0 where they are one feature."""
    gate, value, _ = _factors(chunk, unit)
    between = gate @ value.mT
    between.diagonal(dim1=1, dim2=2).zero_()
    return between


def _factors(
    chunk: Chunk, unit: GatedNeurons
) -> tuple[Float[Tensor, "token slot neuron"], Float[Tensor, "token slot neuron"], Float[Tensor, "token neuron"]]:
    """(w_n / N) |s p^g|, |p^h|, and (w_n / N) |s|."""
    gate, value = chunk.contributions(unit.gate.A), chunk.contributions(unit.value.A)
    s = slope(gate.sum(1) + unit.gate.beta, unit.activation)
    weight = s.abs_().mul_(unit.loudness / len(unit.loudness))
    return gate.abs_().mul_(weight[:, None]), value.abs_(), weight
