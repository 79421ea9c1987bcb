"""Shapley-Taylor games of an attention layer: the reference for what features do to each other through its pattern.

A player is a feature in one role: in the query of one position, in the keys of all positions it sees, or in the values
there. A feature that plays in several roles is several players. What is no player stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.output import HELD, Reading, read
from crossproof.interaction.shapley import ReadOut


@torch.no_grad()
def attention_game(
    passage: Passage,
    layer_index: int,
    heads: Heads,
    t: int,
    key_features: Sequence[int] | Int[Tensor, " key"],
    value_features: Sequence[int] | Int[Tensor, " value"] = (),
) -> tuple[ReadOut, Int[Tensor, " query"]]:
    """The game whose outputs are the layer's at position t, less b_O, and the features active at t.

    Players are first these features, each on or off in the query of t alone; then the key features, each on or off in
    all keys that t sees at once; then the value features, likewise in values. A pair of a query and a key feature has
    an index where the two meet in scores (c_ij), and also where they do not: the softmax weighs what each one does by
    what the other did, to second order Σ_s A_ts (a_s − ā)(b_s − b̄)(y_s − ȳ) for changes a and b of the scores. A pair
    of a query and a value feature has what `pattern_value` measures to first order. `layer_index` is the layer's place
    in `passage.inputs`.
    """
    text = read(passage, layer_index, heads)
    if not 0 <= t < len(text.x):
        raise MismatchError(f"position {t}: this text has the positions 0 to {len(text.x) - 1}")
    as_keys, as_values = (
        _chosen(text, chosen, heads.n_features, what)
        for what, chosen in (("key_features", key_features), ("value_features", value_features))
    )
    unit, on = text.heads.attention, text.strengths[:, t] > 0
    seen = unit.mask(len(text.x))[t]
    # whatever is on or off stands beside what is always on, in the first place
    queries = torch.stack(
        [
            torch.cat([rest[None, t], text.feature_queries(head)[on, t]])
            for head, rest in enumerate(text.queries(text.background))
        ]
    )
    added = (text.f @ as_keys).T[..., None] * (as_keys.T @ text.heads.keys)[:, :, None]
    keys = torch.cat([text.keys(_without(text, as_keys))[:, None], text.heads.rotated(added)], 1)[:, :, seen]
    terms = torch.einsum("hqd,hksd->qkhs", queries, keys)
    rest = text.values(_without(text, as_values))[:, seen]
    strengths, values = (text.f @ as_values)[seen], as_values.T @ text.heads.values
    n_heads, n_seen, parts = *terms.shape[2:], [int(on.sum()), as_keys.shape[1], as_values.shape[1]]

    def heads_write(coalitions: Bool[Tensor, "coalition player"]) -> Float64[Tensor, "coalition hidden"]:
        hidden = []
        for some in coalitions.to(rest).split(max(1, HELD // (n_heads * n_seen))):
            query, key, value = some.split(parts, 1)
            always = some.new_ones(len(some), 1)
            both = torch.cat([always, query], 1)[:, :, None] * torch.cat([always, key], 1)[:, None]
            pattern = torch.tensordot(both, terms, 2).softmax(-1)
            read = (pattern @ strengths * value[:, None]).transpose(0, 1) @ values
            hidden.append((torch.einsum("chs,hsd->chd", pattern, rest) + read.transpose(0, 1)).flatten(1))
        return torch.cat(hidden)

    return ReadOut(heads_write, unit.W_O.flatten(0, 1)), text.features[text.slots[on, t]]


def _chosen(
    text: Reading, chosen: Sequence[int] | Tensor, n_features: int, what: str
) -> Float64[Tensor, "feature player"]:
    """Which feature of the text each player is; none where it is not active in this text."""
    players = torch.as_tensor(chosen, dtype=torch.long, device=text.f.device)
    if bool(((players < 0) | (players >= n_features)).any()):
        raise MismatchError(f"{what}: {players.tolist()}, but this dictionary has the features 0 to {n_features - 1}")
    if len(players.unique()) < len(players):
        raise MismatchError(f"{what}: {players.tolist()} names some features twice; each can be one player in a role")
    return (text.features[:, None] == players).to(text.f)


def _without(text: Reading, players: Float64[Tensor, "feature player"]) -> Float64[Tensor, "pos d_model"]:
    """The layer's input with the players off."""
    return text.background + (text.f * (1 - players.sum(1))) @ text.heads.directions
