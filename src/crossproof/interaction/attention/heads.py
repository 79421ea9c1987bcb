"""What each feature of a dictionary contributes to the queries, keys and values of an attention layer.

Where a text has the input x_t = b + Σ_i f_i(t) d_i, scores are bilinear in the features: the score of the query at t on
the key at s holds the term f_i(t) f_j(s) B_ij for each feature i at t and j at s, B_ij = scale (d_i W_Q)·(d_j W_K), and
where the model has rotary positions both are turned by their position first. What features add to queries, keys and
values is made here and nowhere else, from directions and a bias in the model's raw units.

A position that the dictionary does not describe (the beginning of text, on which no dictionary is trained) keeps the
model's own input: it has no features, and is part of the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.codes import Codes, decode
from crossproof.interaction.contributions import check_codes, check_dictionary
from crossproof.units import Attention


@dataclass(frozen=True, eq=False)
class Passage:
    """One text: its codes, and what attention layers read where it has none."""

    codes: Codes
    """A row for each position, without features at the given ones."""
    given: Int[Tensor, " given"]
    """The positions that the dictionary does not describe."""
    inputs: Sequence[Float[Tensor, "given d_model"]]
    """What each attention layer reads there, in the order of the layers."""

    @property
    def positions(self) -> int:
        return self.codes.pattern.n_rows

    @cached_property
    def described(self) -> Bool[Tensor, " pos"]:
        """The positions that the dictionary describes: those whose queries count."""
        described = torch.ones(self.positions, dtype=torch.bool, device=self.codes.values.device)
        described[self.given] = False
        return described


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of an attention layer, as a dictionary reaches them. Made by `heads_of`."""

    name: str
    attention: Attention
    directions: Float[Tensor, "feature d_model"]
    """At the layer's input, in raw units."""
    bias: Float[Tensor, " d_model"]
    """What that input is where no feature is active."""

    @property
    def n_features(self) -> int:
        return self.directions.shape[0]

    @property
    def n_heads(self) -> int:
        return self.attention.W_Q.shape[0]

    @cached_property
    def queries(self) -> Float[Tensor, "head feature d_head"]:
        """scale · d_i W_Q: what a feature of strength 1 adds to each query, before any rotation."""
        return self.attention.scale * (self.directions @ self.attention.W_Q)

    @cached_property
    def keys(self) -> Float[Tensor, "head feature d_head"]:
        """d_i W_K, for each query head that of the key head that serves it."""
        return self._per_query_head(self.directions @ self.attention.W_K)

    @cached_property
    def values(self) -> Float[Tensor, "head feature d_head"]:
        """d_i W_V, for each query head that of the key head that serves it."""
        return self._per_query_head(self.directions @ self.attention.W_V)

    @cached_property
    def written(self) -> Float[Tensor, "head feature d_model"]:
        """d_i W_V W_O: what a feature of strength 1 at a source writes where a head looks at nothing else."""
        return self.values @ self.attention.W_O

    def input(self, passage: Passage, layer: int) -> Float[Tensor, "pos d_model"]:
        """What this layer reads: the reconstruction, or what is given; `layer` is its place in `passage.inputs`."""
        check_codes(passage.codes, self.n_features)
        codes = Codes(passage.codes.pattern, passage.codes.values.to(self.directions))
        x = decode(codes, self.directions, self.bias)
        return x.index_copy(0, passage.given, passage.inputs[layer].to(x)) if len(passage.given) else x

    def rotated(self, vectors: Float[Tensor, "*head pos d_head"]) -> Float[Tensor, "*head pos d_head"]:
        """Queries or keys, each turned by its position; as they are in a model without rotary positions."""
        return vectors if self.attention.rotary is None else self.attention.rotary(vectors)

    def _per_query_head(self, per_kv_head: Tensor) -> Tensor:
        group = self.attention.W_Q.shape[0] // self.attention.W_K.shape[0]
        return per_kv_head.repeat_interleave(group, dim=0)


def heads_of(
    attention: Attention,
    directions: Float[Tensor, "..."],
    bias: Float[Tensor, "..."] | None = None,
    name: str = "",
) -> Heads:
    """An attention layer's heads as the directions of a dictionary at its input reach them.

    Directions, [feature, d_model], and bias, [d_model], are in raw units: the input is `bias + Σ_i f_i directions[i]`.
    """
    weights = attention.W_Q[0, :, 0]
    check_dictionary(directions, bias, weights, f"the second axis of {name or 'the attention'}'s W_Q")
    bias = directions.new_zeros(len(weights)) if bias is None else bias
    # one site's of a crosscoder are a strided view, which every product with a sparse matrix would copy
    return Heads(name or attention.output_site, attention, directions.contiguous(), bias.contiguous())
