"""The claims of the trade-off, each with its number, its interval and the rule by which they are judged."""

from __future__ import annotations

from itertools import pairwise

from crossproof.findings import Claim, Verdict
from crossproof.interaction.result_view import three_digits
from crossproof.study.dictionaries import PLAIN
from crossproof.study.estimates import ENOUGH, Estimate
from crossproof.study.fidelity.records import KEEPS, LOSES, WORSE
from crossproof.study.tradeoff.config import NAMED_COST, PRIMARY, SETTINGS
from crossproof.study.tradeoff.results import Comparison, Point, TradeoffStudy
from crossproof.study.tradeoff.settings import short
from crossproof.study.tradeoff.tables import shown
from crossproof.study.verdicts import above as is_above

MAIN = "others"
"""The number that the primary comparison is about."""


def claims_of(found: TradeoffStudy, subject: str) -> list[Claim]:
    """Of one model, with dictionaries of the main size."""
    derived = derived_setting(found, subject)
    claims = []
    if derived is not None:
        largest = found.frontier(subject, derived)[-1]
        smallest = next(point for point in found.frontier(subject, derived) if point.weight > 0)
        claims += [_share(found, subject, derived, largest), _pairwise(found, subject, derived, largest)]
        claims += [_controls(found, subject), _free(found, subject, derived, smallest)]
    return [*claims, _reach(found, subject)]


def derived_setting(found: TradeoffStudy, subject: str) -> str | None:
    """The setting that stands for the paper's penalty: its own if it was swept, or ours, or another."""
    there = [name for name in found.settings(subject) if not (name in SETTINGS and SETTINGS[name].control)]
    return next((name for name in ("paper", PRIMARY) if name in there), there[0] if there else None)


def _id(found: TradeoffStudy, claim: str, subject: str) -> str:
    """The first model's claims have the plain names."""
    return f"tradeoff.{claim}" + ("" if subject == found.subjects[0] else f".{short(subject)}")


def _share(found: TradeoffStudy, subject: str, setting: str, largest: Point) -> Claim:
    change = largest.against_plain["share"]
    return Claim(
        id=_id(found, "share", subject),
        claim="As the weight of the penalty rises the dominant share rises.",
        paper=".305 → .816 at λ = 1000, at 1.2 × the loss; one seed",
        measure=f"dominant share at weight {largest.weight:g} less that without a penalty "
        f"({setting}, {short(subject)})",
        **_numbers(change),
        verdict=_verdict(change, above=0.0),
        why=f"Holds if the whole interval is above 0. {_steps(found, subject, setting, 'share', True)} "
        + _resampled(change),
    )


def _pairwise(found: TradeoffStudy, subject: str, setting: str, largest: Point) -> Claim:
    change = largest.against_plain["pairwise"]
    return Claim(
        id=_id(found, "pairwise", subject),
        claim="As the weight of the penalty rises the mean pairwise interaction falls.",
        paper="28.46 → 1.09 (1e-6) at λ = 1000: × .038; one seed",
        measure=f"mean pairwise interaction at weight {largest.weight:g} over that without a penalty "
        f"({setting}, {short(subject)})",
        **_numbers(change),
        verdict=_verdict(change, below=1.0),
        why=f"Holds if the whole interval is below 1. {_steps(found, subject, setting, 'pairwise', False)} "
        + _resampled(change),
    )


def _controls(found: TradeoffStudy, subject: str) -> Claim:
    its, cost = primary(found, subject), next(iter(found.costs.values()))
    control = SETTINGS[PRIMARY].against[0]
    difference = its.difference if its else None
    if its is None:
        reason = f"{PRIMARY} and {control} were not both swept."
    elif difference is None:
        reason = f"The frontiers of {PRIMARY} and {control} do not both reach {cost.words} in any seed."
    else:
        less = sum(value < 1 for value in difference.each)
        left = f"; {len(its.missing)} more do not reach it" if its.missing else ""
        reason = f"It is below 1 in {less} of {len(difference.each)} seeds{left}."
    return Claim(
        id=_id(found, "controls", subject),
        claim="The derived penalty does something that a generic one of the same cost does not.",
        paper="–",
        measure=f"Σ|p| − max|p| with {PRIMARY} over that with {control}, both at {cost.words} ({short(subject)})",
        **_numbers(difference),
        verdict=_verdict(difference, below=1.0),
        why=f"Holds if the whole interval is below 1. {named(found)} {reason} " + _resampled(difference),
    )


def named(found: TradeoffStudy) -> str:
    """Whether the primary comparison is the one that was named before looking."""
    if next(iter(found.costs.values())).level == NAMED_COST:
        return "The one primary comparison, named before looking."
    return f"The one that was named before looking is at {NAMED_COST:g} ×: this one is no test, but a look."


def _free(found: TradeoffStudy, subject: str, setting: str, smallest: Point) -> Claim:
    change = smallest.against_plain["unexplained"]
    others = [
        f"{three_digits(its.value)} at {point.weight:g}"
        for point in found.frontier(subject, setting)
        if point.weight > smallest.weight and (its := point.against_plain["unexplained"])
    ]
    rest = f"Larger weights, not part of the claim: {', '.join(others)}." if others else ""
    return Claim(
        id=_id(found, "free", subject),
        claim="With a small weight the unexplained variance may even fall.",
        paper="reconstruction loss 1769 at λ = 200, 1962 without a penalty; one seed",
        measure=f"unexplained variance at the smallest weight, {smallest.weight:g}, over that without a penalty "
        f"({setting}, {short(subject)})",
        **_numbers(change),
        verdict=_verdict(change, below=1.0),
        why=f"Holds if the whole interval is below 1. {rest} {_resampled(change)}".replace("  ", " "),
    )


def _reach(found: TradeoffStudy, subject: str) -> Claim:
    points = [its for its in found.points if its.subject == subject and its.features == found.main_features]
    points = [its for its in points if its.setting != PLAIN]
    known = [(point, point.slack) for point in points if point.slack]
    point, best = max(known, key=lambda its: its[1].value, default=(None, None))
    verdict: Verdict = "cannot tell"
    if any(its.low >= 0 for _, its in known):
        verdict = "holds"
    elif known and len(known) == len(points) and all(its.high < 0 for _, its in known):
        verdict = "does not hold"
    reached = [_named(its) for its, slack in known if slack.low >= 0]
    listed = f"Surely reached by {', '.join(reached)}." if reached else f"Surely reached by none of {len(points)}."
    at = f"; {_named(point)}; {best.where}" if point and best else ""
    ratio = f" There Φ(only the largest) / Φ(all) is {shown(point.worst)} in the worst MLP." if point else ""
    return Claim(
        id=_id(found, "reach", subject),
        claim="Some penalty keeps what each MLP does with one feature for each neuron, at hardly any cost.",
        paper="Φ(only the largest) / Φ(all) .93 at λ = 1000, but Φ(all) .378 instead of .736 (block 1)",
        measure=f"how far the condition that is met least is above the bar ({short(subject)}{at})",
        ours=best.value if best else None,
        # some setting reaches it if any does, and none only if all do not, the one that looks best or another
        low=max(its.low for _, its in known) if best else None,
        high=max(its.high for _, its in known) if best else None,
        verdict=verdict,
        why=f"The bar: Φ(only the largest) at least {KEEPS:g} Φ(all) and Φ(all) at most {LOSES:g} below that without a "
        f"penalty, in every MLP, and unexplained variance at most {WORSE:g} ×. Holds if the whole interval of some "
        "setting is at least 0, does not hold if that of every setting is below 0; the one nearest to the bar, of "
        f"{len(points)}, is shown, and intervals allow for that. {listed}{ratio}",
    )


# -- from numbers to words ---------------------------------------------------------------------------------------------


def _numbers(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return {"ours": None, "low": None, "high": None}
    return {"ours": estimate.value, "low": estimate.low, "high": estimate.high}


def _verdict(estimate: Estimate | None, above: float | None = None, below: float | None = None) -> Verdict:
    """Whether the whole interval is above a number, or below it."""
    if estimate is None:
        return "cannot tell"
    if above is not None:
        return is_above(estimate, above)
    assert below is not None
    return "holds" if estimate.high < below else "does not hold" if estimate.low >= below else "cannot tell"


def _resampled(estimate: Estimate | None) -> str:
    if estimate is None:
        return "There is no interval."
    seeds = len(estimate.each)
    if seeds >= ENOUGH:
        return f"95 % over resampled texts and dictionaries ({seeds} seeds)."
    what = "this dictionary" if seeds == 1 else f"these {seeds} dictionaries"
    return f"95 % over resampled texts, {what} held fixed: it says nothing of others that are trained alike."


def _steps(found: TradeoffStudy, subject: str, setting: str, measure: str, rises: bool) -> str:
    """At how many of the steps from weight to weight the mean moves as claimed."""
    values = [its.value for point in found.frontier(subject, setting) if (its := point.measures[measure])]
    steps = [(after > before) == rises and after != before for before, after in pairwise(values)]
    return f"From weight to weight it {'rises' if rises else 'falls'} at {sum(steps)} of {len(steps)} steps."


def primary(found: TradeoffStudy, subject: str) -> Comparison | None:
    wanted = subject, found.main_features, PRIMARY, SETTINGS[PRIMARY].against[0], next(iter(found.costs)), MAIN
    for its in found.comparisons:
        if (its.subject, its.features, its.setting, its.control, its.cost, its.measure) == wanted:
            return its
    return None


def _named(point: Point) -> str:
    return point.setting if point.setting == PLAIN else f"{point.setting} λ {point.weight:g}"
