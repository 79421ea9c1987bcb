"""Reading the units of a model: from its own description, or from what TransformerBridge wraps.

`doctor.py` checks that each recomputes what the model computes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from crossproof.errors import UnsupportedModel
from crossproof.units import LOGITS, MLP, Attention, GatedMLP, Norm, Rotary, Unembedding, Unit

if TYPE_CHECKING:
    from crossproof.subject.subject import Subject


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
