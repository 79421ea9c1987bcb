"""Units: the blocks of a model between its sites, with their weights in one convention, `x @ W + b`.

A unit holds everything that turns the value at its input site into the value at its output site, and calling it does
so, in any dtype. Weights are the model's own, not folded: a norm keeps its gain and bias, and an MLP or an attention
layer multiplies what comes after them. Biases that a model does not have are zeros. Tensors are all it needs: make one
from any weights, or let a subject read its own (`subject/extraction.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from crossproof.errors import MismatchError, UnsupportedModel

LOGITS = "logits"
"""The output of the unembedding. It is no site: nothing comes after it."""


class Activation(NamedTuple):
    """A nonlinearity φ(x) = x g(x) with g(−x) = 1 − g(x), as ReLU, GELU and SiLU are, and two constants for bounds.

    That form makes φ'(−x) = 1 − φ'(x), so its slopes lie in [1 − lipschitz, lipschitz].
    """

    function: Callable[[Tensor], Tensor]
    lipschitz: float
    """No slope is larger than this (rounded up)."""
    relu_gap: float
    """It is nowhere further from ReLU than this (rounded up)."""


ACTIVATIONS: dict[str, Activation] = {
    "relu": Activation(F.relu, 1.0, 0.0),
    "gelu": Activation(F.gelu, 1.12891, 0.16998),
    "gelu_new": Activation(lambda x: F.gelu(x, approximate="tanh"), 1.129, 0.17005),
    "silu": Activation(F.silu, 1.09984, 0.27847),
}
"""By the names configs use. Another one is one more line here, with its two constants."""


SameUnit = TypeVar("SameUnit", bound="_Unit")


@dataclass(frozen=True, eq=False)
class _Unit:
    input_site: str = ""
    output_site: str = ""

    def to(self: SameUnit, target: torch.dtype | torch.device | str) -> SameUnit:
        """The same unit with its weights in another dtype or on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: v.to(target) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False, kw_only=True)
class MLP(_Unit):
    """activation(x @ W_in + b_in) @ W_out + b_out."""

    layer: int | None = None
    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"]
    activation: str
    W_out: Float[Tensor, "neuron d_model"]
    b_out: Float[Tensor, " d_model"]

    def __post_init__(self) -> None:
        _check_activation(self.activation)

        _check_shapes(
            self, W_in=("d_model", "neuron"), b_in=("neuron",), W_out=("neuron", "d_model"), b_out=("d_model",)
        )

    def pre(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch neuron"]:
        return x @ self.W_in + self.b_in

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return ACTIVATIONS[self.activation].function(self.pre(x)) @ self.W_out + self.b_out


@dataclass(frozen=True, eq=False, kw_only=True)
class GatedMLP(_Unit):
    """(activation(gate) * value) @ W_out + b_out, with gate = x @ W_gate + b_gate and value = x @ W_in + b_in."""

    layer: int | None = None
    W_gate: Float[Tensor, "d_model neuron"]
    b_gate: Float[Tensor, " neuron"]
    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"]
    activation: str
    W_out: Float[Tensor, "neuron d_model"]
    b_out: Float[Tensor, " d_model"]

    def __post_init__(self) -> None:
        _check_activation(self.activation)

        into, each = ("d_model", "neuron"), ("neuron",)
        _check_shapes(
            self, W_gate=into, b_gate=each, W_in=into, b_in=each, W_out=("neuron", "d_model"), b_out=("d_model",)
        )

    def gate(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch neuron"]:
        return x @ self.W_gate + self.b_gate

    def value(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch neuron"]:
        return x @ self.W_in + self.b_in

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return (ACTIVATIONS[self.activation].function(self.gate(x)) * self.value(x)) @ self.W_out + self.b_out


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotates the first `dim` coordinates of queries and keys, pair by pair, by position times a frequency.

    Pairs are (i, i + dim/2), or (2i, 2i + 1) when `adjacent`. Angles are computed in float32 whatever the dtype of x,
    because that is where Hugging Face models compute them: the tables are part of the model.
    """

    inverse_frequencies: Float[Tensor, " pair"]
    adjacent: bool = False

    @property
    def dim(self) -> int:
        return 2 * len(self.inverse_frequencies)

    def __call__(self, x: Float[Tensor, "*batch pos d_head"]) -> Float[Tensor, "*batch pos d_head"]:
        """At the positions 0, 1, 2, …"""
        return self.at(x, torch.arange(x.shape[-2], device=x.device))

    def at(
        self, x: Float[Tensor, "*batch pos d_head"], position: Int[Tensor, "*#batch #pos"]
    ) -> Float[Tensor, "*batch pos d_head"]:
        """At positions of their own; at the distance of two, a query has the score that both have at theirs."""
        angle = position.to(torch.float32)[..., None] * self.inverse_frequencies.to(x.device, torch.float32)
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        turned, kept = x[..., : self.dim], x[..., self.dim :]
        if self.adjacent:
            first, second = turned[..., 0::2], turned[..., 1::2]
            pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1)
            return torch.cat([pairs.flatten(-2), kept], dim=-1)
        first, second = turned.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin, kept], dim=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Attention(_Unit):
    """Causal attention. Scores are scale * q·k; key head i serves the i-th run of equally many query heads."""

    layer: int | None = None
    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]
    b_Q: Float[Tensor, "head d_head"]
    b_K: Float[Tensor, "kv_head d_head"]
    b_V: Float[Tensor, "kv_head d_head"]
    b_O: Float[Tensor, " d_model"]
    scale: float
    rotary: Rotary | None = None
    window: int | None = None
    """How many positions a query sees, its own among them; None for all before it."""

    def mask(self, positions: int) -> Bool[Tensor, "query key"]:
        """Which keys each query sees."""
        distance = torch.arange(positions)[:, None] - torch.arange(positions)
        seen = (distance >= 0) & (distance < (self.window or positions))
        return seen.to(self.W_Q.device)

    def scores(self, x: Float[Tensor, "text pos d_model"]) -> Float[Tensor, "text head pos key"]:
        """Of every query on every key, those that the mask hides among them."""
        q = self._heads(x, self.W_Q, self.b_Q)
        k = self._heads(x, self.W_K, self.b_K)
        if self.rotary is not None:
            q, k = self.rotary(q), self.rotary(k)
        return self.scale * q @ self._per_query_head(k).mT

    def pattern(self, x: Float[Tensor, "text pos d_model"]) -> Float[Tensor, "text head pos key"]:
        return self.scores(x).masked_fill(~self.mask(x.shape[1]), -torch.inf).softmax(-1)

    def __call__(self, x: Float[Tensor, "text pos d_model"]) -> Float[Tensor, "text pos d_model"]:
        v = self._per_query_head(self._heads(x, self.W_V, self.b_V))
        return torch.einsum("thqe,hed->tqd", self.pattern(x) @ v, self.W_O) + self.b_O

    def _heads(self, x: Tensor, W: Tensor, b: Tensor) -> Tensor:
        return torch.einsum("tpd,hde->thpe", x, W) + b[:, None]

    def _per_query_head(self, per_kv_head: Tensor) -> Tensor:
        return per_kv_head.repeat_interleave(len(self.W_Q) // len(self.W_K), dim=1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Norm(_Unit):
    """gain * (x − mean) / sqrt(variance + eps) + bias; of kind `rms` without the mean."""

    layer: int | None = None
    """None for the norm after the last block."""
    kind: Literal["layer", "rms"]
    gain: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"]
    eps: float

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        centred = x - x.mean(-1, keepdim=True) if self.kind == "layer" else x
        scale = (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return centred / scale * self.gain + self.bias


@dataclass(frozen=True, eq=False, kw_only=True)
class Unembedding(_Unit):
    W_U: Float[Tensor, "d_model vocab"]
    b_U: Float[Tensor, " vocab"]

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch vocab"]:
        return x @ self.W_U + self.b_U


Unit = MLP | GatedMLP | Attention | Norm | Unembedding


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"no activation function {name!r}; there are {', '.join(ACTIVATIONS)}. To add one: "
            f"crossproof.units.ACTIVATIONS[{name!r}] = Activation(function, lipschitz, relu_gap)"
        )


def _check_shapes(unit: MLP | GatedMLP, **axes: tuple[str, ...]) -> None:
    """Every tensor has the axes of its convention; W_out says how many there are of each."""
    if unit.W_out.dim() != 2:
        raise MismatchError(f"W_out: expected the axes [neuron, d_model], not the shape {tuple(unit.W_out.shape)}")
    sizes = dict(zip(axes["W_out"], unit.W_out.shape, strict=True))
    for name, names in axes.items():
        expected, shape = tuple(sizes[axis] for axis in names), tuple(getattr(unit, name).shape)
        if shape != expected:
            raise MismatchError(
                f"{name}: expected [{', '.join(names)}] = {list(expected)}, as W_out is [neuron, d_model] = "
                f"{list(unit.W_out.shape)}, not {list(shape)}; weights multiply from the right, x @ W + b"
            )
