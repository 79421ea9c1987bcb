"""The frontiers as figures: by setting, by size of dictionary, by model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crossproof.findings import Figure, Series
from crossproof.interaction.result_view import three_digits
from crossproof.study.dictionaries import PLAIN
from crossproof.study.estimates import Estimate
from crossproof.study.tradeoff.config import PRIMARY, SETTINGS
from crossproof.study.tradeoff.measures import MEASURES
from crossproof.study.tradeoff.results import Point, TradeoffStudy
from crossproof.study.tradeoff.settings import short

UNEXPLAINED = MEASURES["unexplained"].title
FRONTIERS = {
    "share": ("Dominant share", False),
    "pairwise": ("Mean pairwise interaction", True),
    "others": ("Σ|p| − max|p|", True),
    "fidelity_ratio": ("Φ(only the largest) / Φ(all)", False),
    "fidelity": ("Φ(all)", False),
}
"""Measure → what it is called, and whether its axis is logarithmic."""

Numbers = Callable[[Point], Mapping[str, Estimate | None]]


def figures_of(found: TradeoffStudy) -> tuple[Figure, ...]:
    figures = [its for subject in found.subjects for its in (*_pareto(found, subject), *_by_features(found, subject))]
    return (*figures, *(_by_model(found) if len(found.subjects) > 1 else ()))


def _pareto(found: TradeoffStudy, subject: str) -> list[Figure]:
    """One line for each setting."""
    lines = {setting: found.frontier(subject, setting) for setting in found.settings(subject)}
    lines = lines or {PLAIN: found.frontier(subject, PLAIN)}
    return [
        _figure(f"{measure}-{short(subject)}", f"{title} against what is unexplained, {short(subject)}", measure, lines)
        for measure, (title, _) in FRONTIERS.items()
    ]


def _by_features(found: TradeoffStudy, subject: str) -> list[Figure]:
    sizes = dict.fromkeys(its.features for its in found.points if its.subject == subject)
    if len(sizes) < 2:
        return []
    lines = {
        f"{setting}, {features:,} features": found.frontier(subject, setting, features)
        for features in sizes
        for setting in _main(found.settings(subject, features))
    }
    return [
        _figure(
            f"{measure}-features-{short(subject)}",
            f"{FRONTIERS[measure][0]} against what is unexplained, by size of the dictionary, {short(subject)}",
            measure,
            lines,
        )
        for measure in ("share", "others")
    ]


def _by_model(found: TradeoffStudy) -> list[Figure]:
    """Each against its own dictionaries without a penalty: models differ in what there is to explain."""
    lines = {
        f"{setting}, {short(subject)}": [its for its in found.frontier(subject, setting) if its.setting != PLAIN]
        for subject in found.subjects
        for setting in _main(found.settings(subject))
    }
    words = "over that without a penalty"
    axes = {"share": "dominant share less that without a penalty", "others": f"Σ|p| − max|p| {words}"}
    return [
        Figure(
            id=f"{measure}-models",
            title=f"{FRONTIERS[measure][0]} against what is unexplained, by model",
            kind="lines",
            x=f"unexplained variance {words}",
            y=y,
            series=_lines(lines, lambda its: its.against_plain, measure),
            log_y=FRONTIERS[measure][1],
        )
        for measure, y in axes.items()
    ]


def _main(settings: Sequence[str]) -> list[str]:
    """The primary setting and its control; whatever there is where neither is."""
    return [name for name in (PRIMARY, SETTINGS[PRIMARY].against[0]) if name in settings] or list(settings)


def _figure(id: str, title: str, measure: str, lines: dict[str, list[Point]]) -> Figure:
    return Figure(
        id=id,
        title=title,
        kind="lines",
        x=UNEXPLAINED,
        y=MEASURES[measure].title,
        series=_lines(lines, lambda its: its.measures, measure),
        log_y=FRONTIERS[measure][1],
        note="Each line begins without a penalty and goes on by weight. Up and to the left is better."
        if not FRONTIERS[measure][1]
        else "Each line begins without a penalty and goes on by weight. Down and to the left is better.",
    )


def _lines(lines: dict[str, list[Point]], numbers: Numbers, measure: str) -> tuple[Series, ...]:
    """Against what is unexplained, where that is known; without lines that have no point."""
    found = []
    for name, points in lines.items():
        there = [(its, across, numbers(its)[measure]) for its in points if (across := numbers(its)["unexplained"])]
        if there:
            found.append(
                Series(
                    name=name,
                    x=tuple(across.value for _, across, _ in there),
                    y=tuple(up.value if up else None for _, _, up in there),
                    low=tuple(up.low if up else None for _, _, up in there),
                    high=tuple(up.high if up else None for _, _, up in there),
                    words=tuple(_words(its, across) for its, across, _ in there),
                )
            )
    return tuple(found)


def _words(point: Point, across: Estimate) -> str:
    seeds = ", ".join(map(str, point.seeds))
    what = "no penalty" if point.setting == PLAIN else f"{point.setting} λ {point.weight:g}"
    interval = f"{three_digits(across.value)} ({three_digits(across.low)}–{three_digits(across.high)})"
    return f"{what}, {point.features:,} features, seeds {seeds}; x {interval}"
