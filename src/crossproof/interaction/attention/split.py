"""One head on one text, to look at: the four parts of its scores, the terms between two positions, its strongest pairs.

The input at each position is a mean m and a deviation from it, x_t = m + (x_t − m). Scores are bilinear, so that they
are the sum of four parts: mean or deviation on the query side × mean or deviation on the key side (T8). The biases of
queries and keys belong to the means. Rotary positions turn each part as they turn the whole: there, mean × mean depends
on the distance. Without them it is one number, and what the mean of the keys adds is the same for all keys that a query
sees: both cancel in the softmax, and the two parts with the keys' deviations make the pattern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.errors import MismatchError, NonFinite
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.output import Reading, read
from crossproof.interaction.attention.reach import reach_of

PARTS = ("mean × mean", "mean × deviation", "deviation × mean", "deviation × deviation")
"""Query side × key side, in the order of every axis called `part`."""


@dataclass(frozen=True, eq=False)
class FourParts:
    """The scores of each query on each key, those that the mask hides among them, in four parts."""

    parts: Float64[Tensor, "part head query key"]
    pattern: Float64[Tensor, "head query key"]
    accounts_for: Float64[Tensor, "part head query"]
    """How far the pattern moves without the part, in total variation (half the L1 norm)."""

    @property
    def scores(self) -> Float64[Tensor, "head query key"]:
        return self.parts.sum(0)


@torch.no_grad()
def four_parts(heads: Heads, passage: Passage, layer_index: int, mean: Float[Tensor, " d_model"]) -> FourParts:
    """The split of every head of a layer around a mean input, in float64.

    `mean` is in raw units, as the directions are: of many texts, say, `bias + Σ_i E[f_i] directions[i]`. `layer_index`
    is the layer's place in `passage.inputs`.
    """
    if mean.shape != heads.bias.shape:
        raise MismatchError(f"mean: expected the shape {tuple(heads.bias.shape)}, not {tuple(mean.shape)}")
    if not bool(torch.isfinite(mean).all()):
        raise NonFinite("mean: some numbers are not finite")
    text, unit = read(passage, layer_index, heads), heads.attention
    mean = mean.detach().to(text.x)
    same, deviation = mean.expand_as(text.x), text.x - mean
    queries, keys = text.queries(same), text.keys(same)
    # what a deviation adds has no bias: it is that of the mean
    by_query = text.heads.rotated(unit.scale * (deviation @ text.heads.attention.W_Q))
    by_key = text.heads.rotated(_of_keys(text, deviation))
    parts = torch.stack([q @ k.mT for q in (queries, by_query) for k in (keys, by_key)])
    hidden = ~unit.mask(len(text.x))
    moved = torch.stack([_pattern(text.scores - part, hidden) - text.pattern for part in parts])
    return FourParts(parts, text.pattern, moved.abs().sum(-1) / 2)


@dataclass(frozen=True, eq=False)
class Coefficients:
    """The score of one query on one key in every head, term by term: all of them sum to it."""

    query_features: Int[Tensor, " i"]
    """Active at the query, ascending."""
    key_features: Int[Tensor, " j"]
    pairs: Float64[Tensor, "head i j"]
    """c_ij(t, s) of each query feature with each key feature."""
    on_background: Float64[Tensor, "head i"]
    """Of each query feature with what no feature makes of the key: the dictionary's bias, and the layer's."""
    of_background: Float64[Tensor, "head j"]
    """Of what no feature makes of the query with each key feature."""
    background: Float64[Tensor, " head"]
    """Of the one with the other."""

    @property
    def score(self) -> Float64[Tensor, " head"]:
        return self.pairs.sum((1, 2)) + self.on_background.sum(1) + self.of_background.sum(1) + self.background


@torch.no_grad()
def coefficients(heads: Heads, passage: Passage, layer_index: int, query: int, key: int) -> Coefficients:
    """Between the features active at two positions, whether or not the query sees the key, in float64."""
    for what, position in (("query", query), ("key", key)):
        if not 0 <= position < passage.positions:
            raise MismatchError(f"{what}: there is no position {position}; this text has 0 to {passage.positions - 1}")
    text = read(passage, layer_index, heads)
    i, j = text.f[query].nonzero().squeeze(1), text.f[key].nonzero().squeeze(1)
    queries = _turned(text, text.heads.queries[:, i] * text.f[query, i, None], query)
    keys = _turned(text, text.heads.keys[:, j] * text.f[key, j, None], key)
    q, k = text.queries(text.background)[:, query], text.keys(text.background)[:, key]
    return Coefficients(
        text.features[i],
        text.features[j],
        queries @ keys.mT,
        torch.einsum("hid,hd->hi", queries, k),
        torch.einsum("hd,hjd->hj", q, keys),
        (q * k).sum(-1),
    )


class StrongPair(NamedTuple):
    """A query feature i and a key feature j, and where in the text they do most."""

    i: int
    j: int
    interaction: float
    """The mean of I[i→j](t) over the described queries of the text (`pairs.py`)."""
    query: int
    key: int
    """The two positions where the term departs most from its mean over keys, weighted by attention."""
    coefficient: float
    """The term there."""


@torch.no_grad()
def strongest_pairs(heads: Heads, passage: Passage, layer_index: int, head: int, top: int = 10) -> list[StrongPair]:
    """The pairs of one head that interact most in this text; of equals, the lowest i, then the lowest j."""
    text = read(passage, layer_index, heads)
    table = _interactions(text, passage, head)
    total, order = table.flatten().sort(descending=True, stable=True)
    n, most = len(table), min(top, int((total > 0).sum()))
    ranked = zip(order[:most].tolist(), total[:most].tolist(), strict=True)
    return [_strong_pair(text, head, place // n, place % n, interaction) for place, interaction in ranked]


def _interactions(text: Reading, passage: Passage, head: int) -> Float64[Tensor, "query_feature key_feature"]:
    """The mean of I[i→j](t) over the described queries, query by query."""
    queries, keys = text.feature_queries(head), text.feature_keys(head)
    reach = reach_of(text.heads, text.x[None], passage.described[None]).reach[0, head]
    on, off = text.strengths > 0, (text.f == 0).to(text.f)
    described, n = passage.described.nonzero().flatten().tolist(), len(text.features)
    table = text.f.new_zeros(n, n)
    for t in described:
        i, j, its_attention = text.slots[on[:, t], t], text.slots[:, : t + 1].flatten(), text.pattern[head, t, : t + 1]
        weight = (its_attention * on[:, : t + 1]).flatten()
        c = torch.einsum("id,jsd->ijs", queries[on[:, t], t], keys[:, : t + 1]).flatten(1)
        mean = text.f.new_zeros(len(i), n).index_add_(1, j, c * weight)
        # where j is not active, its term is 0 and not its mean
        variance = mean.square() * (its_attention @ off[: t + 1])
        variance.index_add_(1, j, (c - mean[:, j]).square() * weight)
        table[i] += variance.sqrt() * reach[t]
    return table / max(1, len(described))


def _strong_pair(text: Reading, head: int, i: int, j: int, interaction: float) -> StrongPair:
    queries = text.heads.rotated(text.f[:, i, None] * text.heads.queries[head, i])
    keys = text.heads.rotated(text.f[:, j, None] * text.heads.keys[head, j])
    c, A = queries @ keys.mT, text.pattern[head]
    moves = A * (c - (A * c).sum(-1, keepdim=True)).abs() * (text.f[:, j] > 0)
    query, key = divmod(int(moves.argmax()), len(c))
    return StrongPair(
        int(text.features[i]), int(text.features[j]), interaction, query, key, float(c[query, key])
    )  # fmt: skip


def _pattern(scores: Float64[Tensor, "head query key"], hidden: Tensor) -> Float64[Tensor, "head query key"]:
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def _of_keys(text: Reading, x: Float64[Tensor, "pos d_model"]) -> Float64[Tensor, "head pos d_head"]:
    """x W_K, for each query head that of the key head that serves it, without its bias."""
    W = text.heads.attention.W_K
    return (x @ W).repeat_interleave(text.heads.n_heads // len(W), dim=0)


def _turned(text: Reading, vectors: Float64[Tensor, "head feature d_head"], position: int) -> Tensor:
    """Of features at one position."""
    if text.heads.attention.rotary is None:
        return vectors
    return text.heads.rotated(vectors[:, :, None].expand(-1, -1, position + 1, -1))[:, :, -1]
