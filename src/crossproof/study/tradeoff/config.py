"""What can be chosen, and the penalties that are swept. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.binding.config import PenaltyConfig
from crossproof.crosscoder.config import Count, Positive, Strict


@dataclass(frozen=True)
class Setting:
    """A penalty but for its weight."""

    penalty: PenaltyConfig
    against: tuple[str, ...] = ()
    """Controls that it is compared with at equal cost, the most telling first; a control has none."""
    control: bool = False


GENERIC = ("l1_contributions", "l2_contributions", "l1_features", "l1_table", "reconstruction")
SETTINGS: dict[str, Setting] = {
    "relative": Setting(PenaltyConfig(), GENERIC),
    "paper": Setting(PenaltyConfig(scaling="paper"), GENERIC[:1]),
    "q2": Setting(PenaltyConfig(q=2), GENERIC[:1]),
    "q4": Setting(PenaltyConfig(q=4), GENERIC[:1]),
    "mass": Setting(PenaltyConfig(form="mass"), GENERIC[:1]),
    "additive": Setting(PenaltyConfig(form="additive"), GENERIC[:1]),
    "output": Setting(PenaltyConfig(form="output"), ("output_all", *GENERIC[:1])),
    **{name: Setting(PenaltyConfig.model_validate({"control": name}), control=True) for name in GENERIC},
    "output_all": Setting(PenaltyConfig(form="output", control="output"), control=True),
}
"""The first is the one that claims are made of, and its first control the one it must beat."""
PRIMARY = next(iter(SETTINGS))
NAMED_COST = 1.1
"""The cost of the primary comparison, named before any was looked at: unexplained over that without a penalty."""


class TradeoffConfig(Strict):
    """Train and compare dictionaries with penalties of many kinds and weights."""

    subjects: Annotated[tuple[str, ...], Field(min_length=1)]
    """The models: zoo names, local folders or hub ids. Claims are made of each."""
    out: Path
    settings: tuple[str, ...] = tuple(SETTINGS)
    """Penalties and controls to train with, beside none: relative (ours), paper, q2, q4, mass, additive, output, and
    the controls l1_contributions, l2_contributions, l1_features, l1_table, reconstruction, output_all."""
    weights: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10.0, 30.0, 60.0, 100.0, 150.0, 300.0)
    """Of every penalty; each control's is matched to the penalty in magnitude."""
    seeds: Count = 5
    """How many dictionaries of each kind: with 5 or more, intervals are about others trained alike too."""
    features: Annotated[tuple[Count, ...], Field(min_length=1)] = (1024,)
    """Sizes of dictionaries. Claims are made of the first."""
    coders: tuple[str, ...] = ()
    """Folders of crosscoders that were trained before, to measure beside those; trained alike but for the penalty."""
    steps: Count = 2000
    """Optimiser steps of each training."""
    k: Count = 16
    """Active features per token."""
    batch_tokens: Count = 512
    """Tokens per step."""
    buffer_tokens: Count = 65_536
    """Tokens whose activations are held and shuffled at a time."""
    sites: tuple[str, ...] = ()
    """Hook names or globs. Default: four sites of every block and the last."""
    texts: Annotated[int, Field(ge=2)] = 200
    """Held-out texts to measure on."""
    cost: Annotated[float, Field(gt=1)] = NAMED_COST
    """Settings are compared where they leave this many times as much unexplained as without a penalty."""
    lost: Positive = 0.02
    """And where Φ(all) is so much lower."""
    data: Path | None = None
    """Texts to train and to measure on: a .txt or .jsonl file. Zoo models bring their own."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the bootstrap."""
