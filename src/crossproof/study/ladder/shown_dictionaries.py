"""Claims, tables and words of learned dictionaries on the ladder."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import fmean

from crossproof.findings import Cell, Claim, Table, Verdict
from crossproof.study.dictionaries import PLAIN
from crossproof.study.ladder.results import DictionaryRecord, SubjectRecord

FEW = 3
"""With fewer dictionaries with or without a penalty nothing is said of others."""
BY_CHANCE = 0.05


def claims(its: SubjectRecord) -> Iterator[Claim]:
    """One, if there are dictionaries that are trained alike but for a penalty."""
    alike = _trained_alike(its.dictionaries)
    if not alike:
        return
    losses = defaultdict[str, list[float]](list)
    for dictionary in alike:
        losses[dictionary.coder.penalty].append(math.inf if dictionary.loss is None else dictionary.loss)
    plain = losses.pop(PLAIN)
    penalty = min(losses, key=lambda name: fmean(losses[name]))
    best = losses[penalty]
    below = sum(loss < min(plain) for loss in best)
    chance = min(1.0, len(losses) / math.comb(len(best) + len(plain), len(plain)))
    verdict: Verdict = "cannot tell"
    if min(len(best), len(plain)) >= FEW:
        if below == len(best) and chance <= BY_CHANCE:
            verdict = "holds"
        elif min(min(each) for each in losses.values()) >= max(plain):
            verdict = "does not hold"
    yield Claim(
        id=f"ladder.dictionary.{its.subject}",
        claim="A dictionary with a penalty on interactions certifies more than one without.",
        paper="in principle; no bound was computed",
        measure=f"certified loss of dictionaries with a penalty ({penalty}), minus that without, nats",
        ours=fmean(best) - fmean(plain),
        low=min(best) - max(plain),
        high=max(best) - min(plain),
        verdict=verdict,
        why=f"Holds if there are at least {FEW} of each, or {FEW + 1} with two penalties to choose from, every one "
        "with the penalty is below every one without, and chance would do that in at most "
        f"{BY_CHANCE:g} of all cases; does not hold if there are as many and none with "
        f"any penalty is below any without. {below} of {len(best)} are below all {len(plain)} without; chance would do "
        f"that to all in {chance:.2g} of all cases, allowing for the choice of the penalty with the lowest mean of "
        f"{len(losses)}. The difference is one of means over seeds; its ends are the least and the largest between any "
        "two, no 95 % interval. Each bound is a proof; what differs is training.",
    )


def _trained_alike(dictionaries: list[DictionaryRecord]) -> list[DictionaryRecord]:
    """The most that are trained alike but for a penalty, if some have one and some have none."""
    groups = defaultdict[str, list[DictionaryRecord]](list)
    for its in dictionaries:
        if its.coder.seed is not None:
            groups[its.coder.otherwise].append(its)
    whole = [group for group in groups.values() if all(its.loss is not None for its in group)]
    both = [group for group in whole if {its.coder.penalty == PLAIN for its in group} == {True, False}]
    return max(both, key=len, default=[])


def answer(its: SubjectRecord) -> str:
    """What the best of them certifies, beside what is certified without any."""
    best = its.best_dictionary
    if best is None:
        return ""
    without = its.row(best.tokens).loss
    beside = "" if without is None else f", tokens as they are {without:.3f}"
    return f". In the directions of {best.name} {best.tokens} prove {best.loss:.3f} nats{beside}"


def tables(its: SubjectRecord) -> Iterator[Table]:
    if its.dictionaries:
        yield _certified(its)
    best = its.best_dictionary
    if best is not None and best.costs is not None and best.costs.pairs:
        costs = best.costs
        shown = sum(paid for *_, paid in costs.pairs)
        where = "all windows" if costs.drawn is None else f"{costs.drawn:,} windows drawn by what they cost"
        yield Table.of(
            f"Pairs of directions of {best.name} that cost the bound of {its.subject} most",
            [{"direction": a, "and": b, "nats": paid} for a, b, paid in costs.pairs],
            note=f"By {best.rung}; told apart in {where}. The pairs that cost most, and those that cost most of two "
            f"features: {shown:.3g} of the {costs.bound - costs.centre:.3g} nats between the bound and the loss if "
            f"nothing met at neurons that are not read out. {costs.left:.1%} of these is of pairs with what the "
            "dictionary leaves, to which the neurons' biases are counted.",
        )
        yield Table.of(
            f"Directions of {best.name}, and neurons, that cost the bound of {its.subject} most",
            [
                {"direction": name, "nats": paid, "neuron": number, "nats there": there}
                for (name, paid), (number, there) in zip(costs.features, costs.neurons, strict=False)
            ],
            note="Two lists side by side. A direction has half of every pair that it is in.",
        )


def _certified(its: SubjectRecord) -> Table:
    first = its.dictionaries[0]
    return Table.of(
        f"What learned dictionaries certify of {its.subject}",
        [_row(its, None, first.tokens), *(_row(its, each, each.rung) for each in its.dictionaries)],
        note=f"By {first.tokens}, and by uniform. Each token has so many of the directions; what they leave of all "
        "that tokens say is measured by squared length, and is in the proof all the same. What is left costs: the part "
        "that is of pairs with it, of what lies between the bound and the loss if nothing met.",
    )


def _row(its: SubjectRecord, dictionary: DictionaryRecord | None, rung: str) -> dict[str, Cell]:
    row, name = its.row(rung), None if dictionary is None else dictionary.name
    uniform = next(row.loss for row in its.proved if row.rung == "uniform" and row.dictionary == name)
    about: dict[str, Cell] = dict.fromkeys(("trained", "directions", "left", "most of"))
    paid: Cell = None
    if dictionary is not None:
        about = {
            "trained": dictionary.trained,
            "directions": f"{dictionary.slots} of {dictionary.features}",
            "left": f"{dictionary.unexplained:.2%}",
            "most of": f"{dictionary.worst} ({dictionary.worst_part:.1%})",
        }
        paid = None if dictionary.costs is None else f"{dictionary.costs.left:.1%}"
    return {
        "features": name or "tokens as they are",
        **about,
        "loss at most": row.loss,
        "over cached": row.total / its.cached,
        "what is left costs": paid,
        "by uniform": uniform,
    }
