"""Which groups of windows there are.

`bands[y, k]` is the band that token k is in where y is the largest token; only k < y is read, and y itself is a band
of its own. Any whole numbers will do: they partition the windows, whatever they are, and so are not checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """The groups with one largest token and some last tokens: for each last token, each row of `choice`."""

    first: int
    """The number of its first group; they are numbered last token by last token."""
    largest: int
    last: Int[Tensor, " query"]
    bands: list[Tensor]
    """The tokens of each band; the last band is the largest token alone."""
    kept: Int[Tensor, " group"]
    """Which choices of bands make a group, counted through all choices with the last position fastest."""
    choice: Int[Tensor, "group position"]
    """The band of each position before the last."""

    @cached_property
    def sizes(self) -> Int[Tensor, " group"]:
        """How many windows each group holds: a product for each of its positions but one."""
        lengths = torch.tensor([len(band) for band in self.bands])
        return lengths[self.choice].prod(1).repeat(len(self.last))

    def windows(self, group: int) -> tuple[int, list[Tensor]]:
        """The last token of a group, and the tokens that each position before it may hold."""
        query, choice = divmod(group - self.first, len(self.kept))
        return int(self.last[query]), [self.bands[int(band)] for band in self.choice[choice]]


def blocks_by_largest(bands: Int[Tensor, "vocabulary vocabulary"], context: int) -> list[list[Block]]:
    """For each token as the largest: with last tokens below it, when it stands somewhere before, and with itself."""
    out: list[list[Block]] = []
    first = 0
    for largest in range(len(bands)):
        labels = bands[largest, :largest]
        tokens = [(labels == label).nonzero()[:, 0] for label in labels.unique()] + [torch.tensor([largest])]
        every = torch.cartesian_prod(*[torch.arange(len(tokens))] * (context - 1)).reshape(-1, context - 1)
        holds_largest = (every == len(tokens) - 1).any(1).nonzero()[:, 0]
        below = Block(first, largest, torch.arange(largest), tokens, holds_largest, every[holds_largest])
        first += len(below.sizes)
        itself = Block(first, largest, torch.tensor([largest]), tokens, torch.arange(len(every)), every)
        first += len(itself.sizes)
        out.append([below, itself] if largest else [itself])
    return out


def group_of_windows(bands: Int[Tensor, "vocabulary vocabulary"], context: int) -> Tensor:
    """The number of the group of every window, one axis for each position."""
    group = torch.full((len(bands),) * context, -1)
    for its in blocks_by_largest(bands, context):
        for block in its:
            for number in range(block.first, block.first + len(block.sizes)):
                last, tokens = block.windows(number)
                group[torch.meshgrid(*tokens, torch.tensor([last]), indexing="ij")] = number
    return group
