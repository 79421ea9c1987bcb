"""Which pairs are leads, and which they are compared with: decided on the first half of the texts alone.

A lead is a pair that both fire but never together, with a large potential (`interaction/weights.py`). One of the two,
the host, will be kept where it is; the other, the guest, is brought there. A lead's *matches* are guests for the same
host that never meet it either, fire about as often and as strongly as the lead's guest, and have little potential.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Neurons
from crossproof.interaction.weights import potential, typical_strengths
from crossproof.study.metrics import second_difference
from crossproof.subject.tokens import Tokens

LENGTHS = (1, 2, 4, 8)
"""Tokens in a window."""
PLACES = (-1, 0, 1, 2, 3, 4)
"""Where a window ends, as seen from where the host fires: −1 is right before it."""
REST = 8
"""Original tokens after a window on which the loss is taken."""
TEXTS = 4
"""A feature must fire in so many texts, away from both ends, to be in a pair."""
MATCHES = 2
ALIKE = 20
"""Of so many guests that are most alike to a lead's, those with the least potential are its matches."""
LITTLE = 0.75
"""A match has at most this part of the lead's potential; a pair without such matches is no lead."""
RANKED = 200
"""So many times more pairs are ranked than there will be leads: strong features are in many of them."""


class Lead(NamedTuple):
    host: int
    guests: tuple[int, ...]
    """The lead's own, then those of its matches."""
    potentials: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Half:
    """Some texts in the features of a dictionary."""

    tokens: Tokens
    codes: Codes
    """Active entries, a row for each kept position."""

    @cached_property
    def where(self) -> Int[Tensor, "row 2"]:
        """Text and position of each row."""
        return self.tokens.keep.nonzero()

    @cached_property
    def inner(self) -> Bool[Tensor, " row"]:
        """Where every window fits, and the rest after it."""
        position, none = torch.arange(self.tokens.keep.shape[1]), self.tokens.keep.shape[1]
        first = torch.where(self.tokens.keep, position, none).amin(1)
        last = torch.where(self.tokens.keep, position, -1).amax(1)
        text, here = self.where.unbind(1)
        return (here > first[text] + max(LENGTHS) - 1) & (here + max(PLACES) + REST <= last[text])

    def rows(self, feature: int) -> Int[Tensor, " row"]:
        """Where it is active."""
        return self.codes.pattern.rows[self.codes.pattern.features == feature].cpu()

    def meetings(self, i: int, j: int) -> Int[Tensor, " row"]:
        rows = self.rows(i)
        return rows[torch.isin(rows, self.rows(j))]

    def strongest(self, feature: int, but_not: Int[Tensor, " row"]) -> list[tuple[int, int]]:
        """Text and position where it fires most, once in each text, without the texts of some rows."""
        rows = self.rows(feature)
        values = self.codes.values[self.codes.pattern.features == feature].cpu()
        fine = self.inner[rows] & ~torch.isin(self.where[rows, 0], self.where[but_not, 0])
        order = values[fine].sort(descending=True, stable=True).indices
        best: dict[int, int] = {}
        for text, position in self.where[rows[fine][order]].tolist():
            best.setdefault(text, position)
        return list(best.items())


@dataclass(frozen=True, eq=False)
class Leads:
    leads: list[Lead]
    typical: Float64[Tensor, " feature"]
    n_pairs: int
    """How many pairs of features that fire often enough never meet."""


def find(units: list[Neurons], half: Half, count: int) -> Leads:
    """Up to `count` leads, the strongest first."""
    codes = half.codes
    together, typical = CoActive.of(codes), typical_strengths(codes)
    often = _texts_of_each(half) >= TEXTS
    ranked = potential(units, typical, replace(together, firing=together.firing * often), top=RANKED * count)
    stays, used, leads = _stays(half), set[int](), list[Lead]()
    for i, j in zip(ranked.i.tolist(), ranked.j.tolist(), strict=True):
        if len(leads) == count:
            break
        if i in used or j in used:
            continue
        # the host must live through the edit
        host, guest = (i, j) if bool(stays[i] >= stays[j]) else (j, i)
        lead = _with_matches(units, host, guest, together, typical, often)
        if lead is not None:
            used.update((i, j))
            leads.append(lead)
    return Leads(leads, typical, ranked.n_pairs)


def _with_matches(
    units: list[Neurons], host: int, guest: int, together: CoActive, typical: Tensor, often: Tensor
) -> Lead | None:
    others = often.clone()
    others[together.j[together.i == host]] = False
    others[[host, guest]] = False
    candidates = others.nonzero().squeeze(1)
    if len(candidates) < MATCHES:
        return None
    sizes = torch.stack([together.firing.double(), typical]).log()
    unlike = (sizes[:, candidates] - sizes[:, [guest]]).abs().sum(0)
    guests = torch.cat([candidates.new_tensor([guest]), candidates[unlike.argsort(stable=True)[:ALIKE]]])
    hosts = torch.full_like(guests, host)
    scores = torch.stack([second_difference(unit, typical, hosts, guests) for unit in units]).sum(0)
    chosen = [0, *(1 + scores[1:].argsort(stable=True)[:MATCHES]).tolist()]
    if bool((scores[chosen[1:]] > LITTLE * scores[0]).any()):
        return None
    return Lead(host, tuple(guests[chosen].tolist()), tuple(scores[chosen].tolist()))


def _texts_of_each(half: Half) -> Int[Tensor, " feature"]:
    """In how many texts each feature fires where every window fits."""
    pattern = half.codes.pattern
    inner = half.inner.to(pattern.rows.device)[pattern.rows]
    text = half.where[:, 0].to(pattern.rows.device)[pattern.rows]
    found = (text * pattern.n_features + pattern.features)[inner].unique()
    return torch.bincount(found % pattern.n_features, minlength=pattern.n_features)


def _stays(half: Half) -> Float[Tensor, " feature"]:
    """How often each feature, where it is active, still is at the next token of the text."""
    pattern = half.codes.pattern
    keys, text = pattern.rows * pattern.n_features + pattern.features, half.where[:, 0].to(pattern.rows.device)
    again = torch.isin(keys + pattern.n_features, keys) & (text == text.roll(-1))[pattern.rows]
    still = torch.bincount(pattern.features[again], minlength=pattern.n_features)
    return still / half.codes.firing_counts().clamp(min=1)
