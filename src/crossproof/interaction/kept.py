"""What the q largest contributions to each neuron add up to, with gradients, without a tensor over features.

Gradients go to the contributions that are kept, as those of a maximum do: which ones they are is not differentiated.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.interaction.contributions import Chunk
from crossproof.interaction.dominant_kernel import cut, top


def kept(codes: Codes, A: Float[Tensor, "feature neuron"], q: int) -> Float[Tensor, "token neuron"]:
    """Σ of the q largest p_ni in magnitude, signs and all; ties to the lowest feature. Of all, where there are fewer.

    Gradients go to codes.values and to A.
    """
    sums: Tensor = _Kept.apply(codes.values, A, codes.pattern, q)  # type: ignore[no-untyped-call]
    return sums


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, A: Tensor, pattern: Pattern, q: int) -> Tensor:
        values, A = values.detach(), A.detach()
        magnitude, sums = A.abs(), A.new_zeros(pattern.n_rows, A.shape[1])
        winners: list[tuple[Chunk, Int[Tensor, "q token neuron"] | None]] = []
        for chunk in cut(Codes(pattern, values), A.shape[1]):
            if q >= chunk.features.shape[1]:
                sums[chunk.tokens] = chunk.contributions(A).sum(1)
                winners.append((chunk, None))
                continue
            largest, slots = top(chunk.contributions(magnitude), q)
            signed = [
                most.copysign(A.gather(0, chunk.features.gather(1, its)))
                for most, its in zip(largest, slots, strict=True)
            ]
            sums[chunk.tokens] = torch.stack(signed).sum(0) if q > 1 else signed[0]
            winners.append((chunk, slots.to(torch.int16 if chunk.features.shape[1] < 2**15 else torch.int64)))
        ctx.winners = winners
        ctx.save_for_backward(values, A)
        return sums

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, A = ctx.saved_tensors
        of_A = torch.zeros_like(A)
        of_values = values.new_zeros(len(values) + 1)  # the last is where slots that no token needs write
        for chunk, winners in ctx.winners:
            its = grad[chunk.tokens]
            if winners is None:
                of_values[chunk.entries] = (A[chunk.features] * its[:, None]).sum(2)
                of_A.index_add_(0, chunk.features.flatten(), (chunk.strengths[..., None] * its[:, None]).flatten(0, 1))
                continue
            won = torch.zeros_like(chunk.strengths)
            for slots in winners.long():
                features = chunk.features.gather(1, slots)
                of_A.scatter_add_(0, features, chunk.strengths.gather(1, slots) * its)
                won.scatter_add_(1, slots, A.gather(0, features) * its)
            of_values[chunk.entries] = won
        return of_values[:-1], of_A, None, None
