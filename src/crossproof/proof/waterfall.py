"""Where a bound by pairs loses what it loses: from the truth to the bound, term by term and pair by pair.

    truth  →  no feature meets another (the additive centre)  →  + each pair of positions  →  the bound

The last part is shared out in proportion to what each pair would take off the bound if it were a little smaller: the
slope of the item's bound in the pair's size, times the size. The pairs that cost most are what the explanation does not
explain, and where to look for the interaction that a better one would name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.progress import progress
from crossproof.proof.baselines import additive_centre
from crossproof.proof.network import Network
from crossproof.proof.prove import Proof, Truth
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.rungs.pairs import family_pairs, sizes_of, tabled
from crossproof.proof.rungs.windows import windows
from crossproof.proof.statement import Items


@dataclass(frozen=True)
class Waterfall:
    truth: float
    centre: float
    bound: float
    families: list[tuple[int, int, float]]
    """Pairs of families and their part of bound − centre."""
    pairs: list[tuple[int, int, float]]
    """The pairs of features that cost most, and their part."""


def waterfall(network: Network, items: Items, proof: Proof, truth: Truth, top: int = 20) -> Waterfall:
    """Of a proof by the rung `pairs`."""
    layer = Layers.of(network, items, proof.witness)
    sizes, between = tabled(layer, proof.witness), layer.between(0).mid
    meet, which = proof.witness["pairs"].long(), proof.witness["pair"]
    by_pair = torch.zeros(len(meet), dtype=torch.float64)
    by_family = torch.zeros(which.shape[1], dtype=torch.float64)
    with progress("waterfall", len(items.contexts), "windows") as bar:
        for chunk in windows(items):
            strengths = layer.heard.strengths(chunk.contexts)
            size = sizes_of(layer, sizes, proof.witness, chunk, strengths[1]).mid
            logits = layer.additive(chunk, *strengths).mid
            slope = slopes(logits[chunk.of_item], size.sum(1)[chunk.of_item], between[chunk.target], chunk.target)
            count = items.count[items.of_contexts(chunk.contexts.start, chunk.contexts.stop)]
            cost = torch.zeros(len(size), dtype=torch.float64).index_add_(0, chunk.of_item, slope * count)
            paid = cost[:, None] * size
            by_family += paid.sum(0)
            by_pair.index_add_(0, which[chunk.contexts].long().flatten(), paid.flatten())
            bar(len(size))
    centre = additive_centre(layer, items)
    share = (proof.proved.loss - centre) / max(float(by_family.sum()), 1e-300)
    first, second = family_pairs(layer.heard.codes.shape[1])
    worst = by_pair.topk(min(top, len(by_pair)))
    return Waterfall(
        truth.loss,
        centre,
        proof.proved.loss,
        [(a, b, float(paid) * share) for a, b, paid in zip(first, second, by_family, strict=True)],
        [(int(meet[index, 0]), int(meet[index, 1]), float(paid) * share) for paid, index in zip(*worst, strict=True)],
    )


def slopes(
    logits: Float[Tensor, "item token"],
    size: Float[Tensor, " item"],
    between: Float[Tensor, "item token"],
    target: Tensor,
) -> Float[Tensor, " item"]:
    """How fast each item's bound grows with the size."""
    margins = logits - logits.gather(1, target[:, None]) + size[:, None] * between
    return (margins.softmax(1) * between).sum(1)
