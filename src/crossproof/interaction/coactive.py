"""The pairs of features that are active together on some token, and sums over tokens of what happens between them.

All tables over pairs have one axis, `pair`: the ordered pairs (i, j), i ≠ j, that are active together at least once,
sorted by i and then j. Both orders of a pair are on it, so that directed and symmetric tables line up. What is kept
grows with the pairs on the axis, few of those of a dictionary of tens of thousands of features. Up to DENSE_KEYS
features × features (8,192 features) pairs are counted and looked up in dense tables of that size, which is quicker;
above, nothing of that size is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import Chunk, chunks
from crossproof.interaction.tally import DENSE_KEYS, Tally
from crossproof.progress import progress


@dataclass(frozen=True, eq=False)
class CoActive:
    """Which features are active together, and on how many tokens."""

    n_features: int
    n_tokens: int
    i: Int[Tensor, " pair"]
    j: Int[Tensor, " pair"]
    count: Int[Tensor, " pair"]
    """On how many tokens both are active."""
    firing: Int[Tensor, " feature"]
    """On how many tokens each feature is active."""

    @classmethod
    def of(cls, codes: Codes) -> CoActive:
        check_features(codes.values)
        pattern = codes.pattern
        n_features = pattern.n_features
        most = int(pattern.row_starts.diff().max()) if pattern.n_rows else 0
        tally = Tally(n_features**2, pattern.features.device)
        with progress("pairs that fire together", pattern.n_rows, "tokens") as bar:
            for chunk in chunks(codes, most):
                slots = chunk.features.shape[1]
                # slots are in order of their features, so that each pair comes once, the lower feature first
                a, b = torch.triu_indices(slots, slots, 1, device=chunk.features.device)
                keys = chunk.features[:, a] * n_features + chunk.features[:, b]
                active = chunk.strengths > 0
                tally.add(keys.flatten() if bool(active.all()) else keys[active[:, a] & active[:, b]])
                bar(len(chunk.tokens))
        keys, count = tally.counts()
        low, high = keys // n_features, keys % n_features
        keys, order = torch.cat([keys, high * n_features + low]).sort()
        i, j = torch.cat([low, high])[order], torch.cat([high, low])[order]
        return cls(n_features, pattern.n_rows, i, j, count.repeat(2)[order], codes.firing_counts())

    def __len__(self) -> int:
        return len(self.i)

    def to(self, device: torch.device | str) -> CoActive:
        tables = (each.to(device) for each in (self.i, self.j, self.count, self.firing))
        return CoActive(self.n_features, self.n_tokens, *tables)

    def positions(self, i: Int[Tensor, "*any"], j: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
        """Where on the pair axis the pairs (i, j) stand; `len(self)` for those that are not on it, as i = j."""
        return self._positions(i * self.n_features + j)

    def in_chunk(self, chunk: Chunk) -> Int[Tensor, "token slot slot"]:
        """The positions of all pairs of slots. Those of slots that a token does not need mean nothing: add 0 there."""
        return self._positions((chunk.features * self.n_features)[:, :, None] + chunk.features[:, None])

    def check(self, codes: Codes) -> None:
        """Refuse codes whose pairs these are not."""
        pattern = codes.pattern
        if (pattern.n_rows, pattern.n_features) != (self.n_tokens, self.n_features):
            raise MismatchError(
                f"pairs: made from {self.n_tokens} tokens and {self.n_features} features, but the codes have "
                f"{pattern.n_rows} and {pattern.n_features}: make them with CoActive.of(codes)"
            )
        active = codes.active().pattern.row_starts.diff()
        meetings = int((active * (active - 1)).sum())
        if meetings != int(self.count.sum()) or not torch.equal(codes.firing_counts(), self.firing):
            raise MismatchError(
                "pairs: made from other codes, whose features are active on other tokens: make them with "
                "CoActive.of(codes)"
            )

    def _positions(self, keys: Tensor) -> Tensor:
        if self.n_features**2 <= DENSE_KEYS:
            return self._map.index_select(0, keys.flatten()).view(keys.shape)
        if len(self) == 0:
            return torch.zeros_like(keys)
        place = torch.searchsorted(self._keys, keys).clamp_(max=len(self) - 1)
        return torch.where(self._keys[place] == keys, place, len(self))

    @cached_property
    def _keys(self) -> Int[Tensor, " pair"]:
        return self.i * self.n_features + self.j

    @cached_property
    def _map(self) -> Int[Tensor, " key"]:
        positions = torch.full((self.n_features**2,), len(self), dtype=torch.int32, device=self.i.device)
        positions[self._keys] = torch.arange(len(self), dtype=torch.int32, device=self.i.device)
        return positions


@dataclass(frozen=True, eq=False)
class PairSums:
    """Sums over tokens of a quantity that each token has for each pair (or feature) active on it, and of its square.

    Standard errors take the tokens to be independent, with n − 1 in the variance. Tokens of one text are not: what is
    active on one is active on its neighbours, so that true errors are larger, by how much the data decide. Resample
    texts where it matters. An error from fewer than two tokens, and a mean over none, is not a number.
    """

    total: Float64[Tensor, " pair"]
    squares: Float64[Tensor, " pair"]
    count: Int[Tensor, " pair"]
    """On how many tokens the pair is active together."""
    n_tokens: int

    @cached_property
    def mean(self) -> Float64[Tensor, " pair"]:
        """Over all tokens; a token that lacks one of the two counts as 0."""
        return self.total / self._all

    @cached_property
    def standard_error(self) -> Float64[Tensor, " pair"]:
        return self._error(self._all)

    @cached_property
    def mean_together(self) -> Float64[Tensor, " pair"]:
        """Over the tokens where both are active."""
        return self.total / self.count

    @cached_property
    def standard_error_together(self) -> Float64[Tensor, " pair"]:
        return self._error(self.count)

    @property
    def _all(self) -> Int[Tensor, " pair"]:
        return torch.full_like(self.count, self.n_tokens)

    def _error(self, n: Int[Tensor, " pair"]) -> Float64[Tensor, " pair"]:
        spread = (self.squares - self.total.square() / n).clamp(min=0)  # not below 0 by rounding
        return (spread / (n - 1) / n).sqrt().masked_fill(n < 2, torch.nan)


class Summing:
    """Pair sums in the making."""

    def __init__(self, size: int, device: torch.device) -> None:
        # A complex number holds a sum and a sum of squares side by side: one indexed addition serves both. One place
        # more than there are pairs takes what belongs to none.
        self._sums = torch.zeros(size + 1, dtype=torch.complex128, device=device)

    def add(self, positions: Int[Tensor, "token *slots"], values: Float[Tensor, "token *slots"]) -> None:
        """Add to the pairs at these positions; a position may come any number of times, from different tokens."""
        both = torch.empty(values.numel(), 2, dtype=torch.float64, device=values.device)
        both[:, 0] = values.flatten()
        torch.square(both[:, 0], out=both[:, 1])
        self._sums.index_add_(0, positions.flatten(), torch.view_as_complex(both))

    def result(self, count: Int[Tensor, " pair"], n_tokens: int) -> PairSums:
        sums = self._sums[:-1]
        return PairSums(sums.real.contiguous(), sums.imag.contiguous(), count, n_tokens)
