"""Additive: the neuron is read as its background plus what each feature does to it alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from crossproof.interaction.interpretations.base import (
    Account,
    Block,
    Interpretation,
    PlainBlock,
    register,
    slope_range,
)
from crossproof.interaction.interpretations.dominant import dropped


@register
@dataclass(frozen=True)
class Additive(Interpretation):
    """With v(C) the neuron's output when only the features of C are on, G = v(∅) + Σ_i [v({i}) − v(∅)].

    Parts are v({i}) − v(∅), and background + their sum = value, the background being v(∅): φ(β), of a gated MLP
    φ(β_g) β_h. The residual is the total of all interactions of order two and more.
    """

    name: ClassVar[str] = "additive"
    gated: ClassVar[bool] = True

    def account(self, block: Block) -> Account:
        φ = block.activation.function
        if isinstance(block, PlainBlock):
            background = φ(block.beta)
            parts = φ(block.beta + block.p) - background
        else:
            background = φ(block.beta_gate) * block.beta_value
            parts = φ(block.beta_gate + block.p_gate) * (block.beta_value + block.p_value) - background
        return Account(background + parts.sum(1), parts)

    def certified(self, block: Block) -> Float[Tensor, "token neuron"]:
        """Plain: (2 Lip − 1) (Σ|p| − max|p|). Gated: that of the gate times |h|, and Lip Σ_i |p^g_i| |Σ_{k≠i} p^h_k|.

        Plain. Turn the features on one by one; s is the sum of those already on. The step φ(β + s + p_i) − φ(β + s) is
        the mean slope over an interval of length |p_i|, times p_i; so is φ(β + p_i) − φ(β). Slopes lie in
        [1 − Lip, Lip], so the two differ by at most |p_i| (2 Lip − 1), and not at all for the first, where s = 0: put
        the largest first.

        Gated, with φ_0 = φ(β_g), φ_i = φ(β_g + p^g_i): v({i}) − v(∅) = (φ_i − φ_0)(β_h + p^h_i) + φ_0 p^h_i and
        v(N) − v(∅) = (φ(g) − φ_0) h + φ_0 Σ_i p^h_i. The terms with φ_0 alone cancel, and the rest is

            r = [φ(g) − φ_0 − Σ_i (φ_i − φ_0)] h + Σ_i (φ_i − φ_0) (h − β_h − p^h_i),

        the gate's own additive residual times h, and what a feature in the gate does to the others in the value.
        """
        lipschitz, apart = block.activation.lipschitz, slope_range(block.activation)
        if isinstance(block, PlainBlock):
            return apart * dropped(block.p, 1)
        others = block.p_value.sum(1, keepdim=True) - block.p_value
        crossed = lipschitz * (block.p_gate * others).abs().sum(1)
        return apart * dropped(block.p_gate, 1) * block.value().abs() + crossed

    def penalised(self, block: Block) -> Float[Tensor, "token neuron"]:
        """|r|."""
        return self.residual(block).abs()
