"""The same statement by running the model on every window: what a proof by groups is compared with.

*Naive* is the model itself on each window (`network.py`). In operations, with T positions, width d and V tokens: query
and what it asks of keys 4d² + d, scores T(2d), softmax about 4T, mean 2Td, out of the head 4d², the stream d, logits
2dV, loss about 4V.

*Cached* is the cleverest we can write: tables of what every token at every position says to every logit, times e^score
for each last token, sums shared by all windows that begin alike, and the stream's own contribution put into the tables,
since attention sums to one. A window is then V additions, V products with one reciprocal, V exponentials and V
additions, and half a dozen operations more.

Right is what has probability above one half, here as in the proof: it needs one comparison and not V.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, concatenate, exact
from crossproof.proof.arithmetic.tally import Tally, count, part, tallied
from crossproof.proof.groups.tables import Tables, tables
from crossproof.proof.network import Network, forward
from crossproof.proof.statement import Proved, Weights

# rounded, it is below the real one
LOG_2 = math.log(2)


class CachedModel:
    """The model with its tables, made of the embeddings as they are, to be run on many windows."""

    def __init__(self, known: Tables) -> None:
        self._says, self._skip = known.says, known.skip
        with part("tables"):
            self._weight, self._own_weight = known.scores.exp(), known.own_score.exp()

    def losses(self, last: int, tokens: Sequence[Tensor]) -> tuple[Ball, Bool[Tensor, " window"]]:
        """The loss of every window that ends in `last` and has one of these tokens at each position
        before it, the last of these fastest, and which windows are certainly predicted rightly."""
        skip, own = self._skip[last], self._own_weight[last]
        said = (own * (self._says[-1, last] + skip))[None]
        heard, largest = own[None], torch.tensor([last])
        for position, its in enumerate(tokens):
            weight = self._weight[last, position, its]
            says = weight[:, None] * (self._says[position, its] + skip)
            said = (said[:, None] + says).reshape(-1, says.shape[1])
            heard = (heard[:, None] + weight).reshape(-1)
            largest = torch.maximum(largest[:, None], its).flatten()
            count(len(largest))
        logits = said * (1.0 / heard)[:, None]
        loss = logits.exp().sum(1).log() - logits[torch.arange(len(largest)), largest]
        count(len(largest))
        return loss, loss.upper().mid < LOG_2


def cached(weights: Weights) -> tuple[Proved, Ball]:
    """What brute force from tables proves, and the losses of all windows: [last token, others]."""
    context, vocabulary, _ = weights["W_E"].shape
    model = CachedModel(tables(weights, {}))
    anything = [torch.arange(vocabulary)] * (context - 1)
    losses, right = [], 0
    for last in range(vocabulary):
        with part("windows"):
            loss, certain = model.losses(last, anything)
            losses.append(loss[None])
            right += 0 if certain.is_meta else int(certain.sum())
    every = concatenate(losses)
    return Proved(mean(every.reshape(-1).upper(), vocabulary**context), right), every


def naive(weights: Weights, windows: Int[Tensor, "window position"]) -> Ball:
    """The losses of these windows, by running the model as it is on each."""
    with part("windows"):
        logits = forward(Network(weights), [weights["W_E"][at, its] for at, its in enumerate(windows.unbind(1))])
        count(windows.numel() - len(windows))
        loss = logits.logsumexp(1) - logits[torch.arange(len(windows)), windows.amax(1)]
        count(len(windows))
    return loss


def naive_tally(weights: Weights) -> Tally:
    """The operations of running the model on every window: those of some, times how many times as many there are."""
    context, vocabulary, _ = weights["W_E"].shape
    shapes = {name: Ball.unknown(*ball.shape) for name, ball in weights.items()}
    with tallied() as tally:
        mean(naive(shapes, torch.arange(vocabulary)[:, None].expand(vocabulary, context)), vocabulary)
    return Tally({name: operations * vocabulary ** (context - 1) for name, operations in tally.parts.items()})


def mean(losses: Ball, windows: int, sizes: Int[Tensor, " group"] | None = None) -> float:
    """Over so many windows, of upper bounds of their losses or of the mean losses in groups of them; rounded up."""
    with part("mean"):
        total = losses.sum(0) if sizes is None else (losses * exact(sizes)).sum(0)
        upper = (total / float(windows)).upper().mid
    return math.nan if upper.is_meta else float(upper)
