"""How long encoded tokens are, in bits, with codes that were made on other texts.

A token is encoded as which features are active, then how strong each is, rounded. Lengths are those of an ideal code
for a distribution that was fitted elsewhere (cross-entropy), so that they are really attained, up to less than two bits
for all texts together: nothing that is scored was looked at. Any such length is an upper bound of the entropy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.codes import Codes

BROAD = 0.02
"""The share of a broad distribution in that of a strength: what was never seen must have a length too."""
PRIOR = 5.0
"""A feature's strengths are described as if so many of the typical feature's had been seen besides."""


@dataclass(frozen=True, eq=False)
class SupportCode:
    """Which features are active, each by itself, given whether it was at the token before in the same text."""

    after_off: Float64[Tensor, " feature"]
    after_on: Float64[Tensor, " feature"]

    @classmethod
    def fitted(cls, codes: Codes, text: Int[Tensor, " token"]) -> SupportCode:
        """Frequencies, with half a token of each kind added."""
        before, stays = _before(codes, text)
        counts = torch.bincount(codes.pattern.features, minlength=codes.pattern.n_features).double()
        was_on = torch.bincount(before.features, minlength=codes.pattern.n_features).double()
        still = torch.bincount(codes.pattern.features[stays], minlength=codes.pattern.n_features).double()
        was_off = codes.pattern.n_rows - was_on
        return cls((counts - still + 0.5) / (was_off + 1), (still + 0.5) / (was_on + 1))

    def bits(self, codes: Codes, text: Int[Tensor, " token"]) -> Float64[Tensor, " token"]:
        before, stays = _before(codes, text)
        off, on = self.after_off, self.after_on
        # as if every feature were off and had been, then what each that is or was on changes
        nothing = -(1 - off).log2()
        bits = nothing.sum().expand(codes.pattern.n_rows).clone()
        features = codes.pattern.features
        begins = torch.where(stays, 0.0, -off[features].log2() - nothing[features])
        bits.index_add_(0, codes.pattern.rows, begins)
        was = before.features
        bits.index_add_(
            0, before.rows, torch.where(before.stays, -on[was].log2(), -(1 - on[was]).log2()) - nothing[was]
        )
        return bits


@dataclass(frozen=True, eq=False)
class StrengthCode:
    """How strong active features are: a normal distribution of the logarithm for each, and a broad one besides."""

    mean: Float64[Tensor, " feature"]
    spread: Float64[Tensor, " feature"]
    broad_mean: float
    broad_spread: float

    @classmethod
    def fitted(cls, codes: Codes) -> StrengthCode:
        log, features, n = codes.values.double().log(), codes.pattern.features, codes.pattern.n_features
        mean, spread = (float(log.mean()), float(log.std(correction=0))) if len(log) else (0.0, 1.0)
        spread = max(spread, 1e-3)
        zeros = torch.zeros(n, dtype=torch.float64)
        counts = torch.bincount(features, minlength=n).double()
        own = (zeros.index_add(0, features, log) + PRIOR * mean) / (counts + PRIOR)
        squares = zeros.index_add(0, features, (log - own[features]).square())
        own_spread = ((squares + PRIOR * spread**2) / (counts + PRIOR)).sqrt()
        return cls(own, own_spread, mean, 4 * spread)

    def bits(self, codes: Codes, step: Float64[Tensor, " feature"]) -> Float64[Tensor, " entry"]:
        """Of each entry, rounded to a multiple of its feature's step, the lowest of which is one step."""
        features = codes.pattern.features
        steps = step[features]
        bins = bins_of(codes, step)
        low = torch.where(bins == 1, -math.inf, ((bins - 0.5) * steps).log())
        high = ((bins + 0.5) * steps).log()
        own = _between(low, high, self.mean[features], self.spread[features])
        broad = _between(low, high, torch.tensor(self.broad_mean), torch.tensor(self.broad_spread))
        # a bin so far out that not even the broad distribution gives it a number costs what the smallest number does
        return -((1 - BROAD) * own + BROAD * broad).clamp(min=torch.finfo(torch.float64).tiny).log2()


def bins_of(codes: Codes, step: Float64[Tensor, " feature"]) -> Float64[Tensor, " entry"]:
    """To which multiple of its feature's step each strength is rounded; never to nothing, since it is active."""
    return (codes.values.double() / step[codes.pattern.features]).round().clamp(min=1)


def rounded(codes: Codes, step: Float64[Tensor, " feature"]) -> Codes:
    values = bins_of(codes, step) * step[codes.pattern.features]
    return Codes(codes.pattern, values.to(codes.values))


def _between(low: Tensor, high: Tensor, mean: Tensor, spread: Tensor) -> Float64[Tensor, " entry"]:
    """The probability that a normal number lies between, exact far out too."""
    a, b = (low.double() - mean) / spread, (high.double() - mean) / spread
    # of the two tails the one on which both ends lie: differences of numbers near 1 have no digits left
    upper = a > 0
    a, b = torch.where(upper, -b, a), torch.where(upper, -a, b)
    return torch.special.ndtr(b) - torch.special.ndtr(a)


@dataclass(frozen=True, eq=False)
class _Before:
    """The features that were active at the token before, as entries of the token after."""

    rows: Int[Tensor, " entry"]
    features: Int[Tensor, " entry"]
    stays: Bool[Tensor, " entry"]
    """Whether it is active at the token after too."""


def _before(codes: Codes, text: Int[Tensor, " token"]) -> tuple[_Before, Bool[Tensor, " entry"]]:
    """And of each entry, whether its feature was active at the token before."""
    pattern = codes.pattern
    key = pattern.rows * pattern.n_features + pattern.features  # ascending
    text = text.to(key.device)
    first = torch.ones(pattern.n_rows + 1, dtype=torch.bool, device=key.device)
    first[1:-1] = text[1:] != text[:-1]
    follows = ~first[pattern.rows + 1]
    rows, features = pattern.rows[follows] + 1, pattern.features[follows]
    was = torch.isin(key - pattern.n_features, key) & ~first[pattern.rows]
    return _Before(rows, features, torch.isin(rows * pattern.n_features + features, key)), was
