"""What sets a feature apart in one of two models: how long its directions are there, and where they point.

    ratio       ‖d^tuned‖ / (‖d^base‖ + ‖d^tuned‖), over all sites of a model together: 0 base only, 1 tuned only
    cosine      of its directions in the two models, over all sites together

Both in scaled units, so that a site with large activations counts no more than another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder

Kind = Literal["base-only", "tuned-only", "rotated", "shifted", "unchanged"]
KINDS: tuple[Kind, ...] = get_args(Kind)
CHANGED: tuple[Kind, ...] = ("base-only", "tuned-only", "rotated")
RATIO_TOLERANCE = 0.05
"""How far from 1/2 the norm ratio of an unchanged feature may be, if not further in the null."""
TAIL = 0.01
"""The part of the null's features that may lie outside the null's range, at each of its ends."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """Of every feature."""

    ratio: Float[Tensor, " feature"]
    cosine: Float[Tensor, " feature"]


@dataclass(frozen=True)
class Range:
    """Ratios and cosines that count as no change."""

    ratio_low: float
    ratio_high: float
    cosine: float


def directions_of(coder: Crosscoder, model: str) -> Float[Tensor, "feature site width"]:
    """What the features write in one model, in scaled units, sites by their hooks' names."""
    at = coder.positions(model)
    positions = [at[hook] for hook in sorted(at)]
    return (coder.decoder * coder.site_scales[:, None]).detach()[:, positions]


def geometry(coder: Crosscoder, base: str, tuned: str) -> Geometry:
    """A feature that writes nothing in either model has the ratio 1/2."""
    here, there = (directions_of(coder, model).flatten(1).double() for model in (base, tuned))
    norms = torch.stack([here.norm(dim=1), there.norm(dim=1)])
    both = norms.sum(0)
    ratio = torch.where(both > 0, norms[1] / both, 0.5)
    return Geometry(ratio, torch.cosine_similarity(here, there, dim=1))


def null_range(null: Geometry, live: Bool[Tensor, " feature"]) -> Range:
    """Where the live features of a comparison lie that has nothing to find, but for a hundredth at each end."""
    ends = null.ratio[live].quantile(torch.tensor([TAIL, 1 - TAIL], dtype=null.ratio.dtype))
    return Range(float(ends[0]), float(ends[1]), float(null.cosine[live].quantile(TAIL)))


def widened(null: Range, cosine: float) -> Range:
    """The null's range, or what counts as no change whatever the null, where that is wider."""
    low, high = 0.5 - RATIO_TOLERANCE, 0.5 + RATIO_TOLERANCE
    return Range(min(null.ratio_low, low), max(null.ratio_high, high), min(null.cosine, cosine))


def kinds(found: Geometry, unchanged: Range, exclusive: float, rotated: float) -> Int[Tensor, " feature"]:
    """Each feature's kind, as its place among KINDS: by its ratio, and if it is in both models by its cosine."""
    fits = (found.ratio >= unchanged.ratio_low) & (found.ratio <= unchanged.ratio_high)
    fits &= found.cosine >= unchanged.cosine
    kind = torch.where(fits, KINDS.index("unchanged"), KINDS.index("shifted"))
    kind[(found.cosine <= rotated) & ~fits] = KINDS.index("rotated")
    kind[found.ratio >= exclusive] = KINDS.index("tuned-only")
    kind[found.ratio <= 1 - exclusive] = KINDS.index("base-only")
    return kind


def of_kinds(kind: Int[Tensor, " feature"], wanted: tuple[Kind, ...]) -> Bool[Tensor, " feature"]:
    return torch.isin(kind, torch.tensor([KINDS.index(each) for each in wanted]))
