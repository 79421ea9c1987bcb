"""Figures and tables of the fidelity study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from crossproof.findings import Cell, Figure, Series, Table
from crossproof.interaction.schemes import keeps
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import Estimate
from crossproof.study.extremes import Bounded
from crossproof.study.fidelity.config import Residual
from crossproof.study.fidelity.records import BlockRecord, GroupRecord, SchemeRecord

WORDS = {
    "all": "all features",
    "drop random": "without a random one",
    "drop second": "without the second",
    "drop largest": "without the largest",
    "keep 1": "only the largest",
}
"""As the paper's figures have them."""


def figures(schemes: Sequence[SchemeRecord], groups: Sequence[GroupRecord], judged: Residual) -> Iterator[Figure]:
    for residual in dict.fromkeys(row.residual for row in schemes):
        for mlp in dict.fromkeys(row.mlp for row in schemes if row.residual == residual):
            rows = [row for row in schemes if row.residual == residual and row.mlp == mlp]
            yield _bars(rows, residual, mlp)
            if len({row.scheme for row in rows if keeps(row.scheme)}) > 1:
                yield _curve(rows, residual, mlp)
    yield from _frontier(groups, judged)


def _bars(rows: Sequence[SchemeRecord], residual: Residual, mlp: str) -> Figure:
    shown = [row for row in rows if row.scheme in WORDS]
    series = []
    for group in dict.fromkeys(row.group for row in shown):
        its = {row.scheme: row.fidelity for row in shown if row.group == group}
        known = [scheme for scheme in WORDS if scheme in its]
        series.append(_series(group, tuple(WORDS[scheme] for scheme in known), [its[scheme] for scheme in known]))
    return Figure(
        id=f"schemes-{residual}-{mlp}",
        title=f"{mlp}: fidelity with some of the features, {residual} residual stream",
        kind="bars",
        x="what each neuron hears",
        y="Φ",
        series=tuple(series),
        note="1: nothing is lost; 0: as much as with no feature at all.",
    )


def _curve(rows: Sequence[SchemeRecord], residual: Residual, mlp: str) -> Figure:
    series = []
    for group in dict.fromkeys(row.group for row in rows):
        kept = sorted((q, row.fidelity) for row in rows if row.group == group and (q := keeps(row.scheme)))
        series.append(_series(group, tuple(float(q) for q, _ in kept), [its for _, its in kept]))
    return Figure(
        id=f"keep-{residual}-{mlp}",
        title=f"{mlp}: fidelity with the q largest contributions to each neuron, {residual} residual stream",
        kind="lines",
        x="q, contributions kept at each neuron",
        y="Φ",
        series=tuple(series),
        log_x=True,
    )


def _series(name: str, x: tuple[str, ...] | tuple[float, ...], found: Sequence[Estimate | None]) -> Series:
    return Series(
        name=name,
        x=x,
        y=tuple(its and its.value for its in found),
        low=tuple(its and its.low for its in found),
        high=tuple(its and its.high for its in found),
    )


def _frontier(groups: Sequence[GroupRecord], residual: Residual) -> Iterator[Figure]:
    known = [(group, group.cost, group.ratio) for group in groups if group.cost and group.ratio]
    if known:
        yield Figure(
            id="frontier",
            title="What one feature per neuron keeps, against what the penalty costs",
            kind="points",
            x="Φ(all) less that without the penalty, worst block",
            y="Φ(only the largest) / Φ(all), worst block",
            series=tuple(
                Series(
                    name=group.group,
                    x=(cost.value,),
                    y=(ratio.value,),
                    low=(ratio.low,),
                    high=(ratio.high,),
                    words=(f"{group.dictionaries} dictionaries, unexplained {_ratio(group.unexplained_ratio)}",),
                )
                for group, cost, ratio in known
            ),
            note=f"With the {residual} residual stream. The worst block of the one need not be that of the other.",
        )


def tables(
    schemes: Sequence[SchemeRecord],
    blocks: Sequence[BlockRecord],
    groups: Sequence[GroupRecord],
    coders: Sequence[CoderRecord],
    judged: Residual,
) -> Iterator[Table]:
    yield Table.of(
        f"Groups of dictionaries on their worst blocks, {judged} residual stream",
        [_group(group) for group in groups],
        "Gain, change and bar compare with the dictionaries trained alike without a penalty. Above the bar: how far "
        "the condition is that is met least.",
    )
    found = {(row.residual, row.group, row.mlp, row.scheme): row.fidelity for row in schemes}
    names = list(dict.fromkeys(row.scheme for row in schemes if row.scheme != "none"))
    for residual in dict.fromkeys(row.residual for row in blocks):
        rows = [
            _block(row, {scheme: found[residual, row.group, row.mlp, scheme] for scheme in names})
            for row in blocks
            if row.residual == residual
        ]
        yield Table.of(f"Φ by block, {residual} residual stream", rows, "In brackets 95 %.")
    yield Table.of(
        "Dictionaries",
        [
            {"crosscoder": its.coder, "trained": its.group, "seed": its.seed, "unexplained": its.unexplained}
            for its in coders
        ],
    )


def _block(row: BlockRecord, found: Mapping[str, Estimate | None]) -> dict[str, Cell]:
    stream: dict[str, Cell] = {} if row.residual == "true" else {"stream alone, nats": _text(row.stream)}
    return {
        "trained": row.group,
        "MLP": row.mlp,
        **{WORDS.get(scheme, scheme): _text(its) for scheme, its in found.items()},
        "only the largest / all": _text(row.ratio),
        "no feature, nats": _text(row.none),
        **stream,
        "not defined": row.why,
    }


def _group(group: GroupRecord) -> dict[str, Cell]:
    return {
        "trained": group.group,
        "dictionaries": group.dictionaries,
        "unexplained": group.unexplained,
        "over that without": _ratio(group.unexplained_ratio),
        "only the largest / all": _text(group.ratio),
        "gain": _text(group.gain),
        "change of Φ(all)": _text(group.cost),
        "above the bar": _text(group.slack),
        "not defined": group.why,
    }


def _text(number: Estimate | Bounded | None) -> str:
    return f"{number.value:.3f} ({number.low:.3f} to {number.high:.3f})" if number else "–"


def _ratio(number: float | None) -> str:
    return f"× {number:.2f}" if number is not None else "–"
