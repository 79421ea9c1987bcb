"""Small random models of windows, data for them, and what they do, computed the obvious way."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crossproof.proof.explanation import explain, heard
from crossproof.proof.network import Network
from crossproof.proof.statement import Items, Witness
from crossproof.subject.zoo.window_recipes import EPS

V, C, D, M = 5, 4, 6, 7


def state_of(
    seed: int, attention: bool = False, mlps: int = 1, magnitude: float = 1.0, ties: bool = False
) -> dict[str, Tensor]:
    """Random float32 weights; with ties they are −1, 0 or 1."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        if ties:
            return torch.randint(-1, 2, shape, generator=generator).float() * magnitude
        return torch.randn(*shape, generator=generator) * magnitude

    state = {"W_E": random(C, V, D), "W_U": random(D, V)}
    if attention:
        state |= {f"attn.W_{name}": random(D, D) / D**0.5 for name in "QKVO"}
    for index in range(mlps):
        state |= {
            f"mlps.{index}.W_in": random(D, M) / D**0.5,
            f"mlps.{index}.b_in": random(M),
            f"mlps.{index}.W_out": random(M, D) / M**0.5,
            f"mlps.{index}.b_out": random(D),
        }
    return state


def items_of(seed: int, windows: int = 60) -> Items:
    """All windows of a random stream."""
    stream = np.random.default_rng(seed).integers(0, V, windows + C)
    rows, count = np.unique(np.stack([stream[i : windows + i] for i in range(C + 1)], 1), axis=0, return_counts=True)
    contexts, context = np.unique(rows[:, :C], axis=0, return_inverse=True)
    return Items(
        torch.tensor(contexts, dtype=torch.uint8),
        torch.tensor(context.reshape(-1)),
        torch.tensor(rows[:, C]),
        torch.tensor(count),
        windows,
    )


def true_losses(state: dict[str, Tensor], norm: bool, items: Items) -> tuple[Tensor, Tensor]:
    """The loss of each item, and whether its target has the largest logit, in float64 and one window after another."""
    weights = {name: value.double() for name, value in state.items()}

    def normalised(x: Tensor) -> Tensor:
        return (x - x.mean()) / (x.var(correction=0) + EPS).sqrt() if norm else x

    losses, right = [], []
    for item in range(len(items.target)):
        window = items.contexts[items.context[item]].long()
        x = [weights["W_E"][place, token] for place, token in enumerate(window)]
        stream = x[-1]
        if "attn.W_Q" in weights:
            n = [normalised(each) for each in x]
            query = n[-1] @ weights["attn.W_Q"]
            scores = torch.stack([query @ (each @ weights["attn.W_K"]) for each in n]) / D**0.5
            for look, each in zip(scores.softmax(0), n, strict=True):
                stream = stream + look * (each @ weights["attn.W_V"] @ weights["attn.W_O"])
        else:
            for each in x[:-1]:
                stream = stream + each
        for index in range(sum(name.endswith(".W_in") for name in weights)):
            W_in, b_in, W_out, b_out = (weights[f"mlps.{index}.{name}"] for name in ("W_in", "b_in", "W_out", "b_out"))
            stream = stream + (normalised(stream) @ W_in + b_in).relu() @ W_out + b_out
        logits = stream @ weights["W_U"]
        target = int(items.target[item])
        losses.append(logits.logsumexp(0) - logits[target])
        others = torch.cat([logits[:target], logits[target + 1 :]])
        right.append(logits[target] > others.max())
    return torch.stack(losses), torch.stack(right)


def features_of(network: Network, items: Items, witness: Witness) -> int:
    """How many features an explanation has, the bias among them under a norm."""
    return len(heard(network, explain(network, items, witness)).tables[0])
