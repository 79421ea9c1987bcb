"""The Shapley-Taylor index at sampled tokens, gathered unit by unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.binding.spans import strengths_of
from crossproof.errors import CrossproofError
from crossproof.interaction.shapley import MOST_PLAYERS, Game, exact, sampled
from crossproof.study.ranking.comparison import PairsAtTokens

ORDERS = 32
"""Random orders of the players, where they are too many for exact values."""


@dataclass(frozen=True, eq=False)
class UnitPairs(PairsAtTokens):
    """In attention layers, or in norms."""

    gap: Float64[Tensor, " unit"]
    """The largest difference, at any token, between the game with all players and the unit's own output, over the
    latter's length."""
    players: float
    """Mean number of players."""


class Index(NamedTuple):
    """Of the pairs of one token in one unit, and what metrics say of them."""

    strength: Float64[Tensor, " pair"]
    relative_error: Float64[Tensor, " pair"] | None
    """Standard error over size; None where the index is exact."""
    gap: float
    here: dict[str, Float64[Tensor, " pair"]]


def index_of(
    game: Game,
    a: Int[Tensor, " pair"],
    b: Int[Tensor, " pair"],
    players: int,
    seed: int,
    output: Float64[Tensor, " output"],
    here: dict[str, Float64[Tensor, " pair"]],
) -> Index:
    """Of the players a and b; `output` is the unit's own."""
    found = exact(game, players) if players <= MOST_PLAYERS else sampled(game, players, ORDERS, seed)
    error = None if found.standard_error is None else (found.standard_error.norm(dim=-1) / found.strength())[a, b]
    tiny = torch.finfo(output.dtype).tiny
    gap = float((found.full - output).norm() / output.norm().clamp(min=tiny))
    return Index(strengths_of(found)[a, b], error, gap, here)


class Sampled:
    """Tokens that were looked at so far."""

    def __init__(self, units: int) -> None:
        self.token: list[Tensor] = []
        self.i: list[Tensor] = []
        self.j: list[Tensor] = []
        self.players: list[int] = []
        self.index: list[Tensor] = []
        self.errors: list[Tensor] = []
        self.here: dict[str, list[Tensor]] = {}
        self.gap = torch.zeros(units, dtype=torch.float64)

    def add(
        self, token: int, i: Int[Tensor, " pair"], j: Int[Tensor, " pair"], players: int, units: Sequence[Index]
    ) -> None:
        """The pairs of one token, the same ones in every unit."""
        self.token.append(torch.full_like(i, token).cpu())
        self.i.append(i.cpu())
        self.j.append(j.cpu())
        self.players.append(players)
        self.index.append(torch.stack([its.strength for its in units]).cpu())
        errors = [its.relative_error for its in units if its.relative_error is not None]
        if errors:
            self.errors.append(torch.stack(errors).cpu())
        for name in units[0].here:
            self.here.setdefault(name, []).append(torch.stack([its.here[name] for its in units]).cpu())
        self.gap = torch.maximum(self.gap, torch.tensor([its.gap for its in units], dtype=torch.float64))

    def pairs(self) -> UnitPairs:
        if not self.token:
            raise CrossproofError("no sampled token has a pair to rank: take more tokens, or longer texts")
        error = torch.cat(self.errors, 1).nanmedian(1).values if self.errors else torch.full_like(self.gap, torch.nan)
        here = {name: torch.cat(values, 1) for name, values in self.here.items()}
        i, j, index = torch.cat(self.i), torch.cat(self.j), torch.cat(self.index, 1)
        mean = sum(self.players) / len(self.players)
        return UnitPairs(torch.cat(self.token), i, j, index, here, len(self.errors), error, self.gap, mean)
