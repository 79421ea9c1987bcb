"""The feature × feature query-key tables of every head: what weights say before any text is read (MATHS §4).

B_ij = (scale d_i W_Q)·(d_j W_K) is what query feature i and key feature j, both of strength 1, add to a score. Where
the model has rotary positions it is a function of the distance δ = query position − key position. Each frequency θ_m
turns one pair of coordinates, so with q_m and k_m these pairs as complex numbers

    B_ij(δ) = rest_ij + Re Σ_m C_ij^m exp(i θ_m δ),   C_ij^m = q_m conj(k_m),   rest_ij from what is not turned.

The coefficients do not depend on δ, and a mean over distances only replaces exp(i θ_m δ) by its mean. So `at` is, in
all that follows, a distance or a tensor w of weights of the distances 0, 1, 2, … (in a model without rotary positions
it makes no difference). Angles are exact here; a model that rounds them to float32 differs by as much.

*Cross-position interaction* is B doubly centred under the features' firing weights p, at each distance:
B_ij − Σ p_i' B_i'j − Σ p_j' B_ij' + ΣΣ p_i' p_j' B_i'j'. Parts of a score that depend on i alone or on j alone are
gone. It is the product of centred queries and centred keys. *Cross-feature interaction* as queries is the cosine of
its rows i and i' under the keys' weights, as keys that of its columns.

B is not invariant to a change of a feature's scale (T6). With `strengths` (`weights.typical_strengths`) τ_i d_i stands
for d_i, and pairs can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Complex128, Float64, Int, Real
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError, NonFinite
from crossproof.interaction.attention.heads import Heads, heads_of
from crossproof.progress import progress

HELD = 2**20
"""Entries of a table held at a time where the whole table is not asked for: 8 MB."""
ROUNDING = 1e-13
"""A row below this share of the sizes it is a difference of is rounding, and counts as 0."""

Side = Literal["query", "key"]
At = int | Real[Tensor, " distance"]


@dataclass(frozen=True, eq=False)
class Waves:
    """The entries of some pairs in every head, as waves in the distance."""

    rest: Float64[Tensor, "pair head"]
    coefficients: Complex128[Tensor, "pair head frequency"]
    frequencies: Float64[Tensor, " frequency"]

    def at(self, distances: Int[Tensor, " distance"]) -> Float64[Tensor, "pair head distance"]:
        turns = torch.polar(*_with_ones(distances.double()[:, None] * self.frequencies))
        return self.rest[..., None] + (self.coefficients @ turns.T).real

    def mean(self, weights: Real[Tensor, " distance"]) -> Float64[Tensor, "pair head"]:
        """Over the distances 0, 1, 2, … with these weights."""
        return self.rest + (self.coefficients @ _turn(self.frequencies, weights)).real

    @property
    def amplitudes(self) -> Float64[Tensor, "pair head frequency"]:
        """How far each frequency moves the entry at most."""
        return self.coefficients.abs()


class Strongest(NamedTuple):
    """Pairs of one head by magnitude, the strongest first; ties go to the lowest query feature, then key feature."""

    query: Int[Tensor, " pair"]
    key: Int[Tensor, " pair"]
    value: Float64[Tensor, " pair"]


@dataclass(frozen=True, eq=False)
class QueryKey:
    """The query-key tables of a layer's heads, as their two factors. Made by `query_key`."""

    name: str
    queries: Float64[Tensor, "head query d_head"]
    """What each feature adds to queries, scaled. First come one coordinate of each turned pair, then the other, then
    what is not turned."""
    keys: Float64[Tensor, "head key d_head"]
    frequencies: Float64[Tensor, " frequency"]
    """None in a model without rotary positions."""

    def table(self, head: int, at: At = 0) -> Float64[Tensor, "query key"]:
        """Of one head, all pairs: features × features. Of a large dictionary ask for `of_pairs` or `strongest`."""
        self._check_head(head)
        return self._turned(head, at) @ self.keys[head].T

    def of_pairs(self, i: Int[Tensor, " pair"], j: Int[Tensor, " pair"]) -> Waves:
        """Query features i with key features j in every head, for any distances."""
        n_query, n_key, f = self.queries.shape[1], self.keys.shape[1], len(self.frequencies)
        _check_pairs(i, n_query, j, n_key)
        q, k = self.queries[:, i].transpose(0, 1), self.keys[:, j].transpose(0, 1)
        rest = (q[..., 2 * f :] * k[..., 2 * f :]).sum(-1)
        turning = [torch.complex(x[..., :f], x[..., f : 2 * f]) for x in (q, k)]
        return Waves(rest, turning[0] * turning[1].conj(), self.frequencies)

    def lengths(self, head: int, side: Side = "query", at: At = 0) -> Float64[Tensor, " feature"]:
        """How much each feature does as a query, or as a key: the length of its row, or column, of one head's table.

        Of a centred table it is the standard deviation over the other side's features. Over several distances its
        square is the mean of squares.
        """
        return self._rows(head, side, at).norm(dim=1)

    def strongest(self, head: int, top: int = 100, at: At = 0) -> Strongest:
        """The `top` pairs by magnitude, without entries of 0. Never builds more than some rows of the table."""
        self._check_head(head)
        if top < 1:
            raise CrossproofError(f"top: asks for {top} pairs; take at least 1")
        rows, columns = self._ranked()
        queries, keys = self._turned(head, at)[rows], self.keys[head, columns]
        best = queries.new_zeros(0)
        where = torch.zeros(0, dtype=torch.long, device=queries.device)
        height = max(1, HELD // max(1, len(keys)))
        with progress("query-key pairs", len(queries), "features") as bar:
            for start in range(0, len(queries), height):
                block = (queries[start : start + height] @ keys.T).flatten()
                least = float(best[-1].abs()) if len(best) == top else 0.0
                kept = (block.abs() > least).nonzero().squeeze(1)
                best, where = torch.cat([best, block[kept]]), torch.cat([where, kept + start * len(keys)])
                # stable, and what came first has the lower features: ties fall to them
                order = best.abs().sort(descending=True, stable=True).indices[:top]
                best, where = best[order], where[order]
                bar(len(block) // max(1, len(keys)))
        return Strongest(rows[where // max(1, len(keys))], columns[where % max(1, len(keys))], best)

    def centred(
        self, weights: Real[Tensor, " query"], key_weights: Real[Tensor, " key"] | None = None
    ) -> CrossPosition:
        """Cross-position interaction under firing weights, such as `codes.firing_counts()`; they need not sum to 1.

        Keys have those of queries unless they are features of another dictionary.
        """
        p = _shares("weights", weights, self.queries)
        r = (
            _shares("weights", weights, self.keys)
            if key_weights is None
            else _shares("key_weights", key_weights, self.keys)
        )
        queries, query_sizes = _less_mean(self.queries, p)
        keys, key_sizes = _less_mean(self.keys, r)
        return CrossPosition(self.name, queries, keys, self.frequencies, p, r, query_sizes, key_sizes)

    def _ranked(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " column"]]:
        """Which features a ranking looks at, as queries and as keys."""
        q, k = self.queries, self.keys
        return torch.arange(q.shape[1], device=q.device), torch.arange(k.shape[1], device=k.device)

    def _rows(self, head: int, side: Side, at: At) -> Float64[Tensor, "feature coordinate"]:
        """The table's rows, or columns, in d_head coordinates that keep their inner products.

        The other side's weighted Gram matrix is all of it that inner products depend on. Its triangular factor, found
        without squaring anything, keeps the digits that the Gram matrix itself would lose.
        """
        self._check_head(head)
        check_side(side)
        # (R q)·k = q·(R⁻¹ k): rows see keys turned back, columns see queries turned
        own, other, sign = (self.queries, self.keys, -1) if side == "query" else (self.keys, self.queries, 1)
        factor = _factor(other[head] * self._weights(side).sqrt()[:, None])
        gram = factor.new_zeros(0, factor.shape[1])
        for share, turns in _some_turns(self.frequencies, at):
            turned = _times(factor, torch.complex(turns.real, sign * turns.imag)[:, None])
            gram = _factor(torch.cat([gram, (share.sqrt()[:, None, None] * turned).flatten(0, 1)]))
        return own[head] @ gram.T

    def _weights(self, side: Side) -> Float64[Tensor, " other"]:
        """Of the features on the other side, in inner products of rows or columns."""
        return self.queries.new_ones((self.keys if side == "query" else self.queries).shape[1])

    def _turned(self, head: int, at: At) -> Float64[Tensor, "query d_head"]:
        return _times(self.queries[head], _turn(self.frequencies, at))

    def _check_head(self, head: int) -> None:
        if not 0 <= head < len(self.queries):
            raise MismatchError(f"head: {self.name} has heads 0 to {len(self.queries) - 1}, and no {head}")


@dataclass(frozen=True, eq=False)
class CrossPosition(QueryKey):
    """Tables doubly centred under firing weights. `strongest` looks at features that have weight, and no others."""

    query_weights: Float64[Tensor, " query"]
    key_weights: Float64[Tensor, " key"]
    query_sizes: Float64[Tensor, "head query"]
    """The sizes that each centred query is a difference of: what rounding is measured against."""
    key_sizes: Float64[Tensor, "head key"]

    def alike(self, head: int, side: Side = "query", at: At = 0) -> Float64[Tensor, "feature feature"]:
        """Cross-feature interaction: cosines of all rows (as queries), or of all columns (as keys), of one head.

        Over several distances rows stand side by side, so that inner products are means over distances: two features
        are alike if they are so at each distance, and not if only their mean tables are. A row of 0 is like none.
        """
        rows = self._unit_rows(head, side, at)
        return rows @ rows.T

    def alike_of_pairs(
        self, head: int, i: Int[Tensor, " pair"], j: Int[Tensor, " pair"], side: Side = "query", at: At = 0
    ) -> Float64[Tensor, " pair"]:
        """The same of the pairs (i, j) only."""
        rows = self._unit_rows(head, side, at)
        _check_pairs(i, len(rows), j, len(rows))
        return (rows[i] * rows[j]).sum(1)

    def _unit_rows(self, head: int, side: Side, at: At) -> Float64[Tensor, "feature coordinate"]:
        rows = self._rows(head, side, at)
        length = rows.norm(dim=1, keepdim=True)
        own, other = (self.query_sizes[head], self.key_sizes[head])[:: 1 if side == "query" else -1]
        rounding = ROUNDING * own[:, None] * (self._weights(side) @ other.square()).sqrt()
        return torch.where(length > rounding, rows / length, 0.0)

    def _weights(self, side: Side) -> Float64[Tensor, " other"]:
        return self.key_weights if side == "query" else self.query_weights

    def _ranked(self) -> tuple[Int[Tensor, " row"], Int[Tensor, " column"]]:
        return self.query_weights.nonzero().squeeze(1), self.key_weights.nonzero().squeeze(1)


def query_key(heads: Heads, strengths: Real[Tensor, " feature"] | None = None) -> QueryKey:
    """The tables of a layer for one dictionary, in float64."""
    directions = heads.directions.detach().double()
    if strengths is not None:
        _check_axis("strengths", strengths, heads.n_features)
        directions = strengths.to(directions)[:, None] * directions
    double = heads_of(heads.attention.to(torch.float64), directions, name=heads.name)
    return between(double, double.queries.detach(), double.keys.detach())


def between(
    heads: Heads, queries: Float64[Tensor, "head query d_head"], keys: Float64[Tensor, "head key d_head"]
) -> QueryKey:
    """The tables of a layer for any scaled queries and keys, before rotation: of two dictionaries, say."""
    rotary = heads.attention.rotary
    if rotary is None:
        return QueryKey(heads.name, queries, keys, queries.new_zeros(0))
    turned = torch.arange(rotary.dim, device=queries.device)
    if rotary.adjacent:
        turned = torch.cat([turned[0::2], turned[1::2]])
    order = torch.cat([turned, torch.arange(rotary.dim, queries.shape[-1], device=queries.device)])
    # float32 first: the frequencies that the model itself uses
    frequencies = rotary.inverse_frequencies.to(queries.device, torch.float32).double()
    return QueryKey(heads.name, queries[..., order], keys[..., order], frequencies)


def check_side(side: str) -> None:
    if side not in ("query", "key"):
        raise CrossproofError(f"side: no {side!r}; features stand on the side of the 'query' or of the 'key'")


def _times(vectors: Tensor, turn: Complex128[Tensor, "*any frequency"]) -> Tensor:
    """Each turned pair times a complex number; the rest as it is."""
    f = turn.shape[-1]
    first, second, rest = vectors[..., :f], vectors[..., f : 2 * f], vectors[..., 2 * f :]
    parts = [first * turn.real - second * turn.imag, first * turn.imag + second * turn.real]
    return torch.cat([*parts, rest.expand(*parts[0].shape[:-1], -1)], dim=-1)


def _turn(frequencies: Float64[Tensor, " frequency"], at: At) -> Complex128[Tensor, " frequency"]:
    """exp(i θ δ), or its mean over distances."""
    total = torch.zeros_like(frequencies).to(torch.complex128)
    for share, turns in _some_turns(frequencies, at):
        total = total + share.to(turns) @ turns
    return total


def _some_turns(
    frequencies: Float64[Tensor, " frequency"], at: At
) -> Iterator[tuple[Float64[Tensor, " distance"], Complex128[Tensor, "distance frequency"]]]:
    """exp(i θ δ), a few distances at a time, with the share of each."""
    if isinstance(at, int):
        share, distances = frequencies.new_ones(1), frequencies.new_full((1,), at)
    else:
        _check_axis("at", at, at.numel())
        if not len(at) or not bool(at.sum() > 0):
            raise CrossproofError("at: all weights of distances are 0; give a distance, or weights of 0, 1, 2, …")
        share = at.to(frequencies) / at.to(frequencies).sum()
        distances = torch.arange(len(at), device=frequencies.device).to(frequencies)
    for some, its in zip(share.split(64), distances.split(64), strict=True):
        yield some, torch.polar(*_with_ones(its[:, None] * frequencies))


def _with_ones(angles: Tensor) -> tuple[Tensor, Tensor]:
    return torch.ones_like(angles), angles


def _factor(rows: Float64[Tensor, "row column"]) -> Float64[Tensor, "rank column"]:
    """The triangular F with FᵀF = rowsᵀ rows."""
    return torch.linalg.qr(rows, mode="r").R


def _shares(what: str, weights: Tensor, factor: Tensor) -> Float64[Tensor, " feature"]:
    _check_axis(what, weights, factor.shape[1])
    weights = weights.to(factor)
    if not bool((weights > 0).any()):
        raise CrossproofError(f"{what}: all are 0, so there is no mean to centre on; give how often each feature fires")
    return weights / weights.sum()


def _less_mean(
    factor: Float64[Tensor, "head feature d_head"], p: Float64[Tensor, " feature"]
) -> tuple[Float64[Tensor, "head feature d_head"], Float64[Tensor, "head feature"]]:
    """Centred under weights, and the sizes that each is a difference of."""
    size = factor.norm(dim=2)
    return factor - torch.einsum("f,hfd->hd", p, factor)[:, None], size + (size @ p)[:, None]


def _check_axis(what: str, values: Tensor, n: int) -> None:
    if values.shape != (n,):
        raise MismatchError(f"{what}: expected the shape ({n},), not {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()):
        raise NonFinite(f"{what}: some are not finite")
    if bool((values < 0).any()):
        raise MismatchError(f"{what}: some are negative (the least is {float(values.min()):.3g}); none can be")


def _check_pairs(i: Tensor, n_i: int, j: Tensor, n_j: int) -> None:
    if i.shape != j.shape or bool(((i < 0) | (i >= n_i) | (j < 0) | (j >= n_j)).any()):
        raise MismatchError(f"pairs i, j: expected as many i as j, i from 0 to {n_i - 1} and j from 0 to {n_j - 1}")
