"""The results of the study of explanations: dictionaries, their features, and groups of dictionaries by each judge."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings, Passage
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import PLAIN, CoderRecord
from crossproof.study.estimates import Drawn, Estimate, combine, estimate
from crossproof.study.extremes import Bounded, least

LABELS, SHUFFLED, OTHER = "token labels", "shuffled labels", "another feature's labels"
MODEL, MODEL_OTHER = "language model", "language model, another feature's"
COMPARED = ("balanced", "information")
BINS = 20
"""Of balanced accuracy from 0 to 1."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class FeatureRecord(Record):
    """A feature that is active on the explaining half."""

    feature: int
    explanation: str
    parts: list[list[str]]
    """Labels that are true together, or others that are."""
    share: float
    """Of the explaining half's tokens, those on which it is active."""
    tokens: int
    """Of the scoring half, on how many it is active; without any it is not scored."""
    sensitivity: float | None
    specificity: float | None
    balanced: float | None
    told: str | None = None
    """What the language model said of it, where it was asked."""


class Numbers(Record):
    """A number and its resamples, on the way from a dictionary to its group."""

    value: float
    draws: list[float | None]

    @classmethod
    def of(cls, drawn: Drawn) -> Numbers:
        return cls(value=drawn.value, draws=[None if math.isnan(number) else number for number in drawn.draws.tolist()])

    @property
    def drawn(self) -> Drawn:
        draws = [math.nan if number is None else number for number in self.draws]
        return Drawn(self.value, torch.tensor(draws, dtype=torch.float64))


class Judged(Record):
    """The explanations of one dictionary by one judge; no measures where no feature could be scored."""

    measures: dict[str, Numbers]
    confusion: list[list[int]]
    """Tokens of all scored features: active and not in rows, said to be and not in columns."""
    spread: list[int]
    """How many scored features have a balanced accuracy in each bin."""


class DictionaryRecord(Record):
    features: int
    silent: int
    """Never active on the explaining half, so that there is nothing to explain."""
    unheard: int
    """Of the others, those never (or always) active on the scoring half: excluded from all scores."""
    without: int
    """Of those that are scored, for how many no labels were worth their names: they are said to be never active."""
    asked: int
    unanswered: int
    """Questions to the language model to which no answer could be read."""
    explained: list[FeatureRecord]
    """By frequency on the explaining half."""
    examples: list[int]
    """Features picked by rank of frequency."""
    passages: list[Passage]


class Part(Record):
    """What a killed run finds of a dictionary that was finished."""

    dictionary: DictionaryRecord
    judged: dict[str, Judged]


class GroupRecord(Record):
    """A group of dictionaries by one judge: means over features, dictionaries held fixed."""

    group: str
    judge: str
    measures: dict[str, Estimate]
    confusion: list[list[int]]
    spread: list[float]
    """The share of the scored features in each bin."""
    against_plain: dict[str, Estimate]
    """Of the measures in `COMPARED`: less the mean of the dictionaries trained alike without a penalty."""
    above_other: Estimate | None
    """Balanced accuracy less that with another feature's explanation."""


class ExplainStudy(StudyResults):
    """`results.json`."""

    subject: str
    stories: bool
    """Whether the labels are the grammar's; of other texts only tokens and places are known."""
    labels: int
    parts: int
    explaining_texts: int
    scoring_texts: int
    explaining_tokens: int
    scoring_tokens: int
    language_model: str | None
    judged_examples: int
    """How many examples the language model judges of each feature."""
    coders: list[CoderRecord]
    dictionaries: list[DictionaryRecord]
    groups: list[GroupRecord]
    same: dict[str, dict[str, Bounded]]
    """By judge and measure: the least `against_plain` of all groups with a penalty."""
    above: dict[str, Bounded]
    """By judge: the least `above_other` of all groups."""

    def findings(self) -> Findings:
        from crossproof.study.explain.findings import findings_of

        return findings_of(self)

    def of(self, judge: str) -> list[GroupRecord]:
        return [its for its in self.groups if its.judge == judge]


def groups_of(
    found: Sequence[tuple[CoderRecord, Part]],
) -> tuple[list[GroupRecord], dict[str, dict[str, Bounded]], dict[str, Bounded]]:
    """Groups, plain ones first, and by judge the least of what they have against plain and above another feature's."""
    members: dict[str, list[Part]] = {}
    baselines: dict[str, str] = {}
    for about, part in sorted(found, key=lambda pair: pair[0].penalty != PLAIN):
        members.setdefault(about.group, []).append(part)
        if about.penalty != PLAIN:
            baselines[about.group] = about.baseline
    records: list[GroupRecord] = []
    same: dict[str, dict[str, Bounded]] = {}
    above: dict[str, Bounded] = {}
    for judge in dict.fromkeys(judge for parts in members.values() for part in parts for judge in part.judged):
        less: dict[str, dict[str, list[Drawn]]] = {group: {} for group in members}
        for measure in COMPARED:
            scores = {group: _scores(parts, judge, measure) for group, parts in members.items()}
            for group, baseline in baselines.items():
                if scores[group] and scores.get(baseline):
                    less[group][measure] = _less(scores[group], scores[baseline])
        over = {
            group: _less(_scores(parts, judge, "balanced"), others)
            for group, parts in members.items()
            if judge in CONTROLS and (others := _scores(parts, CONTROLS[judge], "balanced"))
        }
        for group, parts in members.items():
            judged = [its.judged[judge] for its in parts if judge in its.judged]
            records.append(_group(group, judge, judged, less[group], over.get(group, [])))
        same[judge] = {}
        for measure in COMPARED:
            lost = least({group: _mean(its[measure]) for group, its in less.items() if measure in its})
            same[judge] |= {measure: lost} if lost else {}
        gained = least({group: _mean(its) for group, its in over.items()})
        above |= {judge: gained} if gained else {}
    return records, same, above


CONTROLS: Mapping[str, str] = {LABELS: OTHER, MODEL: MODEL_OTHER}


def _group(
    group: str,
    judge: str,
    members: Sequence[Judged],
    against_plain: Mapping[str, Sequence[Drawn]],
    above_other: Sequence[Drawn],
) -> GroupRecord:
    scored = [its.measures for its in members if its.measures]
    names = dict.fromkeys(name for its in scored for name in its)
    spread = torch.tensor([its.spread for its in members]).sum(0).double()
    return GroupRecord(
        group=group,
        judge=judge,
        measures={name: estimate([its[name].drawn for its in scored if name in its]) for name in names},
        confusion=torch.tensor([its.confusion for its in members]).sum(0).tolist(),
        spread=(spread / spread.sum().clamp(min=1)).tolist(),
        against_plain={measure: estimate(these) for measure, these in against_plain.items()},
        above_other=estimate(above_other) if above_other else None,
    )


def _scores(parts: Sequence[Part], judge: str, measure: str) -> list[Drawn]:
    judged = [its.judged[judge].measures for its in parts if judge in its.judged]
    return [its[measure].drawn for its in judged if measure in its]


def _less(these: Sequence[Drawn], base: Sequence[Drawn]) -> list[Drawn]:
    """Each less the mean of the others."""
    mean = _mean(base)
    return [combine(lambda its, mean: its - mean, its, mean) for its in these]


def _mean(these: Sequence[Drawn]) -> Drawn:
    return combine(lambda *values: torch.stack(values).mean(0), *these)
