"""What a penalty sums, for any interpretation: value and gradient by autograd, a chunk of tokens at a time."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.codes import Codes, Pattern, check_features
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import CHUNK, Chunk, Neurons, PlainNeurons, check_codes, chunks, tables
from crossproof.interaction.interpretations.base import Block, GatedBlock, Interpretation, PlainBlock


def generic_penalty(
    interpretation: Interpretation,
    codes: Codes,
    neurons: Neurons,
    weights: Float[Tensor, " neuron"] | None = None,
    budget: int = CHUNK,
) -> Float[Tensor, ""]:
    """Mean over tokens and neurons of weight_n times what the interpretation penalises.

    For any interpretation, with gradients to codes.values and to the tables' A and beta. They are made on the way
    forward, chunk by chunk, so that no chunk's intermediate values outlive it.
    """
    check_codes(codes, tables(neurons)[0].n_features)
    check_features(codes.values)
    n_neurons = tables(neurons)[0].n_neurons
    if weights is not None and weights.shape != (n_neurons,):
        raise MismatchError(f"weights: one for each of {n_neurons} neurons, not the shape {tuple(weights.shape)}")
    parameters = [tensor for table in tables(neurons) for tensor in (table.A, table.beta)]
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (codes.values, *parameters))
    value: Tensor = _Mean.apply(  # type: ignore[no-untyped-call]
        interpretation, codes.pattern, neurons, weights, budget, wanted, codes.values, *parameters
    )
    return value


class _Mean(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        interpretation: Interpretation,
        pattern: Pattern,
        neurons: Neurons,
        weights: Tensor | None,
        budget: int,
        wanted: bool,
        values: Tensor,
        *parameters: Tensor,
    ) -> Tensor:
        A, betas = parameters[0::2], parameters[1::2]
        n_neurons = A[0].shape[1]
        codes = Codes(pattern, values.detach())
        of_values = values.new_zeros(pattern.n_entries + 1)  # the last one collects what falls on unused slots
        gradients = [torch.zeros_like(parameter) for parameter in parameters] if wanted else []
        total = torch.zeros((), dtype=torch.float64, device=values.device)
        for chunk in chunks(codes, n_neurons, budget):
            with torch.set_grad_enabled(wanted):
                strengths = chunk.strengths.requires_grad_(wanted)
                leaves = [leaf.requires_grad_(wanted) for leaf in _leaves(chunk, A, betas)]
                penalised = interpretation.penalised(_block(neurons, strengths, leaves))
                value = (penalised if weights is None else penalised * weights).sum(dtype=torch.float64)
            total += value.detach()
            if value.requires_grad:
                of_strengths, *of_leaves = torch.autograd.grad(
                    value, [strengths, *leaves], allow_unused=True, materialize_grads=True
                )
                of_values[chunk.entries] = of_strengths
                for into, of_rows in zip(gradients[0::2], of_leaves[0::2], strict=True):
                    into.index_add_(0, chunk.features.flatten(), of_rows.flatten(0, 1))
                for into, of_beta in zip(gradients[1::2], of_leaves[1::2], strict=True):
                    into += of_beta
        count = max(1, pattern.n_rows * n_neurons)
        if wanted:
            ctx.save_for_backward(*(gradient.div_(count) for gradient in (of_values[:-1], *gradients)))
        return (total / count).to(values.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needed = ctx.needs_input_grad[6:]
        return (
            *(None for _ in range(6)),
            *(grad * made if need else None for made, need in zip(ctx.saved_tensors, needed, strict=True)),
        )


def _leaves(chunk: Chunk, A: tuple[Tensor, ...], betas: tuple[Tensor, ...]) -> list[Tensor]:
    """Where gradients are collected: for each table the rows of the chunk's features, then its beta."""
    return [
        leaf
        for table, beta in zip(A, betas, strict=True)
        for leaf in (table.detach()[chunk.features], beta.detach().clone())
    ]


def _block(neurons: Neurons, strengths: Tensor, leaves: list[Tensor]) -> Block:
    rows, betas = leaves[0::2], leaves[1::2]
    p = [row * strengths[..., None] for row in rows]
    if isinstance(neurons, PlainNeurons):
        return PlainBlock(p[0], betas[0], neurons.activation)
    return GatedBlock(p[0], betas[0], p[1], betas[1], neurons.activation)
