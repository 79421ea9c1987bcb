"""A batch of texts as the model reads them: ids, which positions count, and what each position should predict.

Everything that looks at activations or losses takes the positions from here, so that training and evaluation, every
site and every study see the same tokens: beginning-of-text and padding positions never count (defect 6 of the
published code was that they counted in one place and not in another).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int
from torch import Tensor

NO_TARGET = -100
"""Positions whose prediction is not scored carry this target (torch's own convention for cross-entropy)."""


@dataclass(frozen=True)
class Tokens:
    """Texts of equal padded length. `keep` marks positions whose activations count; `targets` what is predicted."""

    ids: Int[Tensor, "text pos"]
    keep: Bool[Tensor, "text pos"]
    targets: Int[Tensor, "text pos"]

    def __len__(self) -> int:
        return self.ids.shape[0]

    @property
    def n_kept(self) -> int:
        return int(self.keep.sum())

    @property
    def n_scored(self) -> int:
        return int((self.targets != NO_TARGET).sum())

    def __getitem__(self, texts: slice | Int[Tensor, " text"]) -> Tokens:
        return Tokens(self.ids[texts], self.keep[texts], self.targets[texts])

    def halves(self, seed: int) -> tuple[Tokens, Tokens]:
        """The texts in two halves, drawn with the seed, each in order; of an odd number the second has one more."""
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        cut = len(order) // 2
        return self[order[:cut].sort().values], self[order[cut:].sort().values]

    def batches(self, texts_per_batch: int) -> Iterator[Tokens]:
        for start in range(0, len(self), texts_per_batch):
            yield self[start : start + texts_per_batch]

    def to(self, device: torch.device | str) -> Tokens:
        return Tokens(self.ids.to(device), self.keep.to(device), self.targets.to(device))


@runtime_checkable
class TokenSource(Protocol):
    """An endless, addressable supply of texts: text i is the same whenever it is asked for.

    A position in the data is therefore one integer, which is all that a resumed run needs to know. `texts_in_all` is
    None for generated text, or how many there are before the source begins again from its first text.
    """

    texts_in_all: int | None

    def tokens(self, start: int, count: int) -> Tokens: ...
