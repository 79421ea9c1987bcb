"""A norm whose scale a few loud features set, and every metric's score of every pair of features."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.norms.features import norm_features
from crossproof.interaction.norms.pairs import norm_pairs
from crossproof.interaction.weights import typical_strengths
from crossproof.study.planted_units.results import UnitName
from crossproof.study.planted_units.scenes import Scored, cosines, paired_codes, uniform
from crossproof.units import Norm

REFERENCE = "removal"
PAIRS = 12
LOUD, LEVEL, UNHEARD = (0, 2, 4, 6), 8, (1, 9, 11)
"""Features: loud ones; a loud one that is the same on all axes; and some on axes where the gain is 0."""
LOUDNESS = 30.0
"""Of a loud feature's direction; the others' have lengths of about 1."""
BACKGROUND = 8
"""Axes of the background, which no other feature has."""


def planted_norm(
    kind: Literal["layer", "rms"], draw: torch.Generator
) -> tuple[Norm, Float64[Tensor, "feature d_model"], Float64[Tensor, " d_model"]]:
    """With the directions of its features and the background."""
    n, d_model = 2 * PAIRS, 4 * PAIRS + BACKGROUND
    lengths = uniform(0.5, 1.5, n, draw=draw)
    lengths[[*LOUD, LEVEL]] *= LOUDNESS
    directions = torch.zeros(n, d_model, dtype=torch.float64)
    up = 2 * torch.arange(n)  # two axes each, up and down, so that centring does nothing to a direction
    directions[torch.arange(n), up], directions[torch.arange(n), up + 1] = lengths / 2**0.5, -lengths / 2**0.5
    directions[LEVEL] = lengths[LEVEL] / d_model**0.5
    gain = torch.ones(d_model, dtype=torch.float64)
    silent = up[list(UNHEARD)]
    gain[silent] = gain[silent + 1] = 0
    background = torch.zeros(d_model, dtype=torch.float64)
    background[4 * PAIRS :] = 3 * torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(BACKGROUND // 2)
    return Norm(kind=kind, gain=gain, bias=torch.zeros_like(gain), eps=1e-5), directions, background


def score_norm(name: UnitName, kind: Literal["layer", "rms"], tokens: int, seed: int) -> Scored:
    """A pair interacts if one is loud and the other is heard behind the norm, and not if both only share the scale.

    Features of different pairs meet by chance, so that all pairs meet. The level feature is loud to an RMSNorm and
    nothing to a LayerNorm. Metrics of i → j and of j → i are added up.
    """
    draw = torch.Generator().manual_seed(seed)
    norm, directions, background = planted_norm(kind, draw)
    strengths = paired_codes(PAIRS, (), tokens, draw)
    codes, n = Codes.from_dense(strengths), 2 * PAIRS
    loud, heard = torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
    loud[[*LOUD, *([LEVEL] if kind == "rms" else [])]] = True
    heard[[*UNHEARD, *([LEVEL] if kind == "layer" else [])]] = False
    pairs, typical = CoActive.of(codes), typical_strengths(codes)
    found = norm_pairs(codes, [norm_features(norm, directions, background, name)], pairs)[0]
    table = torch.zeros(n, n, dtype=torch.float64)
    table[pairs.i, pairs.j] = found.pairs.total
    length = typical * directions.norm(dim=1)
    count = torch.zeros_like(table)
    count[pairs.i, pairs.j] = pairs.count.double()
    scores = {
        REFERENCE: _removal(norm, strengths, directions, background),
        "scale": table + table.T,
        "lengths": length[:, None] * length,
        "the longer one": torch.maximum(length[:, None], length),
        "count": count,
        "cosine of activations": cosines(strengths),
        "random": uniform(0.0, 1.0, n, n, draw=draw),
    }
    i, j = torch.combinations(torch.arange(n)).unbind(1)
    interacts = (loud[i] & heard[j]) | (loud[j] & heard[i])
    kinds: dict[str, list[int]] = {}
    for place, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
        kinds.setdefault(" and ".join(sorted((_kind(a), _kind(b)))), []).append(place)
    return Scored(name, interacts, kinds, {m: score[i, j] for m, score in scores.items()})


def _kind(feature: int) -> str:
    if feature in LOUD:
        return "loud"
    return "level" if feature == LEVEL else "unheard" if feature in UNHEARD else "quiet"


def _removal(norm: Norm, strengths: Tensor, directions: Tensor, background: Tensor) -> Float64[Tensor, "one other"]:
    """‖N(x) − N(x∖i) − N(x∖j) + N(x∖ij)‖, mean over tokens, by running the norm without them.

    What both do beyond what each does alone; no formula of the account is used.
    """
    n = len(directions)
    total = torch.zeros(n, n, dtype=torch.float64)
    for f in strengths:
        on = f.nonzero().squeeze(1)
        parts = f[on, None] * directions[on]
        whole = background + parts.sum(0)
        without = norm(whole - parts)
        both = norm(whole - parts[:, None] - parts)
        total[on[:, None], on] += (norm(whole) - without[:, None] - without + both).norm(dim=-1)
    return total / len(strengths)
