"""What two features do to each other through an attention's pattern, exactly: by removing them.

For a query feature i at one position and a feature j in all keys that it sees, the second difference of the layer's
output is what it has with both, less with either removed, plus with neither. Values stay as they are, so that only the
pattern changes. It is what the table of `pairs.py` bounds to first order, at one position at a time and dearer.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.output import Reading, read

HELD = 2**17
"""Numbers held at a time: 1 MB, which stays in a core's cache between operations."""


class Removed(NamedTuple):
    """Of the pairs of a query feature at one position and a key feature that it sees."""

    query_features: Int[Tensor, " query"]
    key_features: Int[Tensor, " key"]
    size: Float64[Tensor, "query key"]
    """‖out − out∖i − out∖j + out∖ij‖₂ of the layer's output."""


@torch.no_grad()
def second_differences(passage: Passage, layer_index: int, heads: Heads, t: int) -> Removed:
    """At the query position t; `layer_index` is the layer's place in `passage.inputs`.

    Never holds more at a time than a few `HELD` numbers, or what the layer reads of the text where that is more.
    """
    text = read(passage, layer_index, heads)
    if not 0 <= t < len(text.x):
        raise MismatchError(f"position {t}: this text has the positions 0 to {len(text.x) - 1}")
    unit = text.heads.attention
    seen = unit.mask(len(text.x))[t].nonzero().squeeze(1)
    present = (text.f[seen] > 0).any(0).nonzero().squeeze(1)
    strengths = text.f[seen][:, present].T
    query_features, queries = _queries(text, t)
    scores = queries @ text.keys(text.x)[:, seen].mT
    values = text.values(text.x)[:, seen]
    whole = _missed(scores.softmax(-1) @ values)

    n_heads, n_queries, d_head = queries.shape
    size = scores.new_empty(n_queries - 1, len(present))
    for some in torch.arange(len(present), device=present.device).split(
        max(1, HELD // (n_heads * n_queries * max(len(seen), d_head)))
    ):
        left = scores[:, :, None].repeat(1, 1, len(some), 1)
        # without a feature, the scores of keys that lack it stay as they are
        j, s = strengths[some].nonzero(as_tuple=True)
        keys = text.heads.keys[:, present[some[j]]] * strengths[some[j], s, None]
        left[:, :, j, s] -= queries @ _turned(text.heads, keys, seen[s]).mT
        patterns = torch.softmax(left, -1).flatten(1, 2)
        missed = _missed((patterns @ values).unflatten(1, (n_queries, len(some))))
        changed = missed.sub_(whole[:, :, None]).permute(1, 2, 0, 3).flatten(2)
        size[:, some] = (changed @ unit.W_O.flatten(0, 1)).norm(dim=-1)
    return Removed(text.features[query_features], text.features[present], size)


def _queries(text: Reading, t: int) -> tuple[Int[Tensor, " query"], Float64[Tensor, "head query_or_all d_head"]]:
    """The features active at t, as places in `text.features`; the whole query, then the query without each of them."""
    on = text.strengths[:, t] > 0
    features = text.slots[on, t]
    parts = text.heads.queries[:, features] * text.strengths[on, t, None]
    whole = text.queries(text.x)[:, t, None]
    return features, torch.cat([whole, whole - _turned(text.heads, parts, features.new_tensor([t]))], 1)


def _turned(
    heads: Heads, vectors: Float64[Tensor, "head vector d_head"], positions: Int[Tensor, " #vector"]
) -> Float64[Tensor, "head vector d_head"]:
    """Parts of queries or keys at these positions."""
    rotary = heads.attention.rotary
    return vectors if rotary is None else rotary.at(vectors, positions)


def _missed(read: Float64[Tensor, "head query_or_all *rest"]) -> Float64[Tensor, "head query *rest"]:
    """What a head reads without each query feature, less what it reads with all of them."""
    return read[:, 1:] - read[:, :1]
