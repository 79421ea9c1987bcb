"""The results of model diffing: numbers with intervals, by kind of feature and by group of pairs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings, Passage
from crossproof.study.base import StudyResults
from crossproof.study.estimates import Estimate


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class FeatureRecord(Record):
    """A live feature of the first crosscoder."""

    feature: int
    kind: str
    ratio: float
    cosine: float
    places: dict[str, float] | None
    """Of the tokens it fires on, the share at each place of deployed texts; None where texts have no labels."""
    words: str


class ComparisonRecord(Record):
    """One crosscoder of the two models."""

    seed: int
    unexplained: float | None
    live: int
    kinds: dict[str, int]
    """How many live features are of each kind."""
    in_null: int
    """How many have ratio and cosine in the range of the null itself, were nothing else counted as no change."""
    null_ratio: tuple[float, float]
    null_cosine: float


class FiringRecord(Record):
    """Of the firing of one kind of features, the share at tag and answer."""

    kind: str
    features: list[int]
    """How many, with each crosscoder."""
    at_trigger: Estimate | None


class GroupRecord(Record):
    """Pairs by what became of their features. Changes are over the interaction of the group."""

    metric: str
    group: str
    share_of_interaction: Estimate | None
    share_of_change: Estimate | None
    change: Estimate | None
    null: Estimate | None
    """The same in the comparison with the null."""
    by_weights: Estimate | None
    """The change if the MLPs alone were exchanged."""
    by_directions: Estimate | None
    """If the features' directions alone were."""
    noise: float | None
    """What the base's interactions differ by between the two halves of the texts."""


class PairRecord(Record):
    """Two unchanged features, i dominant and j charged, per token."""

    i: int
    j: int
    words_i: str
    words_j: str
    base: float
    tuned: float
    change: Estimate
    by_weights: float
    by_directions: float
    noise: float


class SampledPair(Record):
    """A pair of the first crosscoder as a point of a figure, of those that interact most in the base."""

    i: int
    j: int
    turn: float
    """1 − the lower cosine of the two features."""
    change: float
    """Over the mean of the two models."""


class PartnerRecord(Record):
    """An unchanged feature, by its interaction with changed ones, in both directions, per token."""

    feature: int
    kind: str
    words: str
    base: float
    tuned: float


class TurnRecord(Record):
    """A live feature in the stages: the cosine of its directions before and after each."""

    feature: int
    turns: dict[str, float]
    turned: bool
    """By the model's change, before the texts and after them, more than when nothing changes."""
    at_trigger: float | None
    words: str


class StagesRecord(Record):
    least: float
    """Below this cosine a feature counts as turned: the lowest hundredth when nothing changes."""
    turned_by: dict[str, int]
    """How many turned in each stage."""
    turned: int
    """How many by the model's change, in both orders."""
    agreement: float | None
    """Spearman's correlation over features between the model's change in one order and in the other."""
    null_agreement: float | None
    """Between the model's change and no change."""
    at_trigger: Estimate | None
    others_at_trigger: Estimate | None
    features: list[TurnRecord]


class DiffingStudy(StudyResults):
    """`results.json`."""

    base: str
    tuned: str
    null: str
    texts: int
    tokens: int
    """Of the half that is reported."""
    exclusive: float
    rotated: float
    unchanged: float
    comparisons: list[ComparisonRecord]
    base_rate: float | None
    """The share of tag and answer among all tokens."""
    firing: list[FiringRecord]
    more_than_unchanged: Estimate | None
    """Of changed features, their share of firing at tag and answer less that of unchanged ones."""
    groups: list[GroupRecord]
    beyond_null: Estimate | None
    """Of all change of directed interaction, the share between unchanged features beyond what the null has there."""
    by_weights: Estimate | None
    """Between unchanged features, the change by the MLPs alone, over that and the change by the directions alone."""
    features: list[FeatureRecord]
    null_ratios: list[float]
    """Norm ratios of the null's live features."""
    sampled_pairs: list[SampledPair]
    pairs: list[PairRecord]
    partners: list[PartnerRecord]
    passages: list[Passage]
    stages: StagesRecord | None
    top: int

    def findings(self) -> Findings:
        from crossproof.study.diffing.say import findings

        return findings(self)
