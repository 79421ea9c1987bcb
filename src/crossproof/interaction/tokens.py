"""How much features interact at each token, and which pair does most: for looking at a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int

from crossproof.codes import Codes
from crossproof.interaction.contributions import Neurons, chunks
from crossproof.interaction.neurons import most_neurons, prepared
from crossproof.interaction.pairs import directed_at


class AtTokens(NamedTuple):
    score: Float64[torch.Tensor, "token unit"]
    """Σ_n weight_n (Σ|p| − max|p|), without 1/N."""
    pair_score: Float64[torch.Tensor, " token"]
    """The part of it that the strongest pair has in its unit; the lowest i, j and unit of several."""
    i: Int[torch.Tensor, " token"]
    """−1 where nothing interacts, as j and unit are."""
    j: Int[torch.Tensor, " token"]
    unit: Int[torch.Tensor, " token"]


def at_tokens(codes: Codes, units: Sequence[Neurons]) -> AtTokens:
    """In the order of the codes. For texts and not for corpora: there, `dominance` is quicker."""
    codes, units = prepared(codes, units)
    n_tokens, device = codes.pattern.n_rows, codes.values.device
    score = torch.zeros(n_tokens, len(units), dtype=torch.float64, device=device)
    pair_score = torch.zeros(n_tokens, dtype=torch.float64, device=device)
    i, j, unit = (torch.full((n_tokens,), -1, device=device) for _ in range(3))
    for chunk in chunks(codes, most_neurons(units)):
        slots = chunk.features.shape[1]
        each = torch.stack([directed_at(chunk, its) * len(its.loudness) for its in units], dim=3).double()
        each.diagonal(dim1=1, dim2=2).zero_()  # what a dominant feature does in its own neurons
        score[chunk.tokens] = each.sum((1, 2))
        flat = each.flatten(1)  # slots × slots × units, so that the first of equal ones is the lowest i, then j
        most = flat.amax(1)
        last = torch.arange(flat.shape[1], 0, -1, device=device)
        first = flat.shape[1] - ((flat == most[:, None]) * last).amax(1)
        there = chunk.tokens[most > 0]
        pair_score[chunk.tokens] = most
        where, rows = first[most > 0], chunk.features[most > 0]
        i[there] = rows.gather(1, (where // (slots * len(units)))[:, None])[:, 0]
        j[there] = rows.gather(1, (where // len(units) % slots)[:, None])[:, 0]
        unit[there] = where % len(units)
    return AtTokens(score, pair_score, i, j, unit)
