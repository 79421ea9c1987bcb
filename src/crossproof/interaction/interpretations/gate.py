"""Gate: where the sign of a pre-activation is certain, ReLU is linear and nothing interacts; elsewhere, mass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.interpretations.base import Account, Block, Interpretation, PlainBlock, register
from crossproof.interaction.interpretations.mass import Mass, smaller_mass


@register
@dataclass(frozen=True, eq=False)
class Gate(Interpretation):
    """Where |z| > margin, G = gate · (β + Σ_i p_i), with the gate 1 or 0 by the sign of z; elsewhere the mass account.

    The margin is larger than every error that z may have, of reconstruction and of rounding. Parts are gate · p_i where
    the sign is certain, and relu(p_i) elsewhere; background + their sum = value, the background being gate · β or
    relu(β).
    """

    margin: float | Float[Tensor, " neuron"]

    name: ClassVar[str] = "gate"

    def __post_init__(self) -> None:
        margin = torch.as_tensor(self.margin)
        if not bool((margin >= 0).all()):
            raise CrossproofError(f"gate: a margin is the size of an error, 0 or more, not {float(margin.min()):.3g}")

    def certain(self, block: PlainBlock) -> Bool[Tensor, "token neuron"]:
        """Where no error within the margin can change the sign of z."""
        if isinstance(self.margin, Tensor) and self.margin.shape != block.beta.shape:
            raise MismatchError(
                f"gate: margins of shape {tuple(self.margin.shape)} for {len(block.beta)} neurons; give one for all or "
                "one for each"
            )
        return block.pre().abs() > self.margin

    def account(self, block: Block) -> Account:
        block = self.only_plain(block)
        z, certain, mass = block.pre(), self.certain(block), Mass().account(block)
        on = z > 0
        parts = torch.where(certain[:, None], torch.where(on[:, None], block.p, 0), mass.parts)
        return Account(torch.where(certain, torch.where(on, z, 0), mass.value), parts)

    def certified(self, block: Block) -> Float[Tensor, "token neuron"]:
        return self.penalised(block) + block.activation.relu_gap

    def penalised(self, block: Block) -> Float[Tensor, "token neuron"]:
        """min(P⁺, P⁻) where the sign is uncertain, 0 where it is certain."""
        block = self.only_plain(block)
        return torch.where(self.certain(block), 0, smaller_mass(block))
