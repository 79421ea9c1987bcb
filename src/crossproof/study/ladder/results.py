"""`results.json` of the ladder, and what it says."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import CoderRecord


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
    dictionary: str | None = None
    """In whose directions features were taken apart."""

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


class CostsRecord(_Record):
    centre: float
    """The loss if no part met another at a neuron that is not read out."""
    bound: float
    drawn: int | None
    """How many windows were drawn to tell pairs apart in; None if that was all of them."""
    pairs: list[tuple[str, str, float]]
    """Of directions, and their part of bound − centre: those that cost most, and those that cost most of two features
    that the dictionary has."""
    features: list[tuple[str, float]]
    """The directions that cost most, with half of every pair that they are in."""
    neurons: list[tuple[int, float]]
    """The neurons at which most of it is."""
    left: float
    """The share of bound − centre of pairs with what the dictionary leaves."""


class DictionaryRecord(_Record):
    name: str
    coder: CoderRecord
    """How it was trained; it has no seed if its run cannot be read."""
    features: int
    """How many directions there are."""
    slots: int
    """How many of them what a token says is written in."""
    unexplained: float
    """What they leave over of all that tokens say, as a part of its squared length."""
    worst: str
    """Of what most is left over, and how much of it."""
    worst_part: float
    rung: str
    """By masses, with as many read out as ever."""
    tokens: str
    """The same without a dictionary."""
    loss: float | None
    operations: int
    costs: CostsRecord | None
    """None if the bound is no number."""

    @property
    def trained(self) -> str:
        return "not known" if self.coder.seed is None else self.coder.group


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
    dictionaries: list[DictionaryRecord] = []

    @property
    def certified(self) -> Proved:
        return self.row(self.checked.rung)

    def row(self, name: str) -> Proved:
        return next(row for row in self.proved if row.name == name)

    @property
    def best_dictionary(self) -> DictionaryRecord | None:
        """The one with the lowest bound."""
        known = [its for its in self.dictionaries if its.loss is not None]
        return min(known, key=lambda its: math.inf if its.loss is None else its.loss, default=None)


DICTIONARIES = (
    "In the directions of a dictionary what each token says is a few of them and an error atom, which is all that they "
    "leave; so what is proved is of the model itself, whatever the dictionary. It is what tokens as they are prove "
    "with particular offsets (docs/proofs.md, T13): how far the dictionary's features explain it, each by itself.",
)


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
                *(DICTIONARIES if any(its.dictionaries for its in self.subjects) else ()),
            ),
        )
