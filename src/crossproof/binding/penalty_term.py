"""The interaction penalty, or its control, as a term of our trainer's objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.binding.config import PenaltyConfig
from crossproof.crosscoder.losses import Batch, Reconstruction, ramp
from crossproof.interaction.controls import Control, Matched
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.units import MLP, GatedMLP


class PenaltyTerm(nn.Module):
    """The penalty of some MLPs, each fed by a site of the crosscoder, with gradients to decoder and encoder.

    As an `nn.Module` it has its state in checkpoints: the count of draws and the denominators.
    """

    name = "penalty"

    def __init__(
        self, config: PenaltyConfig, units: Sequence[MLP | GatedMLP], sites: Sequence[int], seed: int = 0
    ) -> None:
        """`sites` holds, for each unit, the index of its input on the crosscoder's site axis."""
        super().__init__()
        self.config = config
        penalty = InteractionPenalty(
            units, config.form, config.q, config.scaling, config.weighted, config.neurons, seed
        )
        self.penalty = penalty if config.control == "none" else Matched(penalty, Control(config.control, units))
        self.sites: Tensor
        self.register_buffer("sites", torch.tensor(sites, device=units[0].W_in.device), persistent=False)

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must have too."""
        return self.config.model_dump(mode="json")

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        coder = batch.coder
        by_site = (len(coder.sites), coder.config.width)
        scale = coder.scale[self.sites][:, None]
        # One selection of all sites: one for each would make as many gradients of the size of W_dec.
        directions = coder.W_dec.unflatten(1, by_site).index_select(1, self.sites) / scale
        biases = coder.b_dec.unflatten(0, by_site).index_select(0, self.sites) / scale
        arguments: list[Any] = [batch.encoding.codes, directions.unbind(1), biases.unbind(0)]
        if isinstance(self.penalty, Matched):
            arguments.append(Reconstruction()(batch) if self.config.control == "reconstruction" else None)
        value: Tensor = self.penalty(*arguments)
        return self.config.weight * ramp(batch.progress, self.config.warmup) * value
