"""Similarities with clusters that are known, and profiles without any."""

from __future__ import annotations

import torch

SIZES = (4, 5, 6, 7, 8, 9, 3)


def planted(seed: int = 0, sizes: tuple[int, ...] = SIZES) -> tuple[torch.Tensor, torch.Tensor]:
    """A similarity of blocks whose values span powers of ten, features in random order, and each feature's block."""
    draw = torch.Generator().manual_seed(seed)
    block = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    block = block[torch.randperm(len(block), generator=draw)]
    frequent = torch.randn(len(block), generator=draw, dtype=torch.float64)
    noise = torch.randn(len(block), len(block), generator=draw, dtype=torch.float64)
    same = (block[:, None] == block).double()
    similarity = (6 * same + 0.5 * (frequent[:, None] + frequent) + 0.3 * (noise + noise.T)).exp()
    return similarity.fill_diagonal_(0), block


def random_profiles(features: int = 30, labels: int = 5, seed: int = 0) -> torch.Tensor:
    return torch.randn(features, labels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
