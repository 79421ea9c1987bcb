"""Dictionaries trained alike, but for their seeds: Φ by scheme, with one kind of residual stream.

All estimates resample the same texts. Of five dictionaries and more these are resampled too, the groups independently
of each other; of fewer they are held fixed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.study.dictionaries import PLAIN, CoderRecord
from crossproof.study.estimates import ENOUGH, Drawn, Estimate, combine, drawn, estimate, mean
from crossproof.study.fidelity.config import Residual
from crossproof.study.fidelity.measure import Losses, fidelity
from crossproof.study.fidelity.records import KEEPS, LARGEST, BlockRecord, SchemeRecord


@dataclass(frozen=True, eq=False)
class Group:
    records: Sequence[CoderRecord]
    losses: Sequence[Losses]
    """Of each dictionary."""
    weights: Float64[Tensor, "draw text"]
    seed: int
    """Draws the dictionaries."""

    @property
    def name(self) -> str:
        return self.records[0].group

    @property
    def penalised(self) -> bool:
        return self.records[0].penalty != PLAIN

    @property
    def resampled(self) -> bool:
        return len(self.losses) >= ENOUGH

    @property
    def mlps(self) -> list[str]:
        return list(self.losses[0].patched)

    @cached_property
    def fidelity(self) -> Mapping[tuple[str, str], list[Drawn]]:
        """By MLP and scheme, of each dictionary."""
        return {
            (mlp, scheme): [fidelity(its, mlp, scheme, self.weights) for its in self.losses]
            for mlp, schemes in self.losses[0].patched.items()
            for scheme in schemes
        }

    def ratio(self, mlp: str) -> list[Drawn]:
        """Φ(only the largest) / Φ(all); not a number where Φ(all) is not above 0."""
        return [combine(_share, *both) for both in self._largest_and_all(mlp)]

    def excess(self, mlp: str) -> list[Drawn]:
        """How far only the largest is above what it must keep."""
        return [combine(lambda one, every: one - KEEPS * every, *both) for both in self._largest_and_all(mlp)]

    def unexplained(self) -> Drawn | None:
        """Held fixed but for which dictionaries it is of; None unless it is known of all."""
        same = torch.ones(len(self.weights), dtype=torch.float64)
        known = [Drawn(its.unexplained, its.unexplained * same) for its in self.records if its.unexplained is not None]
        return self.mean(known) if len(known) == len(self.records) else None

    def rise(self, totals: Sequence[Float64[Tensor, " text"]]) -> Estimate:
        """How far losses, of each dictionary, are above that of the model."""
        both = zip(self.losses, totals, strict=True)
        risen = self.estimate([drawn(total - its.clean, its.targets, self.weights) for its, total in both])
        assert risen is not None
        return risen

    def mean(self, members: Sequence[Drawn]) -> Drawn | None:
        """Over the dictionaries; None unless it is defined in every resample."""
        return None if undefined(members) else mean(members, self._resample)

    def estimate(self, members: Sequence[Drawn]) -> Estimate | None:
        return None if undefined(members) else estimate(members, self._resample)

    def why(self, mlp: str) -> str:
        """What is not defined at an MLP, and why; nothing if all is."""
        if share := undefined(self.fidelity[mlp, "all"]):
            return f"Φ is not defined: without any feature the model loses nothing, in {share:.1%} of the resamples"
        if share := undefined(self.ratio(mlp)):
            return f"no share of Φ(all) is defined: it is not above 0 in {share:.1%} of the resamples"
        return ""

    @property
    def _resample(self) -> int | None:
        return self.seed if self.resampled else None

    def _largest_and_all(self, mlp: str) -> list[tuple[Drawn, Drawn]]:
        return list(zip(self.fidelity[mlp, LARGEST], self.fidelity[mlp, "all"], strict=True))


def groups_of(
    records: Sequence[CoderRecord], losses: Sequence[Losses], weights: Float64[Tensor, "draw text"], seed: int
) -> dict[str, Group]:
    """By name, those without a penalty first."""
    members: dict[str, list[int]] = {}
    for place, record in sorted(enumerate(records), key=lambda its: its[1].penalty != PLAIN):
        members.setdefault(record.group, []).append(place)
    # a seed of their own: drawn with that of the texts, which dictionaries would follow from which texts
    return {
        name: Group([records[place] for place in its], [losses[place] for place in its], weights, seed + 1 + number)
        for number, (name, its) in enumerate(members.items())
    }


def by_scheme(group: Group, residual: Residual) -> list[SchemeRecord]:
    return [
        SchemeRecord(group=group.name, mlp=mlp, residual=residual, scheme=scheme, fidelity=group.estimate(members))
        for (mlp, scheme), members in group.fidelity.items()
    ]


def by_block(group: Group, residual: Residual) -> list[BlockRecord]:
    return [
        BlockRecord(
            group=group.name,
            mlp=mlp,
            residual=residual,
            none=group.rise([its.patched[mlp]["none"] for its in group.losses]),
            stream=group.rise([its.stream[mlp] for its in group.losses]),
            ratio=group.estimate(group.ratio(mlp)),
            why=group.why(mlp),
        )
        for mlp in group.mlps
    ]


def undefined(members: Sequence[Drawn]) -> float:
    """In what share of the resamples a number is not defined, of any dictionary; all, if it is not without any."""
    if any(its.value != its.value for its in members):
        return 1.0
    return float(torch.stack([its.draws for its in members]).isnan().any(0).double().mean())


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, torch.nan)
