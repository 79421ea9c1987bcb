"""Random norms and dictionaries at their input, and what plain loops that run the norm say about them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

import torch
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.norms.features import NormFeatures, norm_features
from crossproof.units import Norm

TINY, HUGE = 2.0**-27, 2.0**27
"""About 1e-8 and 1e8. Powers of two, so that what cancels does so exactly however it is summed."""


@dataclass(frozen=True, eq=False)
class Case:
    norm: Norm
    directions: Tensor
    bias: Tensor
    strengths: Tensor

    @property
    def codes(self) -> Codes:
        return Codes.from_dense(self.strengths)

    @property
    def features(self) -> NormFeatures:
        return norm_features(self.norm, self.directions, self.bias)

    def input(self, token: int, removed: tuple[int, ...] = ()) -> Tensor:
        """What the norm reads at a token without some features."""
        f = self.strengths[token].clone()
        f[list(removed)] = 0
        return self.bias + f @ self.directions

    def active(self, token: int) -> list[int]:
        return self.strengths[token].nonzero()[:, 0].tolist()


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small integers, so that ties, zeros, parallel features and inputs that cancel are common."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    n_tokens, n_features, d_model = draw(st.integers(0, 4)), draw(st.integers(1, 5)), draw(st.sampled_from((1, 2, 8)))

    def whole(*shape: int, low: int = -2) -> Tensor:
        return torch.randint(low, 3, shape, generator=generator).double()

    norm = Norm(
        kind=draw(st.sampled_from(("layer", "rms"))),
        gain=whole(d_model),
        bias=whole(d_model),
        eps=draw(st.sampled_from((0.0, 1e-5, 1e4))),
    )
    directions, bias = whole(n_features, d_model), whole(d_model) * draw(st.sampled_from((0, 1)))
    if draw(st.booleans()):
        directions[-1] = draw(st.sampled_from((-1, 1))) * directions[0]
    if draw(st.booleans()):
        directions[0] = -bias
    if draw(st.booleans()):  # huge and tiny features side by side
        apart = 2.0 ** torch.randint(-1, 2, (n_features,), generator=generator).mul(20).double()
        directions = directions * apart[:, None]
    scale = draw(st.sampled_from((TINY, 1.0, HUGE)))
    return Case(norm, directions * scale, bias * scale, whole(n_tokens, n_features, low=draw(st.sampled_from((0, 1)))))


def toy(directions: Tensor, strengths: Tensor, eps: float = 1e-5, kind: Literal["layer", "rms"] = "rms") -> Case:
    """A norm of some gain, and no background."""
    width = directions.shape[1]
    gain = torch.rand(width, generator=torch.Generator().manual_seed(0)).double() + 0.5
    norm = Norm(kind=kind, gain=gain, bias=torch.ones(width).double(), eps=eps)
    return Case(norm, directions, torch.zeros(width).double(), strengths)


def centred(norm: Norm, x: Tensor) -> Tensor:
    return x - x.mean() if norm.kind == "layer" else x


def run(norm: Norm, x: Tensor) -> Tensor:
    """The norm itself; its bias where there is nothing to make larger."""
    return norm(x) if norm.eps > 0 or bool(centred(norm, x).any()) else norm.bias


def inverse_scale(norm: Norm, x: Tensor) -> float:
    """How many times longer running the norm makes the centred input."""
    bare = replace(norm, gain=torch.ones_like(norm.gain), bias=torch.zeros_like(norm.bias))
    c = centred(norm, x)
    if not bool(c.any()):
        return norm.eps**-0.5 if norm.eps > 0 else 0.0
    return float(run(bare, x) @ c / (c @ c))


def slow_pairs(case: Case, token: int, reach: Tensor) -> tuple[Tensor, Tensor]:
    """I[i→j] of all features at a token, and how large the two shares are between which it is the difference."""
    n = len(case.directions)
    I, magnitude = torch.zeros(n, n).double(), torch.zeros(n, n).double()  # noqa: E741
    every = inverse_scale(case.norm, case.input(token))
    for i, j in product(case.active(token), repeat=2):
        if i != j:
            without = inverse_scale(case.norm, case.input(token, (i,)))
            heard = float(case.strengths[token, j] * reach[j])
            I[i, j], magnitude[i, j] = heard * abs(every - without), heard * (every + without)
    return I, magnitude


def agree(ours: Tensor, theirs: Tensor, magnitude: Tensor | float) -> None:
    """To 1e-10 of the magnitude of what is added up or subtracted."""
    assert ours.shape == theirs.shape
    assert bool(ours.isfinite().all())
    assert bool(((ours - theirs).abs() <= 1e-10 * torch.as_tensor(magnitude)).all()), (ours, theirs)


def size(norm: Norm, *outputs: Tensor) -> float:
    """How large what the features make of these outputs is; the bias is there too, and rounded with it."""
    return float(sum((y - norm.bias).norm() for y in outputs) + 1e-4 * norm.bias.norm())
