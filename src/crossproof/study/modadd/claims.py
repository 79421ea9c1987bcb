"""The claims about modular addition, each with its number, its interval and the rule by which it is judged."""

from __future__ import annotations

from crossproof.findings import Claim, Verdict
from crossproof.interaction.result_view import three_digits
from crossproof.study.estimates import ENOUGH, Estimate
from crossproof.study.modadd.results import Kind, ModaddStudy
from crossproof.study.modadd.sharing import SHUFFLES, STRONGEST
from crossproof.study.verdicts import above, at_most

PAID, LOST = 1.1, 0.02
"""Little cost: at most so many times the unexplained variance, and Φ(all) at most so much lower."""
LESS, MOST = 0.02, 0.5
"""Still Fourier features: not purer by more than so much without the penalty, and by more than this part what sparse
waves are."""
OFTEN = 0.025
"""A share that so many random deals reach may be chance."""
_UNKNOWN = "Fig 10 has it on such a network; no numbers of it are known to us"


def claims_of(found: ModaddStudy) -> list[Claim]:
    penalised = found.kinds[1] if len(found.kinds) > 1 else None
    return [
        *([share(found, penalised)] if penalised else []),
        frequency(found),
        *([features(penalised)] if penalised else []),
    ]


def share(found: ModaddStudy, penalised: Kind) -> Claim:
    change, unexplained, lost = (penalised.against_first[key] for key in ("share", "unexplained", "fidelity"))
    at_input = penalised.against_first["unexplained_mlp"]
    parts = [above(change, 0.0), at_most(unexplained, PAID), above(lost, -LOST)]
    controls = [
        f"{kind.name} {shown(kind.against_first['share'])} at {shown(kind.against_first['unexplained'])} times"
        for kind in found.kinds[2:]
    ]
    beside = f" Beside it, share gained and unexplained variance: {'; '.join(controls)}." if controls else ""
    return Claim(
        id="modadd.share",
        claim="The penalty raises the dominant share at little cost on a network whose algorithm is known.",
        paper=_UNKNOWN,
        measure=f"dominant share with {penalised.name} less that without a penalty, at the answers to held-out pairs",
        **numbers(change),
        verdict=all_of(parts),
        why=f"Holds if whole intervals say: it rises, unexplained variance is at most {PAID:g} × that without a "
        f"penalty (here {shown(unexplained)}, at the MLP's input {shown(at_input)}), and Φ(all) at most {LOST:g} "
        f"lower (here {shown(lost)} less). Fails if one of the three surely is not so.{beside} {resampled(change)}",
    )


def frequency(found: ModaddStudy) -> Claim:
    plain = found.kinds[0]
    ratio = plain.measures["same_over_chance"]
    part, chance, meetings, per_meeting, top = (
        shown(plain.measures[key]) for key in ("same", "same_chance", "together", "same_over_meetings", "strongest")
    )
    by_chance = [its.seed for its in plain.shuffled if its.reached > OFTEN]
    verdict = above(ratio, 1.0)
    if verdict == "holds" and by_chance:
        verdict = "cannot tell"
    others = "; ".join(f"{kind.name} {shown(kind.measures['same_over_chance'])}" for kind in found.kinds[1:])
    return Claim(
        id="modadd.frequency",
        claim="Features that interact share a frequency, more than by chance: what the algorithm multiplies.",
        paper="–",
        measure="share of the interaction between features of the same frequency, over that if frequencies were dealt "
        f"out at random ({plain.name})",
        **numbers(ratio),
        verdict=verdict,
        why="Holds if the whole interval is above 1, and in every dictionary at most "
        f"{OFTEN:.1%} of {SHUFFLES:,} random deals reach the share ({len(by_chance)} of {len(plain.shuffled)} break "
        f"that). The share is {part}, by chance {chance}; of the {STRONGEST} strongest pairs {top}. Of all meetings of "
        f"two active features {meetings} are; interaction has {per_meeting} times as much."
        + (f" With the others, over chance: {others}." if others else "")
        + f" {resampled(ratio)}",
    )


def features(penalised: Kind) -> Claim:
    change, pure = penalised.against_first["pure"], penalised.measures["pure"]
    of_cut, above_chance = penalised.measures["pure_of_cut"], penalised.measures["pure_above_chance"]
    enough: Verdict = "cannot tell"
    if above(above_chance, MOST) == "holds":
        enough = "holds"
    elif above(of_cut, MOST) == "does not hold":
        enough = "does not hold"
    return Claim(
        id="modadd.features",
        claim="The penalised crosscoder's features are still Fourier features.",
        paper=_UNKNOWN,
        measure=f"purity with {penalised.name} less that without a penalty: what one frequency for each feature, found "
        "on training pairs, explains of all that features write at the answers to held-out pairs",
        **numbers(change),
        verdict=all_of([above(change, -LESS), enough]),
        why=f"Holds if the whole interval is above −{LESS:g}, and purity (here {shown(pure)}) surely more than "
        f"{MOST:g} of the way from chance (numbers in a random order: "
        f"{shown(penalised.measures['pure_chance'])}) to what waves cut off to be as rarely active would have (here "
        f"{shown(above_chance)} of the way). Fails if it is surely less pure than without a penalty by {LESS:g} or "
        f"more, or surely not even {MOST:g} of what these waves have, chance and all (here {shown(of_cut)}). "
        f"{resampled(change)}",
    )


# -- rules and words ---------------------------------------------------------------------------------------------------


def all_of(verdicts: list[Verdict]) -> Verdict:
    if "does not hold" in verdicts:
        return "does not hold"
    return "holds" if all(its == "holds" for its in verdicts) else "cannot tell"


def numbers(its: Estimate | None) -> dict[str, float | None]:
    if its is None:
        return {"ours": None, "low": None, "high": None}
    return {"ours": its.value, "low": its.low, "high": its.high}


def shown(its: Estimate | None) -> str:
    """`0.293 (0.281–0.302)`, without brackets where it is no estimate from pairs."""
    if its is None:
        return "–"
    ends = "" if its.low == its.high else f" ({three_digits(its.low)} to {three_digits(its.high)})"
    return three_digits(its.value) + ends


def resampled(its: Estimate | None) -> str:
    if its is None:
        return "There is no interval."
    each = ", ".join(three_digits(value) for value in its.each)
    if len(its.each) >= ENOUGH:
        return f"95 % over resampled pairs and dictionaries; each of {len(its.each)}: {each}."
    what = "one dictionary" if len(its.each) == 1 else f"{len(its.each)} dictionaries"
    return f"95 % over resampled pairs, {what} held fixed: it says nothing of others that are trained alike ({each})."
