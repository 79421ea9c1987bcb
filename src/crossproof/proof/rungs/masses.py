"""Rung M(r): masses at every neuron, the largest corrections read out, the rest bounded by a norm (L1, L12).

The sums of the positive and of the negative table at a neuron give its correction d exactly, up to what earlier MLPs
left over (`layers.py`). The corrections of r neurons of the last MLP, which the witness names, are read out: 2rV
operations. Of the others, and of earlier MLPs, we know the norm.
"""

from __future__ import annotations

import torch
from jaxtyping import Integer
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.network import Network
from crossproof.proof.rungs.layers import BENT, Layers
from crossproof.proof.rungs.windows import Windows, bound_margins, lifted, windows
from crossproof.proof.statement import Bounds, Items, Witness


def verify(network: Network, items: Items, witness: Witness) -> Bounds:
    """With `read` [context, r] of the witness: the neurons whose corrections are read out, in rising order."""
    items.find()
    layers = Layers.of(network, items, witness, uses=BENT)
    read, last = witness["read"].long(), len(layers.mlps) - 1
    _check_rising(read)
    between = [layers.between(index) for index in range(last + 1)]

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            in_stream, at_neurons = layers.heard.strengths(chunk.contexts)
            logits = layers.additive(chunk, in_stream, at_neurons)
            sizes = []
            for index in range(last + 1):
                left = layers.left(index, chunk, at_neurons)
                if index == last:
                    logits, left = read_out(logits, left, layers.mlps[last].to_logits, read[chunk.contexts])
                sizes.append((left * left).sum(1).sqrt().upper())
        return lifted(chunk, logits, sizes, between)

    return bound_margins(items, margins)


def read_out(logits: Ball, left: Ball, to_logits: Ball, named: Integer[Tensor, "context read"]) -> tuple[Ball, Ball]:
    """The logits with the named corrections, and what is left without them."""
    if named.shape[1] == 0:
        return logits, left
    its = left.gather(1, named)
    zero = torch.zeros_like(named, dtype=torch.float64)
    others = Ball(left.mid.scatter(1, named, zero), left.radius.scatter(1, named, zero))
    return logits - (its[:, :, None] * to_logits[named]).sum(1), others


def _check_rising(read: Integer[Tensor, "context read"]) -> None:
    """No neuron is read out twice: a comparison for each."""
    with part("windows"):
        count(read.numel())
    if not read.is_meta and not bool((read.diff(dim=1) > 0).all()):
        raise MismatchError("read: the witness names a neuron twice, or not in rising order")


def choose(network: Network, items: Items, witness: Witness, r: int) -> Tensor:
    """The r neurons of each window whose corrections say most to the logits: a good witness."""
    layers = Layers.of(network, items, witness, uses=BENT)
    last = len(layers.mlps) - 1
    to_logits = layers.mlps[last].to_logits.mid
    loud = (to_logits - to_logits.mean(1, keepdim=True)).norm(dim=1)
    r = min(r, len(loud))
    chosen = []
    for chunk in windows(items):
        left = layers.left(last, chunk, layers.heard.strengths(chunk.contexts)[1]).mid
        chosen.append((left.abs() * loud).topk(r, dim=1).indices.sort(dim=1).values)
    return torch.cat(chosen).to(torch.uint8 if len(loud) <= 256 else torch.int32)
