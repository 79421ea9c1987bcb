"""A point that is known up to a distance, row by row, as it goes through a model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.spectral import eigenvectors, norm_bound


@dataclass(frozen=True)
class Around:
    """‖x − centre‖₂ ≤ radius in each row. Both are exact numbers: what centres were rounded by is in the radii."""

    centre: Ball
    """[…, row, width]"""
    radius: Ball
    """[…, row]; leading axes that only one of the two has are the other's too."""

    @classmethod
    def of(cls, centre: Ball, radius: Ball | None = None) -> Around:
        """What is within `radius` of something that is within the radii of `centre`."""
        rounding = Ball(torch.zeros_like(centre.mid[..., 0])) if centre.rad is None else length(Ball(centre.rad))
        return cls(Ball(centre.mid), rounding if radius is None else (radius + rounding).upper())

    def __add__(self, other: Around) -> Around:
        """The sum of two points, whatever they have to do with each other."""
        return Around.of(self.centre + other.centre, (self.radius + other.radius).upper())

    def about(self, point: Ball) -> Around:
        """The same, as seen from another point: it is no further than both distances together."""
        return Around.of(point, (self.radius + distance(self.centre, point)).upper())


def length(x: Ball) -> Ball:
    """At least ‖x‖₂ over the last axis."""
    return (x * x).sum(-1).sqrt().upper()


def distance(x: Ball, y: Ball) -> Ball:
    return length(x - y)


def stretch(matrix: Ball) -> Ball:
    """At least the largest factor by which a matrix lengthens a vector."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.mT
    return norm_bound(tall, eigenvectors(tall.mid))


def smallest(first: Ball, *others: Ball) -> Ball:
    """Of several bounds of the same number the best: exact numbers, of which one may be infinite."""
    for other in others:
        first = first.upper().minimum(other.upper())
    return first


def where(condition: Tensor, yes: Ball, no: Ball) -> Ball:
    """Of exact numbers."""
    return Ball(torch.where(condition, yes.mid, no.mid))
