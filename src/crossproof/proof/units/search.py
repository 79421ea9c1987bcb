"""Looking for the worst point in a ball: what is found bounds a supremum from below, as a lemma does from above."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor


def highest(
    function: Callable[[Tensor], Tensor],
    centre: Float64[Tensor, "*rows width"],
    radius: Float64[Tensor, "*rows"],
    restarts: int = 16,
    steps: int = 100,
    seed: int = 0,
) -> float:
    """The largest value found of a function of points, each row of which is within its radius of its centre.

    `function` takes [restart, *rows, width] and gives a value for each restart. Gradient ascent from random points.
    """
    generator = torch.Generator().manual_seed(seed)
    moved = torch.randn(restarts, *centre.shape, generator=generator, dtype=torch.float64)
    moved = _within(moved * 1e9, radius)
    best = float(function(centre[None].expand(moved.shape)).max())
    for step in range(steps):
        with torch.enable_grad():
            moved.requires_grad_(True)
            value = function(centre + moved)
            (slope,) = torch.autograd.grad(value.sum(), moved)
        best = max(best, float(value.detach().max()))
        with torch.no_grad():
            length = slope.norm(dim=-1, keepdim=True).clamp(min=1e-300)
            far = 0.5 * (1 - step / steps) + 0.02
            moved = _within(moved + slope / length * radius[..., None] * far, radius)
    return max(best, float(function(centre + moved).detach().max()))


def _within(moved: Tensor, radius: Tensor) -> Tensor:
    """Brought back to the ball, a hair inside it, since it is rounded."""
    length = moved.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    return (moved * (radius[..., None] * (1 - 1e-12) / length).clamp(max=1.0)).detach()
