"""The fractional programs of all groups with one largest token, each checked by one evaluation (L11).

A position of a group holds one of some tokens. Each of them speaks for another logit rather than for the largest
token's by at most `gain`, and the attention's unnormalised weight there is between `low` and `high`. By how much can
the mean gain, in these weights, exceed a claimed rate? The sum of weight × (gain − rate) is at most

    h = Σ_position max(high × (gain − rate), low × (gain − rate))

and so the mean is at most rate + h / Σ weights, whichever of the least and the largest sum makes that larger.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, concatenate
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.groups.grouping import Block
from crossproof.proof.groups.tables import Tables, norm


@dataclass(frozen=True)
class Attention:
    """Unnormalised weights, at least and at most, by last token."""

    low: Ball
    high: Ball
    """[query, position, band], of the positions before the last."""
    own_low: Ball
    own_high: Ball
    """[query], of the last position."""


def exponents(known: Tables, blocks: list[Block], claim: Ball) -> list[Ball]:
    """[query, group, logit but the largest's] for every block of one largest token: no window of a group has a
    logit_v − logit_largest above it. The claim is [query, logit]."""
    largest, bands = blocks[0].largest, blocks[0].bands
    others = torch.arange(known.vocabulary) != largest
    with part("gains"):
        gain, skip = gains(known, largest, others)
        of_bands = amax_of_bands(gain[:-1], bands, 1)
    with part("attention"):
        attention = attended(known, largest, bands)
    with part("positions"):
        claims = claim[: largest + 1, others]
        rate = claims - skip
        own = either(attention.own_low[:, None], attention.own_high[:, None], gain[-1] - rate)
        each = of_bands - rate[:, None, None]
        each = either(attention.low[..., None], attention.high[..., None], each)
    out = []
    for block in blocks:
        its = block.last
        with part("groups"):
            excess = sums(own[its], each[its], block.kept)
            most = sums(attention.own_high[its], attention.high[its], block.kept)
            least = sums(attention.own_low[its], attention.low[its], block.kept)
            above = either((1.0 / most)[..., None], (1.0 / least)[..., None], excess)
            out.append(claims[its][:, None] + above)
    return out


def gains(known: Tables, largest: int, others: Tensor) -> tuple[Ball, Ball]:
    """By how much, at most, each token at each position, and each last token through the stream, speaks for the other
    logits rather than for the largest token's: [position, token, logit] and [query, logit], of tokens up to it."""
    says, skip = known.says[:, : largest + 1], known.skip[: largest + 1]
    gain = says[:, :, others] - says[:, :, largest, None]
    skip = skip[:, others] - skip[:, largest, None]
    if known.errors is None:
        return gain, skip
    errors, radius = known.errors, known.errors.radius[:, : largest + 1, None]
    return gain + radius * errors.saying[largest, others], skip + radius[-1] * errors.skipping[largest, others]


def attended(known: Tables, largest: int, bands: list[Tensor]) -> Attention:
    upto = slice(0, largest + 1)
    scores, own = known.scores[upto, :, upto], known.own_score[upto]
    low, high, own_low, own_high = scores, scores, own, own
    if known.errors is not None:
        keys, radius = known.errors.keys[:, upto], known.errors.radius[-1, upto]
        # whatever is common to all keys of a window changes no attention, so that any centre will do (L8)
        centre = keys[:, largest].sum(0) * (1.0 / known.context)
        distance = norm(keys - centre, 2)
        error = radius[:, None, None] * distance[:-1] + known.errors.score[upto, :, upto]
        own_error = radius * distance[-1] + known.errors.own_score[upto]
        low, high, own_low, own_high = scores - error, scores + error, own - own_error, own + own_error
    return Attention(
        (-amax_of_bands(-low, bands, 2)).exp(), amax_of_bands(high, bands, 2).exp(), own_low.exp(), own_high.exp()
    )


def amax_of_bands(of_tokens: Ball, bands: list[Tensor], dim: int) -> Ball:
    """With a band in the place of each token."""
    every = (slice(None),) * dim
    return concatenate([of_tokens[(*every, band)].amax(dim)[(*every, None)] for band in bands], dim)


def either(low: Ball, high: Ball, x: Ball) -> Ball:
    """The largest product of x with anything between the two."""
    return (low * x).maximum(high * x)


def sums(own: Ball, positions: Ball, kept: Int[Tensor, " group"]) -> Ball:
    """[query, group, …]: what the last position adds and, before it, the band chosen for each position; sums are shared
    by choices that begin alike."""
    queries, before, bands = positions.shape[:3]
    rest = positions.shape[3:]
    total = own[:, None]
    for position in range(before - 1):
        total = (total[:, :, None] + positions[:, position, None]).reshape(queries, -1, *rest)
    return total[:, kept // bands] + positions[:, before - 1][:, kept % bands]
