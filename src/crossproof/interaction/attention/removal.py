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
from crossproof.interaction.attention.output import read

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
    """At the query position t; `layer_index` is the layer's place in `passage.inputs`."""
    text = read(passage, layer_index, heads)
    if not 0 <= t < len(text.x):
        raise MismatchError(f"position {t}: this text has the positions 0 to {len(text.x) - 1}")
    unit = text.heads.attention
    seen = unit.mask(len(text.x))[t]
    on = text.strengths[:, t] > 0
    present = (text.f[seen] > 0).any(0)
    query = text.queries(text.x)[:, t]
    query_parts = torch.stack([text.feature_queries(head)[on, t] for head in range(heads.n_heads)])
    keys = text.keys(text.x)[:, seen]
    # what a feature of the text adds to every key, where it is on
    by_feature = text.f[:, present].T[..., None] * text.heads.keys[:, present][:, :, None]
    key_parts = text.heads.rotated(by_feature)[:, :, seen]

    scores = torch.einsum("hd,hsd->hs", query, keys)
    without_i = torch.einsum("hqd,hsd->qhs", query_parts, keys)
    without_j = torch.einsum("hd,hksd->khs", query, key_parts)
    written = text.values(text.x)[:, seen] @ unit.W_O

    def wrote(changed: Tensor) -> Tensor:
        return torch.tensordot(changed.softmax(-1), written, 2)

    full, no_query = wrote(scores), wrote(scores - without_i)
    no_key = wrote(scores - without_j)
    size = scores.new_empty(int(on.sum()), int(present.sum()))
    for some in torch.arange(size.shape[1], device=size.device).split(max(1, HELD // max(1, without_i.numel()))):
        both = torch.einsum("hqd,hksd->qkhs", query_parts, key_parts[:, some])
        neither = wrote(scores - without_i[:, None] - without_j[some] + both)
        size[:, some] = ((full - no_query)[:, None] - (no_key[some] - neither)).norm(dim=-1)
    return Removed(text.features[text.slots[on, t]], text.features[present], size)
