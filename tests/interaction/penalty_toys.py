"""Small MLPs, features and directions to penalise, in float64."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crossproof.units import MLP, GatedMLP

D, F, N = 3, 5, 4


def make_mlp(seed: int, neurons: int = N, activation: str = "relu", ties: bool = False) -> MLP:
    def draw(*shape: int) -> Tensor:
        if ties:
            return torch.randint(-1, 2, shape, generator=generator).double()
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    generator = torch.Generator().manual_seed(seed)
    return MLP(
        W_in=draw(D, neurons), b_in=draw(neurons), activation=activation, W_out=draw(neurons, D) + 0.1, b_out=draw(D)
    )


def make_gated(seed: int) -> GatedMLP:
    gate, value = make_mlp(seed), make_mlp(seed + 1)
    return GatedMLP(
        W_gate=gate.W_in, b_gate=gate.b_in, W_in=value.W_in, b_in=value.b_in, activation="silu", W_out=value.W_out,
        b_out=value.b_out,
    )  # fmt: skip


def batch(seed: int, tokens: int, density: float, n_mlps: int, ties: bool = False) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(tokens, F, generator=generator) < density
    if ties:
        strengths = torch.randint(1, 3, (tokens, F), generator=generator).double()
        directions = [torch.randint(-1, 2, (F, D), generator=generator).double() for _ in range(n_mlps)]
    else:
        strengths = torch.rand(tokens, F, generator=generator, dtype=torch.float64) + 0.1
        directions = [torch.randn(F, D, generator=generator, dtype=torch.float64) for _ in range(n_mlps)]
    return strengths * mask, directions


def value_and_gradients(call: Callable[[], Tensor], leaves: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    value = call()
    gradients = torch.autograd.grad(value, leaves, allow_unused=True) if value.requires_grad else [None] * len(leaves)
    return value.detach(), [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, leaves, strict=True)]
