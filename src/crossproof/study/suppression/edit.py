"""Taking a pair of features apart in an MLP's neurons: an edit of its input weights, in closed form.

A pair meets in a neuron where both contribute. There the smaller contribution is set to zero and the larger one stays:
with w the neuron's input weights, i kept and j dropped,

    Δ = −(d_j · w) u / |u|²,    u = d_j − (d_i · d_j / |d_i|²) d_i

is the one change in the plane of d_i and d_j with d_i · (w + Δ) = d_i · w and d_j · (w + Δ) = 0, and the smallest of
all that do this. What is orthogonal to the plane contributes as before. The neuron's bias takes up what Δ makes of
the decoder bias, so that a token without features has the pre-activation it had. Where the two directions are (nearly)
parallel no edit tells them apart.

Where several pairs meet in a neuron, all their conditions hold at once in the smallest change that satisfies them; if
there are more than can be satisfied, as nearly as can be. An edit may move a neuron to where another pair meets that
did not meet there before: what is left has to be measured. A gated MLP's neurons have two weights; both are edited.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.units import ACTIVATIONS, MLP, GatedMLP

PARALLEL = 0.05
"""The sine of the angle below which two directions count as parallel."""
_NOTHING = 1e-9
"""A neuron that carries less of the interaction than this share carries rounding."""
_DEPENDENT = 0.01
"""Directions of unit length count as dependent below this share of the largest singular value; pairs that are not
parallel stay above it."""

AnyMLP = MLP | GatedMLP


@dataclass(frozen=True, eq=False)
class Meetings:
    """Tokens at which a pair is active."""

    x: Float[Tensor, "row d_model"]
    """The MLP's input."""
    a: Float[Tensor, "row d_model"]
    """What the first of the two adds to it."""
    b: Float[Tensor, "row d_model"]
    text: Int[Tensor, " row"]

    @classmethod
    def join(cls, several: Sequence[Meetings]) -> Meetings:
        names = "x", "a", "b", "text"
        return cls(*(torch.cat([getattr(each, name) for each in several]) for name in names))


def second_differences(unit: AnyMLP, at: Meetings) -> Float[Tensor, "row neuron"]:
    """What each neuron does with both that it does not with each alone, all else as it is. Carries gradients."""
    weights = [W for W, _ in input_layers(unit)]
    full = [at.x @ W + b for W, b in input_layers(unit)]
    without_a = [z - at.a @ W for z, W in zip(full, weights, strict=True)]
    without_b = [z - at.b @ W for z, W in zip(full, weights, strict=True)]
    neither = [z - at.b @ W for z, W in zip(without_a, weights, strict=True)]
    return _hidden(unit, full) - _hidden(unit, without_a) - _hidden(unit, without_b) + _hidden(unit, neither)


@dataclass(frozen=True)
class Plan:
    """How one pair is to be taken apart."""

    i: int
    j: int
    neurons: tuple[int, ...]
    dropped: tuple[int, ...]
    """Of the two, the one that each neuron loses."""

    @property
    def loser(self) -> int:
        """The one that more neurons lose."""
        return self.j if 2 * self.dropped.count(self.j) >= len(self.dropped) else self.i


def plan(unit: AnyMLP, i: int, j: int, at: Meetings, most: int) -> Plan:
    """In the neurons that carry most of the interaction at these tokens; of equal contributions the first stays."""
    carried = second_differences(unit, at).abs().mean(0) * unit.W_out.norm(dim=1)
    order = carried.argsort(descending=True, stable=True)[:most]
    neurons = order[carried[order] > _NOTHING * carried.sum()]
    into = torch.cat([W[:, neurons, None] for W, _ in input_layers(unit)], dim=2)
    sizes = [torch.einsum("rd,dnw->rnw", its, into).abs().mean(0).sum(1) for its in (at.a, at.b)]
    dropped = torch.where(sizes[0] < sizes[1], i, j)
    return Plan(i, j, tuple(neurons.tolist()), tuple(dropped.tolist()))


def parallel(directions: Float[Tensor, "feature d_model"], i: int, j: int) -> bool:
    """Whether no edit can tell the two apart; a direction of zero has nothing to take apart either."""
    a, b = directions[i].double(), directions[j].double()
    lengths = a.norm() * b.norm()
    if lengths == 0:
        return True
    # by the part that is orthogonal: 1 − cosine² would be lost in rounding
    return bool((b - a * (a @ b) / (a @ a)).norm() < PARALLEL * b.norm())


def apart(
    unit: AnyMLP,
    directions: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " d_model"],
    plans: Sequence[Plan],
) -> AnyMLP:
    """The MLP in whose planned neurons the pairs no longer meet."""
    for its in plans:
        if parallel(directions, its.i, its.j):
            raise CrossproofError(
                f"features {its.i} and {its.j} have parallel directions at {unit.input_site or 'its input'}: "
                "no edit of the weights tells them apart; choose another pair"
            )
    changes = [torch.zeros_like(W) for W, _ in input_layers(unit)]
    for neuron, (meeting, dropped) in _by_neuron(plans).items():
        features = sorted(meeting)
        rows = directions[features].double()
        rows = rows / rows.norm(dim=1, keepdim=True)
        lost = torch.tensor([feature in dropped for feature in features], device=rows.device)
        inverse = torch.linalg.pinv(rows, rtol=_DEPENDENT)
        for (W, _), change in zip(input_layers(unit), changes, strict=True):
            change[:, neuron] = -(inverse @ (rows @ W[:, neuron].double() * lost)).to(W)
    return _changed(unit, changes, bias)


def ablated(
    unit: AnyMLP, directions: Float[Tensor, "feature d_model"], bias: Float[Tensor, " d_model"], plans: Sequence[Plan]
) -> AnyMLP:
    """The cruder way: no neuron hears anything along the direction of the one that the plans drop."""
    losers = directions[sorted({its.loser for its in plans})].double()
    projector = losers.T @ torch.linalg.pinv(losers.T)
    return _changed(unit, [-(projector @ W.double()).to(W) for W, _ in input_layers(unit)], bias)


def _by_neuron(plans: Sequence[Plan]) -> Mapping[int, tuple[set[int], set[int]]]:
    """Which features meet in each neuron, and which of them it loses: none of a pair that another pair took apart."""
    found: dict[int, tuple[set[int], set[int]]] = {}
    for its in plans:
        for neuron, drop in zip(its.neurons, its.dropped, strict=True):
            meeting, dropped = found.setdefault(neuron, (set(), set()))
            meeting |= {its.i, its.j}
            if not dropped & {its.i, its.j}:
                dropped.add(drop)
    return found


def _changed(unit: AnyMLP, changes: Sequence[Tensor], bias: Tensor) -> AnyMLP:
    weights = [W + change for (W, _), change in zip(input_layers(unit), changes, strict=True)]
    biases = [b - bias @ change for (_, b), change in zip(input_layers(unit), changes, strict=True)]
    return with_layers(unit, weights, biases)


def with_layers(unit: AnyMLP, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> AnyMLP:
    """With other input weights: W_in, or W_gate and W_in."""
    if isinstance(unit, MLP):
        return replace(unit, W_in=weights[0], b_in=biases[0])
    return replace(unit, W_gate=weights[0], b_gate=biases[0], W_in=weights[1], b_in=biases[1])


def input_layers(unit: AnyMLP) -> list[tuple[Tensor, Tensor]]:
    """Weights and bias of what the neurons hear, the gate first."""
    of_input = (unit.W_in, unit.b_in)
    return [of_input] if isinstance(unit, MLP) else [(unit.W_gate, unit.b_gate), of_input]


def _hidden(unit: AnyMLP, pre: Sequence[Tensor]) -> Tensor:
    active = ACTIVATIONS[unit.activation].function(pre[0])
    return active if isinstance(unit, MLP) else active * pre[1]
