"""What a proof is held against: lines that cost nothing, and what else the same operations would buy.

None of it is part of a certificate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor
from torch.nn import functional as F

from crossproof.progress import progress
from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.explanation import Explanation, explain, heard
from crossproof.proof.network import Network
from crossproof.proof.prove import Truth
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.rungs.windows import windows
from crossproof.proof.statement import Items, Witness

CONFIDENCE = 0.95
ADDITIVE_STEPS = 300


def unigram_entropy(items: Items) -> float:
    """The loss of the best guess that looks at nothing."""
    share = torch.bincount(items.target, weights=items.count.double())
    share = share[share > 0] / items.windows
    return float(-(share * share.log()).sum())


def best_additive(codes: Integer[Tensor, "context family"], items: Items, steps: int = ADDITIVE_STEPS) -> float:
    """The loss of the best sum of a vector of logits for each feature, as far as so many steps of Adam find it.

    No certificate that lets features interact freely can be below it (the floor of PROOFS, P).
    """
    weight = items.count.float() / items.windows
    tokens = int(items.target.max()) + 1
    logits = torch.zeros(int(codes.max()) + 1, tokens, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.3)
    lowest = math.inf
    with progress("best additive predictor", steps, "steps") as bar:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = 0.3 * (1 - step / steps) + 1e-3
            said = F.embedding_bag(codes, logits, mode="sum")
            loss = (F.cross_entropy(said[items.context], items.target, reduction="none") * weight).sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            lowest = min(lowest, float(loss.detach()))
            bar(1)
    return lowest


def additive_centre(layer: Layers, items: Items) -> float:
    """The model's own loss if no feature met another at any neuron."""
    total = 0.0
    for chunk in windows(items):
        its = items.of_contexts(chunk.contexts.start, chunk.contexts.stop)
        logits = layer.additive(chunk, *layer.heard.strengths(chunk.contexts)).mid
        loss = F.cross_entropy(logits[chunk.of_item], chunk.target, reduction="none")
        total += float((loss * items.count[its]).sum())
    return total / items.windows


def largest_loss(network: Network, items: Items, witness: Witness) -> float:
    """What the loss cannot exceed on any window at all, by propagating intervals: the price of not looking."""
    explanation = explain(network, items, witness)
    said = heard(network, explanation)
    if explanation.strengths is not None or network.norm:
        return math.inf
    low, high = _range(said.direct, explanation)
    boxes: list[tuple[Tensor, Tensor]] = []
    for mlp, table in enumerate(said.tables):
        W_in, _, W_out, _ = network.mlp(mlp)
        least, most = _range(table, explanation)
        for before, (floor, ceiling) in enumerate(boxes):
            W = network.mlp(before)[2].mid @ W_in.mid
            least, most = least + _low(floor, ceiling, W), most - _low(floor, ceiling, -W)
        boxes.append((least.relu(), most.relu()))
        to_logits = W_out.mid @ network["W_U"].mid
        low, high = low + _low(*boxes[-1], to_logits), high - _low(*boxes[-1], -to_logits)
    return float((high.logsumexp(0) - low.min()).clamp(min=0))


def _range(table: Ball, explanation: Explanation) -> tuple[Float[Tensor, " out"], Float[Tensor, " out"]]:
    """The least and the most that one feature of each family can sum up to."""
    families = [table.mid[its] for its in explanation.families]
    return torch.stack([f.amin(0) for f in families]).sum(0), torch.stack([f.amax(0) for f in families]).sum(0)


def _low(floor: Tensor, ceiling: Tensor, W: Tensor) -> Tensor:
    return floor @ W.relu() - ceiling @ (-W).relu()


@dataclass(frozen=True)
class Sampled:
    """What running the model on a random sample says: an interval that holds with a probability, and no proof."""

    windows: int
    loss: float


def sample_at(operations: int, cost: float, truth: Truth, items: Items, largest: float) -> Sampled | None:
    """The upper end of Bernstein's interval for as many windows as the operations pay for; None if for none.

    With the true variance, which a sample would have to estimate: better than it could be.
    """
    count = int(operations / cost)
    if count < 1 or math.isinf(largest):
        return None
    losses = truth.bounds.loss.mid
    variance = float(((losses - truth.loss).square() * items.count).sum()) / items.windows
    log = math.log(1 / (1 - CONFIDENCE))
    return Sampled(count, truth.loss + math.sqrt(2 * variance * log / count) + 2 * largest * log / (3 * count))
