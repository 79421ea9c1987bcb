"""Activation functions of numbers with radii, and the two constants that say how far they are from linear (L5)."""

from __future__ import annotations

from typing import NamedTuple

from crossproof.errors import UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, U
from crossproof.proof.arithmetic.tally import count
from crossproof.units import ACTIVATIONS

_ROUNDING = 16 * U
"""Of |x|: x g(x) with 0 ≤ g ≤ 1 is computed in at most six roundings, an erf, a tanh or an exp among them."""
_TINY = 1e-300


class Curvature(NamedTuple):
    """Constants of g(x), both rounded up: |g''| ≤ second, and no two slopes differ by more than `swing`."""

    second: float
    swing: float


CURVATURE = {
    "gelu": Curvature(0.79789, 1.25782),
    "gelu_new": Curvature(0.79789, 1.258),
    "silu": Curvature(0.50001, 1.19968),
}
"""A slope lies in [1 − lipschitz, lipschitz], so they swing by 2 lipschitz − 1; |g''| is largest at 0."""


def lipschitz(name: str) -> float:
    return ACTIVATIONS[name].lipschitz


def curvature(name: str) -> Curvature:
    if name not in CURVATURE:
        raise UnsupportedModel(
            f"activation {name!r}: how far it bends is not known. Add its constants: "
            f"crossproof.proof.units.smooth.CURVATURE[{name!r}] = Curvature(second, swing)"
        )
    return CURVATURE[name]


def activated(z: Ball, name: str) -> Ball:
    """φ(z): where z is known up to a radius, φ(z) is up to its Lipschitz constant times that."""
    if name == "relu":
        return z.relu()
    rad = _ROUNDING * z.mid.abs() + _TINY
    if z.rad is not None:
        rad = rad + z.rad * (lipschitz(name) * (1 + _ROUNDING))
    count(3 * z.mid.numel())  # a product, a function, a product; the sum is the next line's
    return Ball(ACTIVATIONS[name].function(z.mid), rad) + 0.0
