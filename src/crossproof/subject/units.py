"""Units: the blocks of a model between its sites, with their weights in one convention, `x @ W + b`.

A unit holds everything that turns the value at its input site into the value at its output site, and calling it does
so, in any dtype. Weights are the model's own, not folded: a norm keeps its gain and bias, and an MLP or an attention
layer multiplies what comes after them. Biases that a model does not have are zeros.

`extract_units` reads them from a model; `doctor.py` checks that each recomputes what the model computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from crossproof.errors import UnsupportedModel

if TYPE_CHECKING:
    from crossproof.subject.subject import Subject

LOGITS = "logits"
"""The output of the unembedding. It is no site: nothing comes after it."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


SameUnit = TypeVar("SameUnit", bound="_Unit")


@dataclass(frozen=True, eq=False)
class _Unit:
    input_site: str
    output_site: str

    def to(self: SameUnit, target: torch.dtype | torch.device | str) -> SameUnit:
        """The same unit with its weights in another dtype or on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {name: v.to(target) for name, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)


@dataclass(frozen=True, eq=False, kw_only=True)
class MLP(_Unit):
    """activation(x @ W_in + b_in) @ W_out + b_out."""

    layer: int
    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"]
    activation: str
    W_out: Float[Tensor, "neuron d_model"]
    b_out: Float[Tensor, " d_model"]

    def __post_init__(self) -> None:
        _check_activation(self.activation)

    def pre(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch neuron"]:
        return x @ self.W_in + self.b_in

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return ACTIVATIONS[self.activation](self.pre(x)) @ self.W_out + self.b_out


@dataclass(frozen=True, eq=False, kw_only=True)
class GatedMLP(_Unit):
    """(activation(gate) * value) @ W_out + b_out, with gate = x @ W_gate + b_gate and value = x @ W_in + b_in."""

    layer: int
    W_gate: Float[Tensor, "d_model neuron"]
    b_gate: Float[Tensor, " neuron"]
    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"]
    activation: str
    W_out: Float[Tensor, "neuron d_model"]
    b_out: Float[Tensor, " d_model"]

    def __post_init__(self) -> None:
        _check_activation(self.activation)

    def gate(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch neuron"]:
        return x @ self.W_gate + self.b_gate

    def value(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch neuron"]:
        return x @ self.W_in + self.b_in

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return (ACTIVATIONS[self.activation](self.gate(x)) * self.value(x)) @ self.W_out + self.b_out


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
        position = torch.arange(x.shape[-2], dtype=torch.float32, device=x.device)
        angle = position[:, None] * self.inverse_frequencies.to(x.device, torch.float32)
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

    layer: int
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

    layer: int | None
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


def extract_units(subject: Subject) -> tuple[Unit, ...]:
    """The units of a model that describes them itself (a method `units`) or that TransformerBridge wraps."""
    from crossproof.subject.sites import is_bridge

    described: Any = getattr(subject.model, "units", None)
    if callable(described):
        return tuple(described())
    if is_bridge(subject.model):
        return tuple(_bridge_units(subject.model, subject.sites))
    raise UnsupportedModel(
        f"{subject.name} is a {type(subject.model).__name__}, whose blocks are not known: load it with "
        "TransformerBridge, or give the model a method `units()` that returns its units"
    )


def _check_activation(name: str) -> None:
    if name not in ACTIVATIONS:
        raise UnsupportedModel(f"no activation function {name!r}; there are {', '.join(ACTIVATIONS)}")


# Reading a TransformerBridge: its accessors W_Q, W_in, … undo each family's layout; what they leave out (scale, window,
# rotary frequencies, eps) is read from the Hugging Face modules underneath. A part we do not know is refused by name.

_ACTIVATION_NAMES = {"gelu_pytorch_tanh": "gelu_new", "swish": "silu"}
_STATIC_ROPE = ("default", "linear", "llama3")
"""Kinds of rotary embedding whose frequencies do not depend on the length of the text."""


def _bridge_units(model: Any, sites: Sequence[str]) -> Iterator[Unit]:
    last = "hook_embed"
    for layer, block in enumerate(model.blocks):
        at = f"blocks.{layer}"
        parts = _parts(block)
        unknown = parts - {"ln1", "attn", "ln2", "mlp"}
        if unknown or "ln1" not in parts:
            _refuse(block, at, f"it has {', '.join(sorted(unknown)) or 'no ln1'}")
        pre, mid, last = f"{at}.hook_resid_pre", f"{at}.hook_resid_mid", f"{at}.hook_resid_post"
        yield _norm(block.ln1, layer, pre, f"{at}.ln1.hook_normalized")
        if "attn" in parts:
            yield _attention(model, block.attn, layer)
        if "ln2" in parts:
            # Without a residual stream between attention and MLP the two work in parallel, on the same input.
            yield _norm(block.ln2, layer, mid if mid in sites else pre, f"{at}.ln2.hook_normalized")
        if "mlp" in parts:
            yield _mlp(model, block.mlp, layer, f"{at}.{'ln2' if 'ln2' in parts else 'ln1'}.hook_normalized")
    if getattr(model.cfg, "output_logits_soft_cap", None) not in (None, -1.0, 0.0):
        _refuse(model.unembed, "the unembedding", "it caps the logits")
    final = "ln_final.hook_normalized"
    if final in sites:
        yield _norm(model.ln_final, None, last, final)
    W_U = model.W_U.detach()
    b_U = _bias(model.b_U, W_U, W_U.shape[1:])
    yield Unembedding(input_site=final if final in sites else last, output_site=LOGITS, W_U=W_U, b_U=b_U)


def _norm(norm: Any, layer: int | None, input_site: str, output_site: str) -> Norm:
    module = norm.original_component
    weight = getattr(module, "weight", None)
    eps = getattr(module, "eps", getattr(module, "variance_epsilon", None))
    if weight is None or eps is None:
        _refuse(norm, output_site, "it has no gain or no eps")
    weight = weight.detach()
    return Norm(
        input_site=input_site,
        output_site=output_site,
        layer=layer,
        kind="rms" if norm.uses_rms_norm else "layer",
        gain=1 + weight if norm.uses_weight_offset else weight,
        bias=_bias(getattr(module, "bias", None), weight, weight.shape),
        eps=float(eps),
    )


def _mlp(model: Any, mlp: Any, layer: int, input_site: str) -> MLP | GatedMLP:
    parts = _parts(mlp)
    if parts not in ({"in", "out"}, {"gate", "in", "out"}):
        _refuse(mlp, f"blocks.{layer}.mlp", f"it has the parts {', '.join(sorted(parts))}")
    W_in, W_out = mlp.W_in.detach(), mlp.W_out.detach()
    b_in, b_out = _bias(mlp.b_in, W_in, W_in.shape[1:]), _bias(mlp.b_out, W_out, W_out.shape[1:])
    activation = _ACTIVATION_NAMES.get(model.cfg.act_fn, model.cfg.act_fn)
    output_site = f"blocks.{layer}.hook_mlp_out"
    if "gate" not in parts:
        return MLP(
            input_site, output_site, layer=layer, W_in=W_in, b_in=b_in, activation=activation, W_out=W_out, b_out=b_out
        )
    W_gate = mlp.W_gate.detach()
    b_gate = _bias(mlp.b_gate, W_gate, W_gate.shape[1:])
    return GatedMLP(
        input_site, output_site, layer=layer, W_gate=W_gate, b_gate=b_gate, W_in=W_in, b_in=b_in,
        activation=activation, W_out=W_out, b_out=b_out,
    )  # fmt: skip


def _attention(model: Any, attn: Any, layer: int) -> Attention:
    module, at = attn.original_component, f"blocks.{layer}.attn"
    unknown = _parts(attn) - {"q", "k", "v", "qkv", "o"}
    if unknown or not hasattr(attn, "W_Q"):
        _refuse(attn, at, f"it has {', '.join(sorted(unknown)) or 'no queries'}")
    if getattr(module, "attn_logit_softcapping", None):
        _refuse(attn, at, "it caps the scores")
    W_Q, W_K, W_V, W_O = (getattr(attn, name).detach() for name in ("W_Q", "W_K", "W_V", "W_O"))
    return Attention(
        input_site=f"blocks.{layer}.ln1.hook_normalized",
        output_site=f"blocks.{layer}.hook_attn_out",
        layer=layer,
        W_Q=W_Q,
        W_K=W_K,
        W_V=W_V,
        W_O=W_O,
        b_Q=_bias(attn.b_Q, W_Q, (W_Q.shape[0], W_Q.shape[2])),
        b_K=_bias(attn.b_K, W_K, (W_K.shape[0], W_K.shape[2])),
        b_V=_bias(attn.b_V, W_V, (W_V.shape[0], W_V.shape[2])),
        b_O=_bias(attn.b_O, W_O, W_O.shape[2:]),
        scale=_scale(attn, at, W_Q.shape[2]),
        rotary=_rotary(model, attn, at),
        window=_window(module),
    )


def _scale(attn: Any, at: str, d_head: int) -> float:
    module = attn.original_component
    if isinstance(getattr(module, "scaling", None), float):
        return float(module.scaling)
    if hasattr(module, "scale_attn_weights"):  # GPT-2 before transformers 5
        scale = d_head**-0.5 if module.scale_attn_weights else 1.0
        return scale / (module.layer_idx + 1) if module.scale_attn_by_inverse_layer_idx else scale
    if hasattr(module, "attention_type"):  # GPT-Neo does not scale its scores
        return 1.0
    return _refuse(attn, at, "it does not say how scores are scaled")


def _window(module: Any) -> int | None:
    if hasattr(module, "attention_type"):
        return int(module.config.window_size) if module.attention_type == "local" else None
    config = module.config
    in_config = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    window = getattr(module, "sliding_window", in_config)
    return None if window is None else int(window)


def _rotary(model: Any, attn: Any, at: str) -> Rotary | None:
    kind = model.cfg.positional_embedding_type
    if kind == "standard":
        return None
    rotary: Any = getattr(getattr(model, "rotary_emb", None), "original_component", None)
    if kind != "rotary" or getattr(rotary, "inv_freq", None) is None:
        _refuse(attn, at, f"its positions are of an unknown kind ({kind})")
    if rotary.rope_type not in _STATIC_ROPE or rotary.attention_scaling != 1.0:
        _refuse(attn, at, f"its rotary embedding is of kind {rotary.rope_type}")
    return Rotary(rotary.inv_freq.detach(), adjacent=bool(getattr(model.cfg, "rotary_adjacent_pairs", False)))


def _parts(component: Any) -> set[str]:
    """The submodules of a bridge's component that compute something, which is all but its hook points."""
    return {name for name, _ in component.named_children() if not name.startswith(("hook_", "_"))}


def _bias(bias: Tensor | None, like: Tensor, shape: Sequence[int]) -> Tensor:
    return like.new_zeros(tuple(shape)) if bias is None else bias.detach()


def _refuse(component: Any, at: str, why: str) -> NoReturn:
    module = getattr(component, "original_component", None)
    raise UnsupportedModel(f"{at} is a {type(module or component).__name__} that cannot be described: {why}")
