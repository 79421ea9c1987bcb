"""An attention layer with planted interactions, and every metric's score of query feature × key feature × head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.attention.game import attention_game
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.pairs import query_key_pairs
from crossproof.interaction.attention.removal import second_differences
from crossproof.interaction.attention.tables import QueryKey, query_key
from crossproof.interaction.shapley import exact
from crossproof.interaction.weights import typical_strengths
from crossproof.study.planted_units.results import UnitName
from crossproof.study.planted_units.scenes import STRONGEST, WEAKEST, Scored, cosines, uniform
from crossproof.units import Attention, Rotary

REFERENCE = "Shapley-Taylor"
POSITIONS = 20
HEADS = 3
IDLE = 1
"""The head that writes nothing."""
TOPIC, FIRES = 0.4, 0.2
"""In how many texts a pair of features is used, and at how many positions of such a text each of the two fires."""


@dataclass(frozen=True)
class Gadget:
    """What features a and b do in one head: they share a plane of its queries and keys that nothing else uses."""

    kind: str
    interacts: bool
    query: tuple[float, float] = (0.0, 0.0)
    """What a, and a constant, add to the query."""
    key: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """What a, b, and a constant, add to the key."""
    head: int = 0
    written: tuple[bool, bool] = (True, True)
    """Whether what a and b are at a source is written at all."""
    apart: bool = False
    """Whether no text has both."""
    everywhere: bool = False
    """Whether b is on at every position, always equally strong."""


def gadgets(rotary: bool) -> tuple[Gadget, ...]:
    """A key that is everywhere is the same at all distances, unless it is turned by them."""
    query, key = (1.0, 0.0), (0.0, 1.5, 0.0)
    return (
        *(Gadget("query × key", True, query, key) for _ in range(2)),
        *(Gadget("query × key", True, query, key, head=2) for _ in range(2)),
        Gadget("query × key, away from it", True, query, (0.0, -1.5, 0.0)),
        Gadget("query × its own key", True, query, (1.5, 0.0, 0.0)),
        Gadget("query × key that writes nothing", True, query, key, written=(True, False)),
        Gadget("query × key, never in one text", True, query, key, apart=True),
        Gadget("query × key that is everywhere", rotary, query, key, everywhere=True),
        Gadget("sink", False, (0.0, 1.5), (0.0, 1.0, 0.0)),
        *(Gadget("query alone", False, query, (0.0, 0.0, 1.5)) for _ in range(2)),
        *(Gadget("values alone", False) for _ in range(2)),
        *(Gadget("in a head that writes nothing", False, query, key, head=IDLE) for _ in range(2)),
    )


PLANTED_QUERY_AND_SINK = "planted query × sink"
OTHERS = "all others"


def planted_attention(planted: Sequence[Gadget], rotary: bool, draw: torch.Generator) -> Attention:
    """Features 2p and 2p + 1 are a and b of gadget p; how strongly it attends and how loudly it writes is drawn."""
    n = len(planted)
    W_Q, W_K, W_V = (torch.zeros(HEADS, 2 * n, 2 * n, dtype=torch.float64) for _ in range(3))
    W_O = torch.zeros(HEADS, 2 * n, 2 * n, dtype=torch.float64)
    b_Q, b_K = (torch.zeros(HEADS, 2 * n, dtype=torch.float64) for _ in range(2))
    strength, loudness = uniform(0.7, 1.3, n, draw=draw), uniform(0.5, 2.0, 2 * n, draw=draw)
    for p, gadget in enumerate(planted):
        h, a, b = gadget.head, 2 * p, 2 * p + 1
        W_Q[h, a, p], b_Q[h, p] = (strength[p] * x for x in gadget.query)
        W_K[h, a, p], W_K[h, b, p], b_K[h, p] = gadget.key
        for feature, written in zip((a, b), gadget.written, strict=True):
            W_V[:, feature, feature] = float(written)
            W_O[:, feature, feature] = loudness[feature]
    W_V[IDLE] = 0
    return Attention(
        W_Q=W_Q,
        W_K=W_K,
        W_V=W_V,
        W_O=W_O,
        b_Q=b_Q,
        b_K=b_K,
        b_V=torch.zeros_like(b_K),
        b_O=torch.zeros(2 * n, dtype=torch.float64),
        scale=1.0,
        # the plane (p, p + n) turns at a rate of its own, from one radian a position to next to nothing
        rotary=Rotary(torch.logspace(0, -3, n)) if rotary else None,
    )


def planted_passages(planted: Sequence[Gadget], texts: int, draw: torch.Generator) -> list[Passage]:
    """Both features of a gadget are used in the same texts, so that they meet often whether they interact or not."""
    n = len(planted)
    on = (torch.rand(texts, 1, n, generator=draw) < TOPIC)[..., None].repeat(1, POSITIONS, 1, 2)
    first = torch.rand(texts, 1, n, generator=draw) < 0.5
    apart = torch.tensor([gadget.apart for gadget in planted])
    on &= torch.where(apart[:, None], torch.stack([first, ~first], 3), True)
    on &= torch.rand(on.shape, generator=draw) < FIRES
    strengths = uniform(WEAKEST, STRONGEST, *on.shape, draw=draw) * on
    everywhere = [p for p, gadget in enumerate(planted) if gadget.everywhere]
    strengths[:, :, everywhere, 1] = WEAKEST
    none = torch.zeros(0, dtype=torch.long)
    given = (torch.zeros(0, 2 * n, dtype=torch.float64),)
    return [Passage(Codes.from_dense(text.flatten(1)), none, given) for text in strengths]


def score_attention(name: UnitName, rotary: bool, texts: int, reference_queries: int, seed: int) -> Scored:
    """All pairs of a query feature and a key feature, in every head; the index and removal at a few queries only."""
    draw = torch.Generator().manual_seed(seed)
    planted = gadgets(rotary)
    unit = planted_attention(planted, rotary, draw)
    passages = planted_passages(planted, texts, draw)
    n_features = 2 * len(planted)
    heads = heads_of(unit, torch.eye(n_features, dtype=torch.float64), name=name)
    dense = torch.cat([passage.codes.dense() for passage in passages])
    codes = Codes.from_dense(dense)
    typical = typical_strengths(codes)
    by_weights = query_key(heads, typical)
    strengths = typical[:, None] * typical
    meetings = torch.zeros_like(strengths)
    for passage in passages:
        on = (passage.codes.dense() > 0).double()
        meetings += on.T @ on.cumsum(0)  # a position sees itself and those before it
    index, removed = references(passages, heads, reference_queries, draw)
    tables = {
        REFERENCE: index,
        "removal": removed,
        "query × key": query_key_pairs(passages, [heads])[0].total.double(),
        "weights": _root_mean_square(by_weights),
        "weights, centred": _root_mean_square(by_weights.centred(codes.firing_counts())),
        "strengths": strengths.expand(HEADS, -1, -1),
        "count": meetings.expand(HEADS, -1, -1),
        "cosine of activations": cosines(dense).expand(HEADS, -1, -1),
        "random": uniform(0.0, 1.0, HEADS, n_features, n_features, draw=draw),
    }
    interacts = torch.zeros(HEADS, n_features, n_features, dtype=torch.bool)
    kind = torch.full(interacts.shape, -1)
    sinks = [p for p, gadget in enumerate(planted) if gadget.kind == "sink"]
    for p, gadget in enumerate(planted):
        key = 2 * p + (gadget.key[0] == 0)
        kind[gadget.head, 2 * p, key], interacts[gadget.head, 2 * p, key] = p, gadget.interacts
        if gadget.interacts and gadget.head == 0:
            kind[0, 2 * p, [2 * sink + 1 for sink in sinks]] = len(planted)
    names = [*(gadget.kind for gadget in planted), PLANTED_QUERY_AND_SINK, OTHERS]
    kinds: dict[str, list[int]] = {}
    for place, p in enumerate(kind.flatten().tolist()):
        kinds.setdefault(names[p], []).append(place)
    return Scored(name, interacts.flatten(), kinds, {m: table.flatten() for m, table in tables.items()})


def references(
    passages: Sequence[Passage], heads: Heads, queries: int, draw: torch.Generator
) -> Float64[Tensor, "2 head feature feature"]:
    """What pairs do to a head's output, exactly and through the softmax, at that many drawn queries in each head.

    First the index of a query feature and a feature of all keys, then what the head loses with both removed beyond what
    it loses with each. Sums over those queries in which a feature asks for anything; in the others both are 0.
    """
    total = torch.zeros(2, heads.n_heads, heads.n_features, heads.n_features, dtype=torch.float64)
    on = torch.stack([passage.codes.dense() > 0 for passage in passages])
    for h, (index, removed) in enumerate(zip(*total, strict=True)):
        alone = _one_head(heads, h)
        # features that a head does not read are null players: they change no index and double the coalitions
        asks, answers = alone.queries[0].any(1), alone.keys[0].any(1)
        asking = (on & asks).any(2).nonzero()
        for text, t in asking[torch.randperm(len(asking), generator=draw)[:queries]].tolist():
            i, j, size = second_differences(passages[text], 0, alone, t)
            removed[i[:, None], j] += size
            seen = (on[text, : t + 1].any(0) & answers).nonzero().squeeze(1)
            game, players = attention_game(passages[text], 0, alone, t, seen)
            if len(seen):
                found = exact(game, len(players) + len(seen)).strength()
                index[players[:, None], seen] += found[: len(players), len(players) :]
    return total


def _one_head(heads: Heads, h: int) -> Heads:
    names = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")
    weights: dict[str, Any] = {name: getattr(heads.attention, name)[h : h + 1] for name in names}
    return replace(heads, attention=replace(heads.attention, **weights))


def _root_mean_square(table: QueryKey) -> Float64[Tensor, "head query key"]:
    """Of the entries over all distances: what weights alone say."""
    n = table.queries.shape[1]
    i, j = torch.cartesian_prod(torch.arange(n), torch.arange(n)).unbind(1)
    return table.of_pairs(i, j).at(torch.arange(POSITIONS)).square().mean(-1).sqrt().T.unflatten(1, (n, n))
