"""Random attention layers, dictionaries at their inputs and texts, small enough for loops."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.units import Attention, Rotary

LAYOUTS = (None, "halves", "adjacent")


def make_attention(
    seed: int = 0,
    heads: int = 2,
    kv_heads: int | None = None,
    d_model: int = 5,
    d_head: int = 4,
    rotary: str | None = None,
    rotary_dim: int | None = None,
    window: int | None = None,
    biases: bool = True,
    scale: float | None = None,
    dtype: torch.dtype = torch.float64,
) -> Attention:
    """`rotary` is one of LAYOUTS; it turns all of the even `d_head`, or the first `rotary_dim` coordinates."""
    generator, kv_heads = torch.Generator().manual_seed(seed), kv_heads or heads

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    def bias(*shape: int) -> Tensor:
        return draw(*shape) * biases

    pairs = (d_head if rotary_dim is None else rotary_dim) // 2
    turning = Rotary(10.0 ** -torch.linspace(0, 2, pairs), adjacent=rotary == "adjacent") if rotary else None
    return Attention(
        W_Q=draw(heads, d_model, d_head), W_K=draw(kv_heads, d_model, d_head), W_V=draw(kv_heads, d_model, d_head),
        W_O=draw(heads, d_head, d_model), b_Q=bias(heads, d_head), b_K=bias(kv_heads, d_head),
        b_V=bias(kv_heads, d_head), b_O=bias(d_model), scale=d_head**-0.5 if scale is None else scale,
        rotary=turning, window=window, output_site="attention",
    )  # fmt: skip


def make_heads(attention: Attention, seed: int = 0, features: int = 6, bias: bool = True) -> Heads:
    """A dictionary at the layer's input, in the dtype of its weights."""
    generator, W = torch.Generator().manual_seed(seed + 1), attention.W_Q
    directions = torch.randn(features, W.shape[1], generator=generator, dtype=torch.float64).to(W)
    b = torch.randn(W.shape[1], generator=generator, dtype=torch.float64).to(W)
    return heads_of(attention, directions, b if bias else None)


def make_passage(
    seed: int = 0,
    positions: int = 5,
    features: int = 6,
    active: int = 3,
    given: Sequence[int] = (0,),
    empty: Sequence[int] = (2,),
    layers: int = 1,
    d_model: int = 5,
    dtype: torch.dtype = torch.float64,
) -> Passage:
    """`active` features at each position, but none at the `given` ones and the `empty` ones (which are described)."""
    generator = torch.Generator().manual_seed(seed + 2)
    strengths = torch.rand(positions, features, generator=generator, dtype=torch.float64) + 0.1
    order = torch.rand(positions, features, generator=generator).argsort(1)
    f = torch.where(order < active, strengths, 0)
    f[[row for row in {*given, *empty} if row < positions]] = 0
    kept = torch.tensor([row for row in given if row < positions], dtype=torch.long)
    inputs = [torch.randn(len(kept), d_model, generator=generator, dtype=torch.float64) for _ in range(layers)]
    return Passage(Codes.from_dense(f.to(dtype)), kept, [x.to(dtype) for x in inputs])


def attentions(**fixed: Any) -> st.SearchStrategy[Attention]:
    """For hypothesis: one, two or four heads, grouped or not, every layout of rotary positions, windows, biases."""

    def build(seed: int, grouping: tuple[int, int], layout: str | None, dim: int, **rest: Any) -> Attention:
        heads, kv_heads = grouping
        options = dict(seed=seed, heads=heads, kv_heads=kv_heads, rotary=layout, rotary_dim=dim, **rest)
        return make_attention(**{**options, **fixed})

    return st.builds(
        build,
        st.integers(0, 10**6),
        st.sampled_from([(1, 1), (2, 2), (2, 1), (4, 2)]),
        st.sampled_from(LAYOUTS),
        st.sampled_from([2, 4]),
        window=st.sampled_from([None, 1, 2, 3]),
        biases=st.booleans(),
        scale=st.sampled_from([None, 1.0, 0.25]),
    )


def passages(features: int = 6, **fixed: Any) -> st.SearchStrategy[Passage]:
    """For hypothesis: texts of one to six positions, with none, one or more given ones, and with empty rows."""

    def build(**options: Any) -> Passage:
        before = random.getstate()  # the type checker draws which items it looks at, and hypothesis objects to that
        passage = make_passage(**{**options, "features": features, **fixed})
        random.setstate(before)
        return passage

    return st.builds(
        build,
        seed=st.integers(0, 10**6),
        positions=st.integers(1, 6),
        active=st.integers(0, features),
        given=st.sampled_from([(), (0,), (0, 3)]),
        empty=st.sampled_from([(), (1,), (2, 4)]),
    )
