"""`results.json` of the study of the recursion, and what it says."""

from __future__ import annotations

import math
from collections.abc import Sequence

from crossproof.findings import Claim, Findings
from crossproof.proof.recursion.recursion import Recursion
from crossproof.proof.recursion.ways import BALLS, LAST_READ, MASSES, PAPER
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import PLAIN, CoderRecord
from crossproof.study.estimates import Estimate, text_weights
from crossproof.study.recursion.figures import (
    figure_of_sites,
    figure_of_ways,
    table_of_pairs,
    table_of_terms,
    table_of_ways,
    vacuous,
    waterfall,
)
from crossproof.study.recursion.records import GroupRecord, group_of
from crossproof.study.verdicts import at_most

PAIRS = 20


class RecursionStudy(StudyResults):
    subject: str
    texts: int
    tokens: int
    truth: float
    """The model's mean loss on these tokens."""
    guess: float
    """log V: what it costs to say that all tokens are as likely."""
    coders: list[CoderRecord]
    groups: list[GroupRecord]

    def findings(self) -> Findings:
        shown = [self.groups[0], *([self.best] if self.best is not None else [])]
        return Findings(
            title="The paper's proof, carried out",
            question="What does the paper's recursion certify of a model from a crosscoder, where does it lose how "
            "much, and does a penalty on interactions help?",
            answer=_answer(self),
            claims=tuple(_claims(self)),
            figures=(
                figure_of_ways(self),
                *(waterfall(group, group.way(way)) for group in shown for way in (PAPER, MASSES)),
                figure_of_sites(self),
            ),
            tables=(
                table_of_ways(self),
                *(table_of_terms(group, group.way(PAPER)) for group in shown),
                *(table_of_pairs(group) for group in shown if group.pairs),
            ),
            notes=(
                f"{self.tokens:,} tokens of {self.texts} held-out texts; every bound is of each token, with sound "
                "rounding, and was held against the token's true loss. Nothing is cut off at log V: a bound that says "
                "nothing is printed as what it is.",
                "Radii are how far the model's residual stream may be from the point it is said to be at, in lengths "
                "of the vector that the last norm divides by: from 1 on nothing is known of its direction.",
                "A term's share is the radius at the end if what comes after it added nothing but growth, less the "
                "same without it; shares add up to the radius. Without a term is the radius if it alone were nothing.",
                "The paper bounds no attention and no norm. Attention is bounded our way throughout; a norm the "
                "paper's way by 2ε over its length, which is always true.",
                "Intervals resample texts.",
            ),
        )

    @property
    def best(self) -> GroupRecord | None:
        """Of the penalties that can be compared the one whose bound falls most."""
        compared = [group for group in self.groups if group.paper_ratio is not None]
        return min(compared, key=lambda its: its.paper_ratio.value if its.paper_ratio else 0.0, default=None)


def study_of(subject: str, found: Sequence[tuple[CoderRecord, Recursion]], seed: int) -> RecursionStudy:
    """Dictionaries without a penalty first."""
    found = sorted(found, key=lambda pair: pair[0].penalty != PLAIN)
    first = found[0][1]
    texts = int(first.item_text.max()) + 1
    weights = text_weights(texts, seed)
    groups: dict[str, list[tuple[CoderRecord, Recursion]]] = {}
    for record, its in found:
        groups.setdefault(record.group, []).append((record, its))
    compared = [name for name, its in groups.items() if its[0][0].baseline in groups.keys() - {name}]
    records = []
    for name, members in groups.items():
        baseline = members[0][0].baseline
        alike = [its for _, its in groups.get(baseline, [])] if name in compared else []
        records.append(group_of(name, baseline, members, alike, weights, seed, PAIRS, len(compared)))
    return RecursionStudy(
        subject=subject,
        texts=texts,
        tokens=len(first.truth),
        truth=float(first.truth.mean()),
        guess=math.log(first.vocabulary),
        coders=[record for record, _ in found],
        groups=records,
    )


def _claims(found: RecursionStudy) -> list[Claim]:
    first = found.groups[0]
    rule = f"Holds if the whole interval is at most log V = {found.guess:.2f}, does not if all of it is above."
    claims = [
        _claim(
            "recursion.paper",
            f"The paper's recursion certifies more than a guess does ({first.group}).",
            "certified mean loss, nat per token",
            first.way(PAPER).loss,
            found.guess,
            rule + " An infinite bound does not hold.",
        ),
        _claim(
            "recursion.error",
            f"What the crosscoder leaves unexplained at the last site alone still allows that ({first.group}).",
            "certified mean loss where the model's last site is read, nat per token",
            first.way(LAST_READ).loss,
            found.guess,
            rule,
        ),
    ]
    best = found.best
    if best is not None:
        several = sum(group.paper_ratio is not None for group in found.groups)
        chosen = f" Of {several} penalties the one whose bound falls most; its interval allows for that."
        claims.append(
            _claim(
                "recursion.penalty",
                f"With a penalty on interactions the paper's bound is smaller ({best.group}).",
                "certified mean loss, penalised over not",
                best.paper_ratio,
                1.0,
                f"Holds if the whole interval is at most 1, does not if none of it is.{chosen if several > 1 else ''}",
            )
        )
    return claims


def _claim(name: str, claim: str, measure: str, its: Estimate | None, most: float, why: str) -> Claim:
    return Claim(
        id=name, claim=claim, paper="in principle; no bound was computed", measure=measure,
        ours=its and its.value, low=its and its.low, high=its and its.high,
        verdict="does not hold" if its is None and most != 1.0 else at_most(its, most), why=why,
    )  # fmt: skip


def _answer(found: RecursionStudy) -> str:
    parts = [f"The model loses {found.truth:.3f} nat per token; a guess costs {found.guess:.2f}"]
    for group in found.groups:
        paper, balls, read = (group.way(way) for way in (PAPER, BALLS, LAST_READ))
        parts.append(
            f"{group.group}: the paper's recursion certifies {_said(paper.loss)} nat, norms as balls "
            f"{_said(balls.loss)}, and reading the model's last site {_said(read.loss)}"
        )
    first = found.groups[0]
    paper = first.way(PAPER)
    helping = [term for term in paper.terms if term.without]
    sentence = ". ".join([*parts[:1], "; ".join(parts[1:])]) + "."
    if helping and paper.radius:
        most = min(helping, key=lambda term: term.without or math.inf)
        sentence += (
            f" Of the paper's terms the {most.kind} at {most.place} costs most: without it the radius would be "
            f"{paper.radius / (most.without or 1.0):.3g} times smaller."
        )
    if all(vacuous(group.way(PAPER), found.guess) for group in found.groups):
        sentence += " With every dictionary here the paper's bound is vacuous: it says less than a guess."
    return sentence


def _said(its: Estimate | None) -> str:
    return "infinitely many" if its is None else f"{its.value:.3g}"
