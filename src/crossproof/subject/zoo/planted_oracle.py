"""What interacts, by brute force: switch features on and off in the model itself and look.

Nothing here knows the gadgets. A coalition of features is written into the model as the vector it stands for, the
model runs, and differences of its activations are taken as they are defined. Slow, and the judge of everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from math import comb

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .planted_model import PlantedModel

Game = Callable[[Bool[Tensor, "coalition feature"]], Float[Tensor, "coalition value"]]
"""From coalitions, each a row of features that are on, to what the model computes from each."""


def neuron_game(model: PlantedModel, block: int, strengths: Float[Tensor, " feature"]) -> Game:
    """One block's neurons after the ReLU, with its input made of the coalition's true features at that site."""
    return _game(model, block, strengths, f"blocks.{block}.mlp.hook_post")


def output_game(model: PlantedModel, block: int, strengths: Float[Tensor, " feature"]) -> Game:
    """One block's MLP output, with its input made of the coalition's true features at that site."""
    return _game(model, block, strengths, f"blocks.{block}.hook_mlp_out")


def end_to_end_game(model: PlantedModel, strengths: Float[Tensor, " feature"]) -> Game:
    """The logits, with the embedding made of the coalition's features; outputs come of themselves or not at all."""
    directions = model.directions("hook_embed")

    def play(coalitions: Tensor) -> Tensor:
        embedding = (coalitions * strengths) @ directions
        ids = torch.zeros(1, len(coalitions), dtype=torch.long, device=embedding.device)
        with torch.no_grad():
            logits: Tensor = model.run_with_hooks(ids, fwd_hooks=[("hook_embed", lambda _, hook: embedding[None])])
        return logits[0]

    return play


def second_difference(game: Game, active: Bool[Tensor, " feature"], i: int, j: int) -> Float[Tensor, " value"]:
    """δ_ij = v(S) - v(S∖i) - v(S∖j) + v(S∖ij), S the active features."""
    coalitions = active.repeat(4, 1)
    coalitions[[1, 3], i] = False
    coalitions[[2, 3], j] = False
    whole, without_i, without_j, without_both = game(coalitions).unbind()
    return whole - without_i - without_j + without_both


def shapley_taylor(game: Game, active: Bool[Tensor, " feature"]) -> dict[tuple[int, int], Float[Tensor, " value"]]:
    """The order-2 index of every pair of active features, from every coalition of them: keep it to a dozen."""
    players: list[int] = active.nonzero()[:, 0].tolist()
    n = len(players)
    numbers = torch.arange(2**n, device=active.device)
    coalitions = torch.zeros(2**n, len(active), dtype=torch.bool, device=active.device)
    for k, player in enumerate(players):
        coalitions[:, player] = (numbers >> k) & 1 == 1
    values = game(coalitions)
    index = {}
    for a, b in combinations(range(n), 2):
        total = torch.zeros_like(values[0])
        for c in range(2**n):
            if not (c >> a) & 1 and not (c >> b) & 1:
                delta = values[c | 1 << a | 1 << b] - values[c | 1 << a] - values[c | 1 << b] + values[c]
                total += delta / comb(n - 1, c.bit_count())
        index[players[a], players[b]] = 2 / n * total
    return index


def _game(model: PlantedModel, block: int, strengths: Tensor, output: str) -> Game:
    site = f"blocks.{block}.hook_mlp_in"
    directions, bias = model.directions(site), model.decoder_bias(site)

    def play(coalitions: Tensor) -> Tensor:
        x = bias + (coalitions * strengths) @ directions
        ids = torch.zeros(1, len(coalitions), dtype=torch.long, device=x.device)
        seen: list[Tensor] = []
        hooks = [(site, lambda _, hook: x[None]), (output, lambda value, hook: seen.append(value[0]))]
        with torch.no_grad():
            model.run_with_hooks(ids, fwd_hooks=hooks)
        return seen[0]

    return play
