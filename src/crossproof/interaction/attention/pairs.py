"""Which query feature and which key feature interact in which head, summed over texts.

The score of the query at t on the key at s holds the term c_ij(t,s) of query feature i and key feature j. Their
interaction in a head at t is

    I[i→j](t) = Std_{s∼A_t}(c_ij(t,·)) × Std_{s∼A_t}(y_s)

with y_s what the head would write from s, both under the head's own attention A_t: a bound, by Cauchy-Schwarz, on how
far the term moves the head's output to first order, in units of the residual stream. What a term gives to all positions
alike moves nothing, and counts nothing. The sum over pairs and heads is what the layer's query-key terms can do at a
token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.pairs_blocks import TextSums, add_texts
from crossproof.interaction.attention.pairs_events import TextEvents, add_text
from crossproof.interaction.contributions import check_codes
from crossproof.progress import progress

GROUP = 2**15
"""Positions in a group of texts: its sums are kept in the dtype of the directions, and then added in float64."""
MOST_BYTES = 4 * 2**30
"""Of all tables together, in float64."""


@dataclass(frozen=True, eq=False)
class HeadPairs:
    """The query × key interactions of one layer's heads over some texts: sums over the described queries."""

    name: str
    total: Float[Tensor, "head feature feature"]
    """Σ_t I[i→j](t) for the query feature i and the key feature j."""
    background: Float[Tensor, "head feature"]
    """The same for the query that no feature makes: the key feature attracts attention whatever asks."""
    written: Float64[Tensor, " head"]
    """Σ_t ‖Σ_s A_ts y_s‖: what the head writes, to measure the interactions by. Without b_O, which is the layer's."""
    by_text: Float64[Tensor, "text head"]
    """Σ_t Σ_ij I[i→j](t) of each text, in the order of the texts."""
    queries: Int[Tensor, " text"]
    """Described positions of each text."""

    @property
    def n_queries(self) -> int:
        return int(self.queries.sum())

    @property
    def mean(self) -> Float[Tensor, "head feature feature"]:
        """Per described query, those where i is not active among them. Over no queries it is not a number."""
        return self.total / self.n_queries


@dataclass(frozen=True, eq=False)
class QueryPairs:
    """The query × key interactions at each position of one text; at given positions there are none."""

    score: Float64[Tensor, "pos layer head"]
    """Σ_ij I[i→j](t)."""
    i: Int[Tensor, " pos"]
    """The query feature of the strongest pair, −1 where there is none; of several, the lowest i, then the lowest j."""
    j: Int[Tensor, " pos"]
    layer: Int[Tensor, " pos"]
    """Its place among the layers."""
    head: Int[Tensor, " pos"]
    value: Float64[Tensor, " pos"]
    """Its I[i→j](t)."""


@torch.no_grad()
def query_key_pairs(passages: Iterable[Passage], layers: Sequence[Heads], total: int | None = None) -> list[HeadPairs]:
    """The table of each layer. `total` is the number of texts, for the progress bar, where they come one by one.

    Tables are of features² for each head, so that memory does not grow with the texts. Without rotary positions, sums
    over 2^15 positions are kept in the dtype of the directions; with them, over a text; beyond, in float64.
    """
    check_size(sum(heads.n_heads for heads in layers), max((heads.n_features for heads in layers), default=0))
    sums, queries = [TextSums(heads) for heads in layers], []
    straight = {n: heads for n, heads in enumerate(layers) if heads.attention.rotary is None}
    expected = total if total is not None else len(passages) if isinstance(passages, Sized) else 0
    with progress("query × key pairs", expected, "texts") as bar:
        for group in _groups(passages, layers):
            queries += [passage.described.sum() for passage in group]
            if straight:
                add_texts(group, straight, sums)
            for passage in group:
                for number, heads in enumerate(layers):
                    if number not in straight:
                        add_text(heads, passage, number, sums[number])
                bar(1)
    return [
        HeadPairs(
            heads.name,
            its.total.to(heads.directions.dtype),
            its.background.to(heads.directions.dtype),
            its.written,
            torch.cat([its.written.new_zeros(0, heads.n_heads), *its.by_text]),
            torch.tensor(queries, dtype=torch.long, device=heads.directions.device),
        )
        for heads, its in zip(layers, sums, strict=True)
    ]


@torch.no_grad()
def at_positions(passage: Passage, layers: Sequence[Heads]) -> QueryPairs:
    """One text, position by position: the score of each head, and the strongest pair of all layers and heads."""
    passage = _checked(passage, layers)
    device, n = passage.codes.values.device, passage.positions
    n_heads = max((heads.n_heads for heads in layers), default=0)
    score = torch.zeros(n, len(layers), n_heads, dtype=torch.float64, device=device)
    value = torch.zeros(n, dtype=torch.float64, device=device)
    strongest = torch.full((n, 4), -1, device=device)
    for number, heads in enumerate(layers):
        events = TextEvents(heads, passage, number)
        for some in events:
            asked = some.queries < len(events.features)
            if not bool(asked.any()) or len(some.interaction) == 0:
                continue
            at, interaction = some.positions[asked], some.interaction[:, asked].double()
            score[:, number, some.head].index_add_(0, at, interaction.sum(0))
            most = interaction.amax(0)
            i, keys = events.features[some.queries[asked]], events.features[: len(interaction), None]
            j = torch.where(interaction == most, keys, heads.n_features).amin(0)
            # a position's events are all here, by their index: the first of the strongest has the lowest i
            best = torch.zeros_like(value).scatter_reduce_(0, at, most, "amax")
            hits = (most == best[at]) & (most > 0)
            hits &= _better(most, i, j, value[at], strongest[at])
            where = at[hits]
            first = torch.ones_like(where, dtype=torch.bool)
            first[1:] = where[1:] != where[:-1]
            where, hit = where[first], hits.nonzero().squeeze(1)[first]
            value[where], strongest[where, 0], strongest[where, 1] = most[hit], i[hit], j[hit]
            strongest[where, 2:] = torch.tensor([number, some.head], device=device)
    i, j, layer, head = strongest.unbind(1)
    return QueryPairs(score, i, j, layer, head, value)


def _better(value: Tensor, i: Tensor, j: Tensor, than: Tensor, its: Tensor) -> Tensor:
    lower = (i < its[:, 0]) | ((i == its[:, 0]) & (j < its[:, 1]))
    return (value > than) | ((value == than) & lower)


def _groups(passages: Iterable[Passage], layers: Sequence[Heads]) -> Iterator[list[Passage]]:
    group: list[Passage] = []
    positions = 0
    for passage in passages:
        passage = _checked(passage, layers)
        if group and positions + passage.positions > GROUP:
            yield group
            group, positions = [], 0
        group.append(passage)
        positions += passage.positions
    if group:
        yield group


def _checked(passage: Passage, layers: Sequence[Heads]) -> Passage:
    """With strengths in the layers' dtype, and none of them 0."""
    if not layers or len(passage.inputs) != len(layers):
        raise MismatchError(
            f"passage: inputs of {len(passage.inputs)} layers at its given positions, but there are {len(layers)} "
            "layers; give one for each, in their order"
        )
    for heads in layers:
        check_codes(passage.codes, heads.n_features)
    codes = passage.codes.active()
    return Passage(Codes(codes.pattern, codes.values.to(layers[0].directions)), passage.given, passage.inputs)


def check_size(n_heads: int, n_features: int) -> None:
    """Refuse tables of so many heads, of all layers together, that they would not fit."""
    needed = 8 * n_heads * n_features**2
    if needed > MOST_BYTES:
        raise MismatchError(
            f"query × key tables of {n_heads} heads and {n_features:,} features squared need {needed / 2**30:.1f} GB "
            f"in float64, and as much again while they are measured; the most is {MOST_BYTES / 2**30:.1f} GB. Leave "
            'attention out of crossproof.interactions (include=("norm",), or --include norm on the command line), take '
            f"a smaller dictionary, give query_key_pairs fewer `layers` at a time, or raise {__name__}.MOST_BYTES"
        )
