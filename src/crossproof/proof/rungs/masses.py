"""Rung M(r): masses at every neuron, the largest corrections read out, the rest bounded by a norm (L1, L12).

ReLU of a sum is the sum of the ReLUs less a correction (L1): with P⁺ the positive part of what a neuron hears, feature
by feature, and P⁻ the negative part, relu(Σp) = P⁺ − δ and δ = min(P⁺, P⁻), exactly. So the logits of a window are

    Σ_features direct + relu(table) · to_logits    (a table)    −    Σ_neurons δ · to_logits.

The corrections of r neurons, which the witness names, are read out, 2rV operations. Of the others we know δ ≥ 0 and
‖δ‖: what they do to logit_v − logit_y = −Σ δ (to_logits_v − to_logits_y) is at most ‖δ‖ ‖(to_logits_y − to_logits_v)⁺‖.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.network import Network
from crossproof.proof.rungs.loss import of_target
from crossproof.proof.rungs.one_layer import OneLayer
from crossproof.proof.rungs.windows import Windows, bound_margins, combined
from crossproof.proof.statement import Bounds, Items, Witness


def verify(network: Network, items: Items, witness: Witness) -> Bounds:
    """With `read` [context, r] of the witness: the neurons whose corrections are read out, in rising order."""
    items.find()
    layer = OneLayer.of(network, items, witness)
    read = witness["read"].long()
    _check_rising(read)
    with part("features"):
        to_logits, between = layer.to_logits, layer.between_tokens()

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            correction, logits = corrections(layer, chunk)
            named = read[chunk.contexts]
            if named.shape[1]:
                its = correction.gather(1, named)
                logits = logits - (its[:, :, None] * to_logits[named]).sum(1)
                correction = without(correction, named)
            size = (correction * correction).sum(1).sqrt().upper()
        with part("items"):
            its = logits[chunk.of_item]
            return its - of_target(its, chunk.target) + size[chunk.of_item][:, None] * between[chunk.target]

    return bound_margins(items, margins)


def corrections(layer: OneLayer, chunk: Windows) -> tuple[Ball, Ball]:
    """δ, [context, neuron], and the logits without them, [context, token]."""
    in_stream, at_neurons = layer.heard.strengths(chunk.contexts)
    codes = layer.heard.codes[chunk.contexts]
    positive = combined(layer.positive, codes, at_neurons)
    negative = combined(layer.negative, codes, at_neurons)
    return positive.minimum(negative), layer.additive(chunk.contexts, in_stream, at_neurons)


def without(correction: Ball, named: Int[Tensor, "context read"]) -> Ball:
    """The same with nothing at the neurons that were read out."""
    zero = torch.zeros_like(named, dtype=torch.float64)
    rad = None if correction.rad is None else correction.rad.scatter(1, named, zero)
    return Ball(correction.mid.scatter(1, named, zero), rad)


def _check_rising(read: Int[Tensor, "context read"]) -> None:
    """No neuron is read out twice: a comparison for each."""
    count(read.numel())
    if not read.is_meta and not bool((read.diff(dim=1) > 0).all()):
        raise MismatchError("read: the witness names a neuron twice, or not in rising order")


def choose(network: Network, items: Items, witness: Witness, r: int) -> Tensor:
    """The r neurons of each window whose corrections times what they say to the logits are largest: a good witness."""
    from crossproof.proof.rungs.windows import windows

    layer = OneLayer.of(network, items, witness)
    loud = layer.to_logits.mid.sub(layer.to_logits.mid.mean(1, keepdim=True)).norm(dim=1)
    chosen = [
        (corrections(layer, chunk)[0].mid * loud).topk(r, dim=1).indices.sort(dim=1).values for chunk in windows(items)
    ]
    return torch.cat(chosen).to(torch.uint8 if len(loud) <= 256 else torch.int32)
