"""Which pairs of features the interaction term of an MLP is made of.

The paper's term at a token is Lip(φ) Σ_n w_n Σ_{j≠i} |p_nj|, i being the feature that dominates neuron n: a sum over
directed pairs, i → j by Lip(φ) w_n |p_nj| at the neurons that i dominates.
"""

from __future__ import annotations

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.proof.recursion.chain import Chain, Text
from crossproof.proof.units.mlp import CHUNK, BoundedMLP


class Pairs:
    """Sums over positions, for each MLP."""

    def __init__(self, features: int) -> None:
        self._features = features
        self._keys: dict[str, list[Tensor]] = {}
        self._sizes: dict[str, list[Tensor]] = {}

    def add(self, chain: Chain, text: Text) -> None:
        for step in chain.steps:
            if isinstance(step.bounded, BoundedMLP) and step.unit.input_site in chain.described:
                between = _between(step.bounded, text.features, text.strengths)
                keys = text.features[:, :, None] * self._features + text.features[:, None, :]
                met = between > 0
                key, where = keys[met].unique(return_inverse=True)
                place = step.unit.output_site
                self._keys.setdefault(place, []).append(key)
                sums = torch.zeros(len(key), dtype=torch.float64).index_add_(0, where, between[met])
                self._sizes.setdefault(place, []).append(sums)

    def of(self, place: str) -> tuple[Int[Tensor, "pair 2"], Float64[Tensor, " pair"]]:
        """The pairs (dominant, other) that meet in an MLP, and what they add, the most first."""
        if place not in self._keys:
            return torch.zeros(0, 2, dtype=torch.long), torch.zeros(0, dtype=torch.float64)
        key, where = torch.cat(self._keys[place]).unique(return_inverse=True)
        sizes = torch.zeros(len(key), dtype=torch.float64).index_add_(0, where, torch.cat(self._sizes[place]))
        order = sizes.argsort(descending=True, stable=True)
        key = key[order]
        return torch.stack([key // self._features, key % self._features], 1), sizes[order]


def _between(mlp: BoundedMLP, features: Tensor, strengths: Tensor) -> Float64[Tensor, "row slot slot"]:
    """What the second slot's feature adds where the first's dominates."""
    table, loudness = mlp.table[0].mid.abs(), mlp.readout.loudness.mid * mlp.lipschitz
    rows = max(1, CHUNK // max(1, features.shape[1] * table.shape[1]))
    found = []
    for its, strength in zip(features.split(rows), strengths.split(rows), strict=True):
        size = table[its] * strength[:, :, None]
        dominant = torch.zeros_like(size).scatter_(1, size.max(1, keepdim=True).indices, 1.0)
        found.append((dominant * loudness) @ (size * (1 - dominant)).mT)
    return torch.cat(found)
