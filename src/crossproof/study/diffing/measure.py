"""What is measured with each crosscoder: kinds of features, where they fire, how interactions between them change.

Which features live, and which pairs and partners are shown, is decided on one half of the texts; all that is said of
them is measured on the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.binding.encoding import codes_of
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.study.diffing.changes import WAYS, Table, Totals, measured, totals, ways
from crossproof.study.diffing.features import (
    CHANGED,
    KINDS,
    Geometry,
    Range,
    geometry,
    kinds,
    null_range,
    of_kinds,
    widened,
)
from crossproof.study.diffing.stages import LAST, Turns, turns
from crossproof.study.diffing.texts import TRIGGER, Texts, firing_at
from crossproof.study.estimates import Drawn, text_weights
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

if TYPE_CHECKING:
    from crossproof.study.diffing.config import DiffingConfig

LEAST_TOKENS = 5
"""A feature lives if it fires on this many tokens of the texts that are looked at to choose."""
GROUPS = ("both unchanged", "one unchanged", "both changed")
"""Of pairs; here all features count as changed that are not unchanged."""


@dataclass(frozen=True, eq=False)
class Half:
    """One comparison of two models: the features, and a table of interactions."""

    codes: Codes
    found: Geometry
    live: Bool[Tensor, " feature"]
    table: Table


@dataclass(frozen=True, eq=False)
class GroupDrawn:
    """Of a group of pairs in one metric, per token: interaction and change, and the same of the null's."""

    metric: str
    group: str
    found: tuple[Drawn, Drawn]
    null: tuple[Drawn, Drawn]
    by_weights: Drawn | None
    by_directions: Drawn | None
    noise: float
    """What the base's interactions differ by between the two halves of the texts."""


@dataclass(frozen=True, eq=False)
class Compared:
    """One crosscoder of the two models, and one of the base and the null."""

    pair: Half
    null: Half
    strict: Range
    unchanged: Range
    kind: Int[Tensor, " feature"]
    at_trigger: Mapping[str, Drawn | None]
    """Of the firing of each kind of live features, and of all changed ones, the share at tag and answer."""
    groups: list[GroupDrawn]

    @property
    def changed(self) -> Bool[Tensor, " feature"]:
        return of_kinds(self.kind, CHANGED) & self.pair.live


@dataclass(frozen=True, eq=False)
class Followed:
    """Stage-wise."""

    turns: Turns
    codes: Codes
    live: Bool[Tensor, " feature"]
    at_trigger: tuple[Drawn | None, Drawn | None]
    """Of the firing of features that the model's change turned in both orders, and of the others."""


def compared(
    config: DiffingConfig,
    models: tuple[Subject, ...],
    nulls: tuple[Subject, ...],
    coder: Crosscoder,
    null_coder: Crosscoder,
    tokens: Tokens,
    texts: Texts,
) -> Compared:
    pair = _half(models, coder, tokens, texts, WAYS)
    null = _half(nulls, null_coder, tokens, texts, ("base", "tuned"))
    strict = null_range(null.found, null.live)
    unchanged = widened(strict, config.unchanged)
    weights = text_weights(int(texts.reported.sum()), config.seed)
    kind = kinds(pair.found, unchanged, config.exclusive, config.rotated)
    at_trigger: dict[str, Drawn | None] = {}
    if texts.place is not None:
        for name, wanted in {each: (each,) for each in KINDS}.items():
            at_trigger[name] = firing_at(pair.codes, of_kinds(kind, wanted) & pair.live, texts, TRIGGER, weights)
        at_trigger["changed"] = firing_at(pair.codes, of_kinds(kind, CHANGED) & pair.live, texts, TRIGGER, weights)
    null_kind = kinds(null.found, unchanged, config.exclusive, config.rotated)
    groups = [
        its
        for metric in ("directed", "mass")
        if f"{metric} base" in pair.table.values
        for its in _grouped(metric, pair, kind, null, null_kind, texts, weights)
    ]
    return Compared(pair, null, strict, unchanged, kind, at_trigger, groups)


def staged(
    config: DiffingConfig,
    models: tuple[Subject, ...],
    coders: Mapping[str, Crosscoder],
    tokens: Tokens,
    texts: Texts,
) -> Followed:
    """Features count that live before the stages, in the base, and after them, in the tuned model."""
    before, codes = codes_of(models[0], coders["start"], tokens), codes_of(models[1], coders[LAST], tokens)
    live = _live(before, texts) & _live(codes, texts)
    followed = turns(coders, live)
    weights = text_weights(int(texts.reported.sum()), config.seed)
    sets = (followed.turned & live, ~followed.turned & live)
    at = (None, None) if texts.place is None else tuple(firing_at(codes, its, texts, TRIGGER, weights) for its in sets)
    return Followed(followed, codes, live, (at[0], at[1]))


def group_of_pairs(table: Table, kind: Int[Tensor, " feature"]) -> Int[Tensor, " pair"]:
    """Each pair's place among GROUPS."""
    changed = (kind != KINDS.index("unchanged")).long()
    return changed[table.i] + changed[table.j]


def _half(models: tuple[Subject, ...], coder: Crosscoder, tokens: Tokens, texts: Texts, wanted: Sequence[str]) -> Half:
    codes, units = codes_of(models, coder, tokens), ways(models[0], models[1], coder)
    found = geometry(coder, models[0].name, models[1].name)
    return Half(codes, found, _live(codes, texts), measured(codes, texts, {way: units[way] for way in wanted}))


def _live(codes: Codes, texts: Texts) -> Bool[Tensor, " feature"]:
    on = (codes.values > 0) & ~texts.tokens_reported[codes.pattern.rows]
    counts = torch.bincount(codes.pattern.features[on], minlength=codes.pattern.n_features)
    if int(counts.max()) < LEAST_TOKENS:
        raise CrossproofError(
            f"no feature fires on {LEAST_TOKENS} tokens of half of these texts: give more texts, or more steps"
        )
    return counts >= LEAST_TOKENS


def _grouped(
    metric: str,
    pair: Half,
    kind: Int[Tensor, " feature"],
    null: Half,
    null_kind: Int[Tensor, " feature"],
    texts: Texts,
    weights: Float64[Tensor, "draw text"],
) -> list[GroupDrawn]:
    def between(half: Half, of: Int[Tensor, " feature"], way: str) -> Totals:
        names = (f"{metric} base", f"{metric} {way}")
        return totals(half.table, names, group_of_pairs(half.table, of), len(GROUPS), texts, weights)

    found, of_null = between(pair, kind, "tuned"), between(null, null_kind, "tuned")
    causes = [between(pair, kind, way) for way in ("weights", "directions")] if metric == "directed" else []
    per_half = [
        pair.table.per_token(f"{metric} base", texts.tokens * which) for which in (texts.reported, ~texts.reported)
    ]
    noise = torch.zeros(len(GROUPS), dtype=torch.float64)
    noise.index_add_(0, group_of_pairs(pair.table, kind), (per_half[0] - per_half[1]).abs())
    return [
        GroupDrawn(
            metric=metric,
            group=group,
            found=(found.interaction[number], found.change[number]),
            null=(of_null.interaction[number], of_null.change[number]),
            by_weights=causes[0].change[number] if causes else None,
            by_directions=causes[1].change[number] if causes else None,
            noise=float(noise[number]),
        )
        for number, group in enumerate(GROUPS)
    ]
