"""`results.json` of the study of the recursion. What is not finite is None: a bound may be infinite, and says so."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.proof.recursion.recursion import Recursion
from crossproof.proof.recursion.ways import PAPER, Way
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import ENOUGH, Drawn, Estimate, by_text, combine, drawn, estimate, mean


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class TermRecord(_Record):
    """What one term of a way costs, as proof/recursion/waterfall.py defines it; means over tokens and coders."""

    place: str
    kind: str
    size: float | None
    share: float | None
    without: float | None


class WayRecord(_Record):
    """What one way certifies with dictionaries that were trained alike."""

    way: str
    about: str
    loss: Estimate | None
    """The mean of the tokens' bounds; None where it is infinite."""
    radius: float | None
    """At the end of the residual stream, in lengths of what the last norm divides by."""
    right: float
    """The share of tokens whose prediction is certainly right."""
    operations: float
    """Per token."""
    terms: list[TermRecord]


class SiteRecord(_Record):
    """A unit by itself: how far the model is from the decoded point behind it, and how far it is said to be."""

    site: str
    true: float
    claimed: dict[str, float | None]


class PairRecord(_Record):
    """A directed pair of features at an MLP and its part of the radius at the end."""

    coder: str
    place: str
    dominant: int
    other: int
    share: float


class GroupRecord(_Record):
    """Dictionaries trained alike, but for their seeds."""

    group: str
    baseline: str
    ways: list[WayRecord]
    sites: list[SiteRecord]
    pairs: list[PairRecord]
    """Of the first of them, the most expensive first."""
    paper_ratio: Estimate | None
    """The paper's bound over that of the dictionaries trained alike without a penalty."""

    def way(self, way: Way) -> WayRecord:
        return next(its for its in self.ways if its.way == way.name)


def group_of(
    name: str,
    baseline: str,
    members: Sequence[tuple[CoderRecord, Recursion]],
    alike: Sequence[Recursion],
    weights: Tensor,
    seed: int,
    top: int,
    chosen_from: int,
) -> GroupRecord:
    found = [its for _, its in members]

    def losses(its: Recursion, way: str) -> Drawn:
        texts = weights.shape[1]
        one = torch.ones_like(its.truth)
        return drawn(by_text(its.ways[way].loss, its.item_text, texts), by_text(one, its.item_text, texts), weights)

    def over(draws: list[Drawn]) -> Estimate | None:
        if not all(math.isfinite(its.value) and bool(its.draws.isfinite().all()) for its in draws):
            return None
        return estimate(draws, seed if len(draws) >= ENOUGH else None)

    def ratio() -> Estimate | None:
        if not alike:
            return None
        parts = [mean([losses(its, PAPER.name) for its in some]) for some in (found, alike)]
        its = combine(torch.div, *parts)
        return estimate([its], chosen_from=chosen_from) if bool(its.draws.isfinite().all()) else None

    ways = []
    for way, its in found[0].ways.items():
        each = [one.ways[way] for one in found]
        ways.append(
            WayRecord(
                way=way,
                about=its.way.about,
                loss=over([losses(one, way) for one in found]),
                radius=_mean(float(one.radius.mean()) for one in each),
                right=_mean(float(one.right.double().mean()) for one in each) or 0.0,
                operations=_mean(sum(one.operations.values()) / len(one.radius) for one in each) or 0.0,
                terms=_terms(found, way),
            )
        )
    return GroupRecord(
        group=name,
        baseline=baseline,
        ways=ways,
        sites=_sites(found),
        pairs=[
            PairRecord(coder=members[0][0].coder, place=p.place, dominant=p.dominant, other=p.other, share=p.share)
            for p in found[0].pairs[:top]
            if math.isfinite(p.share)
        ],
        paper_ratio=ratio(),
    )


def _terms(found: Sequence[Recursion], way: str) -> list[TermRecord]:
    by_term = [{cost.term: cost for cost in its.ways[way].terms} for its in found]
    records = []
    for term in by_term[0]:
        costs = [its[term] for its in by_term if term in its]
        shares = [cost.share for cost in costs if cost.share is not None]
        records.append(
            TermRecord(
                place=term.place,
                kind=term.kind,
                size=_mean(cost.size for cost in costs),
                share=_mean(shares) if shares else None,
                without=_mean(cost.without for cost in costs),
            )
        )
    return records


def _sites(found: Sequence[Recursion]) -> list[SiteRecord]:
    return [
        SiteRecord(
            site=site.site,
            true=_mean(its.sites[number].true for its in found) or 0.0,
            claimed={way: _mean(its.sites[number].claimed[way] for its in found) for way in site.claimed},
        )
        for number, site in enumerate(found[0].sites)
    ]


def _mean(values: Iterable[float]) -> float | None:
    """None if it is not finite."""
    each = list(values)
    value = sum(each) / len(each)
    return value if math.isfinite(value) else None
