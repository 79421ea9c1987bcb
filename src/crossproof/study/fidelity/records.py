"""The numbers of the fidelity study: by scheme, by block, and by how dictionaries were trained."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from crossproof.study.estimates import Estimate
from crossproof.study.extremes import Bounded
from crossproof.study.fidelity.config import Residual

LARGEST = "keep 1"

KEEPS, LOSES, WORSE = 0.9, 0.02, 1.1
"""The bar: on every block only the largest keeps so much of what all keep, Φ(all) is at most so much below that of the
dictionaries without a penalty, and unexplained variance at most so many times theirs."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class SchemeRecord(Record):
    """One scheme at one MLP, with one group of dictionaries."""

    group: str
    mlp: str
    residual: Residual
    scheme: str
    fidelity: Estimate | None
    """Φ; None where the MLP without any feature loses nothing that could be kept."""


class BlockRecord(Record):
    """One MLP with one group of dictionaries."""

    group: str
    mlp: str
    residual: Residual
    none: Estimate
    """By how much the model's loss rises with every neuron at β, in nats per token: what Φ is a share of."""
    stream: Estimate
    """By how much it rises when only the residual stream beside the MLP is replaced."""
    ratio: Estimate | None
    """Φ(only the largest) / Φ(all)."""
    why: str
    """What makes Φ or the ratio undefined, if anything does."""


class GroupRecord(Record):
    """Dictionaries trained alike, but for their seeds, on their worst blocks; with one kind of residual stream."""

    group: str
    penalised: bool
    dictionaries: int
    resampled: bool
    """Whether intervals resample the dictionaries too, and not only the texts."""
    baseline: str | None
    """The group without a penalty that is otherwise trained alike, if it is here."""
    unexplained: float | None
    """Mean over dictionaries, as their training runs have it."""
    unexplained_ratio: float | None
    """Over that of the baseline."""
    ratio: Bounded | None
    """Φ(only the largest) / Φ(all), worst block."""
    gain: Bounded | None
    """That ratio less the baseline's, worst block."""
    cost: Bounded | None
    """Φ(all) less the baseline's, worst block."""
    slack: Bounded | None
    """How far above the bar the condition is that is met least: 0 or more where all are met on every block."""
    why: str
    """Why any of these is missing."""
