"""What an attention layer writes, feature by feature: heads copy what they look at, and the pattern decides how much.

With the pattern A taken as it is, a layer is linear in its sources, and its output is again a code of features (L9):

    output(t) = b_O + Σ_h [background(h, t) + Σ_k g^h_k(t) written[h, k]],   g^h_k(t) = Σ_s A^h_ts f_k(s)

`brought` gives these coefficients. Features meet where a query feature moves the pattern, and with it how much is read
of a feature at the sources: `pattern_value`, to first order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import check_features
from crossproof.errors import MismatchError
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.contributions import check_codes
from crossproof.progress import progress

HELD = 2**21
"""Numbers held at a time: 16 MB."""


@dataclass(frozen=True, eq=False)
class Reading:
    """A layer reading one text, in float64 and with the features that are active in it alone. Made by `read`."""

    features: Int[Tensor, " feature"]
    """Those active somewhere in the text, ascending."""
    heads: Heads
    """As these features reach them."""
    f: Float64[Tensor, "pos feature"]
    background: Float64[Tensor, "pos d_model"]
    """The layer's input without its features: the dictionary's bias, or what is given."""
    slots: Int[Tensor, "slot pos"]
    """The features active at each position side by side, ascending, as places in `features`."""
    strengths: Float64[Tensor, "slot pos"]
    """0 in a slot that the position does not need."""

    @cached_property
    def x(self) -> Float64[Tensor, "pos d_model"]:
        return self.background + self.f @ self.heads.directions

    @cached_property
    def scores(self) -> Float64[Tensor, "head pos key"]:
        """Of queries on the keys that they see, −∞ on the others."""
        unit = self.heads.attention
        return unit.scores(self.x[None])[0].masked_fill(~unit.mask(len(self.x)), -torch.inf)

    @cached_property
    def pattern(self) -> Float64[Tensor, "head pos key"]:
        return self.scores.softmax(-1)

    def queries(self, x: Float64[Tensor, "pos d_model"]) -> Float64[Tensor, "head pos d_head"]:
        """Of these inputs, scaled and turned by their positions, the layer's bias among them."""
        unit = self.heads.attention
        return self.heads.rotated(unit.scale * (x @ unit.W_Q + unit.b_Q[:, None]))

    def keys(self, x: Float64[Tensor, "pos d_model"]) -> Float64[Tensor, "head pos d_head"]:
        return self.heads.rotated(self._per_head(x, self.heads.attention.W_K, self.heads.attention.b_K))

    def values(self, x: Float64[Tensor, "pos d_model"]) -> Float64[Tensor, "head pos d_head"]:
        return self._per_head(x, self.heads.attention.W_V, self.heads.attention.b_V)

    def feature_queries(self, head: int) -> Float64[Tensor, "slot pos d_head"]:
        """What each active feature adds to the query of its position, scaled and turned."""
        return self.heads.rotated(self.heads.queries[head][self.slots] * self.strengths[..., None])

    def feature_keys(self, head: int) -> Float64[Tensor, "slot pos d_head"]:
        return self.heads.rotated(self.heads.keys[head][self.slots] * self.strengths[..., None])

    def _per_head(self, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return (x @ W + b[:, None]).repeat_interleave(self.heads.n_heads // len(W), dim=0)


def read(passage: Passage, layer_index: int, heads: Heads) -> Reading:
    """`layer_index` is the layer's place in `passage.inputs`."""
    check_codes(passage.codes, heads.n_features)
    check_features(passage.codes.values)
    codes = passage.codes.active()
    pattern, device = codes.pattern, heads.directions.device
    features, places = pattern.features.unique(return_inverse=True)
    values = codes.values.detach().double()
    f = torch.zeros(pattern.n_rows, len(features), dtype=torch.float64, device=device)
    f[pattern.rows, places] = values
    counts = pattern.row_starts.diff()
    slot = torch.arange(int(counts.max()) if len(counts) else 0, device=device)[:, None]
    entry = torch.where(slot < counts, pattern.row_starts[:-1] + slot, 0)
    few = replace(
        heads,
        attention=heads.attention.to(torch.float64),
        directions=heads.directions.detach()[features].double(),
        bias=heads.bias.detach().double(),
    )
    background = few.bias.repeat(passage.positions, 1)
    if len(passage.given):
        background[passage.given] = passage.inputs[layer_index].to(background)
    strengths = torch.where(slot < counts, values[entry], 0)
    return Reading(features, few, f, background, places[entry], strengths)


class Strongest(NamedTuple):
    """Features by how far they move the output of a head at a position, the farthest first."""

    features: Int[Tensor, " feature"]
    coefficients: Float64[Tensor, " feature"]
    sizes: Float64[Tensor, " feature"]


@dataclass(frozen=True, eq=False)
class Brought:
    """What the heads of a layer bring to each position of a text, feature by feature. Made by `brought`."""

    features: Int[Tensor, " feature"]
    """Those active somewhere in the text, ascending."""
    coefficients: Float64[Tensor, "head pos feature"]
    """g: the mean strength of each feature where the head looks."""
    written: Float64[Tensor, "head feature d_model"]
    """What a feature of strength 1 writes: the direction of its coefficient."""
    background: Float64[Tensor, "head pos d_model"]
    """What each head writes of the dictionary's bias, of given inputs and of its own bias. b_O belongs to no head."""

    @cached_property
    def sizes(self) -> Float64[Tensor, "head pos feature"]:
        """How far each feature, as each head brings it, moves the output."""
        return self.coefficients * self.written.norm(dim=-1)[:, None]

    def output(self) -> Float64[Tensor, "head pos d_model"]:
        """What each head writes; summed over heads, and with b_O, it is the layer's output."""
        return self.background + self.coefficients @ self.written

    def strongest(self, head: int, t: int, top: int = 10) -> Strongest:
        """What a head brings to a position, without what it does not bring; of equals the lowest features."""
        n_heads, positions = self.coefficients.shape[:2]
        if not (0 <= head < n_heads and 0 <= t < positions):
            raise MismatchError(
                f"head {head}, position {t}: this text has heads 0 to {n_heads - 1} and positions 0 to {positions - 1}"
            )
        sizes = self.sizes[head, t]
        order = sizes.sort(descending=True, stable=True).indices[: min(top, int((sizes > 0).sum()))]
        return Strongest(self.features[order], self.coefficients[head, t, order], sizes[order])


@torch.no_grad()
def brought(passage: Passage, layer_index: int, heads: Heads) -> Brought:
    """The code that a layer writes into one text. `layer_index` is its place in `passage.inputs`."""
    text = read(passage, layer_index, heads)
    of_background = text.pattern @ text.values(text.background) @ text.heads.attention.W_O
    return Brought(text.features, text.pattern @ text.f, text.heads.written, of_background)


@dataclass(frozen=True, eq=False)
class PatternValue:
    """How query features move what is read of value features in one text. Made by `pattern_value`.

    To sum over texts: `total[:, features[:, None], features] += table`.
    """

    features: Int[Tensor, " feature"]
    """Those active somewhere in the text, ascending."""
    table: Float64[Tensor, "head query value"]
    """Summed over query positions, both axes in the order of `features`."""


@torch.no_grad()
def pattern_value(passage: Passage, layer_index: int, heads: Heads) -> PatternValue:
    """What each query feature does, through the pattern, to how much of each value feature a head brings.

    With c_i(t, s) what feature i adds to the score of the query at t on the whole key at s, and c̄_i its mean under A_t,

        P^h[i→k](t) = |Σ_s A_ts (c_i(t, s) − c̄_i(t)) f_k(s)| · ‖written[h, k]‖

    is the derivative, by the log of i's strength in the query of t alone, of what head h writes of k at t. It sums over
    keys, whatever features made them, and tells values apart. The query × key table of the same head tells keys apart,
    and sums over values. These are two decompositions of one effect: never add one to the other.

    Holds features² numbers for each head, with the features of this text alone.
    """
    text = read(passage, layer_index, heads)
    n_heads, positions, n = text.heads.n_heads, len(text.x), len(text.features)
    keys, loudness = text.keys(text.x), text.heads.written.norm(dim=-1)
    table = text.f.new_zeros(n_heads, n, n)
    at_once = max(1, HELD // max(1, len(text.slots) * max(positions, n)))
    with progress("pattern × value", n_heads * positions, "queries") as bar:
        for head in range(n_heads):
            for t, queries in zip(
                torch.arange(positions).split(at_once), text.feature_queries(head).split(at_once, 1), strict=True
            ):
                A, c = text.pattern[head, t], queries @ keys[head].mT
                moved = (A * (c - (A * c).sum(-1, keepdim=True))) @ text.f
                table[head].index_add_(0, text.slots[:, t].flatten(), moved.abs().flatten(0, 1) * loudness[head])
                bar(len(t))
    return PatternValue(text.features, table)
