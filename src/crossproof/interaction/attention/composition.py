"""What a feature's copies do to later layers: OV composition across layers, from weights alone.

Where head h of a layer looks at a source with feature j, it writes a copy of it, `heads.written[h, j]` per unit of
strength, into the residual stream. A later layer reads the residual stream through its norm. Here a norm is taken as
the linear map that it is at a fixed scale, r ↦ gain ∘ (r − mean of r) / σ (an RMS norm does not centre): `sigma` is the
same for every vector, 1 unless a typical one is given, and what copies do to the scale itself is the norm's business.

Copies that a norm has passed are directions at the later layer's input, as good as those of a dictionary. So all that
can be asked of features there can be asked of copies: of heads by `composed`, of an MLP by
`contributions(mlp, heard(norm, written[head]))`. `attended` and `into_neurons` measure in one number how loudly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.attention.heads import Heads, heads_of
from crossproof.interaction.attention.tables import At, QueryKey, Side, between, check_side, query_key
from crossproof.interaction.contributions import contributions, tables
from crossproof.progress import progress
from crossproof.units import MLP, Attention, GatedMLP, Norm

HELD = 2**20
"""Contributions of copies to neurons held at a time: 8 MB."""

Role = Literal["query", "key", "value"]


def heard(
    norm: Norm | None, vectors: Float[Tensor, "*any d_model"], sigma: float = 1.0
) -> Float64[Tensor, "*any d_model"]:
    """What a layer behind this norm (None: behind none) reads of vectors in the residual stream, at a fixed scale."""
    if not sigma > 0:
        raise CrossproofError(f"sigma: a norm divides by it, so it is positive, not {sigma:g}")
    vectors = vectors.detach().double() / sigma
    if norm is None:
        return vectors
    if vectors.shape[-1:] != norm.gain.shape:
        raise MismatchError(
            f"vectors: {vectors.shape[-1]} coordinates on the last axis, but the norm has {len(norm.gain)}: they are "
            "of different residual streams"
        )
    if norm.kind == "layer":
        vectors = vectors - vectors.mean(-1, keepdim=True)
    return vectors * norm.gain.detach().double()


def attended(
    written: Float[Tensor, "head feature d_model"],
    later: Attention,
    norm: Norm | None,
    role: Role,
    at: At = 0,
    sigma: float = 1.0,
) -> Float64[Tensor, "head feature later"]:
    """How loudly each later head hears the copy that each head makes of each feature.

    As value: the length of what the later head writes of the copy r, ‖r W_V W_O‖. As query or key: the length of the
    vector whose product with the input on the other side is a score, ‖scale · r W_Q R W_Kᵀ‖ or ‖scale · r W_K Rᵀ W_Qᵀ‖,
    R the rotation at a distance. The lengths of queries or of keys themselves would mean nothing: a model whose queries
    are twice as long and whose keys are half as long is the same model.
    """
    _check_role(role)
    later = later.to(torch.float64)
    copies = heads_of(later, heard(norm, written, sigma).flatten(0, 1))
    whole = heads_of(later, torch.eye(later.W_Q.shape[1]).to(later.W_Q))
    if role == "query":
        known = between(whole, copies.queries, whole.keys)
    elif role == "key":
        known = between(whole, whole.queries, copies.keys)
    else:
        known = QueryKey(copies.name, copies.values, later.W_O.mT, later.W_O.new_zeros(0))
    side: Side = "key" if role == "key" else "query"
    lengths = [known.lengths(head, side, at) for head in range(copies.n_heads)]
    return torch.stack(lengths, dim=1).unflatten(0, written.shape[:2])


def composed(
    written: Float[Tensor, "feature d_model"],
    later: Heads,
    norm: Norm | None,
    side: Side,
    strengths: Float[Tensor, " feature"] | None = None,
    sigma: float = 1.0,
) -> QueryKey:
    """The query-key tables of a later layer where one side is the copies that one head wrote (`heads.written[head]`).

    As "query": rows are copies, columns the later layer's own features; as "key" the other way round. With `strengths`
    both are as strong as they typically are.
    """
    if written.shape != later.directions.shape:
        raise MismatchError(
            f"written: expected what one head writes of each feature, {list(later.directions.shape)} as the directions "
            f"of {later.name}, not {list(written.shape)}"
        )
    check_side(side)
    copies = heads_of(later.attention.to(torch.float64), heard(norm, written, sigma), name=later.name)
    as_copies, as_features = query_key(copies, strengths), query_key(later, strengths)
    queries, keys = (as_copies, as_features) if side == "query" else (as_features, as_copies)
    return replace(queries, keys=keys.keys)


def into_neurons(
    written: Float[Tensor, "head feature d_model"], mlp: MLP | GatedMLP, norm: Norm | None, sigma: float = 1.0
) -> Float64[Tensor, "table head feature"]:
    """How far the copies move the pre-activations of a later MLP's neurons: Σ_n w_n |contribution|, w_n = ‖W_out[n]‖.

    One table for a plain MLP; for a gated one that of its gate and that of its value.
    """
    mlp, copies = mlp.to(torch.float64), heard(norm, written, sigma).flatten(0, 1)
    moved = []
    with progress("copies into neurons", len(copies), "copies") as bar:
        for some in copies.split(max(1, HELD // max(1, mlp.W_in.shape[1]))):
            neurons = contributions(mlp, some)
            moved.append(torch.stack([table.magnitude @ neurons.loudness for table in tables(neurons)]))
            bar(len(some))
    return torch.cat(moved, dim=1).unflatten(1, written.shape[:2])


def _check_role(role: str) -> None:
    if role not in ("query", "key", "value"):
        raise CrossproofError(f"role: no {role!r}; a later head takes a copy as 'query', 'key' or 'value'")
