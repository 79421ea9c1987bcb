"""What a proof is of: data with multiplicities, a bound for each item of it, and the statement made of the bounds.

All tensors may be on the `meta` device: then they say how many there are, and verifying counts operations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.tally import count, part

if TYPE_CHECKING:
    from crossproof.subject.zoo.windows import Windows

Weights = Mapping[str, Ball]
"""A model's weights by the names of its state."""
Witness = Mapping[str, Tensor]
"""What somebody claims helps; whatever it holds, what is proved with it is true."""


@dataclass(frozen=True)
class Items:
    """Windows and what comes after them, each pair once: item i is contexts[item_context[i]] followed by target[i],
    and stands count[i] times in the data. `windows` is how many there are with repetitions."""

    contexts: Integer[Tensor, "context pos"]
    context: Integer[Tensor, " item"]
    target: Integer[Tensor, " item"]
    count: Integer[Tensor, " item"]
    windows: int

    @classmethod
    def of(cls, windows: Windows) -> Items:
        target = windows.item_target.long()
        return cls(windows.contexts, windows.item_context.long(), target, windows.item_count, windows.n)

    def shapes(self) -> Items:
        """The same without numbers, to count with."""
        contexts, context, target, count = (
            x.to("meta") for x in (self.contexts, self.context, self.target, self.count)
        )
        return Items(contexts, context, target, count, self.windows)

    def of_contexts(self, start: int, stop: int) -> slice:
        """The items of a run of contexts; items are in the order of their contexts."""
        low, high = torch.searchsorted(self.context, torch.tensor([start, stop], dtype=self.context.dtype))
        return slice(int(low), int(high))

    def find(self) -> None:
        """Count what it takes to find them: to sort as many keys, a key being a window and its target."""
        with part("de-duplication"):
            count(self.windows * math.ceil(math.log2(max(2, self.windows))))


@dataclass(frozen=True)
class Bounds:
    """For each item a number that its loss does not exceed, and whether its prediction is certainly right."""

    loss: Ball
    """Exact numbers: upper ends."""
    right: Bool[Tensor, " item"]


@dataclass(frozen=True)
class Proved:
    """Mean loss at most `loss`, and at least `right` of the windows predicted rightly."""

    loss: float
    right: int


def proved(bounds: Bounds, items: Items) -> Proved:
    """The mean of the bounds over the data, rounded upwards. What is not a number proves nothing: infinity."""
    with part("mean"):
        weight = exact(items.count)
        mean = (bounds.loss * weight).sum(0) / float(items.windows)
    if bounds.loss.mid.is_meta:
        return Proved(math.nan, 0)
    loss = float(mean.upper().mid)
    right = int(items.count[bounds.right].sum())
    return Proved(math.inf if math.isnan(loss) else loss, right)
