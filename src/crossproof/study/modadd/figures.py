"""The figures and tables of the study of modular addition."""

from __future__ import annotations

from collections.abc import Sequence

from crossproof.findings import Cell, Figure, Grid, Series, Table
from crossproof.study.modadd.claims import shown
from crossproof.study.modadd.measure import Feature
from crossproof.study.modadd.measures import MEASURES
from crossproof.study.modadd.network import EMBEDDING, LOGITS
from crossproof.study.modadd.results import Kind, ModaddStudy
from crossproof.study.modadd.spectra import DIRECTIONS

SHOWN = 20
"""How many features of a dictionary are in its table."""


def figures_of(found: ModaddStudy) -> tuple[Figure, ...]:
    claimed = found.kinds[:2]
    return (
        _frequencies(found),
        _tradeoff(found),
        *(_grid(found, kind) for kind in claimed),
        *(_example(found, claimed[-1], number) for number in range(len(claimed[-1].examples))),
    )


def tables_of(found: ModaddStudy) -> tuple[Table, ...]:
    return (
        _network(found),
        _dictionaries(found),
        _directions(found),
        _shuffles(found),
        *(_features(found, kind) for kind in found.kinds[:2]),
    )


def name_of(its: Feature, modulus: int) -> str:
    if not its.frequency:
        return "no frequency"
    return f"wave of {its.frequency}·2π/{modulus} along {its.direction}"


def _frequencies(found: ModaddStudy) -> Figure:
    """Shares of the variance of two stages beside shares of features."""
    stages = {stage.name: stage for stage in found.network.stages}
    ticks = tuple(str(k) for k in range(1, found.network.modulus // 2 + 1))
    lines = [Series(name=name, x=ticks, y=tuple(stages[name].frequencies)) for name in (EMBEDDING, LOGITS)]
    for kind in found.kinds[:2]:
        total = sum(kind.features) or 1.0
        words = tuple(f"{value:.1f} features" for value in kind.features)
        shares = tuple(value / total for value in kind.features)
        lines.append(Series(name=f"features, {kind.name}", x=ticks, y=shares, words=words))
    used = ", ".join(map(str, found.network.used))
    return Figure(
        id="frequencies",
        title="Which frequencies the network uses, and which the features follow",
        kind="bars",
        x="frequency k, of waves of k·2π/p",
        y="share",
        series=tuple(lines),
        note=f"Of the network: shares of variance over all pairs; its answer uses {used}. Of features: the share of "
        "those that follow each frequency, mean over dictionaries.",
    )


def _tradeoff(found: ModaddStudy) -> Figure:
    series = []
    for kind in found.kinds:
        across, up = kind.measures["unexplained"], kind.measures["share"]
        if across is None or up is None:
            continue
        series.append(
            Series(
                name=kind.name,
                x=tuple(across.each),
                y=tuple(up.each),
                words=tuple(f"{kind.name}, seed {seed}" for seed in kind.seeds),
            )
        )
    return Figure(
        id="tradeoff",
        title="Dominant share against what is left unexplained, with and without the penalty",
        kind="points",
        x=MEASURES["unexplained"].title,
        y="dominant share",
        series=tuple(series),
        note="A point is one dictionary, at the answers to held-out pairs. Up and to the left is better.",
    )


def _grid(found: ModaddStudy, kind: Kind) -> Figure:
    """Only of frequencies that two features have in some dictionary."""
    there = [k for k, row in enumerate(kind.grid) if row[k] is not None]
    names = tuple(str(k + 1) for k in there)
    return Figure(
        id=f"interaction-{kind.name.replace(' ', '-')}",
        title=f"Interaction between frequencies ({kind.name})",
        kind="grid",
        x="frequency of the other feature",
        y="frequency of the dominant feature",
        grid=Grid(
            rows=names,
            columns=names,
            values=tuple(tuple(kind.grid[row][column] for column in there) for row in there),
            measure="interaction over that if frequencies were dealt out at random",
        ),
        note="If only features of the same frequency interacted, all would be on the diagonal. Frequencies that no "
        "dictionary has twice are left out.",
    )


def _example(found: ModaddStudy, kind: Kind, number: int) -> Figure:
    its, picture, modulus = kind.first[number], kind.examples[number], found.network.modulus
    size = len(picture.values)
    ticks = tuple(str(round(modulus * place / size)) for place in range(size))
    return Figure(
        id=f"feature-{number + 1}",
        title=f"Feature {its.feature} ({kind.name}): {name_of(its, modulus)}, {_percent(its.pure)} pure",
        kind="grid",
        x=f"{max(1, its.frequency)}·b modulo {modulus}",
        y=f"{max(1, its.frequency)}·a modulo {modulus}",
        grid=Grid(
            rows=ticks,
            columns=ticks,
            values=tuple(map(tuple, picture.values)),
            measure="strength, mean over a block of pairs",
        ),
        note=f"Number {number + 1} by what it writes ({its.written:.1%} of all). In this order one period of its wave "
        "spans the picture: stripes along a diagonal are a wave of a + b or a − b.",
    )


def _network(found: ModaddStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "place": stage.name,
            **_along(stage.directions),
            "mixed": round(stage.rest, 3),
            "on the answer's frequencies": round(found.network.on_used(stage), 3),
        }
        for stage in found.network.stages
    ]
    return Table.of(
        "The network, stage by stage: shares of the variance over all pairs",
        rows,
        "The answer's frequencies are "
        + ", ".join(map(str, found.network.used))
        + ": those with more of the logits' waves than an even split would give.",
    )


def _dictionaries(found: ModaddStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {"measured at the answer": measure.title, **{kind.name: shown(kind.measures[key]) for kind in found.kinds}}
        for key, measure in MEASURES.items()
    ]
    return Table.of("With and without the penalty", rows, "Means over dictionaries, in brackets 95 % intervals.")


def _directions(found: ModaddStudy) -> Table:
    rows: list[dict[str, Cell]] = []
    for kind in found.kinds:
        for where, shares in (("everywhere", kind.directions), ("at the MLP's input", kind.directions_mlp)):
            mixed = round(max(0.0, 1 - sum(shares)), 3)
            rows.append({"trained": kind.name, "written": where, **_along(shares), "mixed": mixed})
    return Table.of("Along which directions features run: shares of what they write, over all pairs", rows)


def _shuffles(found: ModaddStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "trained": kind.name,
            "seed": its.seed,
            "share of the interaction in the same frequency": round(its.share, 4),
            "mean of random deals": None if its.expected is None else round(its.expected, 4),
            "97.5 % of deals are below": round(its.high, 4),
            "deals that reach the share": round(its.reached, 4),
        }
        for kind in found.kinds
        for its in kind.shuffled
    ]
    return Table.of("Interaction in the same frequency, and with frequencies dealt out at random", rows)


def _features(found: ModaddStudy, kind: Kind) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "feature": its.feature,
            "what it is": name_of(its, found.network.modulus),
            "pure": None if its.pure is None else round(its.pure, 3),
            "on this line": round(its.line, 3),
            **_along(its.directions),
            "frequencies, in effect": round(its.waves, 1),
            "active": round(its.active, 3),
            "written": round(its.written, 4),
            "written at the MLP's input": round(its.written_mlp, 4),
        }
        for its in kind.first[:SHOWN]
    ]
    if not rows:
        rows = [{"feature": None, "what it is": "no feature varies over the pairs"}]
    return Table.of(
        f"What features are: {kind.name}, seed {kind.seeds[0]}, those that write most",
        rows,
        "`pure`: what its frequency explains on held-out pairs, in all directions. The other columns are shares over "
        f"all pairs. {len(kind.first)} features vary over the pairs.",
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _along(shares: Sequence[float]) -> dict[str, Cell]:
    return {f"along {name}": round(share, 3) for name, share in zip(DIRECTIONS, shares, strict=True)}
