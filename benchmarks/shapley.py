"""How long the exact Shapley-Taylor index of a token's features through an MLP takes, beside a plain loop.

Both give the index of all pairs in all outputs, from the MLP's output on each coalition once. The yardstick then sums
the second differences pair by pair and coalition by coalition. They run in turns in one process, from the same weights
(`tinytales` block 1 with random feature directions, and random weights of a larger size), and must agree.

    python benchmarks/shapley.py            # a table
    python benchmarks/shapley.py --json     # the same as JSON
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from crossproof.interaction.contributions import contributions
from crossproof.interaction.games import mlp_game
from crossproof.interaction.shapley import Game, exact
from crossproof.subject.subject import Subject
from crossproof.units import MLP
from measuring import clock

PLAYERS = 12
BAR_MS = 50.0


def plain(game: Game, players: int) -> Tensor:
    """The yardstick: each coalition once, then second differences one by one."""
    coalitions = torch.tensor([[c >> p & 1 for p in range(players)] for c in range(2**players)], dtype=torch.bool)
    v = game(coalitions).double()
    index = v.new_zeros(players, players, v.shape[1])
    for i, j in combinations(range(players), 2):
        with_i, with_j = 1 << i, 1 << j
        for c in range(2**players):
            if not c & (with_i | with_j):
                weight = 2 / players / comb(players - 1, c.bit_count())
                index[i, j] += weight * (v[c | with_i | with_j] - v[c | with_i] - v[c | with_j] + v[c])
        index[j, i] = index[i, j]
    return index


def tinytales_mlp() -> MLP:
    return next(unit for unit in Subject.load("tinytales").units if isinstance(unit, MLP) and unit.layer == 1)


def random_mlp(width: int, neurons: int) -> MLP:
    return MLP(
        W_in=torch.randn(width, neurons) / width**0.5,
        b_in=torch.randn(neurons),
        activation="gelu_new",
        W_out=torch.randn(neurons, width) / neurons**0.5,
        b_out=torch.randn(width),
    )


def measure(name: str, mlp: MLP, repeats: int, yardstick_repeats: int) -> dict[str, float | str]:
    width, neurons = mlp.W_in.shape
    directions = torch.randn(PLAYERS, width) / width**0.5
    reached, strengths = contributions(mlp, directions), 3 * torch.rand(PLAYERS)
    game = mlp_game(reached, strengths, torch.arange(PLAYERS), mlp.W_out, mlp.b_out)
    expected = plain(game, PLAYERS)
    worst = float((exact(game, PLAYERS).pairs - expected).abs().max() / expected.abs().max())
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for i in range(repeats):
        times["ours"].append(clock(lambda: exact(game, PLAYERS))[0])
        if i < yardstick_repeats:
            times["plain"].append(clock(lambda: plain(game, PLAYERS))[0])
    ours, slow = (statistics.median(times[which]) for which in ("ours", "plain"))
    pairs = [a / b for a, b in zip(times["plain"], times["ours"], strict=False)]
    return {
        "mlp": name,
        "width": width,
        "neurons": neurons,
        "players": PLAYERS,
        "ours_ms": 1e3 * ours,
        "ours_min_ms": 1e3 * min(times["ours"]),
        "plain_ms": 1e3 * slow,
        "ratio": statistics.median(pairs),
        "ratio_min": min(pairs),
        "bar_ms": BAR_MS,
        "worst_relative_difference": worst,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--yardstick-repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    repeats = arguments.repeats, arguments.yardstick_repeats
    results = [
        measure("tinytales", tinytales_mlp(), *repeats),
        measure("random", random_mlp(768, 3072), *repeats),
    ]
    if max(float(result["worst_relative_difference"]) for result in results) > 1e-4:
        sys.exit(f"the two do not agree: {results}")
    if arguments.json:
        print(json.dumps({"benchmark": "shapley", "threads": arguments.threads, "results": results}, indent=2))
        return
    print("mlp         width  neurons  players   ours ms (min)    plain ms   ratio (min)   differ by   bar ms")
    for r in results:
        print(
            f"{r['mlp']:10s}  {r['width']:5d}  {r['neurons']:7d}  {r['players']:7d}   {r['ours_ms']:6.1f} "
            f"({r['ours_min_ms']:.1f})   {r['plain_ms']:9.0f}   {r['ratio']:5.0f} ({r['ratio_min']:.0f})   "
            f"{r['worst_relative_difference']:9.1e}   {r['bar_ms']:6.0f}"
        )


if __name__ == "__main__":
    main()
