"""The terms of the training objective.

A term is a named function of one `Batch`: what went in, how it was encoded, what came out. Anything can be added to the
objective by appending a term to the list that `fit` is given, for example a penalty on interactions.

Reconstruction is a *sum* over sites and coordinates and a mean over tokens, in scaled units: every weight in this
library is to be read against that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.codes import Codes, Pattern, decode, encoded_values
from crossproof.crosscoder.model import Crosscoder, Encoding


@dataclass(frozen=True)
class Batch:
    """One training batch on its way through the crosscoder."""

    coder: Crosscoder
    x: Float[Tensor, "row site_width"]
    encoding: Encoding
    reconstruction: Float[Tensor, "row site_width"]
    dead: Bool[Tensor, "feature"]
    """Features that have not fired for a long time."""
    progress: float
    """How far training is, from 0 to 1."""
    written: dict[int, Float[Tensor, "feature width"]] = field(default_factory=dict)
    """What features write, scaled, at the sites that a term's `reads` names."""


@runtime_checkable
class Term(Protocol):
    """One weighted term of the objective; `name` is its column in metrics.jsonl.

    A term that is a `torch.nn.Module` has its state in checkpoints, and one that has a dict `settings` is not resumed
    under other ones.
    """

    @property
    def name(self) -> str: ...

    def __call__(self, batch: Batch) -> Float[Tensor, ""]: ...


class Reconstruction:
    name = "reconstruction"

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        return F.mse_loss(batch.reconstruction, batch.x, reduction="sum") / batch.x.shape[0]


@dataclass(frozen=True)
class AuxK:
    """Dead features explain the residual of the live ones, from their pre-activations.

    The values are taken before any selection or ReLU (after it, a dead feature's are all zero and so is its gradient),
    and the gradient reaches both the decoder and the encoder, which is what brings a feature back.
    """

    weight: float
    k: int
    name: str = "aux"

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        dead = torch.nonzero(batch.dead).squeeze(1)
        if dead.numel() == 0:
            return batch.x.new_zeros(())
        coder, n_rows = batch.coder, batch.x.shape[0]
        k = min(self.k, dead.numel())
        chosen = dead[batch.encoding.pre[:, dead].topk(k, dim=1).indices].sort(dim=1).values.flatten()
        starts = torch.arange(0, n_rows * k + 1, k, device=chosen.device)
        pattern = Pattern(chosen, starts, coder.config.features)
        values = encoded_values(batch.x, coder.W_enc, coder.b_enc, batch.encoding.pre, pattern)
        explained = decode(Codes(pattern, values), coder.W_dec, None)
        residual = (batch.x - batch.reconstruction).detach()
        return self.weight * (explained - residual).square().sum() / n_rows


@dataclass(frozen=True)
class L1:
    """Σ_i f_i ‖d_i‖, the norm of every site's decoder summed: for ReLU crosscoders."""

    weight: float
    warmup: float
    name: str = "l1"

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        coder, codes = batch.coder, batch.encoding.codes
        norms = coder.W_dec.unflatten(1, (len(coder.sites), -1)).norm(dim=2).sum(1)
        per_entry = norms.index_select(0, codes.pattern.features)  # norms[…] would sum its gradient in any order
        total = (codes.values * per_entry).sum() / batch.x.shape[0]
        return self.weight * ramp(batch.progress, self.warmup) * total


@dataclass(frozen=True)
class L0:
    """The number of active features, whose gradient moves the thresholds: for JumpReLU crosscoders."""

    weight: float
    warmup: float
    name: str = "l0_penalty"

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        return self.weight * ramp(batch.progress, self.warmup) * batch.encoding.l0


def ramp(progress: float, warmup: float) -> float:
    """The part of a term's weight that applies so far: a linear rise over the first `warmup` of the run."""
    return 1.0 if warmup == 0 else min(1.0, progress / warmup)
