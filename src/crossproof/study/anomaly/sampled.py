"""The two detectors that cost most, on some of the texts.

Every token's Shapley-Taylor values are estimated from the same number of orders, also where exact ones could be had:
the lengths of estimates are a little too large, and would be so at some tokens alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.binding.account import Measured, attention_inputs
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.attention.pairs import at_positions
from crossproof.interaction.contributions import Neurons
from crossproof.interaction.games import mlp_game
from crossproof.interaction.norms.pairs import norm_tokens
from crossproof.interaction.shapley import sampled
from crossproof.records import Kind
from crossproof.study.anomaly.texts import Marked
from crossproof.subject.subject import Subject

ORDERS = 16
"""Random orders of a token's features: errors of about a seventh for each pair, and less for all of them together."""


@torch.no_grad()
def pair_strength(
    codes: Codes, rows: Sequence[int], neurons: Sequence[Neurons], W_out: Sequence[Tensor], seed: int
) -> Float64[Tensor, " token"]:
    """Σ_{i<j} ‖STII_ij‖ of each MLP's output at these tokens, MLPs summed."""
    found = torch.zeros(len(rows), dtype=torch.float64)
    for place, row in enumerate(rows):
        one = codes.rows(row, row + 1).active()
        features, strengths = one.pattern.features, one.values
        for its, W in zip(neurons, W_out, strict=True):
            index = sampled(mlp_game(its, strengths, features, W), len(features), ORDERS, seed)
            found[place] += index.strength().sum().cpu() / 2
    return found


@torch.no_grad()
def of_other_units(
    subject: Subject, coder: Crosscoder, texts: Marked, kinds: Sequence[Kind], units: Measured
) -> Float64[Tensor, "text pos"]:
    """How much features interact in attention layers and norms at the tokens of each prompt.

    A token of the prompt sees nothing of what comes after it: the rest of a text is not looked at.
    """
    found = torch.full(texts.part.shape, torch.nan, dtype=torch.float64)
    prompt = texts.prompt()
    if not bool(prompt.any()):
        return found
    encoded = encode(subject, coder, replace(texts.tokens, keep=prompt), attention_inputs(subject, coder, kinds))
    score = torch.zeros(encoded.codes.pattern.n_rows, dtype=torch.float64)
    if units.norms:
        score += norm_tokens(encoded.codes, units.norms).score.sum(1).cpu()
    if units.heads:
        of_each = [
            at_positions(passage, units.heads).score.sum((1, 2))[passage.described] for passage in encoded.passages()
        ]
        score += torch.cat(of_each).cpu()
    found[prompt] = score
    return found
