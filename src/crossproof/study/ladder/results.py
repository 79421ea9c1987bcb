"""`results.json` of the ladder, and what it says."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings
from crossproof.study.base import StudyResults


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Proved(_Record):
    name: str
    rung: str
    loss: float | None
    """The mean loss is at most this; None if no number is."""
    right: int
    operations: dict[str, int]
    seconds: float

    @property
    def total(self) -> int:
        return sum(self.operations.values())


class Lines(_Record):
    """What proofs are held against."""

    uniform: float
    unigram: float
    additive: float | None
    """The best sum over tokens at positions, as far as it was found."""
    largest: float | None
    """No window has a larger loss, by intervals; None if that was not bounded."""
    sampled: dict[str, float | None]
    """The upper end of a 95 % interval from as many random windows as each rung's operations pay for: no proof."""


class Checked(_Record):
    rung: str
    accepted: bool
    said: str
    seconds: float


class WaterfallRecord(_Record):
    rung: str
    truth: float
    centre: float
    bound: float
    families: list[tuple[str, str, float]]
    pairs: list[tuple[str, str, float]]


class SubjectRecord(_Record):
    subject: str
    windows: int
    contexts: int
    truth: float
    right: int
    cached: int
    naive: int
    lines: Lines
    proved: list[Proved]
    checked: Checked
    waterfall: WaterfallRecord | None

    @property
    def certified(self) -> Proved:
        return next(row for row in self.proved if row.name == self.checked.rung)


class LadderStudy(StudyResults):
    subjects: list[SubjectRecord]

    def findings(self) -> Findings:
        from crossproof.study.ladder.shown import answer, claims, figures, tables

        return Findings(
            title="Proofs",
            question="Can a bound on a model's loss be proved from features for less than it takes to run the model?",
            answer=answer(self),
            claims=tuple(claims(self)),
            figures=tuple(figures(self)),
            tables=tuple(tables(self)),
            notes=(
                "A bound holds for every window of the data and is no estimate: there is no interval, and no other "
                "seed or text is meant. Each item's bound was held against its true loss. Operations are counted by "
                "the code that verifies, for brute force too; finding the witness is free.",
                "Brute force from tables could leave out neurons that are off, about half of them, and would then take "
                "about half as many operations as are counted for it.",
                "The waterfall shares out what features that meet cost, in proportion to each pair's slope times size.",
            ),
        )
