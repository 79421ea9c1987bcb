"""Stage-wise diffing: one crosscoder is trained on, with the model or its texts changed one at a time, in both orders.

Features keep their numbers from stage to stage, so that each can be followed: its *turn* in a stage is the cosine
between its directions before and after. Where the model changed, before its texts or after them, features turn that the
model's change concerns; how much they turn when nothing changes but the training goes on is the null.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.study.diffing.features import TAIL, directions_of
from crossproof.study.diffing.training import STAGES

MODEL_STEPS = ("model", "data-model")
"""The stages in which the model changes: before the texts, and after them."""
TEXT_STEPS = ("data", "model-data")
LAST = "data-model"


@dataclass(frozen=True, eq=False)
class Turns:
    """The cosine of each feature's directions before and after each stage."""

    by_stage: Mapping[str, Float[Tensor, " feature"]]
    least: float
    """Below this a feature turned: all but a hundredth of the live ones turn less when nothing changes."""

    @property
    def turned(self) -> Bool[Tensor, " feature"]:
        """By the model's change, in both orders."""
        return torch.stack([self.by_stage[stage] < self.least for stage in MODEL_STEPS]).all(0)

    @property
    def most(self) -> Int[Tensor, " feature"]:
        """Features, those first that turn most by the model's change in the order in which they turn less."""
        return torch.stack([self.by_stage[stage] for stage in MODEL_STEPS]).amax(0).argsort(stable=True)


def turns(coders: Mapping[str, Crosscoder], live: Bool[Tensor, " feature"]) -> Turns:
    """Of crosscoders of one model each; `live` are the features that the null is taken from."""
    directions = {name: directions_of(coder, coder.subjects[0]).flatten(1).double() for name, coder in coders.items()}
    by_stage = {
        stage: torch.cosine_similarity(directions[before], directions[stage], dim=1) for stage, before in STAGES.items()
    }
    return Turns(by_stage, float(by_stage["same"][live].quantile(TAIL)))
