"""Which feature dominates each neuron, how clearly, and how much the others add (MATHS §4; why it counts: T1, T5).

A plain MLP has one table of contributions and weighs its neurons by w_n. In a gated MLP a feature can dominate a
neuron's gate, its value, or both: each of the two tables is ranked by itself, and T5 gives the weights, different at
every token: w_n Lip(φ) |h_n| for the gate and w_n |φ(g*_n)| for the value, g* being the gate that its dominant feature
alone makes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.interaction.contributions import (
    Chunk,
    Neurons,
    PlainNeurons,
    Table,
    check_codes,
    chunks,
    tables,
)
from crossproof.interaction.tally import Tally
from crossproof.progress import progress


@dataclass(frozen=True, eq=False)
class Dominators:
    """Who dominates the neurons of one table. A neuron's tokens are those on which any feature touches it."""

    share: float
    """Mean of max|p| / Σ|p| over the (token, neuron) where any feature contributes; not a number where none does."""
    counted: int
    left_out: int
    """How many (token, neuron) the mean is over, and how many have no contribution."""
    tokens: Int[Tensor, " neuron"]
    feature: Int[Tensor, " neuron"]
    """What dominates the neuron most often, the lowest of several; −1 where nothing ever touches it."""
    feature_share: Float64[Tensor, " neuron"]
    """On what share of the neuron's tokens."""
    runner_up: Int[Tensor, " neuron"]
    """What dominates it next most often; −1 where there is no other."""
    runner_up_share: Float64[Tensor, " neuron"]

    @property
    def margin(self) -> Float64[Tensor, " neuron"]:
        return self.feature_share - self.runner_up_share


@dataclass(frozen=True, eq=False)
class Dominance:
    """What one MLP's dominant features leave to the others, and who they are."""

    score: Float64[Tensor, " token"]
    """Σ_n weight_n (Σ|p| − max|p|) at each token, in the order of the codes."""
    neuron_score: Float64[Tensor, " neuron"]
    """Mean over tokens of weight_n (Σ|p| − max|p|)."""
    tables: tuple[Dominators, ...]
    """One for a plain MLP; gate and value for a gated one."""

    @property
    def share(self) -> float:
        """The dominant share, tables pooled."""
        total = sum(table.share * table.counted for table in self.tables if table.counted)
        return total / self.counted if self.counted else float("nan")

    @property
    def counted(self) -> int:
        return sum(table.counted for table in self.tables)

    @property
    def left_out(self) -> int:
        return sum(table.left_out for table in self.tables)


def dominance(codes: Codes, units: Sequence[Neurons]) -> list[Dominance]:
    """Of each of these MLPs, in one pass over the tokens."""
    codes, units = prepared(codes, units)
    found = [_Found(codes, unit) for unit in units]
    with progress("dominant features", codes.pattern.n_rows, "tokens") as bar:
        for chunk in chunks(codes, most_neurons(units)):
            for its in found:
                its.add(chunk)
            bar(len(chunk.tokens))
    return [its.result() for its in found]


# -- what every accumulated metric begins with -------------------------------------------------------------------------


def prepared(codes: Codes, units: Sequence[Neurons]) -> tuple[Codes, list[Neurons]]:
    """Checked, and without gradients: a measurement has none, and what a table caches must not lose its own."""
    for table in (table for unit in units for table in tables(unit)):
        check_codes(codes, table.n_features)
    check_features(codes.values)
    return Codes(codes.pattern, codes.values.detach()), [_detached(unit) for unit in units]


def most_neurons(units: Sequence[Neurons]) -> int:
    return max((len(unit.loudness) for unit in units), default=1)


class Ranked(NamedTuple):
    """What the features of a chunk contribute to one table's neurons, and which of them dominates."""

    magnitude: Float[Tensor, "token slot neuron"]
    largest: Float[Tensor, "token neuron"]
    dominant: Float[Tensor, "token slot neuron"]
    """1 at the dominant slot, 0 at the others: a factor, in the dtype of what it multiplies."""
    weight: Float[Tensor, "#token neuron"]
    """How much the others' contributions count."""


def ranked(chunk: Chunk, unit: Neurons) -> list[Ranked]:
    """One for each of the unit's tables."""
    if isinstance(unit, PlainNeurons):
        return [_rank(chunk.contributions(unit.pre.magnitude), unit.loudness[None])]
    gate, value = chunk.contributions(unit.gate.A), chunk.contributions(unit.value.A)
    h = value.sum(1) + unit.value.beta
    by_gate = _rank(gate.abs(), unit.loudness * unit.activation.lipschitz * h.abs())
    g = (gate * by_gate.dominant).sum(1) + unit.gate.beta
    return [by_gate, _rank(value.abs(), unit.loudness * unit.activation.function(g).abs())]


def _rank(magnitude: Tensor, weight: Tensor) -> Ranked:
    largest = magnitude.amax(1)
    # Comparing into floats is several times faster on CPUs than into booleans, and a maximum that says where is slower
    # still. Only where several slots attain the maximum is more to do.
    dominant = torch.eq(magnitude, largest[:, None], out=torch.empty_like(magnitude))
    if dominant.sum() != largest.numel():
        slots = magnitude.shape[1]
        dominant *= torch.arange(slots, 0, -1, device=magnitude.device)[:, None]  # the lowest slot has the largest
        torch.eq(dominant, dominant.amax(1, keepdim=True), out=dominant)
    return Ranked(magnitude, largest, dominant, weight)


def _detached(unit: Neurons) -> Neurons:
    def table(of: Table) -> Table:
        return Table(of.A.detach(), of.beta.detach())

    if isinstance(unit, PlainNeurons):
        return replace(unit, pre=table(unit.pre), loudness=unit.loudness.detach())
    return replace(unit, gate=table(unit.gate), value=table(unit.value), loudness=unit.loudness.detach())


# -- adding up ---------------------------------------------------------------------------------------------------------


class _Found:
    """A unit's dominance in the making."""

    def __init__(self, codes: Codes, unit: Neurons) -> None:
        n_tokens, device = codes.pattern.n_rows, unit.loudness.device
        self.unit, self.n_tokens = unit, n_tokens
        self.score = torch.zeros(n_tokens, dtype=torch.float64, device=device)
        self.per_neuron = torch.zeros(len(unit.loudness), dtype=torch.float64, device=device)
        self.tables = [_Winners(table) for table in tables(unit)]

    def add(self, chunk: Chunk) -> None:
        for its, found in zip(ranked(chunk, self.unit), self.tables, strict=True):
            # summed without the largest rather than less the largest, which would round away others far below it
            others = its.magnitude.addcmul_(its.magnitude, its.dominant, value=-1).sum(1)
            weighted = (its.weight * others).double()
            self.score.index_add_(0, chunk.tokens, weighted.sum(1))
            self.per_neuron += weighted.sum(0)
            found.add(chunk, its, its.largest + others)

    def result(self) -> Dominance:
        mean = self.per_neuron / max(1, self.n_tokens)
        return Dominance(self.score, mean, tuple(table.result(self.n_tokens) for table in self.tables))


class _Winners:
    """One table's dominators in the making."""

    def __init__(self, table: Table) -> None:
        self.n_neurons, self.n_features = table.n_neurons, table.n_features
        self.neuron = torch.arange(table.n_neurons, device=table.A.device)
        self.tally = Tally(table.n_neurons * table.n_features, table.A.device)
        self.shares = torch.zeros((), dtype=torch.float64, device=table.A.device)

    def add(self, chunk: Chunk, its: Ranked, total: Float[Tensor, "token neuron"]) -> None:
        self.shares += (its.largest / total).nan_to_num_(nan=0.0).double().sum()
        slot = torch.arange(chunk.features.shape[1], device=total.device).to(its.dominant)
        feature = chunk.features.gather(1, (slot @ its.dominant).long())
        keys = self.neuron * self.n_features + feature
        touched = its.largest > 0
        self.tally.add(keys.flatten() if bool(touched.all()) else keys[touched])

    def result(self, n_tokens: int) -> Dominators:
        keys, counts = self.tally.counts()
        order = counts.argsort(descending=True, stable=True)
        order = order[(keys[order] // self.n_features).argsort(stable=True)]  # by neuron, the most frequent first
        neuron, feature, counts = (keys // self.n_features)[order], (keys % self.n_features)[order], counts[order]
        tokens = torch.zeros_like(self.neuron).index_add_(0, neuron, counts)
        starts = torch.searchsorted(neuron, self.neuron)
        ends = torch.searchsorted(neuron, self.neuron, right=True)
        first, first_count = _at(starts, ends, feature, counts)
        second, second_count = _at(starts + 1, ends, feature, counts)
        counted = int(tokens.sum())
        return Dominators(
            share=float(self.shares) / counted if counted else float("nan"),
            counted=counted,
            left_out=n_tokens * self.n_neurons - counted,
            tokens=tokens,
            feature=first,
            feature_share=first_count / tokens.double(),
            runner_up=second,
            runner_up_share=second_count / tokens.double(),
        )


def _at(where: Tensor, ends: Tensor, feature: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Feature and count at these places, −1 and 0 where the neuron has no such place."""
    there = where < ends
    feature, counts = torch.cat([feature, feature.new_full((1,), -1)]), torch.cat([counts, counts.new_zeros(1)])
    where = torch.where(there, where, len(feature) - 1)
    return feature[where], counts[where]
