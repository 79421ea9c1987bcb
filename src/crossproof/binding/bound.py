"""Which site of a crosscoder feeds each MLP of a subject, and what the features contribute to its neurons."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import part
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import Neurons, contributions
from crossproof.subject.subject import Subject
from crossproof.units import MLP, GatedMLP


@dataclass(frozen=True, eq=False)
class BoundMLP:
    """An MLP whose input a crosscoder reconstructs."""

    unit: MLP | GatedMLP
    site: int
    """Where its input stands on the crosscoder's site axis."""

    @property
    def name(self) -> str:
        return self.unit.output_site if self.unit.layer is None else f"blocks.{self.unit.layer}.mlp"


def bound_mlps(subject: Subject, coder: Crosscoder) -> tuple[BoundMLP, ...]:
    """Every MLP whose input is one of the crosscoder's sites in this model, in order of computation.

    The crosscoder may read other models too: their neurons and this one's are reached by the same codes.
    """
    sites = part(subject, coder).at
    mlps = [unit for unit in subject.units if isinstance(unit, MLP | GatedMLP)]
    bound = tuple(BoundMLP(unit, sites[unit.input_site]) for unit in mlps if unit.input_site in sites)
    if not bound:
        read = ", ".join(unit.input_site for unit in mlps)
        raise MismatchError(
            f"this crosscoder has the sites {', '.join(sites)}, and no MLP of {subject.name} reads one of them: "
            + (f"they read {read}. Train a crosscoder that has these sites" if mlps else "it has no MLP")
        )
    return bound


def neurons_of(subject: Subject, coder: Crosscoder, dtype: torch.dtype = torch.float32) -> list[Neurons]:
    """The neurons of these MLPs as the features reach them, without gradients, where the crosscoder is."""
    device = coder.W_dec.device
    directions, biases = coder.decoder.detach().to(dtype), coder.decoder_bias.detach().to(dtype)
    return [
        contributions(mlp.unit.to(dtype).to(device), directions[:, mlp.site], biases[mlp.site], mlp.name)
        for mlp in bound_mlps(subject, coder)
    ]
