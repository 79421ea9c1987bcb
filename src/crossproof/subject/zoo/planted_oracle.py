"""What interacts, by brute force: switch features on and off in the model itself and look.

Nothing here knows the gadgets. A row of strengths is written into the model as the vector it stands for, the model
runs, and differences of its activations are taken as they are defined. It is the judge of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.subject.zoo.planted_model import PlantedModel

Strengths = Float[Tensor, "row feature"]
Players = int | Int[Tensor, " row"]
"""A feature: the same at every row, or one for each."""
Game = Callable[[Strengths], Float[Tensor, "row value"]]
"""What the model computes from each row of strengths. A coalition is a row in which all others are 0."""


def neuron_game(model: PlantedModel, block: int) -> Game:
    """One block's neurons after the ReLU; the players are the true features at the MLP's input."""
    return _game(model, f"blocks.{block}.hook_mlp_in", f"blocks.{block}.mlp.hook_post")


def output_game(model: PlantedModel, block: int) -> Game:
    """One block's MLP output; the players are the true features at the MLP's input."""
    return _game(model, f"blocks.{block}.hook_mlp_in", f"blocks.{block}.hook_mlp_out")


def end_to_end_game(model: PlantedModel) -> Game:
    """The last residual stream; the players are the embedding's features, and outputs come of them or not at all."""
    return _game(model, "hook_embed", f"blocks.{model.cfg.n_layers - 1}.hook_resid_post")


def second_difference(game: Game, strengths: Strengths, i: Players, j: Players) -> Float[Tensor, "row value"]:
    """δ_ij = v(S) - v(S∖i) - v(S∖j) + v(S∖ij) at every row, S its active features."""
    without_i, without_j = _without(strengths, i), _without(strengths, j)
    return game(strengths) - game(without_i) - game(without_j) + game(_without(without_i, j))


def shapley_taylor(game: Game, strengths: Float[Tensor, " feature"]) -> dict[tuple[int, int], Float[Tensor, " value"]]:
    """The order-2 index of every pair of features active in one row, by visiting every coalition of them."""
    players: list[int] = strengths.nonzero()[:, 0].tolist()
    n = len(players)
    coalition = torch.arange(2**n, device=strengths.device)
    rows = torch.zeros(2**n, len(strengths), dtype=strengths.dtype, device=strengths.device)
    for k, player in enumerate(players):
        rows[:, player] = strengths[player] * (coalition >> k & 1)
    values = game(rows)
    size = rows.count_nonzero(1)
    index = {}
    for a, b in combinations(range(n), 2):
        only_a, only_b = 1 << a, 1 << b
        c = coalition[(coalition & (only_a | only_b)) == 0]
        delta = values[c | only_a | only_b] - values[c | only_a] - values[c | only_b] + values[c]
        weight = torch.tensor([1 / comb(n - 1, k) for k in size[c].tolist()], dtype=values.dtype, device=values.device)
        index[players[a], players[b]] = 2 / n * (weight[:, None] * delta).sum(0)
    return index


def _game(model: PlantedModel, site: str, output: str) -> Game:
    directions, bias = model.directions(site), model.decoder_bias(site)

    def play(strengths: Tensor) -> Tensor:
        x = (bias + strengths @ directions)[None]
        ids = torch.zeros(x.shape[:2], dtype=torch.long, device=x.device)  # any: the hook replaces what they embed to
        seen: list[Tensor] = []
        hooks = [(site, lambda _, hook: x), (output, lambda value, hook: seen.append(value[0]))]
        with torch.no_grad():
            model.run_with_hooks(ids, fwd_hooks=hooks)
        return seen[0]

    return play


def _without(strengths: Strengths, feature: Players) -> Strengths:
    left = strengths.clone()
    left[torch.arange(len(left), device=left.device), feature] = 0
    return left
