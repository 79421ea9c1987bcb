"""The results of the study of units: estimates with intervals, by group of dictionaries, and tables to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.interaction.account import Account

DRAWS = 1000
PLAIN = "plain"


@dataclass(frozen=True, eq=False)
class Measured:
    """One dictionary."""

    account: Account
    sizes: Mapping[str, Float64[Tensor, " row"]]
    """At each sampled token, what each unit's pairs do, exactly; not of norms before attention layers."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CoderRecord(Record):
    """A dictionary that was compared."""

    coder: str
    group: str
    """Dictionaries trained alike, but for their seeds."""
    seed: int | None
    unexplained: float | None


class Estimate(Record):
    """A mean, and its 95 % interval from resampled tokens (or texts) and dictionaries."""

    value: float
    low: float
    high: float


class UnitRecord(Record):
    """One unit with one group of dictionaries."""

    group: str
    unit: str
    kind: str
    size: Estimate | None
    """Per token: the lengths of all pairs' second differences, summed. None where it is not measured."""
    written: float
    """The mean length of what the unit writes; of a norm, what its listener writes."""
    bound: Estimate
    """The account of all tokens: what the size would be were nothing to cancel."""
    against_plain: Estimate | None
    """The size over that of the plain dictionaries, at the same tokens."""


class UnitsStudy(Record):
    """`results.json`."""

    subject: str
    tokens: int
    sampled: int
    coders: list[CoderRecord]
    units: list[UnitRecord]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(record.group for record in self.units))


def study_of(
    subject: str, found: Sequence[tuple[CoderRecord, Measured]], tokens: int, sampled: int, seed: int
) -> UnitsStudy:
    groups: dict[str, list[Measured]] = {}
    for record, measured in sorted(found, key=lambda pair: pair[0].group != PLAIN):
        groups.setdefault(record.group, []).append(measured)
    generator = torch.Generator().manual_seed(seed)
    of_tokens = torch.randint(sampled, (DRAWS, sampled), generator=generator)
    units = []
    for group, members in groups.items():
        of_members = _draws(len(members), generator)
        account = members[0].account
        for number, (name, kind) in enumerate(account.kinds.items()):
            size = ratio = None
            if all(name in its.sizes for its in members):
                values, means = _mean(torch.stack([its.sizes[name] for its in members]), of_members, of_tokens)
                size = _estimate(values, means)
                plain = groups.get(PLAIN, [])
                if group != PLAIN and plain and all(name in its.sizes for its in plain):
                    base, bases = _mean(
                        torch.stack([its.sizes[name] for its in plain]), _draws(len(plain), generator), of_tokens
                    )
                    ratio = _estimate(values / base, means / bases) if base > 0 and bool((bases > 0).all()) else None
            units.append(
                UnitRecord(
                    group=group,
                    unit=name,
                    kind=kind,
                    size=size,
                    written=float(torch.stack([its.account.written[number] for its in members]).mean()),
                    bound=_bound(members, number, of_members, generator),
                    against_plain=ratio,
                )
            )
    records = [record for record, _ in found]
    return UnitsStudy(subject=subject, tokens=tokens, sampled=sampled, coders=records, units=units)


def _draws(members: int, generator: torch.Generator) -> Tensor:
    return torch.randint(members, (DRAWS, members), generator=generator)


def _mean(
    values: Float64[Tensor, "member row"], of_members: Tensor, of_tokens: Tensor
) -> tuple[float, Float64[Tensor, " draw"]]:
    """The mean, and that of each draw: members and rows are drawn on their own, the rows for all members alike."""
    counts = torch.zeros(len(of_tokens), values.shape[1], dtype=values.dtype)
    counts.scatter_add_(1, of_tokens, torch.ones_like(of_tokens, dtype=values.dtype))
    by_member = counts @ values.T / values.shape[1]
    return float(values.mean()), by_member.gather(1, of_members).mean(1)


def _bound(members: Sequence[Measured], unit: int, of_members: Tensor, generator: torch.Generator) -> Estimate:
    tokens = members[0].account.tokens.double()
    texts = torch.randint(len(tokens), (DRAWS, len(tokens)), generator=generator)
    totals = torch.stack([its.account.by_text[:, unit] for its in members])
    value, means = _mean(totals, of_members, texts)
    _, sizes = _mean(tokens[None], torch.zeros_like(of_members[:, :1]), texts)
    return _estimate(value / float(tokens.mean()), means / sizes)


def _estimate(value: float, draws: Float64[Tensor, " draw"]) -> Estimate:
    low, high = draws.quantile(torch.tensor([0.025, 0.975], dtype=draws.dtype)).tolist()
    return Estimate(value=value, low=low, high=high)


def tables(found: UnitsStudy) -> dict[str, list[dict[str, Any]]]:
    """For each group of dictionaries a table of units, and the dictionaries."""
    shown: dict[str, list[dict[str, Any]]] = {}
    for group in found.groups:
        shown[f"{found.subject}: {group}"] = [
            {
                "unit": row.unit,
                "kind": row.kind,
                "size": _text(row.size),
                "over what it writes": None if row.size is None or row.written == 0 else row.size.value / row.written,
                "against plain": _text(row.against_plain),
                "bound": _text(row.bound),
                "bound / size": None if row.size is None or row.size.value == 0 else row.bound.value / row.size.value,
            }
            for row in found.units
            if row.group == group
        ]
    shown["dictionaries"] = [
        {"crosscoder": coder.coder, "trained": coder.group, "seed": coder.seed, "unexplained": coder.unexplained}
        for coder in found.coders
    ]
    return shown


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.3g} ({estimate.low:.3g}–{estimate.high:.3g})"
