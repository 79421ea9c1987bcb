"""The fast path of the dominant penalty: value and gradient of Σ|p| − the q largest |p|, over tokens and neurons.

With p_ni = f_i A_in and A = d W_in, the two sums are treated apart.

1. The fold, A = d W_in: one matrix product, shared by all tokens.
2. The total needs no loop over tokens: Σ_t Σ_n w_n Σ_i |p_ni| = Σ_i (Σ_t f_i) (Σ_n w_n |A_in|).
3. The top part gathers the rows |A_i| of each token's active features, a cache-sized chunk at a time, and takes maxima.
4. The gradient of the table is sign(A) times what the two parts put on |A|; one more product with W_inᵀ brings it to d.

The gradient is made on the way forward, while the table is at hand, and only that of d and f is kept until backward.
What a unit needs meanwhile, two tables of features × neurons and a short integer for each of the q largest at each
token and neuron, is gone when the next unit begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.interaction.contributions import Chunk, chunks

ELEMENTS = 2**20
"""Contributions in a chunk: half as many make twice the calls, twice as many leave the cache."""


Size = Callable[[Float[Tensor, ""]], Float[Tensor, ""]]
"""What a penalised sum is divided by, from the total: both over tokens and neurons, in float64, without gradients."""


def cut(codes: Codes, neurons: int) -> list[Chunk]:
    """The codes in chunks, without gradients."""
    return list(chunks(Codes(codes.pattern, codes.values.detach()), neurons, ELEMENTS))


def dominant_penalty(
    codes: Codes,
    directions: Float[Tensor, "feature d_model"],
    W_in: Float[Tensor, "d_model neuron"],
    weight: Float[Tensor, " neuron"] | None,
    q: int,
    size: Size,
    pieces: Sequence[Chunk],
) -> Float[Tensor, ""]:
    """Σ_tokens Σ_n weight_n (Σ_i |p_ni| − the q largest), over a size; with gradients to codes.values and directions.

    `pieces` are the codes in chunks (`cut`): those of one batch serve all its MLPs.
    """
    value: Tensor = _Dominant.apply(codes.values, directions, codes.pattern, pieces, W_in, weight, q, size)  # type: ignore[no-untyped-call]
    return value


class _Dominant(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        directions: Tensor,
        pattern: Pattern,
        pieces: Sequence[Chunk],
        W_in: Tensor,
        weight: Tensor | None,
        q: int,
        size: Size,
    ) -> Tensor:
        values, directions = values.detach(), directions.detach()
        A = directions @ W_in
        if weight is not None:
            A *= weight  # weights are not negative, so no sign and no ranking changes
        magnitude = A.abs()
        per_feature = magnitude.sum(1)
        strength = torch.zeros_like(per_feature).index_add_(0, pattern.features, values)
        total = strength.double() @ per_feature.double()

        kept = torch.zeros((), dtype=torch.float64, device=values.device)
        of_values = values.new_zeros(len(values) + 1)  # the last is where slots that no token needs write
        winners: list[tuple[Chunk, Int[Tensor, "q token neuron"]]] = []
        for chunk in pieces:
            p = chunk.contributions(magnitude)
            largest, slots = top(p, q)
            kept += largest.sum(dtype=torch.float64)
            winners.append((chunk, slots.to(torch.int16 if p.shape[1] < 2**15 else torch.int64)))
            _add_to_values(of_values, chunk, largest, slots)
        by = size(total)

        if any(ctx.needs_input_grad[:2]):
            # Σ_t f_i over the tokens where i is among the largest at n, less that over all tokens; in |A|'s memory
            won = magnitude.copy_((-strength)[:, None].expand_as(magnitude))
            for chunk, slots in winners:
                _add_to_table(won, chunk, slots)
            won.mul_(A.sign_() if weight is None else A.sign_().mul_(weight))
            of_directions = (won @ W_in.T).div_(-by.to(values))
            of_values = (per_feature[pattern.features] - of_values[:-1]) / by.to(values)
            ctx.save_for_backward(of_values, of_directions)
        return ((total - kept).clamp(min=0) / by).to(values)  # not below 0 by rounding

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_values, of_directions = ctx.saved_tensors
        to_values = grad * of_values if ctx.needs_input_grad[0] else None
        to_directions = grad * of_directions if ctx.needs_input_grad[1] else None
        return to_values, to_directions, None, None, None, None, None, None


def top(
    p: Float[Tensor, "token slot neuron"], q: int
) -> tuple[Float[Tensor, "q token neuron"], Int[Tensor, "q token neuron"]]:
    """The q largest over the slots and where they are, ties to the lowest slot. Uses p up."""
    n_slots = p.shape[1]
    # A maximum that also says where is ten times slower on CPUs than a plain one. So the place is a second maximum,
    # over slots numbered down to 1 where the first is attained; in place: only there comparisons are vectorised.
    number = torch.arange(n_slots, 0, -1, dtype=p.dtype, device=p.device)[:, None]
    ranks = min(q, n_slots)
    largest, slots = [], []
    for rank in range(ranks):
        most = p.amax(1)
        attained = p if rank + 1 == ranks else p.clone()
        place = n_slots - attained.eq_(most[:, None]).mul_(number).amax(1).long()
        place.clamp_(max=n_slots - 1)  # a table that is not finite attains nothing, and shows in the value
        largest.append(most)
        slots.append(place)
        if rank + 1 < ranks:
            p.scatter_(1, place[:, None], -1.0)
    return torch.stack(largest), torch.stack(slots)


def _add_to_values(of_values: Tensor, chunk: Chunk, largest: Tensor, slots: Tensor) -> None:
    """Σ_n w_n |A_in| over the neurons where an entry is among the largest: what it adds there, over its strength."""
    won = torch.zeros_like(chunk.strengths)
    for most, place in zip(largest, slots, strict=True):
        won.scatter_add_(1, place, most)
    # a strength of 0 has won nothing
    of_values[chunk.entries] = won / chunk.strengths.clamp(min=torch.finfo(won.dtype).tiny)


def _add_to_table(won: Tensor, chunk: Chunk, slots: Tensor) -> None:
    for place in slots.long():
        won.scatter_add_(0, chunk.features.gather(1, place), chunk.strengths.gather(1, place))
