"""Train a crosscoder, with a penalty on the interactions of its features if the config gives one a weight."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from crossproof.binding.bound import bound_mlps
from crossproof.binding.config import PenalisedTrainConfig
from crossproof.binding.penalty_term import PenaltyTerm
from crossproof.crosscoder import train as unbound
from crossproof.crosscoder.config import TrainConfig
from crossproof.crosscoder.evaluate import Evaluation
from crossproof.crosscoder.losses import Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.subject.subject import Subject


def train(config: TrainConfig) -> Evaluation:
    """Train, save and evaluate a crosscoder; a run that was stopped goes on where it was, a finished one is read."""
    if not isinstance(config, PenalisedTrainConfig):
        config = PenalisedTrainConfig.model_validate(config.model_dump())
    return unbound.train(config, partial(_terms, config))


def _terms(config: PenalisedTrainConfig, subject: Subject, coder: Crosscoder) -> Sequence[Term]:
    if config.penalty.weight == 0:
        return ()
    mlps = bound_mlps(subject, coder)
    term = PenaltyTerm(config.penalty, [mlp.unit for mlp in mlps], [mlp.site for mlp in mlps], config.seed)
    return [term.to(coder.W_dec.device)]
