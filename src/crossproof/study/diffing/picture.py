"""Tables and figures of model diffing."""

from __future__ import annotations

from crossproof.findings import Cell, Figure, Series, Table
from crossproof.interaction.result_view import three_digits
from crossproof.study.diffing.features import KINDS
from crossproof.study.diffing.results import DiffingStudy, FiringRecord, GroupRecord
from crossproof.study.diffing.stages import MODEL_STEPS, TEXT_STEPS
from crossproof.study.estimates import Estimate

# -- tables ------------------------------------------------------------------------------------------------------------


def tables(found: DiffingStudy) -> list[Table]:
    kinds: list[dict[str, Cell]] = [
        {
            "kind": kind,
            "live features": ", ".join(str(each.kinds[kind]) for each in found.comparisons),
            "at tag and answer": share(firing.at_trigger) if (firing := firing_of(found, kind)) else "–",
        }
        for kind in KINDS
    ]
    shown = [
        Table.of("features by kind", kinds, note="one number for each crosscoder; of their firing, the share there")
    ]
    most = sorted(found.features, key=lambda each: each.cosine)[: found.top]
    if most:
        shown.append(
            Table.of(
                "features that change most",
                [
                    {
                        "feature": each.feature,
                        "kind": each.kind,
                        "ratio": each.ratio,
                        "cosine": each.cosine,
                        "fires on": each.words,
                        **{f"at {place}": part for place, part in (each.places or {}).items()},
                    }
                    for each in most
                ],
            )
        )
    shown.append(
        Table.of(
            "how interactions change",
            [
                {
                    "metric": each.metric,
                    "features": each.group,
                    "share of interaction": share(each.share_of_interaction),
                    "share of change": share(each.share_of_change),
                    "change": share(each.change),
                    "null": share(each.null),
                    "by MLPs alone": share(each.by_weights),
                    "by directions alone": share(each.by_directions),
                    "between halves": percent(each.noise),
                }
                for each in found.groups
            ],
            note="changes relative to the interaction of the group",
        )
    )
    if found.pairs:
        rows: list[dict[str, Cell]] = [
            {
                "pair": f"{each.i} → {each.j}",
                "first fires on": each.words_i,
                "second fires on": each.words_j,
                found.base: each.base,
                found.tuned: each.tuned,
                "change": interval(each.change),
                "by MLPs alone": each.by_weights,
                "by directions alone": each.by_directions,
                "between halves": each.noise,
            }
            for each in found.pairs
        ]
        shown.append(Table.of("unchanged features whose interaction changes most", rows, note="directed, per token"))
    if found.partners:
        partners: list[dict[str, Cell]] = [
            {
                "feature": each.feature,
                "kind": each.kind,
                "fires on": each.words,
                f"in {found.tuned}": each.tuned,
                f"in {found.base}": each.base,
            }
            for each in found.partners
        ]
        shown.append(Table.of("features that interact most with changed ones", partners))
    if found.stages is not None and found.stages.features:
        turned: list[dict[str, Cell]] = [
            {
                "feature": each.feature,
                **{stage: each.turns[stage] for stage in (*MODEL_STEPS, *TEXT_STEPS, "same")},
                "turned": "yes" if each.turned else "no",
                "at tag and answer": each.at_trigger,
                "fires on": each.words,
            }
            for each in found.stages.features[: found.top]
        ]
        note = "cosines of the directions before and after a stage; model: before the texts, data-model: after them"
        shown.append(Table.of("features that the model's change turns most, in both orders", turned, note))
    return shown


# -- figures -----------------------------------------------------------------------------------------------------------


def figures(found: DiffingStudy) -> list[Figure]:
    made = [_histogram(found), _rotation(found), _changes(found)]
    if found.stages is not None:
        made.append(_stages(found))
    return made


BINS = 40


def _histogram(found: DiffingStudy) -> Figure:
    places = tuple((bin_ + 0.5) / BINS for bin_ in range(BINS))

    def counts(ratios: list[float]) -> tuple[float, ...]:
        which = [min(int(ratio * BINS), BINS - 1) for ratio in ratios]
        return tuple(which.count(bin_) / max(1, len(ratios)) for bin_ in range(BINS))

    ratios = {f"{found.base} and {found.tuned}": [each.ratio for each in found.features]}
    ratios |= {f"{found.base} and {found.null}": found.null_ratios}
    return Figure(
        id="ratio",
        title="How much of a feature's norm is in the tuned model",
        kind="lines",
        x="‖d tuned‖ / (‖d base‖ + ‖d tuned‖)",
        y="share of live features",
        series=tuple(Series(name=name, x=places, y=counts(each)) for name, each in ratios.items()),
    )


def _rotation(found: DiffingStudy) -> Figure:
    series = []
    for kind in KINDS:
        its = [each for each in found.features if each.kind == kind]
        if its:
            series.append(
                Series(
                    name=kind,
                    x=tuple(each.ratio for each in its),
                    y=tuple(each.cosine for each in its),
                    words=tuple(f"{each.feature}: {each.words}" for each in its),
                )
            )
    return Figure(
        id="rotation",
        title="Features by norm ratio and by the cosine of their directions in the two models",
        kind="points",
        x="norm ratio",
        y="cosine",
        series=tuple(series),
    )


def _changes(found: DiffingStudy) -> Figure:
    """How much a pair's features turned, against how much its interaction changed."""
    its = found.sampled_pairs
    return Figure(
        id="interactions",
        title="Interactions change with their features, and without",
        kind="points",
        x="1 − the lower cosine of the two features",
        y="change of the interaction, over its mean in the two models",
        log_x=True,
        series=(
            Series(
                name="pairs",
                x=tuple(each.turn for each in its),
                y=tuple(each.change for each in its),
                words=tuple(f"{each.i} → {each.j}" for each in its),
            ),
        ),
        note="the pairs that interact most in the base; 2 is an interaction that one model does not have",
    )


def _stages(found: DiffingStudy) -> Figure:
    assert found.stages is not None
    its = found.stages.features
    return Figure(
        id="stages",
        title="The same features turn when the model changes, before the texts and after them",
        kind="points",
        x="cosine when the model changes first",
        y="cosine when the model changes after the texts",
        series=tuple(
            Series(
                name="turned" if turned else "others",
                x=tuple(each.turns[MODEL_STEPS[0]] for each in those),
                y=tuple(each.turns[MODEL_STEPS[1]] for each in those),
                words=tuple(f"{each.feature}: {each.words}" for each in those),
            )
            for turned in (True, False)
            if (those := [each for each in its if each.turned is turned])
        ),
    )


# -- numbers as words --------------------------------------------------------------------------------------------------


def firing_of(found: DiffingStudy, kind: str) -> FiringRecord | None:
    return next((each for each in found.firing if each.kind == kind), None)


def group_of(found: DiffingStudy, group: str) -> GroupRecord:
    return next(each for each in found.groups if (each.metric, each.group) == ("directed", group))


def share(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{percent(estimate.value)} ({percent(estimate.low)} to {percent(estimate.high)})"


def interval(estimate: Estimate) -> str:
    value, low, high = (three_digits(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low} to {high})"


def percent(number: float | None) -> str:
    return "–" if number is None else f"{number:.1%}"


def number_or_dash(number: float | None) -> str:
    return "–" if number is None else f"{number:.2f}"
