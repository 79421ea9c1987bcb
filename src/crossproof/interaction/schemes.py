"""What an MLP says when each of its neurons hears only some of the features that are active at a token.

    all            every contribution: the MLP on the dictionary's reconstruction of its input
    none           no contribution: all neurons at β
    drop random    all but that of one active feature, drawn anew for every neuron at every token
    drop second    all but the second largest in magnitude
    drop largest   all but the largest
    keep q         the q largest, for any q from 1; `keep 1` is the paper's "only the largest"

Ties go to the lowest feature. Gate and value of a gated MLP are treated apart: each drops or keeps its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import Chunk, Neurons, Table, check_codes, chunks, tables
from crossproof.interaction.dominant_kernel import top

DROPS = ("drop random", "drop second", "drop largest")
SCHEMES = ("all", "none", *DROPS, "keep 1", "keep 2", "keep 4", "keep 8")


def keeps(scheme: str) -> int | None:
    """The q of `keep q`, None of the others. What is no scheme is refused."""
    keep = re.fullmatch(r"keep ([1-9]\d*)", scheme)
    if keep is None and scheme not in SCHEMES:
        raise CrossproofError(f"no scheme {scheme!r}: there are all, none, {', '.join(DROPS)}, and keep 1, keep 2, …")
    return int(keep[1]) if keep else None


@torch.no_grad()
def written(
    codes: Codes,
    neurons: Neurons,
    W_out: Float[Tensor, "neuron d_model"],
    schemes: Sequence[str],
    generator: torch.Generator,
) -> dict[str, Float[Tensor, "token d_model"]]:
    """What the neurons write, Σ_n φ(z_n) W_out[n], at every token under each scheme; without the MLP's b_out.

    `generator` draws what `drop random` drops.
    """
    for scheme in schemes:
        keeps(scheme)
    check_features(codes.values)
    for table in tables(neurons):
        check_codes(codes, table.n_features)
    if len(W_out) != len(neurons.loudness):
        raise MismatchError(f"W_out: {len(W_out)} rows for the {len(neurons.loudness)} neurons of {neurons.name}")
    found = {scheme: W_out.new_zeros(codes.pattern.n_rows, W_out.shape[1]) for scheme in schemes}
    for chunk in chunks(codes.active(), len(neurons.loudness)):
        pre, *value = (pre_activations(chunk, table, schemes, generator) for table in tables(neurons))
        for scheme, out in found.items():
            said = neurons.activation.function(pre[scheme])
            for of_gated in value:
                said = said * of_gated[scheme]
            out[chunk.tokens] = said @ W_out
    return found


def pre_activations(
    chunk: Chunk, table: Table, schemes: Sequence[str], generator: torch.Generator
) -> Mapping[str, Float[Tensor, "token neuron"]]:
    """β and what each scheme leaves of the contributions, of which none but those of unused slots may be of strength 0.

    Without gradients.
    """
    p = chunk.contributions(table.A)
    slots = p.shape[1]
    kept = {scheme: q for scheme in schemes if (q := keeps(scheme)) is not None and q < slots}
    ranks = max([*kept.values(), 2 if "drop second" in schemes else 1])
    order = top(p.abs(), ranks)[1].transpose(0, 1)
    in_order = p.gather(1, order).cumsum(1)

    def left(scheme: str) -> Float[Tensor, "token neuron"]:
        if scheme in kept:
            return in_order[:, kept[scheme] - 1]
        if scheme == "none":
            return torch.zeros_like(p[:, 0])
        if scheme == "drop random":
            return _without(p, _drawn(chunk, p.shape[2], generator))
        if scheme == "drop largest":
            return _without(p, order[:, 0])
        if scheme == "drop second" and slots > 1:
            return _without(p, order[:, 1])
        return p.sum(1)

    return {scheme: table.beta + left(scheme) for scheme in schemes}


def _without(p: Float[Tensor, "token slot neuron"], slot: Int[Tensor, "token neuron"]) -> Float[Tensor, "token neuron"]:
    """The sum of all but one: not the total less that one, which would leave its rounding error."""
    return p.scatter(1, slot[:, None], 0.0).sum(1)


def _drawn(chunk: Chunk, neurons: int, generator: torch.Generator) -> Int[Tensor, "token neuron"]:
    """For every neuron one of the slots that the token uses; the first where it uses none."""
    draws = torch.rand(len(chunk.tokens), neurons, generator=generator).to(chunk.strengths.device)
    active = (chunk.strengths > 0).sum(1, keepdim=True)
    return (draws * active).long()
