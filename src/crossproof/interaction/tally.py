"""Counting keys from a large range, most of which may never come."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

DENSE_KEYS = 2**26
"""Up to this many possible keys a counter for each is kept (256 MB); above, only for those that were seen."""

_MERGE_AT_LEAST = 2**22


class Tally:
    """How often each key in [0, size) was seen."""

    def __init__(self, size: int, device: torch.device) -> None:
        empty = torch.empty(0, dtype=torch.long, device=device)
        self._dense = torch.zeros(size, dtype=torch.int32, device=device) if size <= DENSE_KEYS else None
        self._keys, self._counts, self._new, self._n_new = empty, empty, [empty], 0

    def add(self, keys: Int[Tensor, " key"]) -> None:
        if self._dense is not None:
            self._dense.index_add_(0, keys, torch.ones_like(keys, dtype=torch.int32))
            return
        self._new.append(keys)
        self._n_new += len(keys)
        # waiting for as many new keys as there are old ones makes all merges together cost little more than the last
        if self._n_new >= max(_MERGE_AT_LEAST, len(self._keys)):
            self._merge()

    def counts(self) -> tuple[Int[Tensor, " key"], Int[Tensor, " key"]]:
        """The keys that were seen, in ascending order, and how often."""
        if self._dense is not None:
            seen = self._dense.nonzero().squeeze(1)
            return seen, self._dense[seen].long()
        self._merge()
        return self._keys, self._counts

    def _merge(self) -> None:
        new, counts = torch.cat(self._new).unique(return_counts=True)
        self._new, self._n_new = [new[:0]], 0
        self._keys, place = torch.cat([self._keys, new]).unique(return_inverse=True)
        self._counts = torch.zeros_like(self._keys).index_add_(0, place, torch.cat([self._counts, counts]))
