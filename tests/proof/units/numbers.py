"""What all tests of bounds draw from: numbers with ties, zeros and extremes, and weights."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

HARD = (0.0, 1.0, -1.0, 0.5, 2.0, -2.0, 1e-9, -1e-9, 30.0, -30.0, 1e6, -1e6)


def rows(*shape: int, seed: int, hard: bool) -> Tensor:
    """Gaussians of very different sizes, or numbers of which many are equal, zero or extreme."""
    generator = torch.Generator().manual_seed(seed)
    if hard:
        return torch.tensor(HARD, dtype=torch.float64)[torch.randint(len(HARD), shape, generator=generator)]
    size = torch.randn(shape[0], *[1] * (len(shape) - 1), generator=generator, dtype=torch.float64).exp()
    return torch.randn(shape, generator=generator, dtype=torch.float64) * size


seeds = st.integers(0, 10**6)
"""For `rows`: what a seed draws is the same whenever it is asked for."""
