"""The interaction of every query feature with every key feature, one text and head at a time.

In a model with rotary positions c_ij(t,s) depends on the distance, so that each query feature at each position (an
*event*) meets each key feature at each position. Chunks hold a bounded number of these meetings; sums over the places
where a key feature is active leave one number for each event and key feature. It is exact without rotary positions too,
and what looks at single positions is made from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.pairs_blocks import Rows, TextSums, starts_of
from crossproof.interaction.attention.reach import FLAT, Reach, reach_of

MEETINGS = 2**19
"""Of an event with a key feature at a position, held at a time."""


@dataclass(frozen=True, eq=False)
class Events:
    """Query features at some positions, those of each position together, in order of their index."""

    head: int
    positions: Int[Tensor, " event"]
    queries: Int[Tensor, " event"]
    """Which feature of the text asks; their number for the background, the last at each position."""
    interaction: Float[Tensor, "key event"]
    """I[i→j](t) with each key feature of the text that has been active by then; with those after it, 0."""


@dataclass(frozen=True, eq=False)
class _Turned:
    """Queries of events and keys of entries, times their strengths and turned by their positions."""

    queries: Float[Tensor, "head event d_head"]
    keys: Float[Tensor, "head entry d_head"]


class TextEvents:
    """All that is needed of one text at one layer. The codes' strengths must not be 0."""

    def __init__(self, heads: Heads, passage: Passage, layer: int) -> None:
        codes, n = passage.codes, passage.positions
        self.window = heads.attention.window or n
        self.features, place = _by_appearance(codes.pattern.features)
        rows = codes.pattern.rows
        self.by_key = torch.argsort(place, stable=True)
        self.key_position, self.key = rows[self.by_key], place[self.by_key]
        asks = passage.described.nonzero().squeeze(1)
        position = torch.cat([rows, asks])
        order = torch.argsort(position, stable=True)
        self.position = position[order]
        self.query = torch.cat([place, torch.full_like(asks, len(self.features))])[order]
        turned = _turned(heads, passage, asks)
        self.queries, self.keys = turned.queries[:, order], turned.keys[:, self.by_key]
        x = heads.input(passage, layer)[None]
        self.seen: Reach = reach_of(heads, x, passage.described[None])
        # how much of its attention a query pays to positions without the feature: never as 1 less the rest of it
        off = torch.ones(n, len(self.features), dtype=x.dtype, device=x.device)
        off[rows, place] = 0
        self.elsewhere: Float[Tensor, "head pos key"] = self.seen.pattern[0] @ off

    def __iter__(self) -> Iterator[Events]:
        for head in range(self.queries.shape[0]):
            for begin, end in self._chunks():
                positions, queries = self.position[begin:end], self.query[begin:end]
                yield Events(head, positions, queries, self._interaction(head, begin, end))

    def _chunks(self) -> Iterator[tuple[int, int]]:
        """Of events, whole positions together."""
        events = starts_of(torch.bincount(self.position, minlength=self.elsewhere.shape[1])).tolist()
        keys = starts_of(torch.bincount(self.key_position, minlength=self.elsewhere.shape[1])).tolist()
        begin = 0
        for position, end in enumerate(events[1:]):
            more = events[position + 2] - begin if position + 2 < len(events) else None
            if more is None or more * keys[position + 2] > MEETINGS:
                if end > begin:
                    yield begin, end
                begin = end

    def _interaction(self, head: int, begin: int, end: int) -> Float[Tensor, "key event"]:
        pattern, at = self.seen.pattern[0, head], self.position[begin:end]
        met = ((self.key_position <= at[-1]) & (self.key_position > at[0] - self.window)).nonzero().squeeze(1)
        key = self.key[met]
        n_features = int(key.max()) + 1 if len(key) else 0
        sums = Rows(starts_of(torch.bincount(key, minlength=n_features)), torch.arange(len(met), device=at.device))
        score = self.keys[head, met] @ self.queries[head, begin:end].T
        weight = pattern.T.index_select(1, at).index_select(0, self.key_position[met])
        weighted = score * weight
        ones, (mean, squares) = torch.ones_like(score[:, 0]), score.new_zeros(2, n_features, end - begin)
        if len(met):
            sums.product(ones, weighted, mean, 0)
            sums.product(ones, weighted.mul_(score), squares, 0)
        variance = torch.addcmul(squares, mean, mean, value=-1)
        j, event = (variance < FLAT * squares).nonzero(as_tuple=True)
        counts = sums.starts.diff()
        step = max(1, MEETINGS // int(counts.max())) if len(j) else 1
        for some in torch.arange(len(j), device=at.device).split(step):
            its_j, its_event = j[some], event[some]
            n = counts[its_j]
            which = torch.repeat_interleave(n)
            place = torch.arange(len(which), device=at.device) - (starts_of(n)[:-1] - sums.starts[its_j])[which]
            its_mean = mean[its_j, its_event]
            far = (score[place, its_event[which]] - its_mean[which]).square() * weight[place, its_event[which]]
            off = self.elsewhere[head, at[its_event], its_j] * its_mean.square()
            variance[its_j, its_event] = off.index_add(0, which, far)
        return variance.clamp_(min=0).sqrt_().mul_(self.seen.reach[0, head, at])


def add_text(heads: Heads, passage: Passage, layer: int, to: TextSums) -> None:
    """Add one text to the sums of this layer."""
    events = TextEvents(heads, passage, layer)
    n_features = len(events.features)
    by_text = to.written.new_zeros(1, heads.n_heads)
    tables = events.queries.new_zeros(heads.n_heads, n_features + 1, n_features)
    for some in events:
        met = tables[some.head, :, : len(some.interaction)]
        met.index_add_(0, some.queries, some.interaction.T.contiguous())
    for head, table in enumerate(tables.double()):
        pairs = table[:-1]
        to.total[head].index_put_((events.features[:, None], events.features), pairs, accumulate=True)
        to.background[head, events.features] += table[-1]
        by_text[0, head] = pairs.sum()
    to.by_text.append(by_text)
    to.written += events.seen.written[0][:, passage.described].double().sum(1)


def _by_appearance(features: Int[Tensor, " entry"]) -> tuple[Int[Tensor, " feature"], Int[Tensor, " entry"]]:
    """The features of a text in the order of their first positions, so that those met by then come first; and the place
    of each entry's among them."""
    found, place = features.unique(return_inverse=True)
    first = torch.full_like(found, len(features))
    first.scatter_reduce_(0, place, torch.arange(len(features), device=features.device), "amin")
    order = first.argsort()
    return found[order], order.argsort()[place]


def _turned(heads: Heads, passage: Passage, asks: Int[Tensor, " asking"]) -> _Turned:
    pattern, attention = passage.codes.pattern, heads.attention
    values = passage.codes.values.to(heads.directions)[:, None]
    counts = pattern.row_starts.diff()
    slot = torch.arange(pattern.n_entries, device=values.device) - pattern.row_starts[pattern.rows]
    slots = int(counts.max()) if len(counts) else 0

    def at_positions(vectors: Tensor) -> Tensor:
        by_slot = vectors.new_zeros(heads.n_heads, slots, passage.positions, vectors.shape[2])
        by_slot[:, slot, pattern.rows] = vectors[:, pattern.features] * values
        return heads.rotated(by_slot)[:, slot, pattern.rows]

    background = attention.scale * (heads.bias @ attention.W_Q + attention.b_Q)
    asking = heads.rotated(background[:, None].expand(-1, passage.positions, -1))[:, asks]
    return _Turned(torch.cat([at_positions(heads.queries), asking], dim=1), at_positions(heads.keys))
