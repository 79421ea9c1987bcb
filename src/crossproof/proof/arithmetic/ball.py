"""Arrays of real numbers known up to a radius: |x − mid| ≤ rad, whatever float64 rounded on the way.

    x = exact(weights) @ ball          # radii follow by themselves
    x.upper()                          # a number no true value exceeds

Every operation computes its midpoint in round-to-nearest float64 and a radius that covers the operands' radii, the
rounding of the midpoint (relative error u = 2⁻⁵³ an operation, γ_n = nu/(1−nu) for n of them in any order, with or
without fused products) and the rounding of the radius itself. torch's exp and log are taken to be right to 4 units in
the last place; sums, products, quotients and square roots are IEEE's.

Midpoints on the `meta` device have shapes and no numbers. Then the same code does nothing but count (`tally.py`), which
is how every operation count here is made, of proofs and of the brute force that they are compared with.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.proof.arithmetic.tally import count

U = 2.0**-53
_ULPS = 8 * U
"""Four units in the last place: a unit is at most 2u of the number."""
_UP = 1 + 2.0**-46
"""Covers the rounding of a radius that takes a dozen operations on numbers that are not negative."""
_TINY = 1e-300
"""Covers what underflows."""


class Ball:
    """An array of numbers, each within `rad` of `mid`; a radius of None is zero: the numbers are known exactly."""

    __slots__ = ("mid", "rad")

    def __init__(self, mid: Tensor, rad: Tensor | None = None) -> None:
        self.mid, self.rad = mid, rad

    @staticmethod
    def unknown(*shape: int) -> Ball:
        """A shape without numbers, to count with."""
        return Ball(torch.empty(shape, dtype=torch.float64, device="meta"))

    def __repr__(self) -> str:
        return f"Ball({tuple(self.shape)}, {'exact' if self.rad is None else 'with radii'})"

    # Shapes and look-ups, which are free

    @property
    def shape(self) -> torch.Size:
        return self.mid.shape

    def __len__(self) -> int:
        return len(self.mid)

    def _each(self, change: Any) -> Ball:
        return Ball(change(self.mid), None if self.rad is None else change(self.rad))

    def __getitem__(self, index: Any) -> Ball:
        return self._each(lambda x: x[index])

    def reshape(self, *shape: int) -> Ball:
        return self._each(lambda x: x.reshape(shape))

    def expand(self, *shape: int) -> Ball:
        return self._each(lambda x: x.expand(shape))

    def gather(self, dim: int, index: Tensor) -> Ball:
        return self._each(lambda x: x.gather(dim, index))

    def only(self, keep: Tensor) -> Ball:
        """Zero elsewhere."""
        return self._each(lambda x: torch.where(keep, x, 0.0))

    @property
    def mT(self) -> Ball:
        return self._each(lambda x: x.mT)

    def __neg__(self) -> Ball:
        return Ball(-self.mid, self.rad)

    def abs(self) -> Ball:
        return Ball(self.mid.abs(), self.rad)

    @property
    def radius(self) -> Tensor:
        return torch.zeros_like(self.mid) if self.rad is None else self.rad

    def upper(self) -> Ball:
        """Numbers that no true value exceeds, taken as they are from here on."""
        return self if self.rad is None else Ball(_next_up(self.mid + self.rad))

    def lower(self) -> Ball:
        """Numbers that no true value is below."""
        return self if self.rad is None else Ball(-_next_up(self.rad - self.mid))

    # Elementary operations

    def __add__(self, other: Ball | float) -> Ball:
        other = as_ball(other, self)
        mid = self.mid + other.mid
        count(mid.numel())
        return _known(mid, self.radius + other.radius + U * mid.abs())

    def __sub__(self, other: Ball | float) -> Ball:
        return self + -as_ball(other, self)

    def __mul__(self, other: Ball | float) -> Ball:
        other = as_ball(other, self)
        mid = self.mid * other.mid
        count(mid.numel())
        rad = U * mid.abs() + _TINY
        if other.rad is not None:
            rad = rad + self.mid.abs() * other.rad
        if self.rad is not None:
            rad = rad + self.rad * (other.mid.abs() + other.radius)
        return _known(mid, rad)

    def __truediv__(self, other: Ball | float) -> Ball:
        """By something that is certainly not zero; where it may be, the radius is infinite."""
        other = as_ball(other, self)
        mid = self.mid / other.mid
        count(mid.numel())
        least = -_next_up(other.radius - other.mid.abs())
        rad = (self.radius + mid.abs() * other.radius) / least + U * mid.abs() + _TINY
        return _known(mid, torch.where(least > 0, rad, torch.inf))

    __radd__ = __add__
    __rmul__ = __mul__

    def __rsub__(self, other: float) -> Ball:
        return as_ball(other, self) - self

    def __rtruediv__(self, other: float) -> Ball:
        return as_ball(other, self) / self

    def __matmul__(self, other: Ball) -> Ball:
        terms = other.shape[-2]
        mid = self.mid @ other.mid
        count(2 * mid.numel() * terms)
        size, its = self.mid.abs(), other.mid.abs()
        rad = gamma(terms + 2) * (size @ its) + terms * _TINY
        if other.rad is not None:
            rad = rad + size @ other.rad
        if self.rad is not None:
            rad = rad + self.rad @ (its if other.rad is None else _up(its + other.rad))
        return _known(mid, rad * (1 + 2 * gamma(terms + 4)))

    def sum(self, dim: int) -> Ball:
        terms = self.shape[dim]
        count(self.mid.numel())
        rad = gamma(terms + 1) * self.mid.abs().sum(dim)
        if self.rad is not None:
            rad = rad + self.rad.sum(dim)
        return _known(self.mid.sum(dim), rad * (1 + 2 * gamma(terms + 1)))

    def relu(self) -> Ball:
        count(self.mid.numel())
        return Ball(self.mid.relu(), self.rad)

    def minimum(self, other: Ball | float) -> Ball:
        return -((-self).maximum(-as_ball(other, self)))

    def maximum(self, other: Ball | float) -> Ball:
        other = as_ball(other, self)
        mid = torch.maximum(self.mid, other.mid)
        count(mid.numel())
        exact = self.rad is None and other.rad is None
        return Ball(mid, None if exact else torch.maximum(self.radius, other.radius).expand(mid.shape))

    def amax(self, dim: int) -> Ball:
        count(self.mid.numel())
        return self._each(lambda x: x.amax(dim))

    def exp(self) -> Ball:
        mid = self.mid.exp()
        count(mid.numel())
        rad = _ULPS * mid + _TINY
        if self.rad is not None:
            # a midpoint that underflowed is multiplied too: e^(-800 ± 700) may be e^-100
            rad = rad + (mid * (1 + _ULPS) + _TINY) * self.rad.expm1() * (1 + _ULPS)
        return _known(mid, rad)

    def log(self) -> Ball:
        """Of what is certainly positive; where it may not be, the radius is infinite."""
        part = _up(self.radius / self.mid)
        sure = (self.mid > 0) & (part < 1)
        mid = torch.where(sure, self.mid, 1.0).log()
        count(mid.numel())
        rad = _ULPS * mid.abs() + _TINY - (1 + _ULPS) * torch.log1p(-torch.where(sure, part, 0.0))
        return _known(mid, torch.where(sure, rad, torch.inf))

    def sqrt(self) -> Ball:
        """Of numbers that are known not to be negative, though their midpoints may be."""
        mid = self.mid.clamp(min=0).sqrt()
        count(mid.numel())
        rad = U * mid + _TINY
        if self.rad is not None:
            # |√x − √m| is |x − m| / (√x + √m), and no more than √|x − m|
            rad = rad + torch.minimum(_up(self.rad / (mid * (1 - 4 * U)).clamp(min=_TINY)), _up(self.rad.sqrt()))
        return _known(mid, rad)

    def logsumexp(self, dim: int) -> Ball:
        """Any shift gives the same number; the largest midpoint keeps it in range."""
        shift = Ball(self.mid.amax(dim, keepdim=True))
        count(self.mid.numel())
        return (self - shift).exp().sum(dim).log() + shift._each(lambda x: x.squeeze(dim))


def exact(numbers: Tensor) -> Ball:
    """Numbers as they are stored; float32 weights are float64 numbers too."""
    if not numbers.is_meta and not numbers.isfinite().all():
        raise CrossproofError("a number that is not finite has no bound: look for inf and nan in weights and witness")
    if numbers.dtype is torch.int64 and not numbers.is_meta and bool((numbers.abs() > 2**53).any()):
        raise CrossproofError("a whole number above 2⁵³ would be rounded before any radius can say so")
    return Ball(numbers.to(torch.float64))


def as_ball(value: Ball | float, like: Ball) -> Ball:
    return (
        value if isinstance(value, Ball) else Ball(torch.full((), value, dtype=torch.float64, device=like.mid.device))
    )


def concatenate(balls: list[Ball], dim: int = 0) -> Ball:
    if all(ball.rad is None for ball in balls):
        return Ball(torch.cat([ball.mid for ball in balls], dim))
    return Ball(torch.cat([ball.mid for ball in balls], dim), torch.cat([ball.radius for ball in balls], dim))


def gamma(operations: int) -> float:
    """The relative error of so many roundings in a row, rounded up."""
    return operations * U / (1 - operations * U) * (1 + 4 * U)


def _known(mid: Tensor, rad: Tensor) -> Ball:
    """What an operation found. Where it overflowed or is not defined nothing is known: 0, give or take infinity, and
    never a nan, which would compare as false."""
    rad = _up(rad)
    if mid.is_meta or bool((mid.sum() + rad.sum()).isfinite()):
        return Ball(mid, rad)
    sure = mid.isfinite() & (rad < torch.inf)
    return Ball(torch.where(sure, mid, 0.0), torch.where(sure, rad, torch.inf))


def _up(rad: Tensor) -> Tensor:
    return rad * _UP


def _next_up(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, torch.inf))
