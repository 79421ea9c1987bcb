"""What the paper and the issue claim of fidelity, judged by the numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from crossproof.findings import Claim, Verdict
from crossproof.study.extremes import Bounded
from crossproof.study.fidelity.config import Residual
from crossproof.study.fidelity.records import KEEPS, LOSES, WORSE, GroupRecord
from crossproof.study.verdicts import above

MOST = 0.5
NONE_PENALISED = "no dictionary here was trained with a penalty"


def nearest(groups: Sequence[GroupRecord]) -> GroupRecord | None:
    """The group with a penalty that does best: nearest to the bar, or, where that is not known of any, keeping the
    largest share.
    """

    def score(group: GroupRecord) -> tuple[float, float]:
        slack, ratio = group.slack, group.ratio
        return slack.value if slack else -math.inf, ratio.value if ratio else -math.inf

    return max((group for group in groups if group.penalised), key=score, default=None)


def claims(groups: Sequence[GroupRecord], residual: Residual) -> Iterator[Claim]:
    best = nearest(groups)
    base = next((group for group in groups if best and group.group == best.baseline), None)
    of = f", worst block, {residual} residual stream; {best.group}" if best else ""
    why = (best.why if best else NONE_PENALISED) or "not measured"
    chosen = sum(group.penalised for group in groups)
    chosen_from = f"; the group nearest to the bar, of {chosen}" if chosen > 1 else ""
    plain = f" (without the penalty {_words(base.ratio)})" if base else ""
    yield _claim(
        "fidelity.ratio",
        "With the penalty, one feature per neuron keeps most of what all features keep.",
        "60 % against 10 %; .93 against .39 by its code (block 1, one seed)",
        f"Φ(only the largest) / Φ(all){of}{plain}",
        best.ratio if best else None,
        MOST,
        f"holds if the whole interval is at least {MOST:g}{chosen_from}",
        why,
    )
    yield _claim(
        "fidelity.gain",
        "One feature per neuron keeps a larger share with the penalty than without it.",
        "+.50; +.54 by its code (block 1, one seed)",
        f"Φ(only the largest) / Φ(all), less that without the penalty{of}",
        best.gain if best else None,
        0.0,
        f"holds if the whole interval is above 0, on every block{chosen_from}",
        why,
        above,
    )
    yield _claim(
        "fidelity.cost",
        "The penalty costs little fidelity.",
        "Φ(all) .378 against .736 by its code (block 1, one seed): −.358",
        f"Φ(all) less that without the penalty{of}",
        best.cost if best else None,
        -LOSES,
        f"holds if the whole interval is at least −{LOSES:g}, on every block{chosen_from}",
        why,
    )
    yield _frontier(groups, best, residual, why)


def _frontier(groups: Sequence[GroupRecord], best: GroupRecord | None, residual: Residual, why: str) -> Claim:
    slack = best.slack if best else None
    known = [group.slack for group in groups if group.slack]
    unknown = sum(group.penalised for group in groups) - len(known)
    if slack is not None:
        # that none meets the bar must be true of all of them, not only of the one that looks best
        slack = slack.model_copy(update={"high": max(its.high for its in known)})

    def judged(its: Bounded, bar: float) -> Verdict:
        found = verdict(its, bar)
        return "cannot tell" if unknown and found == "does not hold" else found

    return _claim(
        "fidelity.frontier",
        f"Some setting keeps Φ(only the largest) ≥ {KEEPS:g} Φ(all) with Φ(all) at most {LOSES:g} lower, on every "
        f"block, and leaves at most {WORSE:g} times as much variance unexplained.",
        "–",
        f"how far the condition that is met least is above the bar, {residual} residual stream"
        + (f"; {best.group}" if best else "")
        + (f"; {slack.where}" if slack else ""),
        slack,
        0.0,
        "holds if the whole interval of the best setting is at least 0, does not hold if that of every setting is below"
        " 0" + (f" (not known of {unknown})" if unknown and slack is not None else ""),
        why,
        judged,
    )


def _claim(
    id: str,
    claim: str,
    paper: str,
    measure: str,
    ours: Bounded | None,
    bar: float,
    rule: str,
    missing: str,
    judged: Callable[[Bounded, float], Verdict] | None = None,
) -> Claim:
    return Claim(
        id=id,
        claim=claim,
        paper=paper,
        measure=measure,
        ours=ours and ours.value,
        low=ours and ours.low,
        high=ours and ours.high,
        verdict=(judged or verdict)(ours, bar) if ours else "cannot tell",
        why=rule if ours else f"{rule}; {missing}",
    )


def verdict(ours: Bounded, bar: float) -> Verdict:
    """Whether it is at least the bar."""
    if ours.low >= bar:
        return "holds"
    return "does not hold" if ours.high < bar else "cannot tell"


def answer(groups: Sequence[GroupRecord], residual: Residual) -> str:
    best = nearest(groups)
    if best is None:
        return f"Nothing can be said of the penalty: {NONE_PENALISED}."
    base = next((group for group in groups if group.group == best.baseline), None)
    said = [f"Of the settings with a penalty, “{best.group}” does best ({residual} residual stream)."]
    if best.ratio:
        said.append(
            f"On its worst block ({best.ratio.where}) one feature per neuron keeps {_words(best.ratio)} of what all "
            "features keep" + (f"; without the penalty {_words(base.ratio)}." if base else ".")
        )
    if best.cost:
        said.append(f"Φ(all) changes by {_words(best.cost)} where it loses most ({best.cost.where}).")
    if best.unexplained_ratio is not None:
        said.append(f"It leaves {best.unexplained_ratio:.2f} times as much variance unexplained.")
    frontier = next(its for its in claims(groups, residual) if its.id == "fidelity.frontier")
    meets = {"holds": "meets", "does not hold": "does not meet", "cannot tell": "may or may not meet"}
    others = sum(group.penalised for group in groups) > 1
    every = "; no other does either" if others and frontier.verdict == "does not hold" else ""
    said.append(
        f"It {meets[frontier.verdict]} the bar of Φ(only the largest) ≥ {KEEPS:g} Φ(all) at no more than {LOSES:g} of "
        f"Φ(all) and {WORSE:g} times the unexplained variance, on every block{every}."
    )
    if best.why:
        said.append(f"Not all is known: {best.why}.")
    return " ".join(said)


def _words(bounded: Bounded | None) -> str:
    return f"{bounded.value:.2f} ({bounded.low:.2f} to {bounded.high:.2f})" if bounded else "what is not defined"
