"""One text through the chain: a point and how far the model's is from it, site by site.

What adds to the distance are *terms*, each with a place and a kind:

    reconstruction  at a site: how far what was computed is from the decoded point, where it goes on
    interaction     at an MLP: what its neurons miss that hear features one by one
    growth          at a unit: what it makes of the distance that enters it

A walk may go through several *cases* at once, in each of which some terms are taken to be nothing; the case in which
none is gives the bound. Positions that the crosscoder does not describe are run as the model is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.recursion.chain import Chain, Text
from crossproof.proof.recursion.ways import Way
from crossproof.proof.units.around import Around, distance, length, smallest
from crossproof.proof.units.attention import BoundedAttention
from crossproof.proof.units.mlp import BoundedMLP
from crossproof.proof.units.norms import BoundedNorm

TermKind = Literal["reconstruction", "interaction", "growth"]


class Term(NamedTuple):
    place: str
    kind: TermKind


Switch = Callable[[Term], Bool[Tensor, "case 1"]]
"""In which cases a term counts."""


@dataclass
class Walk:
    """What came of it."""

    radius: Ball = field(default_factory=lambda: Ball(torch.zeros(1, 1)))
    """At the end of the residual stream, [case, pos]."""
    length: Ball = field(default_factory=lambda: Ball(torch.zeros(1)))
    """Of the point it is around, [pos]: what the last norm divides by."""
    last: Around | None = None
    """What the unembedding reads."""
    sizes: dict[Term, Float64[Tensor, " pos"]] = field(default_factory=dict)
    """In order, what each term added where it arose; of the first case."""
    claimed: dict[str, tuple[Float64[Tensor, " pos"], Float64[Tensor, " pos"]]] = field(default_factory=dict)
    """At each site where the model was read: how far it was said to be from the decoded point at most, and how far it
    is."""


def everything(term: Term) -> Bool[Tensor, "case 1"]:
    """The bound itself."""
    return torch.ones(1, 1, dtype=torch.bool)


def walk(chain: Chain, text: Text, way: Way, counts: Switch = everything) -> Walk:
    return _Walker(chain, text, way, counts).walk()


class _Walker:
    def __init__(self, chain: Chain, text: Text, way: Way, counts: Switch) -> None:
        self.chain, self.text, self.way, self.counts, self.found = chain, text, way, counts, Walk()
        self.sites: dict[str, Around] = {}
        self.last_site = list(chain.described)[-1]

    def walk(self) -> Walk:
        with part("start"):
            self.stream = self._begin()
        for number, step in enumerate(self.chain.steps):
            unit, bounded = step.unit, step.bounded
            if unit.input_site not in self.sites:
                with part("sites"):
                    self.sites[unit.input_site] = self.stream = self._arrived(unit.input_site, self.stream)
            x = self.sites[unit.input_site]
            place = unit.output_site
            if isinstance(bounded, BoundedNorm):
                self._leaves(x, bounded.scale(x.centre).upper())
                with part("norms"):
                    last = number == len(self.chain.steps) - 2
                    self.sites[place] = self._normed(place, bounded, self._entering(x, place), last)
            elif isinstance(bounded, BoundedAttention):
                with part("attention"):
                    self.stream = self.stream + self._attended(number, place, bounded, x)
            elif isinstance(bounded, BoundedMLP):
                with part("MLPs"):
                    self.stream = self.stream + self._mlp(number, place, unit.input_site, bounded, x)
            else:
                self.found.last = x
                if unit.input_site not in self.chain.written:
                    self._leaves(x, length(x.centre))
        return self.found

    def _begin(self) -> Around:
        own = self.text.own[self.chain.start]
        radius = Ball(torch.zeros(1, len(own), dtype=torch.float64))
        here = Around(own, radius)
        return here if self.way.decoded else self._recentred(self.chain.start, [here])

    def _leaves(self, x: Around, size: Ball) -> None:
        """Perhaps the stream ends here."""
        self.found.radius, self.found.length = x.radius, size

    # Sites

    def _arrived(self, site: str, x: Around) -> Around:
        return self._described(site, [x])

    def _described(self, site: str, ways: list[Around]) -> Around:
        """Where the crosscoder describes the site: around its decoded point there."""
        if site not in self.text.decoded or not self.way.decoded:
            return ways[-1]
        return self._recentred(site, ways)

    def _recentred(self, site: str, ways: list[Around]) -> Around:
        """Of several accounts of the same point the one that is nearest. The last is taken where nothing is decoded."""
        keep, term = self.text.keep, Term(site, "reconstruction")
        decoded = self._spread(self.text.decoded[site])
        away = [distance(x.centre, decoded).only(keep) for x in ways]
        radii = [(x.radius.only(keep) + self._switched(term, d)).upper() for x, d in zip(ways, away, strict=True)]
        radius = smallest(*radii) if len(radii) > 1 else radii[0]
        self._note(term, away[-1])
        if self._reads(site):
            true = distance(self.text.own[site], decoded).only(keep)
            self.found.claimed[site] = radius.mid[0], true.mid
            radius = self._switched(term, true) + Ball(torch.zeros_like(radius.mid))
        radius = Ball(torch.where(keep, radius.upper().mid, ways[-1].radius.mid))
        return Around(Ball(torch.where(keep[:, None], decoded.mid, ways[-1].centre.mid)), radius)

    def _reads(self, site: str) -> bool:
        return self.way.read == "everywhere" or (self.way.read == "last" and site == self.last_site)

    def _spread(self, rows: Ball) -> Ball:
        """Of kept positions, at all positions: nothing at the others."""
        keep = self.text.keep

        def spread(x: Tensor) -> Tensor:
            return x.new_zeros(len(keep), x.shape[1]).index_copy(0, keep.nonzero().squeeze(1), x)

        return rows._each(spread)

    # Units

    def _normed(self, place: str, norm: BoundedNorm, x: Around, last: bool) -> Around:
        if self.way.norms == "lipschitz":
            ways = [norm.lipschitz(x)]
        elif last and place not in self.text.decoded:
            ways = [norm.around(x)]  # nothing but the unembedding comes after it, which takes any centre
        else:
            ways = [norm.around(x), norm.about(x)]
        self._note(Term(place, "growth"), ways[-1].radius)
        return self._described(place, ways)

    def _attended(self, number: int, place: str, attention: BoundedAttention, x: Around) -> Around:
        described = self.way.decoded and self.chain.steps[number].unit.input_site in self.text.decoded
        key = (number,) if described else (number, self.way)
        at = self.text.once(key, lambda: attention.at(x.centre))
        grown = at.carry(self._entering(x, place).radius)
        self._note(Term(place, "growth"), grown)
        return Around.of(at.output, grown)

    def _mlp(self, number: int, place: str, site: str, mlp: BoundedMLP, x: Around) -> Around:
        grown = mlp.carry(self._entering(x, place).radius)
        self._note(Term(place, "growth"), grown)
        keep, way = self.text.keep, self.way
        if not way.decoded or site not in self.text.decoded:
            return Around.of(mlp.run(x.centre), grown)
        key = (number, way.account, way.by_norms)
        features, strengths = self.text.features, self.text.strengths
        written = self.text.once(key, lambda: mlp.decoded(features, strengths, way.account, way.by_norms))
        at_given = Around.of(mlp.run(x.centre[~keep]))
        centre = self._spread(written.centre).mid
        centre[~keep] = at_given.centre.mid
        missed = self._spread(written.radius._each(lambda r: r[:, None]))[:, 0]
        rounded = torch.zeros_like(missed.mid).index_copy(0, (~keep).nonzero().squeeze(1), at_given.radius.mid)
        term = Term(place, "interaction")
        self._note(term, missed)
        return Around(Ball(centre), (grown + self._switched(term, missed) + Ball(rounded)).upper())

    # Terms

    def _entering(self, x: Around, place: str) -> Around:
        """Without the distance in the cases where growth counts for nothing."""
        return Around(x.centre, self._switched(Term(place, "growth"), x.radius))

    def _switched(self, term: Term, size: Ball) -> Ball:
        return size.only(self.counts(term))

    def _note(self, term: Term, size: Ball) -> None:
        its = size.upper().mid
        self.found.sizes[term] = its if its.dim() == 1 else its[0]
