"""The training penalty on attention: what a dictionary pays for heads that look for many things at once.

    penalty = AttentionPenalty(units)                                  # the attention layers of the model
    loss = reconstruction + weight * penalty(features, directions)     # directions: [feature, d_model] for each layer

Directions are what the dictionary writes at each layer's input, in the model's raw units. The score of a query at t on
a key at s is, but for the background, the sum of c_ij = f_i(t) f_j(s) B_ij over the features active at each, where B
depends on the head and, with rotary positions, on the distance of the two. Of each pair of tokens and each head is
penalised Σ|c| − the q largest |c|: a head costs nothing where q pairs of a query and a key feature make its score.

A batch of training is of shuffled tokens and has no texts. So tokens are paired at random: each of some of them is a
query, and another token of the batch its key, with rotary positions at a random distance. This is redrawn at each call;
in `paper` scaling it is unbiased for the mean over all pairs of different tokens at all distances.

Two scalings, as for MLPs (`interaction/penalty.py`):

- `paper`: the mean over layers, pairs of tokens and heads of what is penalised.
- `relative`: for each layer what is penalised over Σ|c|, both pooled over pairs and heads; then the mean over layers.
  The denominator is a constant to the gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from crossproof.codes import Codes, Pattern, as_codes
from crossproof.errors import CrossproofError
from crossproof.interaction.contributions import check_directions
from crossproof.interaction.penalty import Scaling, generator_of, only_active
from crossproof.units import Attention, Rotary

CHUNK = 2**19
"""Numbers held at a time: what a few pairs' features add to queries and keys, and all their terms of scores."""

CONTEXT = 256
"""How far a query may look where neither the model nor the caller says."""


class AttentionPenalty(nn.Module):
    """How many pairs of features make the scores of these attention layers, as one number with gradients.

    Calling it gives the number, unweighted. `state_dict` holds the count of draws. In evaluation mode every call makes
    the draw that the first call in training makes, and nothing is counted: equal batches have equal values.
    """

    def __init__(
        self,
        units: Sequence[Attention],
        q: int = 1,
        scaling: Scaling | str = "relative",
        pairs: int | None = 32,
        seed: int = 0,
        context: int = CONTEXT,
    ) -> None:
        """
        Args:
            units: The attention layers.
            q: How many of the largest terms of each score go free.
            scaling: `paper` or `relative`, as above.
            pairs: How many pairs of tokens each call looks at, at most; None for as many as there are tokens.
            seed: Of the pairs of tokens and their distances.
            context: How many positions texts have. With rotary positions, distances are drawn from those that a query
                sees: 0 to context − 1, or as far as the layer's window reaches.
        """
        super().__init__()
        if not units:
            raise CrossproofError("units: there is no attention layer to penalise; give at least one")
        if scaling not in get_args(Scaling):
            raise CrossproofError(f"scaling: no {scaling!r}; there are {', '.join(get_args(Scaling))}")
        if q < 1:
            raise CrossproofError(f"q: {q} of the largest terms of a score cannot go free; give at least 1")
        if pairs is not None and pairs < 1:
            raise CrossproofError(f"pairs: {pairs} pairs of tokens are nothing to look at; give at least 1, or None")
        if context < 1:
            raise CrossproofError(f"context: texts of {context} positions have no tokens; give at least 1")
        self.q, self.scaling, self.pairs, self.seed = q, scaling, pairs, seed
        self.layers = nn.ModuleList(_Layer(unit, context) for unit in units)
        self.draws: Tensor
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))

    def extra_repr(self) -> str:
        return f"{len(self.layers)} attention layers, q={self.q}, {self.scaling} scaling"

    def forward(
        self, features: Codes | Float[Tensor, "..."], directions: Sequence[Float[Tensor, "..."]]
    ) -> Float[Tensor, ""]:
        """The penalty of a batch: sparse codes or anybody's [token, feature] matrix, and each layer's directions."""
        codes = as_codes(features).active()
        generator = generator_of(self.seed, int(self.draws) if self.training else 0)
        pairs = draw_pairs(codes.pattern.n_rows, self.pairs, generator)
        self.draws += 1 if self.training else 0
        return self.of_pairs(codes, directions, pairs)

    def of_pairs(
        self, features: Codes | Float[Tensor, "..."], directions: Sequence[Float[Tensor, "..."]], pairs: Pairs
    ) -> Float[Tensor, ""]:
        """The same of given pairs of tokens."""
        codes = as_codes(features).active()
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        check_directions(codes, directions, [layer.d_model for layer in layers], "attention layer", "W_Q's second")
        with torch.autocast(codes.values.device.type, enabled=False):
            like = layers[0].W  # of the dtype in which all is computed
            codes, pairs = _of_tokens(Codes(codes.pattern, codes.values.to(like)), pairs)
            codes, directions = only_active(codes, directions)
            plan = cache(partial(_plan, codes, pairs))
            values = [
                self._of_layer(layer, codes, at.to(like), pairs, plan)
                for layer, at in zip(layers, directions, strict=True)
            ]
            return torch.stack(values).mean()

    def _of_layer(
        self,
        layer: _Layer,
        codes: Codes,
        directions: Float[Tensor, "feature d_model"],
        pairs: Pairs,
        plan: Callable[..., _Plan],
    ) -> Float[Tensor, ""]:
        queries, keys = layer.tables(directions)
        distances = (pairs.how_far * layer.reach).long()
        penalised, total = _Terms.apply(
            codes.values, queries, keys, plan(layer.heads, layer.kv_heads, layer.d_head), distances, layer, self.q
        )  # type: ignore[no-untyped-call]
        if self.scaling == "paper":
            return penalised / max(1, len(distances) * layer.heads)
        return penalised / torch.where(total == 0, 1.0, total)


class Pairs(NamedTuple):
    """Tokens of a batch as queries, and for each the token that is its key and how far away that is supposed to be."""

    queries: Int[Tensor, " pair"]
    keys: Int[Tensor, " pair"]
    how_far: Float64[Tensor, " pair"]
    """As a part of the way that a query sees, in [0, 1)."""


def draw_pairs(tokens: int, pairs: int | None, generator: torch.Generator) -> Pairs:
    """At most so many pairs, or as many as tokens: each token once a query and once a key, or not at all.

    Every pair of different tokens is as likely; a token is its own key where it is the only one.
    """
    order = torch.randperm(tokens, generator=generator)
    # one circle through all tokens: none is its own neighbour
    queries, keys = order[:pairs], order.roll(1)[:pairs]
    return Pairs(queries, keys, torch.rand(len(queries), generator=generator, dtype=torch.float64))


class _Layer(nn.Module):
    """The queries and keys of one attention layer."""

    W: Tensor

    def __init__(self, unit: Attention, context: int) -> None:
        super().__init__()
        self.heads, self.d_model, self.d_head = unit.W_Q.shape
        self.kv_heads = len(unit.W_K)
        self.reach = min(context, unit.window or context)
        self.rotary: Rotary | None = unit.rotary
        W = torch.cat([unit.scale * unit.W_Q, unit.W_K]).detach().transpose(0, 1).flatten(1)
        self.register_buffer("W", W, persistent=False)  # not in the state: it is the model's

    def tables(
        self, directions: Float[Tensor, "feature d_model"]
    ) -> tuple[Float[Tensor, "head_feature d_head"], Float[Tensor, "kv_head_feature d_head"]]:
        """What features of strength 1 add to queries and keys, head by head."""
        of_heads = (directions @ self.W).unflatten(1, (-1, self.d_head)).transpose(0, 1)
        return of_heads[: self.heads].flatten(0, 1), of_heads[self.heads :].flatten(0, 1)

    def turned(
        self, queries: Float[Tensor, "kv_head pair row d_head"], distances: Int[Tensor, " pair"]
    ) -> Float[Tensor, "kv_head pair row d_head"]:
        """By the distance to the key, which then need not be turned itself."""
        return queries if self.rotary is None else self.rotary.at(queries, distances[:, None])


class _Chunk(NamedTuple):
    """A few pairs that have about as many active features, which stand side by side in slots."""

    pairs: Int[Tensor, " pair"]
    query_entries: Int[Tensor, "pair slot"]
    """Where in the codes they stand; the number of entries in a slot that a token does not need."""
    key_entries: Int[Tensor, "pair key_slot"]
    strengths: Float[Tensor, "pair slot key_slot"]
    """f_i(t) f_j(s), 0 where a slot is not needed."""
    query_rows: Int[Tensor, "kv_head pair group slot"]
    """In a table of queries. Query heads of one key head stand together."""
    key_rows: Int[Tensor, "kv_head pair key_slot"]


class _Plan(NamedTuple):
    """The pairs of one call in chunks: those of one batch serve all layers of a shape."""

    chunks: list[_Chunk]
    of_queries: tuple[Int[Tensor, " row"], Int[Tensor, " table_row_and_one"]]
    """The order that sorts the rows of all chunks by where they stand in the table, and where each of those starts."""
    of_keys: tuple[Int[Tensor, " row"], Int[Tensor, " table_row_and_one"]]


class _Terms(torch.autograd.Function):
    """Σ|c| less the q largest |c| of each pair and head, and Σ|c|, both over pairs and heads; the first has gradients.

    The gradient is made on the way forward, chunk by chunk, so that terms of scores need not be kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        queries: Tensor,
        keys: Tensor,
        plan: _Plan,
        distances: Tensor,
        layer: _Layer,
        q: int,
    ) -> tuple[Tensor, Tensor]:
        wanted = any(ctx.needs_input_grad[:3])
        penalised, total = (torch.zeros((), dtype=torch.float64, device=values.device) for _ in range(2))
        of_values = values.new_zeros(len(values) + 1)  # the last is where slots that no token needs write
        of_queries, of_keys = ([values.new_zeros(0, layer.d_head)] for _ in range(2))
        for chunk in plan.chunks:
            distance = distances[chunk.pairs]
            Q = queries.index_select(0, chunk.query_rows.flatten()).view(*chunk.query_rows.shape, -1).flatten(2, 3)
            Q = layer.turned(Q, distance)
            K = keys.index_select(0, chunk.key_rows.flatten()).view(*chunk.key_rows.shape, -1)
            # of strength 1 until here, and one of each pair of slots
            c = (Q @ K.mT).unflatten(2, (-1, chunk.strengths.shape[1]))
            strengths = chunk.strengths[:, None]
            left, to_c = (c.abs() * strengths).flatten(3), (c.sign_() * strengths).flatten(3)
            total += left.sum(dtype=torch.float64)
            for _ in range(min(q, left.shape[-1])):
                largest = left.max(-1, keepdim=True).indices  # the first of several: the lowest features
                left.scatter_(-1, largest, 0.0)
                to_c.scatter_(-1, largest, 0.0)
            penalised += left.sum(dtype=torch.float64)
            if wanted:
                of_pair = left.view_as(c).sum((0, 2))
                of_values.index_add_(0, chunk.query_entries.flatten(), of_pair.sum(2).flatten())
                of_values.index_add_(0, chunk.key_entries.flatten(), of_pair.sum(1).flatten())
                to_c = to_c.view_as(c).flatten(2, 3)
                of_queries.append(layer.turned(to_c @ K, -distance).flatten(0, 2))
                of_keys.append((to_c.mT @ Q).flatten(0, 2))
        if wanted:
            ctx.save_for_backward(
                # the terms of an entry are as many times as large as it is strong
                of_values[:-1] / values.clamp(min=torch.finfo(values.dtype).tiny),
                _summed(torch.cat(of_queries), *plan.of_queries),
                _summed(torch.cat(of_keys), *plan.of_keys),
            )
        total = total.to(values)
        ctx.mark_non_differentiable(total)
        return penalised.to(values), total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * its for its in ctx.saved_tensors), None, None, None, None


def _summed(
    rows: Float[Tensor, "row d_head"], order: Int[Tensor, " row"], starts: Int[Tensor, " table_row_and_one"]
) -> Float[Tensor, "table_row d_head"]:
    return F.embedding_bag(order, rows, starts, mode="sum", include_last_offset=True)


def _of_tokens(codes: Codes, pairs: Pairs) -> tuple[Codes, Pairs]:
    """The same with those tokens alone that are in a pair."""
    n_rows = codes.pattern.n_rows
    there = torch.zeros(n_rows, dtype=torch.bool, device=codes.values.device)
    queries, keys, how_far = (its.to(there.device) for its in pairs)
    there[queries] = there[keys] = True
    on = there[codes.pattern.rows]
    starts = torch.zeros(n_rows + 1, dtype=torch.long, device=there.device)
    torch.cumsum(torch.where(there, codes.pattern.row_starts.diff(), 0), 0, out=starts[1:])
    pattern = Pattern(codes.pattern.features[on], starts, codes.pattern.n_features)
    return Codes(pattern, codes.values[on]), Pairs(queries, keys, how_far)


def _plan(codes: Codes, pairs: Pairs, heads: int, kv_heads: int, d_head: int) -> _Plan:
    pattern = codes.pattern
    features = torch.cat([pattern.features, pattern.features.new_zeros(1)])
    values = torch.cat([codes.values.detach(), codes.values.new_zeros(1)])
    first_rows = pattern.n_features * torch.arange(heads, device=features.device)  # of each head in a table
    chunks = []
    for some, query_entries, key_entries in _cut(pattern, pairs, heads, d_head):
        of_queries = first_rows.view(kv_heads, 1, -1, 1) + features[query_entries][:, None]
        of_keys = first_rows[:kv_heads, None, None] + features[key_entries]
        strengths = values[query_entries][:, :, None] * values[key_entries][:, None]
        chunks.append(_Chunk(some, query_entries, key_entries, strengths, of_queries, of_keys))
    return _Plan(
        chunks,
        _sorted([chunk.query_rows for chunk in chunks], heads * pattern.n_features, features),
        _sorted([chunk.key_rows for chunk in chunks], kv_heads * pattern.n_features, features),
    )


def _sorted(rows: Sequence[Tensor], table_rows: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """The order that sorts all these, and where each row of the table starts."""
    every = torch.cat([like.new_zeros(0), *(its.flatten() for its in rows)])
    starts = torch.zeros(table_rows + 1, dtype=torch.long, device=like.device)
    torch.cumsum(torch.bincount(every, minlength=table_rows), 0, out=starts[1:])
    return every.argsort(stable=True), starts


def _cut(
    pattern: Pattern, pairs: Pairs, heads: int, d_head: int
) -> Iterator[tuple[Int[Tensor, " pair"], Int[Tensor, "pair slot"], Int[Tensor, "pair key_slot"]]]:
    """A few pairs at a time, and the entries of their queries and keys. Pairs without a term are left out."""
    counts = pattern.row_starts.diff()
    of_queries, of_keys = counts[pairs.queries], counts[pairs.keys]
    some = ((of_queries > 0) & (of_keys > 0)).nonzero()[:, 0]
    larger = torch.maximum(of_queries, of_keys)[some]
    order = larger.argsort(stable=True)
    some, in_order = some[order], larger[order].tolist()
    slot = torch.arange(max(in_order, default=0), device=counts.device)

    def entries(tokens: Tensor) -> Tensor:
        its = counts[tokens][:, None]
        slots = slot[: int(its.max())]
        return torch.where(slots < its, pattern.row_starts[tokens][:, None] + slots, pattern.n_entries)

    end = len(in_order)
    while end > 0:
        slots = in_order[end - 1]
        start = max(0, end - max(1, CHUNK // (heads * slots * (slots + 2 * d_head))))
        chunk = some[start:end]
        yield chunk, entries(pairs.queries[chunk]), entries(pairs.keys[chunk])
        end = start
