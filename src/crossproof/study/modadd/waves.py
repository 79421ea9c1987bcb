"""Which frequency a feature follows, found on some pairs and scored on others.

For each frequency k the waves cos and sin of 2π k x / p along all directions x are fitted to the feature's strength.
The frequency that explains most of it on the training pairs is its name; how much that very fit explains on held-out
pairs is how pure it is. The same with residues in a random order says how much chance explains.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.study.modadd.spectra import frequencies

NONE = 0
"""The frequency of a feature that is the same on all training pairs."""


@dataclass(frozen=True, eq=False)
class Followed:
    frequency: Int[Tensor, " feature"]
    """From 1 on; NONE where there is nothing to follow."""
    residual: Float64[Tensor, "pair feature"]
    """On the held-out pairs: strength less what the fit says."""


def follow(
    strengths: Float[Tensor, "pair feature"],
    train: Int[Tensor, " train"],
    held_out: Int[Tensor, " held"],
    coordinates: Int[Tensor, "direction pair"],
    modulus: int,
    order: Int[Tensor, " residue"] | None = None,
) -> Followed:
    """`order` says for each residue in which place it counts; None for their own."""
    places = coordinates if order is None else order[coordinates]
    known, asked = strengths[train].double(), strengths[held_out].double()
    spread = (known - known.mean(0)).square().sum(0)
    best = torch.full_like(spread, torch.inf)
    frequency = torch.full(spread.shape, NONE)
    residual = asked - known.mean(0)
    for k in range(1, frequencies(modulus) + 1):
        waves = _waves(places[:, train], k, modulus)
        coefficients = torch.linalg.pinv(waves) @ known
        left = (known - waves @ coefficients).square().sum(0)
        better = (left < best) & (spread > 0)
        best[better], frequency[better] = left[better], k
        residual[:, better] = asked[:, better] - _waves(places[:, held_out], k, modulus) @ coefficients[:, better]
    return Followed(frequency, residual)


def _waves(places: Int[Tensor, "direction pair"], k: int, modulus: int) -> Float64[Tensor, "pair wave"]:
    """A constant, cos and sin along each direction."""
    angle = (places * k % modulus).double().T * (2 * torch.pi / modulus)
    return torch.cat([torch.ones_like(angle[:, :1]), angle.cos(), angle.sin()], 1)
