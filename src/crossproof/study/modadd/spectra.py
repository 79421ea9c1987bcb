"""Functions of two numbers modulo p as waves: how much of their variance runs along a, b, a + b or a − b, how fast.

On the grid of all pairs the two-dimensional discrete Fourier transform splits a function's variance into waves
cos(2π (k a + l b) / p − phase). Those along a have l = 0, along b k = 0, along a + b l = k, along a − b l = −k. k and
−k are one frequency, from 1 to p // 2. What is left is on no line: waves that mix two frequencies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

DIRECTIONS = ("a", "b", "a + b", "a − b")
_CHANNELS = 64
"""Transformed at a time."""
_SAMPLES = 4096


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Of each of some functions."""

    lines: Float64[Tensor, "channel direction frequency"]
    """Variance on each wave that runs along one of DIRECTIONS; index 0 is frequency 1."""
    variance: Float64[Tensor, " channel"]
    constant: Float64[Tensor, " channel"]
    """The square of the mean."""

    def pooled(self, weights: Float64[Tensor, " channel"] | None = None) -> Spectrum:
        """Of all functions together, as one channel."""
        weights = torch.ones_like(self.variance) if weights is None else weights

        def over(values: Tensor) -> Tensor:
            return torch.tensordot(weights[None], values, 1)

        return Spectrum(over(self.lines), over(self.variance), over(self.constant))

    @property
    def shares(self) -> Float64[Tensor, "channel direction frequency"]:
        """Of the variance; 0 of a function that has none."""
        return self.lines / self.variance.where(self.variance > 0, torch.inf)[:, None, None]

    @property
    def waves(self) -> Float64[Tensor, " channel"]:
        """How many frequencies a function has, in effect: 1 for a pure wave, all of them for a single number's peak.

        1 / Σ share², over the variance along lines, directions together; 0 where there is none.
        """
        by_frequency = self.lines.sum(1)
        shares = by_frequency / by_frequency.sum(1, keepdim=True).where(by_frequency.sum(1, keepdim=True) > 0, 1)
        squares = shares.square().sum(1)
        return torch.where(squares > 0, 1 / squares, 0)


def frequencies(modulus: int) -> int:
    """How many there are."""
    return modulus // 2


def spectrum(values: Float[Tensor, "pair channel"], modulus: int) -> Spectrum:
    """Of functions given on every pair, in order of a, then b."""
    parts = [_spectrum(its, modulus) for its in _grids(values, modulus)]
    return Spectrum(*(torch.cat(its) for its in zip(*parts, strict=True)))


def _grids(values: Tensor, modulus: int) -> Iterator[Float64[Tensor, "channel a b"]]:
    for some in values.split(_CHANNELS, dim=1):
        yield some.detach().cpu().double().T.reshape(-1, modulus, modulus)


def _spectrum(grids: Float64[Tensor, "channel a b"], modulus: int) -> tuple[Tensor, Tensor, Tensor]:
    # the mean goes first: beside a large one, rounding would pass for variance
    mean = grids.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(grids - mean).abs().square() / modulus**4
    k = torch.arange(1, modulus)
    both_ways = k[2 * k != modulus]  # with an even p, the fastest wave along a − b is that along a + b
    lines = power.new_zeros(len(power), len(DIRECTIONS), frequencies(modulus))
    for direction, (of_a, of_b) in enumerate(((k, 0 * k), (0 * k, k), (k, k), (both_ways, modulus - both_ways))):
        frequency = torch.minimum(torch.maximum(of_a, of_b), modulus - torch.maximum(of_a, of_b))
        lines[:, direction].index_add_(1, frequency - 1, power[:, of_a, of_b])
    return lines, (grids - mean).square().mean((1, 2)), mean.squeeze((1, 2)).square()


def cut_waves(active: Float64[Tensor, " channel"]) -> Float64[Tensor, " channel"]:
    """What part of its variance a wave has on its own frequency when it is cut off from below and active so often.

    The part of cos x above a threshold: .84 where it is active half of the time, less where it is rarer. 0 where it is
    never active.
    """
    x = (torch.arange(_SAMPLES, dtype=torch.float64) + 0.5) * (2 * torch.pi / _SAMPLES)
    above = (x.cos() - (torch.pi * active.clamp(0, 1)).cos()[:, None]).clamp(min=0)
    variance = above.var(1, correction=0)
    return torch.where(variance > 0, 2 * (above * x.cos()).mean(1).square() / variance, 0.0)
