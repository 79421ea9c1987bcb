"""Which features are active: ReLU, TopK, BatchTopK and JumpReLU, each as a pattern over the pre-activations.

A feature is active only if its pre-activation is positive: a TopK that keeps negative values is a bug. Ties go to the
lowest feature index, so that a selection depends on the numbers alone and not on how a library sorts.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.codes import Pattern

Pre = Float[Tensor, "row feature"]


def positive(pre: Pre) -> Pattern:
    """ReLU: every positive pre-activation."""
    return above(pre, torch.zeros(1, dtype=pre.dtype, device=pre.device))


def above(pre: Pre, threshold: Float[Tensor, "feature_or_one"]) -> Pattern:
    """Every positive pre-activation above its feature's threshold."""
    return _pattern_of((pre > threshold.clamp(min=0)).flatten(), pre)


def topk(pre: Pre, k: int) -> Pattern:
    """TopK: the k largest of every token, of those that are positive."""
    kth = pre.topk(k, dim=1).values[:, -1:].clamp(min=0)
    surely = (pre > kth) & (pre > 0)
    tied = (pre == kth) & (pre > 0)
    room = k - surely.sum(1, keepdim=True)
    return _pattern_of((surely | (tied & (tied.cumsum(1) <= room))).flatten(), pre)


def batchtopk(pre: Pre, k: int, below: float = 0.0) -> Pattern:
    """BatchTopK: the k * rows largest of the whole batch, of those that are positive.

    `below` is a guess of a value that is smaller than the smallest one kept, such as the running threshold of earlier
    batches. It only saves time: entries under it are not looked at unless too few lie above it.
    """
    flat, wanted = pre.flatten(), k * pre.shape[0]
    candidates = torch.nonzero(flat > max(below, 0.0)).squeeze(1)
    if below > 0 and candidates.numel() < wanted:
        candidates = torch.nonzero(flat > 0).squeeze(1)
    if candidates.numel() > wanted:
        values = flat[candidates]
        smallest_kept = values.topk(wanted, sorted=False).values.min()
        surely, tied = values > smallest_kept, values == smallest_kept
        candidates = candidates[surely | (tied & (tied.cumsum(0) <= wanted - surely.sum()))]
    return Pattern.from_flat(candidates, *pre.shape)


def around(pre: Pre, threshold: Float[Tensor, "feature"], bandwidth: float) -> Pattern:
    """JumpReLU in training: active features, and those so near their threshold that they tell it where to move."""
    return _pattern_of(((pre > threshold - bandwidth / 2) & (pre > 0)).flatten(), pre)


def _pattern_of(mask: Tensor, pre: Pre) -> Pattern:
    return Pattern.from_flat(torch.nonzero(mask).squeeze(1), *pre.shape)


class Jump(torch.autograd.Function):
    """z·[z > θ], with the rectangle-window estimate of the gradient to θ (Rajamanoharan et al., 2024)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return z * (z > theta)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (z, theta) = grads, ctx.saved_tensors
        return grad * (z > theta), -theta / ctx.bandwidth * _window(z, theta, ctx.bandwidth) * grad, None


class Step(torch.autograd.Function):
    """[z > θ], with the rectangle-window estimate of the gradient to θ: what makes L0 trainable."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(z, theta)
        ctx.bandwidth = bandwidth
        return (z > theta).to(z.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        (grad,), (z, theta) = grads, ctx.saved_tensors
        return torch.zeros_like(z), -_window(z, theta, ctx.bandwidth) / ctx.bandwidth * grad, None


def _window(z: Tensor, theta: Tensor, bandwidth: float) -> Tensor:
    return ((z - theta).abs() < bandwidth / 2).to(z.dtype)
