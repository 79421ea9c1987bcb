"""Small random models of attention alone, and what an obvious program says about them."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, exact


def model(seed: int, vocabulary: int, context: int, width: int, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        "W_E": (context, vocabulary, width),
        **{f"attn.W_{name}": (width, width) for name in "QKVO"},
        "W_U": (width, vocabulary),
    }
    return {name: torch.randn(shape, generator=generator) * scale for name, shape in shapes.items()}


def balls(state: dict[str, Tensor]) -> dict[str, Ball]:
    return {name: exact(value) for name, value in state.items()}


def windows(vocabulary: int, context: int) -> Tensor:
    """All, in the order of an array with an axis for each position."""
    return torch.tensor(list(itertools.product(range(vocabulary), repeat=context)))


def truth(state: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The loss of every window and whether the largest token is predicted, an axis for each position."""
    context, vocabulary, width = state["W_E"].shape
    W = {name: value.double() for name, value in state.items()}
    every = windows(vocabulary, context)
    x = torch.stack([W["W_E"][position, every[:, position]] for position in range(context)], 1)
    query, keys = x[:, -1] @ W["attn.W_Q"], x @ W["attn.W_K"]
    looks = (torch.einsum("wd,wtd->wt", query, keys) / math.sqrt(width)).softmax(1)
    out = torch.einsum("wt,wtd->wd", looks, x @ W["attn.W_V"]) @ W["attn.W_O"]
    logits = (x[:, -1] + out) @ W["W_U"]
    largest = every.amax(1)
    losses = logits.logsumexp(1) - logits.gather(1, largest[:, None])[:, 0]
    shape = (vocabulary,) * context
    return losses.reshape(shape), (logits.argmax(1) == largest).reshape(shape)
