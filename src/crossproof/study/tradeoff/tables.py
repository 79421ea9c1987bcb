"""Tables of the trade-off, the published one among them."""

from __future__ import annotations

from crossproof.findings import Cell, Table
from crossproof.interaction.result_view import three_digits
from crossproof.study.estimates import Estimate
from crossproof.study.extremes import Bounded
from crossproof.study.tradeoff.measures import MEASURES
from crossproof.study.tradeoff.results import Comparison, Point, TradeoffStudy
from crossproof.study.tradeoff.settings import short

BETTER_HIGH = {"share": True, "others": False, "pairwise": False, "fidelity_ratio": True}
"""What settings are compared in at equal cost, and whether more of it is better."""

PUBLISHED = (
    (0, 0.305, 1962, 28.46),
    (10, 0.344, 2186, 28.96),
    (50, 0.405, 1956, 23.20),
    (100, 0.447, 1849, 18.71),
    (200, 0.516, 1769, 13.94),
    (500, 0.640, 2044, 5.39),
    (1000, 0.816, 2363, 1.09),
    (2000, 0.923, 2451, 0.25),
    (10000, 0.930, 4268, 0.04),
)
"""λ, dominant share, reconstruction loss, mean pairwise interaction in 1e-6: the paper's model, one seed."""


def tables_of(found: TradeoffStudy) -> list[Table]:
    tables = []
    for subject in found.subjects:
        for features in dict.fromkeys(its.features for its in found.points if its.subject == subject):
            where = f"{short(subject)}, {features:,} features"
            points = [its for its in found.points if (its.subject, its.features) == (subject, features)]
            tables += [
                Table.of(f"{where}: what dictionaries have", [_row(point) for point in points], note=_MEASURED),
                Table.of(f"{where}: Φ(all) / Φ(only the largest) of each MLP", [_mlp_row(point) for point in points]),
            ]
            tables += _at_equal_cost(found, subject, features, where)
    return tables


_MEASURED = (
    "Mean (95 %). λ is the weight; of a control it multiplies what was matched to the penalty's size. Mean pairwise "
    "interaction in 1e-6: (1/N) Σ_n w_n (Σ|p| − max|p|) over features × features, so it falls with the square of the "
    "size of the dictionary whatever the features do; over pairs of features that fire in the next column."
)


def _row(point: Point) -> dict[str, Cell]:
    def million(estimate: Estimate | None) -> str:
        if estimate is None:
            return "–"
        parts = estimate.value, estimate.low, estimate.high
        return shown(
            Estimate(**dict(zip(("value", "low", "high"), (1e6 * its for its in parts), strict=True)), each=[])
        )

    its = point.measures
    return {
        "setting": point.setting,
        "λ": point.weight,
        "seeds": len(point.seeds),
        "reconstruction": shown(its["reconstruction"]),
        "unexplained": shown(its["unexplained"]),
        "at MLP inputs": shown(its["unexplained_mlp"]),
        "L0": shown(its["l0"]),
        "dead": shown(its["dead"]),
        "dominant share": shown(its["share"]),
        "pairwise": million(its["pairwise"]),
        "pairwise, alive": million(its["pairwise_alive"]),
        "Σ|p|": shown(its["total"]),
        "Σ|p| − max|p|": shown(its["others"]),
        "Φ(all)": shown(its["fidelity"]),
        "Φ(largest)": shown(its["fidelity_largest"]),
        "their ratio": shown(its["fidelity_ratio"]),
        "worst MLP": shown(point.worst),
    }


def _mlp_row(point: Point) -> dict[str, Cell]:
    row: dict[str, Cell] = {"setting": point.setting, "λ": point.weight}
    return row | {mlp: f"{shown(its)} / {shown(point.fidelity_largest[mlp])}" for mlp, its in point.fidelity.items()}


def _at_equal_cost(found: TradeoffStudy, subject: str, features: int, where: str) -> list[Table]:
    here = [its for its in found.at_cost if (its.subject, its.features) == (subject, features)]
    rows: list[dict[str, Cell]] = [
        {
            "at": found.costs[its.cost].words,
            "setting": its.setting,
            "about λ": shown(its.weight),
            "seeds": len(its.seeds),
            "Σ|p| − max|p|": shown(its.measures["others"]),
            "Σ|p|": shown(its.measures["total"]),
            "dominant share": shown(its.measures["share"]),
            "Φ(all)": shown(its.measures["fidelity"]),
            "Φ(largest) / Φ(all)": shown(its.measures["fidelity_ratio"]),
        }
        for its in here
        if its.seeds
    ]
    pairs = [one for one in found.comparisons if (one.subject, one.features) == (subject, features)]
    differences: list[dict[str, Cell]] = [
        {
            "at": found.costs[one.cost].words,
            "penalty": one.setting,
            "control": one.control,
            "measure": MEASURES[one.measure].title,
            "penalty / control" if MEASURES[one.measure].ratio else "difference": shown(one.difference),
            "favours": favours(one),
            "seeds": len(one.seeds),
            "without": len(one.missing),
        }
        for one in pairs
        if one.measure in BETTER_HIGH and one.difference is not None
    ]
    never = sorted({f"{its.setting} ({found.costs[its.cost].words})" for its in here if not its.seeds})
    note = (
        f"Between weights, straight lines. Never reached: {', '.join(never)}." if never else "Straight lines between."
    )
    tables = [Table.of(f"{where}: settings at equal cost", rows, note=note)] if rows else []
    for ratio, title in ((True, "the penalty's over the control's"), (False, "the penalty's less the control's")):
        kept = [row for row in differences if ("penalty / control" in row) == ratio]
        if kept:
            tables.append(Table.of(f"{where}: at equal cost, {title}", kept, note="All but one are secondary."))
    return tables


def published() -> Table:
    return Table(
        title="Published: another model, one seed, the last training batch",
        columns=("λ", "dominant share", "reconstruction", "pairwise (1e-6)"),
        rows=PUBLISHED,
    )


def favours(its: Comparison) -> str:
    """Whom the whole interval favours."""
    assert its.difference is not None
    even = 1.0 if MEASURES[its.measure].ratio else 0.0
    if its.difference.low <= even <= its.difference.high:
        return "nobody"
    return "penalty" if (its.difference.low > even) == BETTER_HIGH[its.measure] else "control"


def shown(estimate: Estimate | Bounded | None) -> str:
    if estimate is None:
        return "–"
    value, low, high = (three_digits(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low}–{high})" if low != high else value
