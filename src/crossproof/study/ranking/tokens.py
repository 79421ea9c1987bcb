"""The Shapley-Taylor index of every pair of features at sampled tokens, and beside it what each metric says there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive, PairSums
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, chunks, tables
from crossproof.interaction.games import mlp_game
from crossproof.interaction.gated import cross
from crossproof.interaction.interpretations.additive import Additive
from crossproof.interaction.interpretations.base import block_of
from crossproof.interaction.pairs import directed, mass, ratio
from crossproof.interaction.shapley import MOST_PLAYERS, Game, ReadOut, exact, sampled
from crossproof.progress import progress
from crossproof.study.ranking.comparison import PairsAtTokens
from crossproof.units import MLP, GatedMLP

ORDERS = 32
"""Random orders of the features, at tokens with too many of them for exact values: errors of about a tenth."""

AT_TOKEN = {
    "directed, here": "what each adds, at these tokens, to neurons the other dominates, both ways",
    "mass, here": "how much of each other's contributions they cancel at these tokens",
    "cross, here": "how much one in the gate and the other in the value add together at these tokens, both ways",
    "ratio, here": "how alike their contributions are at these tokens",
    "strengths, here": "the product of their strengths at these tokens",
}


@dataclass(frozen=True, eq=False)
class TokenPairs(PairsAtTokens):
    """Every pair i < j, in MLPs; `here` are those of `AT_TOKEN` that these MLPs have."""

    residual_gap: Float64[Tensor, " unit"]
    """T2: the largest difference, at any token and neuron, between the additive residual and the sum of the neuron's
    index over pairs, relative to |β| + Σ|p|."""


@torch.no_grad()
def at_tokens(
    codes: Codes, rows: Int[Tensor, " token"], neurons: Sequence[Neurons], units: Sequence[MLP | GatedMLP], seed: int
) -> TokenPairs:
    """In float64: the index of a pair can be a million times smaller than what the MLP puts out."""
    columns: dict[str, list[Tensor]] = {}
    token, i, j, index, errors = [], [], [], [], []
    gap = torch.zeros(len(units), dtype=torch.float64)
    estimated = 0
    with progress("Shapley-Taylor at tokens", len(rows), "tokens") as bar:
        for place, row in enumerate(rows.tolist()):
            one = row_of(codes, row)
            features, strengths = one.pattern.features, one.values
            a, b = torch.triu_indices(len(features), len(features), 1)
            found = [_index(one, its, unit, seed + row) for its, unit in zip(neurons, units, strict=True)]
            index.append(torch.stack([strength for strength, _, _ in found])[:, a, b])
            gap = torch.maximum(gap, torch.tensor([each for _, each, _ in found], dtype=torch.float64))
            if len(features) > MOST_PLAYERS:
                estimated += 1
                errors.append(torch.stack([error / strength for strength, _, error in found])[:, a, b])
            token.append(torch.full_like(a, place))
            i.append(features[a])
            j.append(features[b])
            here = _here(one, neurons) | {"strengths": (strengths[a] * strengths[b]).repeat(len(units), 1)}
            for name, values in here.items():
                columns.setdefault(f"{name}, here", []).append(values)
            bar(1)
    error = torch.cat(errors, 1).nanmedian(1).values if errors else torch.full_like(gap, torch.nan)
    by_name = {name: torch.cat(values, 1) for name, values in columns.items()}
    return TokenPairs(torch.cat(token), torch.cat(i), torch.cat(j), torch.cat(index, 1), by_name, estimated, error, gap)


def row_of(codes: Codes, row: int) -> Codes:
    """The active features of one token, in float64."""
    one = codes.rows(row, row + 1).active()
    return Codes(one.pattern, one.values.detach().double())


def _index(one: Codes, neurons: Neurons, unit: MLP | GatedMLP, seed: int) -> tuple[Tensor, float, Tensor]:
    """The strength of each pair, the gap of T2, and the standard error of each pair."""
    features, players = one.pattern.features, one.pattern.n_entries
    game, n_neurons = mlp_game(neurons, one.values, features, unit.W_out), tables(neurons)[0].n_neurons
    if players <= MOST_PLAYERS:
        found = exact(game.hidden, players)
        of_neurons, strength = found.pairs, game.changes(found.pairs).norm(dim=-1)
        error = torch.zeros_like(strength)
    else:
        found = sampled(_neurons_and_outputs(game), players, ORDERS, seed)
        assert found.standard_error is not None
        of_neurons, strength = found.pairs[..., :n_neurons], found.pairs[..., n_neurons:].norm(dim=-1)
        error = found.standard_error[..., n_neurons:].norm(dim=-1)
    (chunk,) = chunks(one, n_neurons)
    block = block_of(chunk, neurons)
    gap = (Additive().residual(block)[0] - of_neurons.sum((0, 1)) / 2).abs()
    magnitude = block.magnitude()[0]
    return strength, float((gap / magnitude.clamp(min=torch.finfo(magnitude.dtype).tiny)).max()), error


def _neurons_and_outputs(game: ReadOut) -> Game:
    def both(coalitions: Tensor) -> Tensor:
        hidden = game.hidden(coalitions)
        return torch.cat([hidden, game.changes(hidden)], 1)

    return both


def _here(one: Codes, neurons: Sequence[Neurons]) -> dict[str, Float64[Tensor, "unit row"]]:
    """What the metrics that all these MLPs have say at one token of its pairs i < j, in the order of `triu_indices`."""
    pairs = CoActive.of(one)
    forth = pairs.i < pairs.j
    back = pairs.positions(pairs.j[forth], pairs.i[forth])

    def both_ways(sums: Sequence[PairSums]) -> Tensor:
        return torch.stack([its.total[forth] + its.total[back] for its in sums])

    found = {"directed": both_ways(directed(one, neurons, pairs))}
    if all(isinstance(its, PlainNeurons) for its in neurons):
        found["mass"] = torch.stack([its.pairs.total[forth] for its in mass(one, neurons, pairs)])
    if all(isinstance(its, GatedNeurons) for its in neurons):
        found["cross"] = both_ways([its.cross for its in cross(one, neurons, pairs)])
    found["ratio"] = torch.stack([its.total[forth] for its in ratio(one, neurons, pairs)])
    return found
