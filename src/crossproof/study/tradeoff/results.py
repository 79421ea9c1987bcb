"""The results of the trade-off: what every kind of dictionary has, and what settings have at the same cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import PLAIN
from crossproof.study.estimates import Drawn, Estimate, text_weights
from crossproof.study.extremes import Bounded
from crossproof.study.tradeoff.config import SETTINGS
from crossproof.study.tradeoff.frontier import Cost, drawn_at_cost, estimated, paired
from crossproof.study.tradeoff.measure import LARGEST, Measured
from crossproof.study.tradeoff.measures import MEASURES, Weights, of_mlp
from crossproof.study.tradeoff.reach import Reach, reaches
from crossproof.study.tradeoff.settings import Dictionary


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Point(Record):
    """One setting at one weight, over its seeds."""

    subject: str
    features: int
    setting: str
    weight: float
    seeds: list[int]
    measures: dict[str, Estimate | None]
    against_plain: dict[str, Estimate | None]
    """Over what the dictionary of the same seed without a penalty has, or less it (see MEASURES)."""
    fidelity: dict[str, Estimate | None]
    """Φ(all) of each MLP."""
    fidelity_largest: dict[str, Estimate | None]
    worst: Bounded | None
    """Φ(only the largest) / Φ(all) in the MLP where it is least."""
    slack: Bounded | None
    """How far the condition of the bar that is met least is above it (`reach.py`)."""


class AtCost(Record):
    """What a setting has where it costs a certain amount, between its weights."""

    subject: str
    features: int
    setting: str
    cost: str
    """One of the study's costs."""
    measures: dict[str, Estimate | None]
    weight: Estimate | None
    """At about which weight that is."""
    seeds: list[int]
    """Those whose frontier reaches the cost."""


class Comparison(Record):
    """A penalty against a control at the same cost, paired by seed."""

    subject: str
    features: int
    setting: str
    control: str
    cost: str
    measure: str
    difference: Estimate | None
    """The penalty's over the control's, or less it (see MEASURES)."""
    seeds: list[int]
    """Those where both reach the cost."""
    missing: list[int]
    """Those where not both do."""


class TradeoffStudy(StudyResults):
    """`results.json`."""

    texts: int
    tokens: int
    subjects: list[str]
    dictionaries: list[Dictionary]
    left_out: list[str]
    """Settings that a model cannot be trained with, and why."""
    costs: dict[str, Cost]
    """The first is the one that claims are made of."""
    points: list[Point]
    at_cost: list[AtCost]
    comparisons: list[Comparison]

    def findings(self) -> Findings:
        from crossproof.study.tradeoff.findings import findings_of

        return findings_of(self)

    @property
    def main_features(self) -> int:
        """The size of dictionaries that claims are made of: the first."""
        return self.points[0].features

    def frontier(self, subject: str, setting: str, features: int | None = None) -> list[Point]:
        """From the dictionaries without a penalty on, by weight."""
        wanted = subject, self.main_features if features is None else features
        its = [p for p in self.points if (p.subject, p.features) == wanted and p.setting in (PLAIN, setting)]
        return sorted(its, key=lambda point: point.weight)

    def settings(self, subject: str, features: int | None = None) -> list[str]:
        """In the order of SETTINGS, others last; without `plain`."""
        wanted = subject, self.main_features if features is None else features
        there = {p.setting: None for p in self.points if (p.subject, p.features) == wanted and p.setting != PLAIN}
        return [name for name in SETTINGS if name in there] + [name for name in there if name not in SETTINGS]


BySeed = dict[int, Drawn]
Numbers = dict[str, dict[float, dict[str, BySeed]]]
"""Of one subject and size: setting → weight → measure → seed → number."""


def costs_at(cost: float, lost: float) -> dict[str, Cost]:
    """What settings are compared at, the first for the claims."""
    shown = f"{cost:g} ×"
    return {
        "unexplained": Cost(
            measure="unexplained", words=f"{shown} the unexplained variance of no penalty", relative=True, level=cost
        ),
        "unexplained_mlp": Cost(
            measure="unexplained_mlp", words=f"{shown} that at the MLPs' inputs", relative=True, level=cost
        ),
        "reconstruction": Cost(
            measure="reconstruction", words=f"{shown} the reconstruction loss of no penalty", relative=True, level=cost
        ),
        "fidelity": Cost(
            measure="fidelity", words=f"Φ(all) {lost:g} below that of no penalty", relative=False, level=lost
        ),
    }


def study_of(
    found: Sequence[tuple[Dictionary, Measured]],
    costs: Mapping[str, Cost],
    seed: int,
    left_out: Sequence[str] = (),
) -> TradeoffStudy:
    """Everything pooled and compared. Every estimate resamples the same texts."""
    points: list[Point] = []
    at_cost: list[AtCost] = []
    comparisons: list[Comparison] = []
    places = dict.fromkeys((its.subject, its.features) for its, _ in found)
    for place in places:
        here = [(its, measured) for its, measured in found if (its.subject, its.features) == place]
        weights = text_weights(len(here[0][1].tokens), seed)
        numbers, mlps, near = _numbers(here, weights), _mlp_numbers(here, weights), reaches(here, seed)
        points += [
            _point(place, setting, weight, numbers, mlps, near[setting, weight], seed)
            for setting, its in numbers.items()
            for weight in sorted(its)
        ]
        for name, cost in costs.items():
            reached = {its: _reached(numbers, its, cost) for its in numbers if its != PLAIN}
            for setting, of_measures in reached.items():
                at_cost.append(_at_cost(place, setting, name, of_measures, seed))
                comparisons += _comparisons(place, setting, name, reached, list(numbers[PLAIN][0.0]["share"]), seed)
    first = found[0][1]
    return TradeoffStudy(
        texts=len(first.tokens),
        tokens=int(first.tokens.sum()),
        subjects=list(dict.fromkeys(its.subject for its, _ in found)),
        dictionaries=[its for its, _ in found],
        left_out=list(left_out),
        costs=dict(costs),
        points=points,
        at_cost=at_cost,
        comparisons=comparisons,
    )


def _numbers(here: Sequence[tuple[Dictionary, Measured]], weights: Weights) -> Numbers:
    """Plain dictionaries first."""
    numbers: Numbers = {PLAIN: {}}
    for its, measured in here:
        at = numbers.setdefault(its.setting, {}).setdefault(its.weight, {name: {} for name in MEASURES})
        for name, measure in MEASURES.items():
            at[name][its.seed] = measure.of(measured, weights)
    return numbers


OfMLPs = dict[tuple[str, float], dict[str, dict[str, BySeed]]]
"""Setting and weight → scheme → MLP → seed → Φ."""


def _mlp_numbers(here: Sequence[tuple[Dictionary, Measured]], weights: Weights) -> OfMLPs:
    found: OfMLPs = {}
    for its, measured in here:
        for scheme, of_mlps in found.setdefault((its.setting, its.weight), {"all": {}, LARGEST: {}}).items():
            for mlp, number in of_mlp(measured, scheme, weights).items():
                of_mlps.setdefault(mlp, {})[its.seed] = number
    return found


def _point(
    place: tuple[str, int], setting: str, weight: float, numbers: Numbers, mlps: OfMLPs, reach: Reach, seed: int
) -> Point:
    its, plain = numbers[setting][weight], numbers[PLAIN][0.0]
    at = mlps[setting, weight]
    return Point(
        subject=place[0],
        features=place[1],
        setting=setting,
        weight=weight,
        seeds=sorted(its["share"]),
        measures={name: estimated(list(of.values()), seed) for name, of in its.items()},
        against_plain={name: paired(of, plain[name], seed, MEASURES[name].ratio)[0] for name, of in its.items()},
        fidelity={mlp: estimated(list(of.values()), seed) for mlp, of in at["all"].items()},
        fidelity_largest={mlp: estimated(list(of.values()), seed) for mlp, of in at[LARGEST].items()},
        worst=reach.ratio,
        slack=reach.slack,
    )


def _reached(numbers: Numbers, setting: str, cost: Cost) -> dict[str, BySeed]:
    """Measure → seed → what its frontier has at the cost; `weight` among the measures."""
    plain, ladder = numbers[PLAIN][0.0], numbers[setting]
    found: dict[str, BySeed] = {name: {} for name in (*MEASURES, "weight")}
    for number, base in plain[cost.measure].items():
        steps = [weight for weight in sorted(ladder) if number in ladder[weight][cost.measure]]
        paid = [cost.of(base, base), *(cost.of(ladder[weight][cost.measure][number], base) for weight in steps)]
        for name, measure in MEASURES.items():
            has = [plain[name][number], *(ladder[weight][name][number] for weight in steps)]
            found[name][number] = drawn_at_cost(paid, has, cost.level, measure.ratio)
        at = [Drawn(weight, torch.full_like(base.draws, weight)) for weight in (0.0, *steps)]
        found["weight"][number] = drawn_at_cost(paid, at, cost.level)
    return found


def _at_cost(place: tuple[str, int], setting: str, cost: str, of_measures: Mapping[str, BySeed], seed: int) -> AtCost:
    inside = [number for number, its in of_measures["weight"].items() if its.value == its.value]
    means = {name: estimated([of[number] for number in inside], seed) for name, of in of_measures.items()}
    return AtCost(
        subject=place[0],
        features=place[1],
        setting=setting,
        cost=cost,
        weight=means.pop("weight"),
        measures=means,
        seeds=inside,
    )


def _comparisons(
    place: tuple[str, int],
    setting: str,
    cost: str,
    reached: Mapping[str, Mapping[str, BySeed]],
    seeds: Sequence[int],
    seed: int,
) -> list[Comparison]:
    controls = [its for its in SETTINGS[setting].against if its in reached] if setting in SETTINGS else []
    found = []
    for control in controls:
        for name, measure in MEASURES.items():
            difference, used = paired(reached[setting][name], reached[control][name], seed, measure.ratio)
            found.append(
                Comparison(
                    subject=place[0],
                    features=place[1],
                    setting=setting,
                    control=control,
                    cost=cost,
                    measure=name,
                    difference=difference,
                    seeds=used,
                    missing=[number for number in seeds if number not in used],
                )
            )
    return found
