"""A norm's scale σ, and what it would be without one of the features.

σ² is quadratic in the strengths, so what removing feature i takes from it has a closed form in c_i · c_N and ‖c_i‖²:

    σ_N² − σ_{N∖i}² = (2 f_i c_i·c_N − f_i² ‖c_i‖²) / d_model

That is a product of active features × d_model for each token, for all of them together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.interaction.contributions import Chunk, check_codes, chunks
from crossproof.interaction.norms.features import NormFeatures

CANCELS = 0.01
"""Where less than this of σ² is left without a feature, a difference has lost too many digits."""


@torch.no_grad()
def scales(codes: Codes, norm: NormFeatures) -> Float[Tensor, " token"]:
    """σ at each token."""
    found = norm.directions.new_zeros(codes.pattern.n_rows)
    for chunk, scale in _walk(codes, norm):
        found[chunk.tokens] = scale.all
    return found


@torch.no_grad()
def without(codes: Codes, norm: NormFeatures) -> Float[Tensor, " entry"]:
    """σ at its token without the feature of each entry of the codes."""
    # one place more takes what belongs to slots that a token does not need
    found = norm.directions.new_zeros(codes.pattern.n_entries + 1)
    for chunk, scale in _walk(codes, norm):
        found[chunk.entries] = scale.without
    return found[:-1]


class Scale(NamedTuple):
    """σ at a few tokens."""

    all: Float[Tensor, " token"]
    without: Float[Tensor, "token slot"]
    """Without the feature of a slot."""
    change: Float[Tensor, "token slot"]
    """|1/σ − 1/σ_without|."""


def scale_at(chunk: Chunk, norm: NormFeatures) -> Scale:
    strengths = chunk.strengths.to(norm.directions)
    parts = chunk.contributions(norm.directions)
    centred = norm.background + parts.sum(1)
    along, own = (parts @ centred[:, :, None])[:, :, 0], strengths.square() * norm.squared[chunk.features]
    taken = (2 * along - own) / norm.width
    squared = _squared_scale(centred, norm)
    left = squared[:, None] - taken
    token, slot = (left < CANCELS * squared[:, None]).nonzero(as_tuple=True)
    # as many of these at a time as there are tokens in the chunk: no larger than the parts themselves
    for some in torch.arange(len(token), device=token.device).split(len(chunk.tokens)):
        others = parts[token[some]]
        others[torch.arange(len(some), device=token.device), slot[some]] = 0
        left[token[some], slot[some]] = _squared_scale(norm.background + others.sum(1), norm)
    every, without = squared.sqrt()[:, None], left.sqrt()
    # factor by factor, as the product of the three may be too large or too small for a float
    change = taken.abs() / (every + without) / every / without
    nothing = (every == 0) | (without == 0)
    change = torch.where(nothing, inverse(torch.maximum(every, without)), change)
    return Scale(every[:, 0], without, change)


def inverse(scale: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """1/σ, and 0 where σ is 0: what has no size is not made larger."""
    return torch.where(scale == 0, 0.0, 1 / scale)


def scale_of(centred: Float[Tensor, "*batch d_model"], norm: NormFeatures) -> Float[Tensor, "*batch one"]:
    """σ of centred inputs."""
    return _squared_scale(centred, norm)[..., None].sqrt()


def _squared_scale(centred: Tensor, norm: NormFeatures) -> Tensor:
    return centred.square().mean(-1) + norm.norm.eps


def check(codes: Codes, norm: NormFeatures) -> None:
    """Refuse codes that are not of this dictionary, or no codes at all."""
    check_codes(codes, norm.n_features)
    check_features(codes.values)


def _walk(codes: Codes, norm: NormFeatures) -> Iterator[tuple[Chunk, Scale]]:
    check(codes, norm)
    for chunk in chunks(codes, norm.width):
        yield chunk, scale_at(chunk, norm)
