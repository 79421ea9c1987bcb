"""Mass: the neuron is read as its positive contributions; what the negative ones take away is interaction. For ReLU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.interaction.interpretations.base import Account, Block, Interpretation, PlainBlock, register


@register
@dataclass(frozen=True)
class Mass(Interpretation):
    """The bias is one more player: G = relu(β) + Σ_i relu(p_i), and for ReLU r = −min(P⁺, P⁻) exactly.

    Parts are relu(p_i), and background + their sum = value, the background being relu(β). The account is the same for
    other activations: they stay within `relu_gap` of ReLU.
    """

    name: ClassVar[str] = "mass"

    def account(self, block: Block) -> Account:
        block = self.only_plain(block)
        parts = block.p.relu()
        return Account(block.beta.relu() + parts.sum(1), parts)

    def certified(self, block: Block) -> Float[Tensor, "token neuron"]:
        return self.penalised(block) + block.activation.relu_gap

    def penalised(self, block: Block) -> Float[Tensor, "token neuron"]:
        """min(P⁺, P⁻)."""
        return smaller_mass(self.only_plain(block))


def smaller_mass(block: PlainBlock) -> Float[Tensor, "token neuron"]:
    """min(P⁺, P⁻), the bias among the players.

    Two sums of one sign each, so that no digits cancel as they would in (Σ|p| + |β| − |z|) / 2.
    """
    positive = block.beta.relu() + block.p.relu().sum(1)
    negative = (-block.beta).relu() + (-block.p).relu().sum(1)
    return torch.minimum(positive, negative)
