"""The figures and tables of the study of the recursion."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from crossproof.findings import Figure, Series, Table
from crossproof.proof.recursion.ways import EACH_READ, EACH_READ_BETTER
from crossproof.study.recursion.records import GroupRecord, TermRecord, WayRecord

if TYPE_CHECKING:
    from crossproof.study.recursion.results import RecursionStudy

ROWS = 20
"""Of the tables of what costs most."""


def vacuous(way: WayRecord, guess: float) -> bool:
    return way.loss is None or way.loss.low > guess


def figure_of_ways(found: RecursionStudy) -> Figure:
    names = tuple(way.way for way in found.groups[0].ways)

    def series(group: GroupRecord) -> Series:
        losses = [way.loss for way in group.ways]
        return Series(
            name=group.group,
            x=names,
            y=tuple(its and its.value for its in losses),
            low=tuple(its and its.low for its in losses),
            high=tuple(its and its.high for its in losses),
            words=tuple(way.about for way in group.ways),
        )

    lines = (("the model's loss", found.truth), ("a guess, log V", found.guess))
    return Figure(
        id="ways",
        title="Certified loss, from the paper's way to reading the model itself",
        kind="points",
        x="",
        y="nat per token",
        log_y=True,
        series=(*map(series, found.groups), *(Series(name=n, x=names, y=(v,) * len(names)) for n, v in lines)),
        note="A way without a point has an infinite bound." if any(not w.loss for w in _ways(found)) else "",
    )


def _ways(found: RecursionStudy) -> list[WayRecord]:
    return [way for group in found.groups for way in group.ways]


def waterfall(group: GroupRecord, way: WayRecord) -> Figure:
    """Shares add up to the radius; beside them, by how much each term multiplies it."""
    kinds = ("reconstruction", "interaction")
    terms = [term for term in way.terms if term.share is not None]
    return Figure(
        id=f"waterfall-{way.way}-{group.group}".replace(" ", "-"),
        title=f"What each term adds to the radius at the end ({way.way}: {way.about}; {group.group})",
        kind="bars",
        x="",
        y="share of the radius at the end",
        log_y=True,
        series=tuple(
            Series(
                name=kind,
                x=tuple(_short(term.place) for term in terms),
                y=tuple(term.share or None if term.kind == kind else None for term in terms),
                words=tuple(f"{_number(term.size)} where it arises" for term in terms),
            )
            for kind in kinds
        ),
        note=f"They add up to {_number(way.radius)}.",
    )


def figure_of_sites(found: RecursionStudy) -> Figure:
    sites = found.groups[0].sites
    names = tuple(_short(site.site) for site in sites)
    groups = found.groups[:1] + [its for its in [found.best] if its is not None]
    series = [
        Series(
            name=f"{way.account} features, {group.group}" if way is EACH_READ else f"{way.account}, {group.group}",
            x=names,
            y=tuple(_over(site.claimed[way.name], site.true) for site in group.sites),
        )
        for group in groups
        for way in (EACH_READ, EACH_READ_BETTER)
        if len(group.sites) == len(sites)
    ]
    return Figure(
        id="sites",
        title="Each unit by itself: how far the model may be from the decoded point behind it, over how far it is",
        kind="points",
        x="",
        y="claimed over true",
        log_y=True,
        series=tuple(series),
        note="Before each unit the model is read, so that nothing is lost but in the unit.",
    )


def table_of_ways(found: RecursionStudy) -> Table:
    return Table.of(
        "What each way certifies",
        note="vacuous: no better than a guess; operations are those of a token, tables made once not among them",
        rows=[
            {
                "dictionaries": group.group,
                "way": way.way,
                "what it is": way.about,
                "certified loss": None if way.loss is None else way.loss.value,
                "says": "infinite" if way.loss is None else "vacuous" if vacuous(way, found.guess) else "something",
                "radius at the end": way.radius,
                "certainly right": way.right,
                "operations": way.operations,
            }
            for group in found.groups
            for way in group.ways
        ],
    )


def table_of_terms(group: GroupRecord, way: WayRecord) -> Table:
    def decades(term: TermRecord) -> float | None:
        if not term.without or not way.radius:
            return None
        return math.log10(way.radius / term.without)

    ranked = sorted(way.terms, key=lambda term: -(decades(term) or 0.0))
    return Table.of(
        f"Terms that cost most ({way.way}; {group.group})",
        note="decades: by how many powers of ten the radius at the end would be smaller without the term",
        rows=[
            {
                "place": term.place,
                "term": term.kind,
                "where it arises": term.size,
                "share of the radius": term.share,
                "decades": decades(term),
            }
            for term in ranked[:ROWS]
        ],
    )


def table_of_pairs(group: GroupRecord) -> Table:
    return Table.of(
        f"Pairs of features that cost most ({group.group})",
        note=f"of {group.pairs[0].coder}: a pair's part of its MLP's interaction term, times that term's share",
        rows=[
            {"MLP": pair.place, "dominant": pair.dominant, "other": pair.other, "share of the radius": pair.share}
            for pair in group.pairs
        ],
    )


def _over(claimed: float | None, true: float) -> float | None:
    return None if claimed is None or true <= 0 else claimed / true


def _number(value: float | None) -> str:
    return "infinity" if value is None else f"{value:.3g}"


def _short(site: str) -> str:
    return site.replace("blocks.", "").replace("hook_", "")
