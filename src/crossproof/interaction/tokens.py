"""How much features interact at each token, and which pair does most: for looking at a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Float64, Int

from crossproof.codes import Codes
from crossproof.interaction.contributions import Chunk, GatedNeurons, Neurons, chunks
from crossproof.interaction.gated import cross_at
from crossproof.interaction.neurons import most_neurons, prepared
from crossproof.interaction.pairs import directed_at

AnyUnit = TypeVar("AnyUnit")


class AtTokens(NamedTuple):
    score: Float64[torch.Tensor, "token unit"]
    """Σ_n weight_n (Σ|p| − max|p|), without 1/N; in a gated MLP its cross terms as well."""
    pair_score: Float64[torch.Tensor, " token"]
    """The part of it that the strongest pair has in its unit; the lowest i, j and unit of several."""
    i: Int[torch.Tensor, " token"]
    """−1 where nothing interacts, as j and unit are."""
    j: Int[torch.Tensor, " token"]
    unit: Int[torch.Tensor, " token"]


def together(found: Sequence[AtTokens], order: Sequence[int]) -> AtTokens:
    """The same tokens in several kinds of units: all scores, and the strongest pair, of the first kind of several.

    `order` rearranges the units, which stand kind by kind.
    """
    columns = torch.cat([its.score for its in found], dim=1)
    best = torch.stack([its.pair_score for its in found])
    most = best.amax(0)
    kind = torch.zeros_like(most, dtype=torch.long)
    for number in reversed(range(len(found))):
        kind[best[number] == most] = number
    device = columns.device
    before = torch.tensor([0, *(its.score.shape[1] for its in found)], device=device).cumsum(0)[:-1]
    place = torch.empty(len(order), dtype=torch.long, device=device)
    place[torch.tensor(order, dtype=torch.long, device=device)] = torch.arange(len(order), device=device)

    def of(name: str) -> torch.Tensor:
        each = torch.stack([getattr(its, name) for its in found])
        return each.gather(0, kind[None])[0]

    unit = of("unit")
    there = unit >= 0
    unit[there] = place[(before[kind] + unit)[there]]
    return AtTokens(columns[:, order], most, of("i"), of("j"), unit)


def at_tokens(codes: Codes, units: Sequence[Neurons]) -> AtTokens:
    """In the order of the codes. For texts and not for corpora: there, `dominance` is quicker."""
    codes, units = prepared(codes, units)

    def between(chunk: Chunk, unit: Neurons) -> Float[torch.Tensor, "token slot slot"]:
        found = _between(chunk, unit)
        found.diagonal(dim1=1, dim2=2).zero_()  # what a dominant feature does in its own neurons
        return found

    return strongest_in(codes, units, most_neurons(units), between)


def strongest_in(
    codes: Codes,
    units: Sequence[AnyUnit],
    width: int,
    between: Callable[[Chunk, AnyUnit], Float[torch.Tensor, "token slot slot"]],
) -> AtTokens:
    """Of what i does to j in each unit, with 0 on the diagonal: the sums, and the first of the largest.

    `width`: how many numbers `between` holds for each feature of a token.
    """
    n_tokens, device = codes.pattern.n_rows, codes.values.device
    score = torch.zeros(n_tokens, len(units), dtype=torch.float64, device=device)
    pair_score = torch.zeros(n_tokens, dtype=torch.float64, device=device)
    i, j, unit = (torch.full((n_tokens,), -1, device=device) for _ in range(3))
    for chunk in chunks(codes, width) if units else ():
        slots = chunk.features.shape[1]
        each = torch.stack([between(chunk, its) for its in units], dim=3).double()
        score[chunk.tokens] = each.sum((1, 2))
        flat = each.flatten(1)  # slots × slots × units, so that the first of equal ones is the lowest i, then j
        most = flat.amax(1)
        last = torch.arange(flat.shape[1], 0, -1, device=device)
        first = flat.shape[1] - ((flat == most[:, None]) * last).amax(1)
        pair_score[chunk.tokens] = most
        there = most > 0
        tokens, where, features = chunk.tokens[there], first[there], chunk.features[there]
        i[tokens] = features.gather(1, (where // (slots * len(units)))[:, None])[:, 0]
        j[tokens] = features.gather(1, (where // len(units) % slots)[:, None])[:, 0]
        unit[tokens] = where % len(units)
    return AtTokens(score, pair_score, i, j, unit)


def _between(chunk: Chunk, unit: Neurons) -> Float[torch.Tensor, "token slot slot"]:
    """What i does to j: in a gated MLP what both dominate, and what they multiply."""
    directed = directed_at(chunk, unit)
    both = directed + cross_at(chunk, unit) if isinstance(unit, GatedNeurons) else directed
    return both * len(unit.loudness)
