"""Rung PV: what two features do to each other, carried to the logits, tabled once for each pair that ever meets (L13).

For models without attention and norms: all strengths are one. With c_ij as in `pairs`, the correction of the first
MLP's neurons is somewhere in [0, Σ_ij c_ij]. Whatever comes next is linear in the ends of such boxes: with K = W_out
W_in' the pre-activations of a later MLP move within [−Σ c K⁺, Σ c K⁻], its neurons no further, and its own pairs add
their c'. So the ends of the logits are sums over pairs too, and one table [pair, token] for each end serves any depth:

    logits ∈ Σ_features alone + [−Σ_pairs down, Σ_pairs up].

Logits may all be shifted alike; each neuron's are, by their mean, which makes the ends narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from jaxtyping import Integer
from torch import Tensor

from crossproof.errors import UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, concatenate
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.explanation import Heard, explain, heard
from crossproof.proof.network import Network, centre
from crossproof.proof.rungs.loss import of_target
from crossproof.proof.rungs.pairs import check_pairs, conflict, meeting, sides, split
from crossproof.proof.rungs.windows import Windows, bound_margins, combined
from crossproof.proof.statement import Bounds, Items, Witness


@dataclass(frozen=True)
class Layers:
    """The MLPs one after the other, each with what features say to it once the MLPs before have answered each alone."""

    tables: tuple[Ball, ...]
    """For each MLP [feature, neuron]."""
    between: tuple[tuple[Ball, ...], ...]
    """For each MLP, from each before it: W_out W_in, [neuron, neuron]."""
    to_logits: tuple[Ball, ...]
    """For each MLP [neuron, token], centred."""
    alone: Ball
    """[feature, token]: its logits if nothing else is there."""

    @classmethod
    def of(cls, network: Network, said: Heard) -> Layers:
        if said.strengths(slice(0, 0))[0] is not None:
            raise UnsupportedModel(
                "vectors of pairs need features of strength one: with attention or norms take `pairs`"
            )
        outs = [network.mlp(mlp)[2] for mlp in range(network.n_mlps)]
        to_logits = tuple(centre(W_out @ network["W_U"]) for W_out in outs)
        between = tuple(
            tuple(outs[before] @ network.mlp(mlp)[0] for before in range(mlp)) for mlp in range(network.n_mlps)
        )
        tables: list[Ball] = []
        answers: list[Ball] = []
        alone = said.direct
        for table, reads, speaks in zip(said.tables, between, to_logits, strict=True):
            for answer, W in zip(answers, reads, strict=True):
                table = table + answer @ W
            tables.append(table)
            answers.append(table.relu())
            alone = alone + answers[-1] @ speaks
        return cls(tuple(tables), between, to_logits, alone)


def verify(network: Network, items: Items, witness: Witness) -> Bounds:
    """With the witness's `pairs` and `pair`, as in `pairs`."""
    items.find()
    with part("features"):
        said = heard(network, explain(network, items, witness))
        layers = Layers.of(network, said)
    meet, which = witness["pairs"].long(), witness["pair"]
    check_pairs(said.codes, meet, which)
    with part("pairs"):
        down, up = ends(layers, meet)

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            logits = combined(layers.alone, said.codes[chunk.contexts], None)
            its = which[chunk.contexts].long()
            highest, lowest = logits + up[its].sum(1), logits - down[its].sum(1)
        with part("items"):
            return highest[chunk.of_item] - of_target(lowest[chunk.of_item], chunk.target)

    return bound_margins(items, margins)


def ends(layers: Layers, meet: Integer[Tensor, "pair 2"]) -> tuple[Ball, Ball]:
    """How far each pair moves the logits down and up, [pair, token]."""
    halves = [sides(table) for table in layers.tables]
    speaks = [_parts(W) for W in layers.to_logits]
    reads = [[_parts(W) for W in reads] for reads in layers.between]
    downs, ups = [], []
    for first, second in split(meet):
        boxes: list[Box] = []
        for (positive, negative), before in zip(halves, reads, strict=True):
            moved = [box.through(W) for box, W in zip(boxes, before, strict=True)]
            less = conflict(positive, negative, first, second)
            boxes.append(Box(_sum([less, *(box.below for box in moved)]), _sum([box.above for box in moved])))
        at_logits = [box.through(W) for box, W in zip(boxes, speaks, strict=True)]
        downs.append(_sum([box.below for box in at_logits]).upper())
        ups.append(_sum([box.above for box in at_logits]).upper())
    return concatenate(downs), concatenate(ups)


def choose(network: Network, items: Items, witness: Witness) -> dict[str, Tensor]:
    """The pairs that meet."""
    meet, which = meeting(explain(network, items, witness).codes)
    return {"pairs": meet, "pair": which}


@dataclass(frozen=True)
class Box:
    """How far below and above the sum of what features do alone numbers may be, [pair, …]; None is not at all."""

    below: Ball
    above: Ball | None

    def through(self, W: tuple[Ball, Ball]) -> Box:
        """After a linear map, given by its positive and its negative part."""
        plus, minus = W
        if self.above is None:
            return Box(self.below @ plus, self.below @ minus)
        return Box(self.below @ plus + self.above @ minus, self.below @ minus + self.above @ plus)


def _parts(W: Ball) -> tuple[Ball, Ball]:
    return W.relu(), (-W).relu()


def _sum(terms: Sequence[Ball | None]) -> Any:
    """None if there is none."""
    there = [term for term in terms if term is not None]
    return reduce(add, there) if there else None
