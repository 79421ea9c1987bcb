"""A model that reads windows, as a proof sees it: its weights, and what they mean.

    x_t = W_E[t, token at t],   n = x, or x centred and divided by √(mean square + ε) where there are norms
    stream = x_last + Σ_s A_s n_s W_V W_O  with A = softmax of n_last W_Q · n_s W_K / √width,  or Σ_t x_t
    stream += relu(n W_in + b_in) W_out + b_out  for each MLP,   logits = stream W_U

Only what is said of the last position counts (`subject/zoo/window_model.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.proof.arithmetic.ball import Ball, U, concatenate, exact
from crossproof.proof.arithmetic.tally import count
from crossproof.subject.zoo.window_recipes import EPS


@dataclass(frozen=True)
class Network:
    weights: Mapping[str, Ball]
    norm: bool = False

    @classmethod
    def of(cls, state: Mapping[str, Tensor], norm: bool = False) -> Network:
        """Of the stored numbers, each taken as it is; refused if one is not finite."""
        weights = {}
        for name, value in state.items():
            try:
                weights[name] = exact(value.detach())
            except CrossproofError as error:
                raise CrossproofError(f"{name}: {error}") from error
        return cls(weights, norm)

    def shapes(self) -> Network:
        """The same without numbers, to count with."""
        return Network({name: Ball.unknown(*value.shape) for name, value in self.weights.items()}, self.norm)

    def __getitem__(self, name: str) -> Ball:
        return self.weights[name]

    @property
    def context(self) -> int:
        return self["W_E"].shape[0]

    @property
    def vocabulary(self) -> int:
        return self["W_E"].shape[1]

    @property
    def width(self) -> int:
        return self["W_E"].shape[2]

    @property
    def has_attention(self) -> bool:
        return "attn.W_Q" in self.weights

    @property
    def n_mlps(self) -> int:
        return sum(name.endswith(".W_in") for name in self.weights)

    @property
    def device(self) -> torch.device:
        return self["W_E"].mid.device

    def mlp(self, index: int) -> tuple[Ball, Ball, Ball, Ball]:
        """W_in, b_in, W_out, b_out."""
        return tuple(self[f"mlps.{index}.{name}"] for name in ("W_in", "b_in", "W_out", "b_out"))  # type: ignore[return-value]


def one_over_root(width: int) -> Ball:
    """1/√width, which float64 has exactly for powers of 4 alone."""
    near = 1 / torch.tensor(width, dtype=torch.float64).sqrt()
    return Ball(near, near * 8 * U)


def normalised(x: Ball) -> Ball:
    """Each row centred and divided by the root of its mean square."""
    row = x.shape[-1]
    centred = centre(x)
    return centred / ((centred * centred).sum(-1) / float(row) + EPS).sqrt()[..., None]


def centre(x: Ball) -> Ball:
    return x - (x.sum(-1) / float(x.shape[-1]))[..., None]


def softmax(scores: Ball) -> Ball:
    """Over the last axis. Any shift gives the same; the largest midpoint keeps it in range."""
    count(scores.mid.numel())
    weight = (scores - Ball(scores.mid.amax(-1, keepdim=True))).exp()
    return weight / weight.sum(-1)[..., None]


def forward(network: Network, x: list[Ball]) -> Ball:
    """Logits [window, token] of embeddings [window, width] at each position, as a careful person would run it: only the
    last position asks, matrices meet vectors and never each other, and the mean is taken before W_V and W_O."""
    stream = x[-1]
    if network.has_attention:
        n = [normalised(each) for each in x] if network.norm else x
        query = n[-1] @ network["attn.W_Q"] @ network["attn.W_K"].mT * one_over_root(network.width)
        looks = softmax(concatenate([(query * each).sum(1)[:, None] for each in n], 1))
        mean = n[0] * looks[:, :1]
        for position in range(1, len(n)):
            mean = mean + n[position] * looks[:, position : position + 1]
        stream = stream + mean @ network["attn.W_V"] @ network["attn.W_O"]
    else:
        for each in x[:-1]:
            stream = stream + each
    for mlp in range(network.n_mlps):
        W_in, b_in, W_out, b_out = network.mlp(mlp)
        read = normalised(stream) if network.norm else stream
        stream = stream + (read @ W_in + b_in).relu() @ W_out + b_out
    return stream @ network["W_U"]
