"""The results of the study of units: estimates with intervals, by group of dictionaries, and tables to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.interaction.account import Account
from crossproof.interaction.result_view import three_digits
from crossproof.study.dictionaries import PLAIN, CoderRecord
from crossproof.study.estimates import Drawn, Estimate, by_text, combine, drawn, estimate, text_weights


@dataclass(frozen=True, eq=False)
class Measured:
    """One dictionary."""

    account: Account
    sizes: Mapping[str, Float64[Tensor, " row"]]
    """At each sampled token, what each unit's pairs do, exactly; not of norms before attention layers."""
    text: Int[Tensor, " row"]
    """Of which text each sampled token is, counted from 0 among those with any kept token."""


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class UnitRecord(Record):
    """One unit with one group of dictionaries."""

    group: str
    unit: str
    kind: str
    size: Estimate | None
    """Per token: the lengths of all pairs' second differences, summed. None where it is not measured."""
    written: float
    """The mean length of what the unit writes; of a norm, what its listener writes."""
    account: Estimate
    """What the account of all tokens has per token."""
    against_plain: Estimate | None
    """The size over the mean size with the dictionaries trained alike without a penalty, at the same tokens."""


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
    """Plain dictionaries first. Every estimate resamples the same texts."""
    found = sorted(found, key=lambda pair: pair[0].penalty != PLAIN)
    groups: dict[str, list[tuple[CoderRecord, Measured]]] = {}
    for record, measured in found:
        groups.setdefault(record.group, []).append((record, measured))
    texts = len(found[0][1].account.tokens)
    weights = text_weights(texts, seed)
    units = []
    for group, members in groups.items():
        first, dictionaries = members[0][0], [its for _, its in members]
        plain = [its for _, its in groups.get(first.baseline, [])] if first.penalty != PLAIN else []
        for number, (name, kind) in enumerate(dictionaries[0].account.kinds.items()):
            sizes = [_size(its, name, weights) for its in dictionaries if name in its.sizes]
            bases = [_size(its, name, weights) for its in plain if name in its.sizes]
            units.append(
                UnitRecord(
                    group=group,
                    unit=name,
                    kind=kind,
                    size=estimate(sizes) if sizes else None,
                    written=float(torch.stack([its.account.written[number] for its in dictionaries]).mean()),
                    account=estimate([_account(its, number, weights) for its in dictionaries]),
                    against_plain=_ratio(sizes, bases),
                )
            )
    records = [record for record, _ in found]
    return UnitsStudy(subject=subject, tokens=tokens, sampled=sampled, coders=records, units=units)


def _size(its: Measured, unit: str, weights: Float64[Tensor, "draw text"]) -> Drawn:
    """Per sampled token; not a number in a resample without one."""
    sizes, texts = its.sizes[unit], weights.shape[1]
    return drawn(by_text(sizes, its.text, texts), by_text(torch.ones_like(sizes), its.text, texts), weights)


def _account(its: Measured, unit: int, weights: Float64[Tensor, "draw text"]) -> Drawn:
    return drawn(its.account.by_text[:, unit], its.account.tokens.double(), weights)


def _ratio(sizes: Sequence[Drawn], bases: Sequence[Drawn]) -> Estimate | None:
    if not sizes or not bases or sum(base.value for base in bases) == 0:
        return None
    base = combine(lambda *values: torch.stack(values).mean(0), *bases)
    return estimate([combine(lambda size, base: size / base, size, base) for size in sizes])


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
                "account": _text(row.account),
                "account / size": None if not row.size or row.size.value == 0 else row.account.value / row.size.value,
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
    value, low, high = (three_digits(number) for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} ({low}–{high})"


def notes(found: UnitsStudy) -> str:
    """What the tables do not say by themselves."""
    return (
        f"{found.subject}: {found.tokens:,} tokens accounted for, features removed at {found.sampled} of them. In "
        "brackets 95 % from resampled texts, the dictionaries held fixed.\n"
        "size: the lengths of all pairs' second differences, summed; – where features are not removed (norms before "
        "attention, MLPs whose norm's input is no site)"
    )
