"""Dominant of order q: the neuron is read as its q largest contributions. The paper's interpretation is q = 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.interaction.interpretations.base import Account, Block, Interpretation, PlainBlock, register


@register
@dataclass(frozen=True)
class Dominant(Interpretation):
    """Keeps the q largest |p|, ties to the lowest slot; in a gated MLP those of the gate and, apart, of the value.

    Parts are the kept contributions to the pre-activation, and value = φ(β + their sum); in a gated MLP `parts` are
    those of the gate and `value_parts` those of the value, and value = φ(g*) h* with the kept sums g* and h*.
    """

    q: int = 1

    name: ClassVar[str] = "dominant"
    gated: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.q < 1:
            raise CrossproofError(f"dominant: q is how many contributions a neuron keeps, at least 1, not {self.q}")

    def account(self, block: Block) -> Account:
        if isinstance(block, PlainBlock):
            parts = self._kept(block.p)
            return Account(block.activation.function(block.beta + parts.sum(1)), parts)
        gate, value = self._kept(block.p_gate), self._kept(block.p_value)
        output = block.activation.function(block.beta_gate + gate.sum(1)) * (block.beta_value + value.sum(1))
        return Account(output, gate, value)

    def certified(self, block: Block) -> Float[Tensor, "token neuron"]:
        """|φ(z) − φ(z*)| ≤ Lip |z − z*|, and |φ(g)h − φ(g*)h*| ≤ Lip |g − g*| |h| + |φ(g*)| |h − h*|.

        Each difference is at most the sum of the dropped magnitudes.
        """
        lipschitz = block.activation.lipschitz
        if isinstance(block, PlainBlock):
            return lipschitz * dropped(block.p, self.q)
        gate = block.activation.function(block.beta_gate + self._kept(block.p_gate).sum(1))
        of_gate = lipschitz * dropped(block.p_gate, self.q) * block.value().abs()
        return of_gate + gate.abs() * dropped(block.p_value, self.q)

    def penalised(self, block: Block) -> Float[Tensor, "token neuron"]:
        """Σ|p| − the q largest; of a gated MLP the same of gate and of value, summed."""
        if isinstance(block, PlainBlock):
            return dropped(block.p, self.q)
        return dropped(block.p_gate, self.q) + dropped(block.p_value, self.q)

    def _kept(self, p: Float[Tensor, "token slot neuron"]) -> Float[Tensor, "token slot neuron"]:
        return torch.where(largest(p, self.q), p, 0)


def dropped(p: Float[Tensor, "token slot neuron"], q: int) -> Float[Tensor, "token neuron"]:
    """Σ|p| − the q largest |p|."""
    # summed rather than subtracted from the total: exactly 0 where nothing is dropped, and right where little is
    return torch.where(largest(p, q), 0, p.abs()).sum(1)


def largest(p: Float[Tensor, "token slot neuron"], q: int) -> Bool[Tensor, "token slot neuron"]:
    """Which contributions to each neuron are the q largest in magnitude, ties to the lowest slot."""
    magnitude = p.detach().abs()
    n_slots = p.shape[1]
    if q >= n_slots:
        return torch.ones_like(p, dtype=torch.bool)
    kept = torch.zeros_like(p, dtype=torch.bool)
    # a maximum over slots numbered down to 1: much faster on CPUs than an argmax over this axis
    number = torch.arange(n_slots, 0, -1, dtype=torch.int16, device=p.device)[:, None]
    for _ in range(q):
        attained = torch.where(magnitude == magnitude.amax(1, keepdim=True), number, 1)
        first = n_slots - attained.amax(1, keepdim=True).long()
        kept.scatter_(1, first, True)
        magnitude.scatter_(1, first, -1.0)
    return kept
