"""Which site of a crosscoder feeds each attention layer and each norm of a subject, and heads as features reach them.

MLPs are in `bound.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crossproof.crosscoder.evaluate import check_fits
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.attention.heads import Heads, heads_of
from crossproof.subject.subject import Subject
from crossproof.units import MLP, Attention, GatedMLP, Norm, Unembedding


@dataclass(frozen=True, eq=False)
class BoundAttention:
    """An attention layer whose input a crosscoder reconstructs."""

    unit: Attention
    site: int
    """Where its input stands on the crosscoder's site axis."""

    @property
    def name(self) -> str:
        return self.unit.output_site if self.unit.layer is None else f"blocks.{self.unit.layer}.attn"


@dataclass(frozen=True, eq=False)
class BoundNorm:
    """A norm whose input a crosscoder reconstructs."""

    unit: Norm
    site: int
    """Where its input stands on the crosscoder's site axis."""
    feeds: tuple[MLP | GatedMLP | Attention | Unembedding, ...]
    """What reads its output: one unit, or attention and MLP where they work in parallel behind one norm."""

    @property
    def name(self) -> str:
        return self.unit.output_site.removesuffix(".hook_normalized")


def bound_attention(subject: Subject, coder: Crosscoder) -> tuple[BoundAttention, ...]:
    """Every attention layer whose input is one of the crosscoder's sites, in order of computation, or none."""
    check_fits(subject, coder)
    return tuple(
        BoundAttention(unit, coder.sites.index(unit.input_site))
        for unit in subject.units
        if isinstance(unit, Attention) and unit.input_site in coder.sites
    )


def bound_norms(subject: Subject, coder: Crosscoder) -> tuple[BoundNorm, ...]:
    """Every norm whose input is one of the crosscoder's sites, in order of computation; there may be none.

    The one before the unembedding is among them.
    """
    check_fits(subject, coder)
    norms = [unit for unit in subject.units if isinstance(unit, Norm) and unit.input_site in coder.sites]
    readers = [unit for unit in subject.units if not isinstance(unit, Norm)]
    return tuple(
        BoundNorm(
            norm,
            coder.sites.index(norm.input_site),
            tuple(unit for unit in readers if unit.input_site == norm.output_site),
        )
        for norm in norms
    )


def heads_in(subject: Subject, coder: Crosscoder, dtype: torch.dtype = torch.float32) -> list[Heads]:
    """The heads of these attention layers as the features reach them, without gradients, where the crosscoder is."""
    return [heads_at(coder, its, dtype) for its in bound_attention(subject, coder)]


def heads_at(coder: Crosscoder, bound: BoundAttention, dtype: torch.dtype = torch.float32) -> Heads:
    """Of one layer."""
    directions, bias = (
        coder.decoder.detach()[:, bound.site].to(dtype),
        coder.decoder_bias.detach()[bound.site].to(dtype),
    )
    return heads_of(bound.unit.to(dtype).to(directions.device), directions, bias, bound.name)
