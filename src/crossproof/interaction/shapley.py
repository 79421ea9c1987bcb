"""The order-2 Shapley-Taylor index: the reference value of how much two players of a game interact.

A *game* says what comes out when only some players take part. Here the players are a token's active features, and what
comes out is a neuron, an MLP's output (`games.py` makes those), or anything else that can be computed with only some
features on. The index of a pair is a weighted mean, over the coalitions C of the others, of the second difference
v(C∪ij) − v(C∪i) − v(C∪j) + v(C). Together with the single players it shares out all that the game gives (T12):

    full = empty + Σ_i single_i + Σ_{i<j} pairs_ij

`exact` visits every coalition, `sampled` random ones. Both get all pairs and all outputs from the same evaluations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import comb

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError, NonFinite
from crossproof.progress import progress

Game = Callable[[Bool[Tensor, "coalition player"]], Float[Tensor, "coalition output"]]
"""What comes out for each coalition. A game that needs much more memory than its outputs splits its batch itself."""

MOST_PLAYERS = 16
"""Exact values of more would take more than 65,536 evaluations."""

BATCH = 2**18
"""Numbers evaluated at a time: 1 MB in float32, which stays in a core's cache from the evaluation to the sum."""


@dataclass(frozen=True, eq=False)
class ReadOut:
    """A game whose outputs are linear in those of a hidden one. So is the index, which saves most of the products."""

    hidden: Game
    W: Float[Tensor, "hidden output"]
    b: Float[Tensor, " output"] | None = None

    def __call__(self, coalitions: Bool[Tensor, "coalition player"]) -> Float[Tensor, "coalition output"]:
        return self.values(self.hidden(coalitions))

    def values(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch output"]:
        return self.changes(hidden) if self.b is None else self.changes(hidden) + self.b.to(hidden.dtype)

    def changes(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch output"]:
        return hidden @ self.W.to(hidden.dtype)

    def cheaper_last(self, players: int) -> bool:
        """Whether weighing a coalition's hidden values costs less than reading out first and weighing outputs."""
        pairs, (hidden, outputs) = comb(players, 2), self.W.shape
        return pairs * hidden <= hidden * outputs + pairs * outputs


@dataclass(frozen=True, eq=False)
class ShapleyTaylor:
    """Order-2 Shapley-Taylor values, in float64."""

    pairs: Float[Tensor, "player player output"]
    """Symmetric, 0 on the diagonal. In sums over pairs each unordered pair counts once."""
    standard_error: Float[Tensor, "player player output"] | None
    """Of the pairs; None where they are exact."""
    empty: Float[Tensor, " output"]
    """v(∅)."""
    single: Float[Tensor, "player output"]
    """v(i) − v(∅)."""
    full: Float[Tensor, " output"]
    """v of all players."""
    evaluations: int
    """Coalitions that the game was evaluated for."""

    def strength(self) -> Float[Tensor, "player player"]:
        """How far each pair moves the output vector, whatever the direction: the L2 norm over outputs."""
        return self.pairs.norm(dim=-1)


@torch.no_grad()
def exact(game: Game, players: int) -> ShapleyTaylor:
    """Visits each of the 2^players coalitions once, for up to 16 players.

    The index is linear in the game: all pairs come from products of their weights with the values of a batch.
    """
    if players > MOST_PLAYERS:
        raise CrossproofError(
            f"{players} players have {2**players:,} coalitions, too many to visit each one: exact() takes at most "
            f"{MOST_PLAYERS} players. Use sampled(game, players, samples, seed), which estimates with standard errors"
        )
    if isinstance(game, ReadOut) and game.cheaper_last(players):
        pairs, alone = _visit_all(game.hidden, players)
        pairs, alone = game.changes(pairs), game.values(alone)
    else:
        pairs, alone = _visit_all(game, players)
    return _result(pairs, None, alone, 2**players)


@torch.no_grad()
def sampled(game: Game, players: int, samples: int, seed: int) -> ShapleyTaylor:
    """Estimates from `samples` random orders of the players, each walked forwards and backwards.

    Unbiased: take the second difference of i and j at C = those before both in the order. When every order is equally
    likely, |C| = c has probability 2(n−1−c) / n(n−1), and all C of a size are equally likely: that is
    (2/n) / binom(n−1, c) for each C, the weight it has in the index. A reversed order is as likely as the order. One
    walk serves every pair once, with n(n−1)/2 − 1 evaluations of its own, and obeys T12, so the estimates do too.

    In the two walks of an order the coalitions before a pair are disjoint, and mostly small in one where they are
    large in the other, so that errors cancel. Their mean is one draw; draws are independent, and the standard error is
    that of their mean. It is too small only where an interaction is so rare that hardly a draw meets it.
    """
    if samples < 2:
        raise CrossproofError(f"samples: {samples}, but a standard error takes at least 2 random orders")
    if players < 3:  # a pair has no others to sample
        found = exact(game, players)
        return ShapleyTaylor(
            found.pairs, torch.zeros_like(found.pairs), found.empty, found.single, found.full, found.evaluations
        )
    hidden = game.hidden if isinstance(game, ReadOut) else game
    alone = _values(hidden, _alone(players))
    walk = _walk(players)[players:-1]
    # in float64 there is hardly a tie, which would always put the same player first
    random = torch.rand(samples, players, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    draws = _Draws()
    with progress("sampled Shapley-Taylor values", samples, "orders") as bar:
        for forwards in random.argsort(1).split(max(1, BATCH // (2 * len(walk) * alone.shape[1]))):
            orders = torch.stack([forwards, forwards.flip(1)], 1)
            differences = _walked(hidden, orders, walk, alone).mean(1)
            draws.add(game.changes(differences) if isinstance(game, ReadOut) else differences)
            bar(len(forwards))
    if isinstance(game, ReadOut):
        alone = game.values(alone)
    return _result(draws.mean, draws.standard_error(), alone, len(alone) + 2 * samples * len(walk))


def _visit_all(game: Game, players: int) -> tuple[Float[Tensor, "pair output"], Float[Tensor, "alone output"]]:
    """The index of each pair, and the values of no player, of each one alone and of all."""
    i, j = _pair_indices(players)
    of_pair = _weights(players)
    # coalition number c holds player p where bit p of c is set
    coalitions = (torch.arange(2**players)[:, None] >> torch.arange(players)) & 1 == 1
    empty = _values(game, coalitions[:1])
    alone = empty.repeat(players + 2, 1)
    pairs = of_pair[0, 0].to(empty.device) * empty.repeat(len(i), 1)
    at_once = max(1, BATCH // max(1, len(i), empty.shape[1]))
    with progress("exact Shapley-Taylor values", 2**players, "coalitions") as bar:
        for start in range(1, 2**players, at_once):
            batch = coalitions[start : start + at_once]
            values, inside = _values(game, batch), batch.long()
            weights = of_pair[inside.sum(1)[:, None], inside[:, i] + inside[:, j]]
            pairs.addmm_(weights.T.to(values.device), values)
            for p in range(players):
                if start <= 2**p < start + len(batch):
                    alone[1 + p] = values[2**p - start]
            alone[-1] = values[-1]
            bar(len(batch))
    return pairs, alone


def _weights(players: int) -> Float[Tensor, "size both"]:
    """What v(C) weighs in the index of a pair, by |C| and by how many of the pair are in C.

    It stands in the second difference at C without the pair, whose weight is (2/n) / binom(n−1, size without the pair).
    """
    table = torch.zeros(players + 1, 3, dtype=torch.float64)
    for others in range(players - 1):
        weight = 2 / players / comb(players - 1, others)
        table[others, 0] = table[others + 2, 2] = weight
        table[others + 1, 1] = -weight
    return table


def _walk(players: int) -> Bool[Tensor, "row player"]:
    """The first k of an order and one later player l, as places in the order: k = 0, l = 0, 1, …; k = 1, l = 1, 2, …

    The first rows are the players alone, and the last one is all of them.
    """
    k, later = torch.triu_indices(players, players)
    place = torch.arange(players)
    return (place < k[:, None]) | (place == later[:, None])


def _walked(
    game: Game,
    orders: Int[Tensor, "draw way player"],
    walk: Bool[Tensor, "row player"],
    alone: Float[Tensor, "alone output"],
) -> Float[Tensor, "draw way pair output"]:
    """Each pair's second difference at those before both, in each order."""
    draws, ways, n = orders.shape
    places = orders.argsort(2)
    coalitions = walk[:, places].permute(1, 2, 0, 3)
    fresh = _values(game, coalitions.reshape(-1, n)).unflatten(0, coalitions.shape[:3])
    empty, full = (end.expand(draws, ways, 1, -1) for end in (alone[:1], alone[-1:]))
    values = torch.cat([empty, alone[1 + orders.to(alone.device)], fresh, full], 2)
    in_order = torch.arange(draws * ways).view(draws, ways, 1) * values.shape[2]

    def first(k: Tensor, and_later: Tensor) -> Tensor:
        """Values of the first k players and a later one: the rows of `_walk`, after that of nobody for k = −1."""
        row = 1 + k * n - k * (k - 1) // 2 + (and_later - k)
        rows = (in_order + row.clamp(min=0)).flatten().to(values.device)
        return values.flatten(0, 2).index_select(0, rows).unflatten(0, row.shape)

    i, j = _pair_indices(n)
    k, later = torch.minimum(places[..., i], places[..., j]), torch.maximum(places[..., i], places[..., j])
    return (first(k + 1, later) - first(k, k)).sub_(first(k, later)).add_(first(k - 1, k - 1))


class _Draws:
    """Running mean and squares of independent draws, by Chan's rule: no large sum is subtracted from another."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = self.squares = torch.zeros((), dtype=torch.float64)

    def add(self, draws: Float[Tensor, "draw pair output"]) -> None:
        mean, count = draws.mean(0), self.count + len(draws)
        gap = mean - self.mean
        self.squares = self.squares + (draws - mean).square().sum(0) + gap.square() * (self.count * len(draws) / count)
        self.mean, self.count = self.mean + gap * (len(draws) / count), count

    def standard_error(self) -> Float[Tensor, "pair output"]:
        return (self.squares / (self.count * (self.count - 1))).sqrt()


def _values(game: Game, coalitions: Bool[Tensor, "coalition player"]) -> Float[Tensor, "coalition output"]:
    """In float64, which is what everything here is summed in."""
    values = game(coalitions)
    if values.dim() != 2 or len(values) != len(coalitions):
        raise MismatchError(
            f"game: expected the axes [coalition, output] with {len(coalitions)} coalitions, not the shape "
            f"{tuple(values.shape)}"
        )
    if not bool(values.sum().isfinite()) and not bool(values.isfinite().all()):
        first = int((~values.isfinite()).any(1).nonzero()[0, 0])
        bad = coalitions[first].nonzero().flatten().tolist()
        raise NonFinite(f"game: its value for the players {bad} is not finite")
    return values.double()


def _alone(players: int) -> Bool[Tensor, "alone player"]:
    """No player, each one alone, all of them."""
    some = torch.eye(players, dtype=torch.bool)
    return torch.cat([torch.zeros_like(some[:1]), some, torch.ones_like(some[:1])])


def _pair_indices(players: int) -> Int[Tensor, "two pair"]:
    return torch.triu_indices(players, players, 1)


def _result(
    pairs: Float[Tensor, "pair output"],
    error: Float[Tensor, "pair output"] | None,
    alone: Float[Tensor, "alone output"],
    evaluations: int,
) -> ShapleyTaylor:
    players = len(alone) - 2
    empty = alone[0]

    def both_ways(of_pairs: Tensor) -> Tensor:
        i, j = _pair_indices(players).to(of_pairs.device)
        table = of_pairs.new_zeros(players, players, of_pairs.shape[1])
        table[i, j] = table[j, i] = of_pairs
        return table

    errors = None if error is None else both_ways(error)
    return ShapleyTaylor(both_ways(pairs), errors, empty, alone[1:-1] - empty, alone[-1], evaluations)
