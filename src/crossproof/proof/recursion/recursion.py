"""The recursion for some texts: what each way certifies, what each term costs, and which pairs of features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.progress import progress
from crossproof.proof.arithmetic.tally import Tally, part, tallied
from crossproof.proof.recursion.chain import Chain, Text
from crossproof.proof.recursion.pairs import Pairs
from crossproof.proof.recursion.walk import Walk, walk
from crossproof.proof.recursion.waterfall import TermCost, Waterfall
from crossproof.proof.recursion.ways import EACH, PAPER, WAYS, WITH_WATERFALL, Way
from crossproof.proof.units.around import Around
from crossproof.proof.units.loss import BoundedLoss
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

PAIRS = 50
ROUNDING = 1e-4
"""How far the model's own loss, in float32, may be from that of its weights."""


@dataclass(frozen=True)
class Certified:
    """What one way certifies: of every token whose prediction is scored, in order."""

    way: Way
    loss: Float64[Tensor, " item"]
    """Each token's loss is at most that, whatever was rounded. May be infinite."""
    right: Bool[Tensor, " item"]
    radius: Float64[Tensor, " token"]
    """At the end of the residual stream, in lengths of what the last norm divides by, of the positions that the
    crosscoder describes."""
    operations: dict[str, int]
    """By part; tables and norms of weights, which no token needs anew, are not among them."""
    terms: tuple[TermCost, ...] = ()

    @property
    def mean(self) -> float:
        return float(self.loss.mean())


@dataclass(frozen=True)
class Site:
    """Where the model was read, so that one unit is judged by itself: mean distances from the decoded point."""

    site: str
    true: float
    claimed: dict[str, float]
    """By way: at most how large it was said to be, from what was read at the sites before."""


@dataclass(frozen=True)
class PairCost:
    """What a pair adds to the radius at the end, the paper's way: its part of its MLP's share."""

    place: str
    dominant: int
    other: int
    share: float


@dataclass(frozen=True)
class Recursion:
    truth: Float64[Tensor, " item"]
    item_text: Int[Tensor, " item"]
    token_text: Int[Tensor, " token"]
    ways: dict[str, Certified]
    sites: tuple[Site, ...]
    pairs: tuple[PairCost, ...]
    """The most expensive first."""
    vocabulary: int


@dataclass
class _Gathered:
    loss: list[Tensor] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    radius: list[Tensor] = field(default_factory=list)
    operations: Tally = field(default_factory=Tally)
    waterfall: Waterfall = field(default_factory=Waterfall)
    claimed: dict[str, tuple[list[Tensor], list[Tensor]]] = field(default_factory=dict)


@torch.no_grad()
def recursion(subject: Subject, coder: Crosscoder, tokens: Tokens, ways: Sequence[Way] = WAYS) -> Recursion:
    """Bound the loss of a subject on these texts from what a crosscoder says of it."""
    chain, pairs = Chain.of(subject, coder), Pairs(coder.config.features)
    gathered = {way: _Gathered() for way in (*ways, *EACH)}
    truth, item_text, token_text = [], [], []
    with progress("recursion", len(tokens), "texts") as bar:
        for text in chain.texts(tokens):
            truth.append(text.losses[text.scored])
            item_text.append(torch.full((len(truth[-1]),), text.number))
            token_text.append(torch.full((int(text.keep.sum()),), text.number))
            for way, its in gathered.items():
                _bound(chain, text, way, its)
                _check(its.loss[-1], truth[-1], way)
            pairs.add(chain, text)
            bar(1)
    if not truth:
        raise CrossproofError(f"no tokens: none of the positions of these {len(tokens)} texts is kept")
    found = {way.name: _certified(way, gathered[way]) for way in ways}
    last = chain.steps[-1].bounded
    assert isinstance(last, BoundedLoss)
    return Recursion(
        torch.cat(truth), torch.cat(item_text), torch.cat(token_text), found,
        _sites(gathered), _ranked(pairs, found.get(PAPER.name)), len(last.U),
    )  # fmt: skip


def _bound(chain: Chain, text: Text, way: Way, its: _Gathered) -> None:
    with tallied() as tally:
        found = walk(chain, text, way)
        loss, right = _loss(chain, text, found)
    for name, operations in (tally.parts | {"decoding": text.decoding}).items():
        its.operations.add(name, operations)
    its.loss.append(loss)
    its.right.append(right)
    its.radius.append((found.radius.mid[0] / found.length.mid.reshape(-1))[text.keep])
    for site, (claimed, true) in found.claimed.items():
        lists = its.claimed.setdefault(site, ([], []))
        lists[0].append(claimed[text.keep])
        lists[1].append(true[text.keep])
    if way in WITH_WATERFALL:
        its.waterfall.add(chain, text, way, found.sizes)


def _loss(chain: Chain, text: Text, found: Walk) -> tuple[Tensor, Tensor]:
    last = chain.steps[-1].bounded
    assert isinstance(last, BoundedLoss)
    assert found.last is not None
    x, scored = found.last, text.scored
    centre = x.centre if len(x.centre.shape) == 2 else x.centre[0]
    with part("loss"):
        bound, right = last.around(Around(centre[scored], x.radius[0][scored]), text.targets[scored])
    return bound.mid, right


def _check(bound: Tensor, truth: Tensor, way: Way) -> None:
    """A bound below the truth would be a mistake of ours, and must not be reported as if it were none."""
    if not bool((truth <= bound + ROUNDING).all()):
        worst = float((truth - bound).max())
        raise CrossproofError(
            f"the way {way.name!r} bounds a token's loss {worst:.3g} nat below what it is: the proof is wrong. This is "
            "a defect of crossproof; please report it with the model and the crosscoder"
        )


def _certified(way: Way, its: _Gathered) -> Certified:
    return Certified(
        way, torch.cat(its.loss), torch.cat(its.right), torch.cat(its.radius), its.operations.parts,
        tuple(its.waterfall.costs()),
    )  # fmt: skip


def _sites(gathered: dict[Way, _Gathered]) -> tuple[Site, ...]:
    first = gathered[EACH[0]].claimed
    return tuple(
        Site(
            site,
            float(torch.cat(true).mean()),
            {way.name: float(torch.cat(gathered[way].claimed[site][0]).mean()) for way in EACH},
        )
        for site, (_, true) in first.items()
    )


def _ranked(pairs: Pairs, paper: Certified | None) -> tuple[PairCost, ...]:
    """Each MLP's share at the end, divided among its pairs as its own term is."""
    costs = []
    for cost in paper.terms if paper else ():
        features, sizes = pairs.of(cost.term.place)
        if cost.term.kind == "interaction" and len(sizes) and cost.share is not None:
            scaled = sizes[:PAIRS] / sizes.sum() * cost.share
            costs += [
                PairCost(cost.term.place, i, j, share)
                for (i, j), share in zip(features[:PAIRS].tolist(), scaled.tolist(), strict=True)
            ]
    return tuple(sorted(costs, key=lambda its: -its.share)[:PAIRS])
