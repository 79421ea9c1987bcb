"""The interaction penalty, or its control, as a term of our trainer's objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        self.reads = tuple(sites)

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must have too."""
        return self.config.model_dump(mode="json")

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        coder, scales = batch.coder, batch.coder.scale
        b_dec = coder.b_dec.unflatten(0, (len(coder.sites), coder.config.width))
        arguments: list[Any] = [
            batch.encoding.codes,
            [batch.written[site] / scales[site] for site in self.reads],
            [b_dec[site] / scales[site] for site in self.reads],
        ]
        if isinstance(self.penalty, Matched):
            arguments.append(Reconstruction()(batch) if self.config.control == "reconstruction" else None)
        value: Tensor = self.penalty(*arguments)
        return self.config.weight * ramp(batch.progress, self.config.warmup) * value
