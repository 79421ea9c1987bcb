"""`results.json` of the study of information, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.findings import Claim, Figure, Findings, Series, Table, Verdict
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import PLAIN, CoderRecord
from crossproof.study.estimates import ENOUGH, Drawn, Estimate, combine, drawn, estimate, mean, text_weights

if TYPE_CHECKING:
    from crossproof.study.information.study import Measured


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LevelRecord(_Record):
    """Strengths rounded so that the error grows by `noise` of itself."""

    noise: float
    strength_bits: Estimate
    bits: Estimate
    """Per token: which features, and how strong."""
    unexplained: Estimate
    """Of the rounded codes."""


class GroupRecord(_Record):
    """Dictionaries trained alike, but for their seeds."""

    group: str
    baseline: str
    active: Estimate
    support_bits: Estimate
    unexplained: Estimate
    tightness: Estimate
    """What the dominant features' bound leaves open of the MLPs' outputs, over how far these lie from their mean."""
    levels: list[LevelRecord]
    bits_ratio: Estimate | None
    """Bits at the level of the claims, over those of the dictionaries trained alike without a penalty."""
    tightness_ratio: Estimate | None


class InformationStudy(StudyResults):
    subject: str
    texts: int
    tokens: int
    claimed: float
    """The noise at which claims are made."""
    coders: list[CoderRecord]
    groups: list[GroupRecord]

    def findings(self) -> Findings:
        return Findings(
            title="Information",
            question="How many bits does a token take once it is encoded, what do they explain, and does a penalty on "
            "interactions make an explanation shorter, or its bound tighter?",
            answer=_answer(self),
            claims=tuple(_claims(self)),
            figures=(_figure_of_bits(self), _figure_of_tightness(self)),
            tables=(_table(self),),
            notes=(
                f"{self.tokens:,} tokens of {self.texts} held-out texts were encoded, with codes made on as many other "
                "texts. Lengths are those of ideal codes: features one by one, each given whether it was active at the "
                "token before; strengths log-normal. They bound the entropy from above: a code that knew which "
                "features come together would be shorter.",
                "The bound is the paper's (every neuron may be off by Lip·(Σ|p| − max|p|)), in multiples of how far "
                "the MLPs' outputs lie from their mean: at 1 or more it says less than that the MLP writes its mean. "
                "No certificate of the loss is meant.",
                f"Intervals resample texts{', and dictionaries where there are 5 or more' if _enough(self) else ''}.",
            ),
        )


def study_of(
    subject: str, found: Sequence[tuple[CoderRecord, Measured]], noise: Sequence[float], seed: int
) -> InformationStudy:
    """Dictionaries without a penalty first."""
    found = sorted(found, key=lambda pair: pair[0].penalty != PLAIN)
    first = found[0][1]
    weights = text_weights(len(first.tokens), seed)
    level = min(1, len(noise) - 1)
    groups: dict[str, list[tuple[CoderRecord, Measured]]] = {}
    for record, its in found:
        groups.setdefault(record.group, []).append((record, its))
    records = []
    # claims are made of the penalty that certifies most
    compared = [group for group, members in groups.items() if members[0][0].baseline in groups.keys() - {group}]
    for group, members in groups.items():
        baseline = members[0][0].baseline
        alike = groups.get(baseline, []) if group != baseline else []
        records.append(
            _group(
                group,
                baseline,
                [its for _, its in members],
                [its for _, its in alike],
                level,
                weights,
                seed,
                len(compared),
            )
        )
    return InformationStudy(
        subject=subject,
        texts=len(first.tokens),
        tokens=int(first.tokens.sum()),
        claimed=noise[level],
        coders=[record for record, _ in found],
        groups=records,
    )


def _group(
    group: str,
    baseline: str,
    members: Sequence[Measured],
    alike: Sequence[Measured],
    level: int,
    weights: Float64[Tensor, "draw text"],
    seed: int,
    chosen_from: int,
) -> GroupRecord:
    def each(of: Callable[[Measured], tuple[Tensor, Tensor]], its: Sequence[Measured] = members) -> list[Drawn]:
        return [drawn(*of(one), weights) for one in its]

    def over(draws: list[Drawn]) -> Estimate:
        return estimate(draws, seed if len(draws) >= ENOUGH else None)

    def bits(its: Measured) -> tuple[Tensor, Tensor]:
        return its.support_bits + its.levels[level].strength_bits, its.tokens

    def tightness(its: Measured) -> tuple[Tensor, Tensor]:
        return its.certified, its.written

    def ratio(of: Callable[[Measured], tuple[Tensor, Tensor]]) -> Estimate | None:
        if not alike:
            return None
        many = seed if min(len(members), len(alike)) >= ENOUGH else None
        parts = mean(each(of), many), mean(each(of, alike), None if many is None else many + 1)
        return estimate([combine(torch.div, *parts)], chosen_from=chosen_from)

    return GroupRecord(
        group=group,
        baseline=baseline,
        active=over(each(lambda its: (its.active, its.tokens))),
        support_bits=over(each(lambda its: (its.support_bits, its.tokens))),
        unexplained=over(each(lambda its: (its.error, its.variance))),
        tightness=over(each(tightness)),
        levels=[_level(number, members, each, over) for number in range(len(members[0].levels))],
        bits_ratio=ratio(bits),
        tightness_ratio=ratio(tightness),
    )


def _level(number: int, members: Sequence[Measured], each: Any, over: Any) -> LevelRecord:
    return LevelRecord(
        noise=members[0].levels[number].noise,
        strength_bits=over(each(lambda its: (its.levels[number].strength_bits, its.tokens))),
        bits=over(each(lambda its: (its.support_bits + its.levels[number].strength_bits, its.tokens))),
        unexplained=over(each(lambda its: (its.levels[number].error, its.variance))),
    )


def _enough(found: InformationStudy) -> bool:
    return any(len(group.active.each) >= ENOUGH for group in found.groups)


def _claims(found: InformationStudy) -> list[Claim]:
    compared = [group for group in found.groups if group.bits_ratio and group.tightness_ratio]
    if not compared:
        return []
    # of several penalties the one whose bound is tightest: chosen on the numbers that are reported
    best = min(compared, key=lambda group: group.tightness_ratio.value if group.tightness_ratio else 0.0)
    chosen = (
        f" Of {len(compared)} penalties the one with the tightest bound; intervals allow for that."
        if len(compared) > 1
        else ""
    )
    return [
        _claim(
            "information.bits",
            f"Codes of dictionaries with a penalty ({best.group}) take no more bits.",
            "bits per token, penalised over not",
            best.bits_ratio,
            "at most 1.02",
            1.02,
            chosen,
        ),
        _claim(
            "information.tightness",
            f"And what they certify of MLPs is tighter ({best.group}).",
            "certified size of what the dominant features miss, over the spread of outputs: penalised over not",
            best.tightness_ratio,
            "below 1",
            1.0,
            chosen,
        ),
    ]


def _claim(name: str, claim: str, measure: str, its: Estimate | None, words: str, most: float, chosen: str) -> Claim:
    assert its is not None
    verdict: Verdict = "holds" if its.high < most else "does not hold" if its.low > most else "cannot tell"
    why = f"Holds if the whole interval is {words}, does not if none of it is.{chosen}"
    return Claim(
        id=name, claim=claim, paper="–", measure=measure, ours=its.value, low=its.low, high=its.high, verdict=verdict,
        why=why,
    )  # fmt: skip


def _answer(found: InformationStudy) -> str:
    parts = []
    for group in found.groups:
        level = next(its for its in group.levels if its.noise == found.claimed)
        parts.append(
            f"{group.group}: {level.bits.value:.0f} bits per token ({group.support_bits.value:.0f} for which "
            f"{group.active.value:.1f} features are active, {level.strength_bits.value:.0f} for how strong they are), "
            f"{level.unexplained.value:.1%} unexplained, bound {group.tightness.value:.2g} times the spread of outputs"
        )
    loose = all(group.tightness.low >= 1 for group in found.groups)
    vacuous = " With every dictionary the paper's bound is vacuous here: it leaves open more than the outputs vary."
    return "; ".join(parts) + "." + (vacuous if loose else "")


def _figure_of_bits(found: InformationStudy) -> Figure:
    return Figure(
        id="bits",
        title="What is unexplained against the bits that a token takes, as strengths are rounded more or less",
        kind="lines",
        x="bits per token",
        y="unexplained variance",
        series=tuple(
            Series(
                name=group.group,
                x=tuple(level.bits.value for level in group.levels),
                y=tuple(level.unexplained.value for level in group.levels),
                low=tuple(level.unexplained.low for level in group.levels),
                high=tuple(level.unexplained.high for level in group.levels),
                words=tuple(f"rounding adds {level.noise:.0%} to the error" for level in group.levels),
            )
            for group in found.groups
        ),
    )


def _figure_of_tightness(found: InformationStudy) -> Figure:
    return Figure(
        id="tightness",
        title="What codes certify of MLPs against the bits that a token takes",
        kind="points",
        x="bits per token",
        y="certified size of what is missed, over the spread of outputs",
        log_y=True,
        series=tuple(
            Series(
                name=group.group,
                x=(next(its.bits.value for its in group.levels if its.noise == found.claimed),),
                y=(group.tightness.value,),
                low=(group.tightness.low,),
                high=(group.tightness.high,),
            )
            for group in found.groups
        ),
    )


def _table(found: InformationStudy) -> Table:
    return Table.of(
        "Bits per token, what they explain and what they certify",
        note="rounded by: about how much the rounding of strengths adds to the error",
        rows=[
            {
                "dictionaries": group.group,
                "of them": len(group.active.each),
                "rounded by": f"{level.noise:.0%}",
                "bits": level.bits.value,
                "for which features": group.support_bits.value,
                "for strengths": level.strength_bits.value,
                "active": group.active.value,
                "unexplained": level.unexplained.value,
                "bound over spread": group.tightness.value,
            }
            for group in found.groups
            for level in group.levels
        ],
    )
