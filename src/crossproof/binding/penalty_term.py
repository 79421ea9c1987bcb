"""The interaction penalty, or its control, as a term of our trainer's objective."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.binding.config import PenaltyConfig
from crossproof.crosscoder.losses import Batch, Reconstruction, ramp
from crossproof.interaction.attention.penalty import CONTEXT, AttentionPenalty
from crossproof.interaction.controls import Control, Matched
from crossproof.interaction.norm_penalty import NormPenalty
from crossproof.interaction.output_penalty import ALL, OutputPenalty
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.units import MLP, Attention, GatedMLP, Norm


class PenaltyTerm(nn.Module):
    """The penalty of some units, each fed by a site of the crosscoder, with gradients to decoder and encoder.

    Each kind of unit that `config.on` names has a penalty of its own; the term is their mean. As an `nn.Module` it has
    its state in checkpoints: the counts of draws and the denominators.
    """

    name = "penalty"

    def __init__(
        self,
        config: PenaltyConfig,
        units: Sequence[MLP | GatedMLP | Attention | Norm],
        sites: Sequence[int],
        seed: int = 0,
        context: int = CONTEXT,
    ) -> None:
        """`sites` holds, for each unit, the index of its input on the crosscoder's site axis.

        Units must be of the kinds that `config.on` names, and of each of them. `context` is how many positions texts
        have.
        """
        super().__init__()
        self.config = config
        self.penalty: InteractionPenalty | Matched | None = None
        self.output: OutputPenalty | None = None
        self.attention: AttentionPenalty | None = None
        self.norm: NormPenalty | None = None
        bound = list(zip(units, sites, strict=True))
        mlps = [(unit, site) for unit, site in bound if isinstance(unit, MLP | GatedMLP)]
        attention = [(unit, site) for unit, site in bound if isinstance(unit, Attention)]
        norms = [(unit, site) for unit, site in bound if isinstance(unit, Norm)]
        self.mlp_sites, self.attention_sites, self.norm_sites = (
            [site for _, site in its] for its in (mlps, attention, norms)
        )
        its = [unit for unit, _ in mlps]
        if "mlp" in config.on and config.form == "output":
            self.output = OutputPenalty(its, ALL if config.control == "output" else config.q)
        elif "mlp" in config.on:
            penalty = InteractionPenalty(
                its, config.form, config.q, config.scaling, config.weighted, config.neurons, seed
            )
            self.penalty = penalty if config.control == "none" else Matched(penalty, Control(config.control, its))
        if "attention" in config.on:
            layers = [unit for unit, _ in attention]
            self.attention = AttentionPenalty(layers, config.q, config.scaling, seed=seed, context=context)
        if "norm" in config.on:
            self.norm = NormPenalty([unit for unit, _ in norms], config.scaling)
        self.reads = tuple(sites)

    @property
    def settings(self) -> dict[str, Any]:
        """What a resumed run must have too."""
        settings = self.config.model_dump(mode="json")
        # checkpoints from before there was a choice do not name it
        return settings | {"on": None if self.config.on == ("mlp",) else settings["on"]}

    def forward(self, batch: Batch) -> Float[Tensor, ""]:
        coder, scales = batch.coder, batch.coder.scale
        b_dec = coder.b_dec.unflatten(0, (len(coder.sites), coder.config.width))
        codes, values = batch.encoding.codes, []

        def directions(sites: Sequence[int]) -> list[Tensor]:
            return [batch.written[site] / scales[site] for site in sites]

        def biases(sites: Sequence[int]) -> list[Tensor]:
            return [b_dec[site] / scales[site] for site in sites]

        if self.penalty is not None:
            arguments: list[Any] = [codes, directions(self.mlp_sites), biases(self.mlp_sites)]
            if isinstance(self.penalty, Matched):
                arguments.append(Reconstruction()(batch) if self.config.control == "reconstruction" else None)
            values.append(self.penalty(*arguments))
        if self.output is not None:
            inputs = [batch.x.unflatten(1, b_dec.shape)[:, site] / scales[site] for site in self.mlp_sites]
            values.append(self.output(codes, directions(self.mlp_sites), inputs, biases(self.mlp_sites)))
        if self.attention is not None:
            values.append(self.attention(codes, directions(self.attention_sites)))
        if self.norm is not None:
            values.append(self.norm(codes, directions(self.norm_sites), biases(self.norm_sites)))
        # of a single one, the very number: runs that were begun before there were several go on with the same bits
        value = values[0] if len(values) == 1 else torch.stack(values).mean()
        return self.config.weight * ramp(batch.progress, self.config.warmup) * value
