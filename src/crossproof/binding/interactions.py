"""Measure on a model's own texts how the features of a crosscoder interact in its MLPs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import codes_of, encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction import frames
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.result import Interactions, choose_metrics, measure
from crossproof.interaction.tokens import at_tokens
from crossproof.interaction.weights import hadamard_of_pairs, typical_strengths
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd

def interactions(
    subject: Subject, coder: Crosscoder, tokens: Tokens, metrics: Sequence[str] | None = None
) -> Interactions:
    """How the features interact on these tokens, in every MLP whose input the crosscoder reconstructs.

    `metrics`: of METRICS; by default all that these MLPs have (mass is for plain ones only), and hadamard. The codes
    of all tokens are held: 12 bytes for each active feature of a token, twice that while they are put together.
    """
    units = neurons_of(subject, coder)
    chosen = choose_metrics(units, metrics)
    about = f"{coder.config.features:,} features at {len(coder.sites)} sites of {subject.name}"
    codes = codes_of(subject, coder, tokens)
    found = measure(codes, units, chosen, about)
    found.columns["hadamard"] = _hadamard(subject, coder, codes, found.coactive)
    found.reader = partial(token_interactions, subject, coder)
    return found


def _hadamard(subject: Subject, coder: Crosscoder, codes: Codes, pairs: CoActive) -> Float[Tensor, " pair"]:
    """Of the pairs at typical strengths, MLPs summed."""
    strengths, directions, biases = typical_strengths(codes), coder.decoder.detach(), coder.decoder_bias.detach()
    i, j = pairs.i.to(directions.device), pairs.j.to(directions.device)
    found = [
        hadamard_of_pairs(mlp.unit.to(directions.device), directions[:, mlp.site], i, j, biases[mlp.site], strengths)
        for mlp in bound_mlps(subject, coder)
    ]
    return torch.stack(found).sum(0).cpu()


def token_interactions(subject: Subject, coder: Crosscoder, text: str) -> pd.DataFrame:
    """Interaction at each token of a text: the score, by unit too, and the strongest pair. Computed in float64."""
    tokens = subject.tokens([text])
    units, codes = neurons_of(subject, coder, torch.float64), codes_of(subject, coder, tokens)
    at = at_tokens(Codes(codes.pattern, codes.values.double()), units)
    words = [subject.tokenizer.decode([each]) for each in tokens.ids[tokens.keep].tolist()]
    return frames.tokens(words, [unit.name for unit in units], {k: v.cpu() for k, v in at._asdict().items()})
