"""What weights alone say of pairs of features, and what pairs that never fire together would do if they did.

`hadamard` (the post): ‖((d_i + b) W_in) ∘ ((d_j + b) W_in)‖ over the neurons of an MLP, with the decoder bias b. It is
not invariant to a change of a feature's scale (T6): with `strengths` (`typical_strengths`), f_i d_i stands for d_i,
and pairs can be compared. A gated MLP multiplies gate by value: there i is in the gate, j in the value.

`potential` scores the pairs that never fire together on some tokens, by what they would do alone together, each at a
typical strength. Nobody has seen these pairs: leads for adversarial inputs. Three scores (MATHS §4):

    exact       Σ_n (w_n / N) |v(ij) − v(i) − v(j) + v(∅)|, v what the neuron puts out: sees ANDs through the bias too
    directed    Σ_n (w_n / N) × the smaller of the two magnitudes; in a gated MLP as T5 weighs gate and value
    mass        the same over the neurons where the two pull in opposite directions; of plain MLPs only
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, contributions, tables
from crossproof.progress import progress
from crossproof.units import MLP, GatedMLP

HELD = 2**17
"""Numbers held at a time, pairs × neurons: 1 MB, which stays in a core's cache between operations."""
ROUNDING = 1e-14
"""An exact score below this share of the outputs it is a difference of is rounding, and counts as none."""

Score = Literal["exact", "directed", "mass"]
SCORES: tuple[Score, ...] = ("exact", "directed", "mass")


def typical_strengths(codes: Codes) -> Float[Tensor, " feature"]:
    """Mean of each feature over the tokens where it is active; 0 where it never is."""
    check_features(codes.values)
    total = torch.zeros(codes.pattern.n_features, dtype=torch.float64, device=codes.values.device)
    total.index_add_(0, codes.pattern.features, codes.values.detach().double())
    return total / codes.firing_counts().clamp(min=1)


def hadamard(
    unit: MLP | GatedMLP,
    directions: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " d_model"] | None = None,
    strengths: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, "feature feature"]:
    """Of all pairs. It is features × features in float64: of a large dictionary, ask for `hadamard_of_pairs`."""
    (left, left_size), (right, right_size) = _reach(unit, directions, bias, strengths)
    return (left.square() @ right.square().T).sqrt() * left_size * right_size.T


def hadamard_of_pairs(
    unit: MLP | GatedMLP,
    directions: Float[Tensor, "feature d_model"],
    i: Int[Tensor, " pair"],
    j: Int[Tensor, " pair"],
    bias: Float[Tensor, " d_model"] | None = None,
    strengths: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, " pair"]:
    """Of the pairs (i, j)."""
    if i.shape != j.shape or bool(((i < 0) | (i >= len(directions)) | (j < 0) | (j >= len(directions))).any()):
        raise MismatchError(f"pairs i, j: expected as many i as j, from 0 to {len(directions) - 1}")
    (left, left_size), (right, right_size) = _reach(unit, directions, bias, strengths)
    some = max(1, HELD // max(1, left.shape[1]))
    norms = [(left[a] * right[b]).norm(dim=1) for a, b in zip(i.split(some), j.split(some), strict=True)]
    return torch.cat(norms) * left_size[i, 0] * right_size[j, 0]


def _reach(
    unit: MLP | GatedMLP, directions: Tensor, bias: Tensor | None, strengths: Tensor | None
) -> list[tuple[Tensor, Tensor]]:
    """(f_i d_i + b) W for both factors, each row scaled to a largest entry of 1: no square over- or underflows."""
    unit, directions = unit.to(torch.float64), directions.detach().double()
    bias = None if bias is None else bias.detach().double()
    _check_strengths(strengths, len(directions))
    weights = [unit.W_in] if isinstance(unit, MLP) else [unit.W_gate, unit.W_in]
    found = []
    for table, W in zip(tables(contributions(unit, directions, bias)), weights, strict=True):
        reach = table.A if strengths is None else strengths.double()[:, None] * table.A
        if bias is not None:
            reach = reach + bias @ W
        size = reach.abs().amax(1, keepdim=True)
        found.append((reach / torch.where(size > 0, size, 1), size))
    return [found[0], found[-1]]


@dataclass(frozen=True, eq=False)
class Potential:
    """Pairs i < j that never fire together, the strongest first, and what they would do in each MLP."""

    units: tuple[str, ...]
    by: Score
    """The score whose sum over the units ranks the pairs."""
    n_pairs: int
    """How many pairs never fire together."""
    i: Int[Tensor, " pair"]
    j: Int[Tensor, " pair"]
    exact: Float[Tensor, "pair unit"]
    directed: Float[Tensor, "pair unit"]
    mass: Float[Tensor, "pair unit"]
    """Not a number in a gated MLP."""

    def __repr__(self) -> str:
        ranking = getattr(self, self.by).sum(1)
        lines = [f"{self.n_pairs:,} pairs never fire together; {len(self.i):,} of them by {self.by} potential:"]
        shown = list(zip(self.i.tolist(), self.j.tolist(), ranking.tolist(), strict=True))[:5]
        return "\n".join([*lines, *(f"    {i} × {j}: {score:.4g}" for i, j, score in shown)])


def potential(
    units: Sequence[Neurons],
    strengths: Float[Tensor, " feature"],
    pairs: CoActive,
    by: Score = "exact",
    top: int = 100,
) -> Potential:
    """The `top` pairs of features that both fire, but never together in `pairs`; without those that would do nothing.

    It looks at every such pair in every neuron: seconds for a thousand features, hours for thirty thousand.
    """
    _check(units, strengths, pairs, by, top)
    players = [_Players(unit, strengths.detach().double()) for unit in units]
    size = sum((its.size for its in players), torch.zeros_like(strengths, dtype=torch.float64))
    rounding = (ROUNDING if by == "exact" else 0) * size
    best = torch.zeros(0, dtype=torch.float64, device=strengths.device)
    i = j = torch.zeros(0, dtype=torch.long, device=strengths.device)
    n_pairs, height = 0, max(1, HELD // max((len(unit.loudness) for unit in units), default=1))
    with progress("potential", pairs.n_features, "features") as bar:
        for feature, absent in _absent(pairs):
            n_pairs += len(absent)
            for others in absent.split(height):
                score = sum((its.score(by, feature, others) for its in players), torch.zeros_like(others).double())
                least = rounding[feature] + rounding[others]
                found = score > (least if len(best) < top else torch.maximum(least, best[-1]))
                if bool(found.any()):
                    order = torch.cat([best, score[found]]).sort(descending=True, stable=True)
                    kept = order.indices[:top]
                    i = torch.cat([i, others[found] * 0 + feature])[kept]
                    j = torch.cat([j, others[found]])[kept]
                    best = order.values[:top]
            bar(1)
    table = {kind: torch.stack([its.scores(kind, i, j) for its in players], dim=1) for kind in SCORES}
    return Potential(tuple(unit.name for unit in units), by, n_pairs, i, j, **table)


def _absent(pairs: CoActive) -> Iterator[tuple[int, Int[Tensor, " other"]]]:
    """Every alive feature, with the alive features of higher index that never fire together with it."""
    alive = pairs.firing > 0
    features = torch.arange(pairs.n_features, device=alive.device)
    starts = torch.searchsorted(pairs.i, torch.arange(pairs.n_features + 1, device=alive.device)).tolist()
    for feature in range(pairs.n_features):
        absent = alive & alive[feature] & (features > feature)
        absent[pairs.j[starts[feature] : starts[feature + 1]]] = False
        yield feature, features[absent]


class _Players:
    """What the features do to one unit's neurons at their strengths, alone."""

    def __init__(self, unit: Neurons, strengths: Tensor) -> None:
        self.unit, self.weight = unit, unit.loudness.detach().double() / len(unit.loudness)
        self.beta = [table.beta.detach().double() for table in tables(unit)]
        self.p = [strengths[:, None] * table.A.detach().double() for table in tables(unit)]
        self.without = self._output(self.beta)
        self.alone = self._output([p + beta for p, beta in zip(self.p, self.beta, strict=True)])
        self.size = self.alone.abs() @ self.weight + self.without.abs() @ self.weight

    def scores(self, kind: Score, i: Tensor, j: Tensor) -> Float[Tensor, " pair"]:
        each = [self.score(kind, a, b[None]) for a, b in zip(i.tolist(), j, strict=True)]
        return torch.cat([self.weight.new_zeros(0), *each])

    def score(self, kind: Score, feature: int, others: Tensor) -> Float[Tensor, " other"]:
        """Of one feature with each of some others."""
        one, other = [p[feature] for p in self.p], [p[others] for p in self.p]
        if kind == "exact":
            together = self._output([x + y + beta for x, y, beta in zip(one, other, self.beta, strict=True)])
            # in this order it is exactly 0 in a neuron that only one of the two touches
            both = together.sub_(self.alone[feature]).sub_(self.alone[others].sub_(self.without))
            return both.abs_() @ self.weight
        if kind == "mass":
            if isinstance(self.unit, GatedNeurons):
                return self.weight.new_full((len(others),), torch.nan)
            smaller = torch.minimum(one[0].abs(), other[0].abs())
            return smaller.mul_(one[0].sign() * other[0].sign() < 0) @ self.weight
        smaller = torch.minimum(one[0].abs(), other[0].abs())
        if isinstance(self.unit, PlainNeurons):
            return smaller @ self.weight
        activation, h = self.unit.activation, one[1] + other[1] + self.beta[1]
        dominant = torch.where((one[0].abs() >= other[0].abs()), one[0], other[0])
        by_gate = smaller * activation.lipschitz * h.abs()
        by_value = activation.function(dominant + self.beta[0]).abs() * torch.minimum(one[1].abs(), other[1].abs())
        return (by_gate + by_value) @ self.weight

    def _output(self, pre: list[Tensor]) -> Tensor:
        """What the neurons put out."""
        activated = self.unit.activation.function(pre[0])
        return activated if len(pre) == 1 else activated * pre[1]


def _check_strengths(strengths: Tensor | None, n_features: int) -> None:
    if strengths is not None and strengths.shape != (n_features,):
        raise MismatchError(f"strengths: expected one for each of {n_features} features, not {tuple(strengths.shape)}")


def _check(units: Sequence[Neurons], strengths: Tensor, pairs: CoActive, by: str, top: int) -> None:
    if by not in SCORES:
        raise CrossproofError(f"by: no score {by!r}; there are {', '.join(SCORES)}")
    if top < 1:
        raise CrossproofError(f"top: asks for {top} pairs; take at least 1")
    if not units:
        raise CrossproofError("units: none, so there is nothing to score pairs in; give at least one MLP's neurons")
    _check_strengths(strengths, pairs.n_features)
    for unit in units:
        if tables(unit)[0].n_features != pairs.n_features:
            raise MismatchError(
                f"{unit.name}: {tables(unit)[0].n_features} features in its table, but the pairs are of "
                f"{pairs.n_features}: they are of different dictionaries"
            )
        if by == "mass" and isinstance(unit, GatedNeurons):
            raise UnsupportedModel(
                f"{unit.name}: mass is defined for plain MLPs, and this one is gated; rank by exact or directed"
            )
