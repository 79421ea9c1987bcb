"""What features do to each other through a head's pattern: the index at sampled positions, and every metric of it.

A pair is a feature i in the query of one position and a feature j in all keys that the position sees. The players of a
game are all features active at the position, as queries, and a few of those that it sees, as keys. These are drawn anew
at each position, from a few dozen features that are drawn once: pairs would hardly ever come back otherwise, and there
would be no means over positions to rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.binding.encoding import Encoded
from crossproof.interaction.attention.game import attention_game
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.output import Reading, read
from crossproof.interaction.attention.pairs import query_key_pairs
from crossproof.interaction.attention.removal import second_differences
from crossproof.interaction.attention.tables import query_key
from crossproof.interaction.weights import typical_strengths
from crossproof.progress import progress
from crossproof.study.unit_ranking.index import Sampled, UnitPairs, index_of

POOL = 64
"""Features from which those that play as keys are drawn."""

HERE = {
    "second difference, here": "how the output changes when both are removed, less when either is",
    "second order, here": "the same to second order: what they add to scores together, and what each does where the "
    "other moved the pattern",
    "first order, here": "what the term that they add to scores together does to the output, to first order",
    "interaction, here": "the bound on that: spread of the term × spread of what the head would write, heads summed",
    "scores, here": "mean size of the term where the head looks, heads summed",
    "strengths, here": "the product of i's strength and of j's mean strength over all keys",
    "keys, here": "how many keys have j",
}
CORPUS = {
    "interaction": "the bound, mean over all queries",
    "interaction, asking": "the same, mean over the queries where i is active",
    "interaction, together": "the same, mean over the queries where i is active and j is seen",
    "table, typical": "what both add to a score at typical strengths, mean over distances; sizes summed over heads",
    "table, centred": "the same, doubly centred under firing weights",
    "strengths, typical": "the product of typical strengths",
    "meetings": "queries where i is active and j is seen",
    "random": "a random number",
}
Scores = dict[str, Float64[Tensor, "unit pair"]]


class Place(NamedTuple):
    """A sampled query."""

    sampled: int
    """Which of the sampled rows of the codes."""
    passage: Passage
    position: int


def at_positions(
    encoded: Encoded, rows: Int[Tensor, " token"], layers: Sequence[Heads], n_keys: int, seed: int
) -> UnitPairs:
    """At these rows of the codes: query features × at most `n_keys` key features, the index of each pair."""
    draw = torch.Generator().manual_seed(seed)
    n_features = encoded.codes.pattern.n_features
    pool = torch.randperm(n_features, generator=draw)[:POOL]
    found = Sampled(len(layers))
    with progress("Shapley-Taylor at queries", len(rows), "queries") as bar:
        for place in places(encoded, rows):
            keys = _drawn(place, layers, pool, n_keys, draw)
            if len(keys):
                _add(found, place, layers, keys, seed + int(rows[place.sampled]))
            bar(1)
    return found.pairs()


def places(encoded: Encoded, rows: Int[Tensor, " token"]) -> Iterator[Place]:
    """Where rows of the codes stand in texts as attention reads them. Rows ascend."""
    texts = encoded.keep.any(1).nonzero().squeeze(1).tolist()
    where = encoded.keep.nonzero()[rows.cpu()].tolist()
    sampled = 0
    for text, passage in zip(texts, encoded.passages(), strict=True):
        while sampled < len(where) and where[sampled][0] == text:
            yield Place(sampled, passage, where[sampled][1])
            sampled += 1


def _drawn(
    place: Place, layers: Sequence[Heads], pool: Int[Tensor, " pool"], n_keys: int, draw: torch.Generator
) -> Int[Tensor, " key"]:
    """Features of the pool that every layer sees, ascending."""
    codes = place.passage.codes.active()
    masks = [heads.attention.mask(place.passage.positions)[place.position] for heads in layers]
    seen = torch.stack(masks).all(0).to(codes.values.device)
    present = codes.pattern.features[seen[codes.pattern.rows]].unique().cpu()
    present = present[torch.isin(present, pool)]
    return present[torch.randperm(len(present), generator=draw)[:n_keys]].sort().values


def _add(found: Sampled, place: Place, layers: Sequence[Heads], keys: Int[Tensor, " key"], seed: int) -> None:
    t, units = place.position, []
    row = place.passage.codes.active().rows(t, t + 1)
    queries, keys = row.pattern.features, keys.to(row.pattern.features.device)
    n_queries, n_keys = len(queries), len(keys)
    a, b = torch.arange(n_queries).repeat_interleave(n_keys), torch.arange(n_keys).repeat(n_queries)
    for number, heads in enumerate(layers):
        text = read(place.passage, number, heads)
        game, _ = attention_game(place.passage, number, heads, t, keys)
        output = text.heads.attention(text.x[None])[0, t] - text.heads.attention.b_O
        here = {"second difference, here": _removed(place, number, heads, keys)} | metrics_at(text, t, keys)
        flat = {name: values.flatten() for name, values in here.items()}
        units.append(index_of(game, a, n_queries + b, n_queries + n_keys, seed, output, flat))
    found.add(place.sampled, queries[a], keys[b], n_queries + n_keys, units)


def _removed(place: Place, number: int, heads: Heads, keys: Int[Tensor, " key"]) -> Float64[Tensor, "query key"]:
    removed = second_differences(place.passage, number, heads, place.position)
    return removed.size[:, torch.searchsorted(removed.key_features, keys)]


def metrics_at(text: Reading, t: int, keys: Int[Tensor, " key"]) -> dict[str, Float64[Tensor, "query key"]]:
    """Those of `HERE` that no other room has, of the features active at t with some that it sees; heads summed."""
    unit, on = text.heads.attention, text.strengths[:, t] > 0
    seen, places = unit.mask(len(text.x))[t], torch.searchsorted(text.features, keys)
    pattern = text.pattern[:, t, seen]
    queries = torch.stack([text.feature_queries(head)[on, t] for head in range(text.heads.n_heads)])
    strengths = text.f[:, places].T
    parts = text.heads.rotated(strengths[..., None] * text.heads.keys[:, places][:, :, None])[:, :, seen]

    def away(values: Tensor) -> Tensor:
        """From the mean under the pattern; heads first, keys last."""
        weights = pattern[:, *[None] * (values.dim() - 2)]
        return values - (weights * values).sum(-1, keepdim=True)

    terms = torch.einsum("hqd,hksd->hqks", queries, parts)
    of_query = away(torch.einsum("hqd,hsd->hqs", queries, text.keys(text.x)[:, seen]))
    of_key = away(torch.einsum("hd,hksd->hks", text.queries(text.x)[:, t], parts))
    written = away((text.values(text.x)[:, seen] @ unit.W_O).mT)
    weights, apart = pattern[:, None, None], away(terms)
    reach = (pattern * written.square().sum(1)).sum(-1).sqrt()
    spread = (weights * apart.square()).sum(-1).sqrt()

    def moved(scores: Tensor) -> Tensor:
        return torch.einsum("hqks,hds->qkd", weights * scores, written).norm(dim=-1)

    return {
        "second order, here": moved(apart + of_query[:, :, None] * of_key[:, None]),
        "first order, here": moved(apart),
        "interaction, here": (spread * reach[:, None, None]).sum(0),
        "scores, here": (weights * terms.abs()).sum((0, 3)),
        "strengths, here": text.strengths[on, t][:, None] * strengths[:, seen].mean(1),
        "keys, here": (strengths[:, seen] > 0).sum(1).double().expand(int(on.sum()), -1),
    }


def corpus_scores(
    encoded: Encoded, layers: Sequence[Heads], i: Int[Tensor, " pair"], j: Int[Tensor, " pair"], seed: int
) -> Scores:
    """What the metrics of `CORPUS` say of query features i with key features j, from all positions of these texts."""
    codes, random = encoded.codes, torch.rand(len(i), generator=torch.Generator().manual_seed(seed)).double()
    typical, firing = typical_strengths(codes), codes.firing_counts()
    tables = query_key_pairs(encoded.passages(), layers, total=int(encoded.keep.any(1).sum()))
    found: dict[str, list[Tensor]] = {name: [] for name in CORPUS}
    for heads, table in zip(layers, tables, strict=True):
        total = torch.stack([of_head[i, j] for of_head in table.total]).double().sum(0)
        met, distances = meetings(encoded, heads)
        weights = query_key(heads, typical)
        its = {
            "interaction": total / table.n_queries,
            "interaction, asking": total / firing[i],
            "interaction, together": total / met[i, j],
            "table, typical": weights.of_pairs(i, j).mean(distances).abs().sum(1),
            "table, centred": weights.centred(firing).of_pairs(i, j).mean(distances).abs().sum(1),
            "strengths, typical": typical[i] * typical[j],
            "meetings": met[i, j],
            "random": random.to(total.device),
        }
        for name, values in its.items():
            found[name].append(values)
    return {name: torch.stack(values) for name, values in found.items()}


def meetings(encoded: Encoded, heads: Heads) -> tuple[Float64[Tensor, "feature feature"], Float64[Tensor, " distance"]]:
    """At how many described queries feature i is active and sees feature j, and how often each distance occurs."""
    n_features = encoded.codes.pattern.n_features
    met = torch.zeros(n_features, n_features, dtype=torch.float64, device=encoded.codes.values.device)
    distances = torch.zeros(encoded.keep.shape[1], dtype=torch.float64, device=met.device)
    for passage in encoded.passages():
        codes = passage.codes.active()
        features, places = codes.pattern.features.unique(return_inverse=True)
        on = torch.zeros(passage.positions, len(features), dtype=torch.float64, device=met.device)
        on[codes.pattern.rows, places] = 1
        mask = heads.attention.mask(passage.positions).to(met.device)
        met[features[:, None], features] += on.T @ ((mask.double() @ on) > 0).double()
        query, key = (mask & passage.described[:, None]).nonzero(as_tuple=True)
        distances += torch.bincount(query - key, minlength=len(distances))
    return met, distances
