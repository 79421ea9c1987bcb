"""Train a crosscoder, with a penalty on the interactions of its features if the config gives one a weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from crossproof.binding.bound import BoundMLP, bound_mlps
from crossproof.binding.bound_units import BoundAttention, BoundNorm, bound_attention, bound_norms
from crossproof.binding.config import PenalisedTrainConfig
from crossproof.binding.penalty_term import PenaltyTerm
from crossproof.crosscoder import train as unbound
from crossproof.crosscoder.config import TrainConfig
from crossproof.crosscoder.evaluate import Evaluation
from crossproof.crosscoder.losses import Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import MismatchError
from crossproof.interaction.attention.penalty import CONTEXT
from crossproof.subject.subject import Subject
from crossproof.units import Attention, Norm, Unit


def train(config: TrainConfig) -> Evaluation:
    """Train, save and evaluate a crosscoder; a run that was stopped goes on where it was, a finished one is read."""
    if not isinstance(config, PenalisedTrainConfig):
        config = PenalisedTrainConfig.model_validate(config.model_dump())
    return unbound.train(config, partial(_terms, config))


def _terms(config: PenalisedTrainConfig, subject: Subject, coder: Crosscoder) -> Sequence[Term]:
    if config.penalty.weight == 0:
        return ()
    bound: list[BoundMLP | BoundAttention | BoundNorm] = []
    if "mlp" in config.penalty.on:
        bound += bound_mlps(subject, coder)
    if "attention" in config.penalty.on:
        bound += _some("attention layer", Attention, bound_attention(subject, coder), subject, coder)
    if "norm" in config.penalty.on:
        bound += _some("norm", Norm, bound_norms(subject, coder), subject, coder)
    term = PenaltyTerm(
        config.penalty,
        [its.unit for its in bound],
        [its.site for its in bound],
        config.seed,
        subject.context or CONTEXT,
    )
    return [term.to(coder.W_dec.device)]


Bound = TypeVar("Bound", BoundAttention, BoundNorm)


def _some(
    what: str, kind: type[Unit], bound: tuple[Bound, ...], subject: Subject, coder: Crosscoder
) -> tuple[Bound, ...]:
    """The same, refused where there is none."""
    if not bound:
        read = ", ".join(dict.fromkeys(unit.input_site for unit in subject.units if isinstance(unit, kind)))
        raise MismatchError(
            f"penalty.on: this crosscoder has the sites {', '.join(coder.sites)}, and no {what} of {subject.name} "
            f"reads one of them: " + (f"they read {read}. Add these sites" if read else f"it has no {what}")
        )
    return bound
