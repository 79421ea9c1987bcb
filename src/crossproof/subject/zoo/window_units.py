"""The units of a model of windows. A sum over positions is none: it has no weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import Tensor

from crossproof.subject.zoo.window_recipes import EPS
from crossproof.units import LOGITS, MLP, Attention, Norm, Unembedding, Unit

if TYPE_CHECKING:
    from crossproof.subject.zoo.window_model import WindowModel


def window_units(model: WindowModel) -> list[Unit]:
    """In order of computation."""
    units: list[Unit] = []
    if model.config.mixing == "attention":
        units += _attention(model)
    for layer in range(model.config.mlps):
        units += _mlp(model, layer)
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    W_U: Tensor = model.W_U.detach()
    return [*units, Unembedding(last, LOGITS, W_U=W_U, b_U=W_U.new_zeros(W_U.shape[1]))]


def _attention(model: WindowModel) -> Iterator[Unit]:
    read = "blocks.0.hook_resid_pre"
    if model.config.norm:
        norm = _norm(model, 0, read, "blocks.0.ln1.hook_normalized")
        read = norm.output_site
        yield norm
    attn, width = model.attn, model.config.width
    no_bias = model.W_U.new_zeros(1, width)
    yield Attention(
        read,
        "blocks.0.hook_attn_out",
        layer=0,
        W_Q=attn.W_Q.detach()[None],
        W_K=attn.W_K.detach()[None],
        W_V=attn.W_V.detach()[None],
        W_O=attn.W_O.detach()[None],
        b_Q=no_bias,
        b_K=no_bias,
        b_V=no_bias,
        b_O=no_bias[0],
        scale=width**-0.5,
    )


def _mlp(model: WindowModel, layer: int) -> Iterator[Unit]:
    read = f"blocks.{layer}.hook_mlp_in"
    if model.config.norm:
        stream = f"blocks.{layer}.hook_resid_{'pre' if layer else 'mid'}"
        norm = _norm(model, layer, stream, f"blocks.{layer}.ln2.hook_normalized")
        read = norm.output_site
        yield norm
    mlp = model.mlps[layer]
    yield MLP(
        read,
        f"blocks.{layer}.hook_mlp_out",
        layer=layer,
        W_in=mlp.W_in.detach(),
        b_in=mlp.b_in.detach(),
        activation="relu",
        W_out=mlp.W_out.detach(),
        b_out=mlp.b_out.detach(),
    )


def _norm(model: WindowModel, layer: int, input_site: str, output_site: str) -> Norm:

    width = model.config.width
    gain, bias = model.W_U.new_ones(width), model.W_U.new_zeros(width)
    return Norm(input_site, output_site, layer=layer, kind="layer", gain=gain, bias=bias, eps=EPS)
