"""Going through the data some windows at a time, and what all rungs make of a window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Integer
from torch import Tensor

from crossproof.progress import progress
from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.rungs.loss import loss_of_margins, of_target
from crossproof.proof.statement import Bounds, Items

CHUNK = 2048


@dataclass(frozen=True)
class Windows:
    """A run of contexts with all their items."""

    contexts: slice
    of_item: Integer[Tensor, " item"]
    """Which of these contexts each item has."""
    target: Integer[Tensor, " item"]


def windows(items: Items) -> Iterator[Windows]:
    """All of them, a chunk at a time; at once if they have no numbers, which take no memory."""
    size = len(items.contexts)
    if items.contexts.is_meta:
        yield Windows(slice(0, size), items.context.long(), items.target.long())
        return
    for start in range(0, size, CHUNK):
        stop = min(start + CHUNK, size)
        its = items.of_contexts(start, stop)
        yield Windows(slice(start, stop), items.context[its].long() - start, items.target[its].long())


def bound_margins(items: Items, margins: Callable[[Windows], Ball]) -> Bounds:
    """The bounds that margins [item, token], logits minus the target's, give."""
    losses, right = [], []
    with progress("verifying", len(items.contexts), "windows") as bar:
        for chunk in windows(items):
            with part("items"):
                loss, certain = loss_of_margins(margins(chunk), chunk.target)
            losses.append(loss.mid)
            right.append(certain)
            bar(chunk.contexts.stop - chunk.contexts.start)
    return Bounds(Ball(torch.cat(losses)), torch.cat(right))


def lifted(chunk: Windows, logits: Ball, sizes: Sequence[Ball] = (), between: Sequence[Ball] = ()) -> Ball:
    """[item, token]: logits [context, token] less the target's, and what MLPs that leave so much over, sizes [context],
    can add to them, by `between` [target, token] of each."""
    with part("items"):
        its = logits[chunk.of_item]
        its = its - of_target(its, chunk.target)
        for size, apart in zip(sizes, between, strict=True):
            its = its + size[chunk.of_item][:, None] * apart[chunk.target]
        return its


def combined(table: Ball, codes: Integer[Tensor, "context family"], strengths: Ball | None) -> Ball:
    """Σ_families strength × table[code], [context, …]."""
    rows = table[codes]
    return (rows if strengths is None else rows * strengths[:, :, None]).sum(1)
