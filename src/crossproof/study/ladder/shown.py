"""Claims, figures, tables and words of the ladder."""

from __future__ import annotations

from collections.abc import Iterator

from crossproof.findings import Cell, Claim, Figure, Series, Table
from crossproof.study.ladder import shown_dictionaries
from crossproof.study.ladder.results import LadderStudy, Proved, SubjectRecord, WaterfallRecord

WORTH = 1.0
"""Nats below the unigram entropy: what a bound must reach to be worth something."""


def claims(found: LadderStudy) -> Iterator[Claim]:
    for its in found.subjects:
        loss, line = its.certified.loss, its.lines.uniform
        proved = its.checked.accepted and loss is not None and loss < line
        yield Claim(
            id=f"ladder.bound.{its.subject}",
            claim=f"A bound on the loss of {its.subject} that is not vacuous can be proved from features.",
            paper="in principle; no bound was computed",
            measure="certified mean loss, nats",
            ours=loss,
            low=loss,
            high=loss,
            verdict="holds" if proved else "does not hold",
            why=f"Holds if the independent checker accepts the certificate and the bound is below {line:.3f}, the loss "
            "of a model that says all tokens are as likely. It is a proof and no estimate, so the interval is a point.",
        )
        share = its.certified.total / its.cached
        yield Claim(
            id=f"ladder.compact.{its.subject}",
            claim=f"And for less than it takes to run {its.subject} on everything.",
            paper="in principle; no operations were counted",
            measure="operations over those of brute force from tables",
            ours=share,
            low=share,
            high=share,
            verdict="holds" if proved and share < 1 else "does not hold",
            why="Holds if that bound does, and takes fewer operations than the cleverest brute force.",
        )
        yield from shown_dictionaries.claims(its)


def answer(found: LadderStudy) -> str:
    said = []
    for its in found.subjects:
        row = its.certified
        loss = "no number" if row.loss is None else f"{row.loss:.3f} nats"
        below = ""
        if row.loss is not None:
            away = its.lines.unigram - row.loss
            below = f", {abs(away):.2f} {'below' if away >= 0 else 'above'} the unigram entropy"
        verdict = "accepted" if its.checked.accepted else "REFUSED"
        said.append(
            f"{its.subject} (true loss {its.truth:.3f}): {loss} proved by {row.name}{below}, at "
            f"{row.total / its.cached:.2f} of brute force from tables and {row.total / its.naive:.3f} of naive brute "
            f"force; at least {row.right / its.windows:.1%} of {its.windows:,} windows predicted rightly (truly "
            f"{its.right / its.windows:.1%}). The checker {verdict} the certificate in {its.checked.seconds:.0f} s"
            + (" (vacuous)" if row.loss is not None and row.loss >= its.lines.uniform else "")
            + shown_dictionaries.answer(its)
        )
    return ". ".join(said) + "."


def figures(found: LadderStudy) -> Iterator[Figure]:
    if len(found.subjects) > 1:
        yield _members(found)
    for its in found.subjects:
        yield _ladder(its)
        if its.waterfall is not None:
            yield _waterfall(its.subject, its.waterfall)


def _members(found: LadderStudy) -> Figure:
    """Along a sweep of training weights, the loss that a model pays and the bound that it gets for it."""
    names = tuple(its.subject for its in found.subjects)
    return Figure(
        id="members",
        title="What each model loses, and what is certified of it",
        kind="points",
        x="model",
        y="nats",
        series=(
            Series(name="true loss", x=names, y=tuple(its.truth for its in found.subjects)),
            Series(
                name="certified",
                x=names,
                y=tuple(its.certified.loss for its in found.subjects),
                words=tuple(
                    f"{its.certified.name}, {its.certified.total / its.cached:.2f} of brute force"
                    for its in found.subjects
                ),
            ),
        ),
        log_y=True,
    )


def _ladder(its: SubjectRecord) -> Figure:
    shown = [row for row in its.proved if row.loss is not None]
    reach = [float(min(row.total for row in shown)), float(max(its.naive, *(row.total for row in shown)))]
    lines = {
        "truth": its.truth,
        "all tokens as likely": its.lines.uniform,
        "unigram entropy": its.lines.unigram,
        "best sum over tokens at positions": its.lines.additive,
    }
    sampled = [(row.total, its.lines.sampled.get(row.name)) for row in shown]
    series = [
        *(
            Series(name=rung, x=tuple(float(row.total) for row in rows), y=tuple(row.loss for row in rows),
                   words=tuple(row.name for row in rows))
            for rung, rows in _by_series(shown).items()
        ),
        Series(name="brute force, naive", x=(float(its.naive),), y=(its.truth,)),
        *(Series(name=name, x=tuple(reach), y=(level,) * 2) for name, level in lines.items() if level is not None),
        *_fractions(its),
    ]  # fmt: skip
    if any(level is not None for _, level in sampled):
        series.append(
            Series(
                name="sampling, 95 % (not a proof)",
                x=tuple(float(total) for total, _ in sampled),
                y=tuple(level for _, level in sampled),
            )
        )
    return Figure(
        id=f"ladder-{its.subject}",
        title=f"What is proved of {its.subject}, against what it takes",
        kind="lines",
        x="operations",
        y="mean loss is at most, nats",
        series=tuple(series),
        log_x=True,
        log_y=True,
    )


def _fractions(its: SubjectRecord) -> Iterator[Series]:
    """Run the model on a part of the windows, and take the largest possible loss for the others."""
    if its.lines.largest is not None:
        parts = [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0]
        largest = its.lines.largest
        yield Series(
            name="run on a part, worst case on the rest",
            x=tuple(part * its.cached for part in parts),
            y=tuple(part * its.truth + (1 - part) * largest for part in parts),
        )


def _by_series(rows: list[Proved]) -> dict[str, list[Proved]]:
    """By rung, and all rungs in the directions of one dictionary together."""
    found: dict[str, list[Proved]] = {}
    for row in sorted(rows, key=lambda row: row.total):
        rung = row.rung + (" with offsets" if ", offsets" in row.name else "")
        name = rung if row.dictionary is None else f"directions of {row.dictionary}"
        found.setdefault(name, []).append(row)
    return found


def _waterfall(subject: str, its: WaterfallRecord) -> Figure:
    steps = [("features alone", its.centre - its.truth)]
    paid = sorted(its.families, key=lambda family: -family[2])
    steps += [(f"{a} with {b}", cost) for a, b, cost in paid[:8]]
    steps.append(("other pairs", sum(cost for _, _, cost in paid[8:])))
    return Figure(
        id=f"waterfall-{subject}",
        title=f"From the true loss of {subject}, {its.truth:.3f}, to the bound, {its.bound:.3f}, term by term",
        kind="bars",
        x="term",
        y="nats",
        series=(Series(name="adds", x=tuple(name for name, _ in steps), y=tuple(cost for _, cost in steps)),),
        note=f"By the rung {its.rung}. The bars add up to the bound less the true loss; the first is what the loss "
        "would rise or fall by if no feature met another at any neuron.",
    )


def tables(found: LadderStudy) -> Iterator[Table]:
    for its in found.subjects:
        yield Table.of(f"Proved of {its.subject}", [_row(its, row) for row in its.proved])
        if its.waterfall is not None and its.waterfall.pairs:
            yield Table.of(
                f"Pairs of features that cost the bound of {its.subject} most",
                [{"feature": a, "with": b, "nats": cost} for a, b, cost in its.waterfall.pairs],
                note="What the explanation does not explain: a feature that names such a pair would prove more.",
            )
        yield from shown_dictionaries.tables(its)


def _row(its: SubjectRecord, row: Proved) -> dict[str, Cell]:
    return {
        "rung": row.name,
        "loss at most": row.loss,
        "above the truth": None if row.loss is None else row.loss - its.truth,
        "right at least": f"{row.right / its.windows:.1%}",
        "operations": f"{row.total:.2e}",
        "over cached": row.total / its.cached,
        "over naive": row.total / its.naive,
        "tables": f"{sum(count for part, count in row.operations.items() if part in ('features', 'pairs')):.1e}",
    }
