"""Tests on a given model everything this library relies on.

Two kinds of runs. In one the model runs as it is: every unit, recomputed from its input site and its weights, must
give what the model has at its output site, and the residual stream must be the sum of what was added to it. In the
others one site is written. With its own value: nothing may change. With another value: the logits must change, the
units that read the site must follow, and the residual stream must carry the change on. A hook that is seen but reaches
nothing, or that reaches the MLP and not the skip path, fails there.

The sites tested are the paper's recipe and those that units read and write.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.subject.patch import splice
from crossproof.subject.tokens import NO_TARGET, Tokens
from crossproof.units import Attention, GatedMLP, Norm, Unembedding

if TYPE_CHECKING:
    from rich.table import Table

    from crossproof.subject.subject import Subject
    from crossproof.units import Unit

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Largest relative difference that counts as equal. Some models compute norms and attention in float32 whatever their
dtype, so float64 models cannot be held to float64."""

_TEXTS, _POSITIONS = 4, 48
_SHAKE = 0.5
"""How far a written value is from the model's own, relative to its size: far enough to bend every nonlinearity."""


@dataclass(frozen=True)
class Check:
    """One thing relied on: what was compared, and the worst relative difference over all positions."""

    name: str
    compared: str
    difference: float
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class _Sum:
    """A residual stream and what it is the sum of."""

    total: str
    terms: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.total} = {' + '.join(self.terms)}"


def examine(subject: Subject, tokens: Tokens | None = None) -> list[Check]:
    """Every check, on the first of these tokens or of the subject's own (of random ids where it has no texts)."""
    tokens = _cropped(_some_tokens(subject) if tokens is None else tokens)
    if tokens.n_kept == 0:
        raise CrossproofError(
            f"no tokens: none of the first {_POSITIONS} positions of the first {_TEXTS} texts is kept"
        )
    try:
        units = subject.units
        checks = []
    except UnsupportedModel as error:
        units = ()
        checks = [Check("units known", subject.name, torch.nan, False, str(error))]
    return checks + _Examination(subject, tokens, units).checks()


def describe(subject: Subject) -> list[str]:
    """What the model is made of: its size, and every kind of unit with how many there are."""
    parallel = "blocks.0.hook_attn_out" in subject.sites and "blocks.0.hook_resid_mid" not in subject.sites
    blocks = f"{subject.n_layers} {'parallel' if parallel else 'sequential'} blocks of width {subject.d_model}"
    lines = [f"{blocks}, {len(subject.sites)} sites"]
    try:
        kinds = Counter(map(_kind, subject.units))
    except UnsupportedModel as error:
        return [*lines, f"units unknown: {error}"]
    return lines + [f"{count} × {kind}" for kind, count in kinds.items()]


def _kind(unit: Unit) -> str:
    if isinstance(unit, Norm):
        return f"{'RMSNorm' if unit.kind == 'rms' else 'LayerNorm'}, gain and bias kept in it, eps {unit.eps:g}"
    if isinstance(unit, Attention):
        heads = f"attention with {len(unit.W_Q)} heads of {unit.W_Q.shape[2]}"
        shared = "" if len(unit.W_K) == len(unit.W_Q) else f", {len(unit.W_K)} key-value heads"
        rotary = "" if unit.rotary is None else f", rotary in {unit.rotary.dim} of {unit.W_Q.shape[2]} dimensions"
        window = "" if unit.window is None else f", window of {unit.window}"
        return heads + shared + rotary + window
    if isinstance(unit, Unembedding):
        return f"unembedding to {unit.W_U.shape[1]} logits"
    gated = "gated MLP" if isinstance(unit, GatedMLP) else "MLP"
    return f"{gated} of {unit.W_in.shape[1]} neurons, {unit.activation}"


def table(checks: Sequence[Check]) -> Table:
    """What was checked: a row for every kind of check, and a row for every check that failed."""
    from rich.table import Table

    shown = Table("check", "compared", "worst difference", "")
    for name in dict.fromkeys(check.name for check in checks):
        of_kind = [check for check in checks if check.name == name]
        passed = [check for check in of_kind if check.passed]
        if passed:
            # Of changes that must be seen, the smallest is the worst.
            worst = (min if name == _REACHES else max)(check.difference for check in passed)
            what = passed[0].compared if len(passed) == 1 else f"{len(passed)} of {len(of_kind)}"
            shown.add_row(name, what, f"{worst:.1e}", "[green]passed[/]")
        for check in of_kind:
            if not check.passed:
                note = f"{check.compared}\n[dim]{check.note}[/]" if check.note else check.compared
                shown.add_row(name, note, f"{check.difference:.1e}", "[bold red]FAILED[/]")
    return shown


_RECOMPUTED = "unit recomputed from its weights"
_FOLLOWS = "unit follows a written input"
_ADDS_UP = "residual stream adds up"
_CARRIES = "residual stream carries a written value"
_NOTHING = "own value written: nothing changes"
_REACHES = "other value written: logits change"


class _Examination:
    def __init__(self, subject: Subject, tokens: Tokens, units: Sequence[Unit]) -> None:
        self.subject, self.tokens, self.units = subject, tokens, units
        self.sums = _sums(subject)
        self.tolerance = TOLERANCE[subject.dtype]
        ends = {site for unit in units for site in (unit.input_site, unit.output_site)}
        ends |= {site for total in self.sums for site in (total.total, *total.terms)}
        ends |= set(subject.find_sites(subject.default_sites()))
        self.sites = tuple(site for site in subject.sites if site in ends)

    def checks(self) -> list[Check]:
        with torch.no_grad():
            self.logits, values = self.subject.run(self.tokens, self.sites)
            checks = [self._unit(_RECOMPUTED, unit, values, self.logits) for unit in self.units]
            checks += [self._sum(_ADDS_UP, each, values) for each in self.sums]
            for site in self.sites:
                checks += self._written(site)
        return checks

    def _written(self, site: str) -> list[Check]:
        own = self.subject.logits(self.tokens, {site: splice(self.tokens, lambda rows: rows.clone())})
        intended: list[Tensor] = []

        def shake(value: Tensor) -> Tensor:
            intended.append(splice(self.tokens, _shaken)(value))
            return intended[0]

        logits, values = self.subject.run(self.tokens, self.sites, {site: shake})
        if not intended:
            return [Check(_REACHES, site, 0.0, False, "the model never asks this hook")]
        # What a reader of the site sees must be what was meant to be written, so that is what the others are held to.
        values[site] = intended[0]
        change = _difference(logits, self.logits)
        note = "" if change > self.tolerance / 100 else "writing this site reaches nothing"
        checks = [self._equal(_NOTHING, site, own, self.logits), Check(_REACHES, site, change, not note, note)]
        checks += [self._unit(_FOLLOWS, unit, values, logits) for unit in self.units if unit.input_site == site]
        for each in self.sums:
            if site in each.terms:
                checks.append(self._sum(_CARRIES, each, values, f"{site} was written"))
        return checks

    def _unit(self, name: str, unit: Unit, values: dict[str, Tensor], logits: Tensor) -> Check:
        there = values.get(unit.output_site, logits)
        what = f"{type(unit).__name__}({unit.input_site}) = {unit.output_site}"
        return self._equal(name, what, unit(values[unit.input_site]), there)

    def _sum(self, name: str, each: _Sum, values: dict[str, Tensor], note: str = "") -> Check:
        total = torch.stack([values[term] for term in each.terms]).sum(0)
        return self._equal(name, str(each), total, values[each.total], note)

    def _equal(self, name: str, what: str, ours: Tensor, theirs: Tensor, note: str = "") -> Check:
        difference = _difference(ours, theirs)
        return Check(name, what, difference, difference <= self.tolerance, note)


def _sums(subject: Subject) -> list[_Sum]:
    """What each block adds to the residual stream: attention, then the MLP, or both at once in a parallel block."""
    sums = []
    for layer in range(subject.n_layers):
        pre, mid, post, attention, mlp = (
            f"blocks.{layer}.hook_{end}" for end in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
        )
        if mid in subject.sites:
            sums += [_Sum(mid, (pre, attention)), _Sum(post, (mid, mlp))]
        else:
            sums.append(_Sum(post, (pre, *(part for part in (attention, mlp) if part in subject.sites))))
    return [each for each in sums if all(site in subject.sites for site in (each.total, *each.terms))]


def _shaken(rows: Float[Tensor, "row width"]) -> Float[Tensor, "row width"]:
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)).to(rows)
    return rows + _SHAKE * rows.square().mean().sqrt() * noise


def _difference(ours: Float[Tensor, "*batch width"], theirs: Float[Tensor, "*batch width"]) -> float:
    """The worst relative difference over positions; a position with next to no norm is measured by the mean norm."""
    ours, theirs = ours.double(), theirs.double()
    norms = theirs.norm(dim=-1)
    scale = norms.clamp_min(max(1e-2 * float(norms.mean()), torch.finfo(torch.float64).tiny))
    return float(((ours - theirs).norm(dim=-1) / scale).max())


def _some_tokens(subject: Subject) -> Tokens:
    if subject.has_texts:
        return subject.texts(_TEXTS)
    positions = min(_POSITIONS, subject.context or _POSITIONS)
    vocabulary = int(getattr(getattr(subject.model, "cfg", None), "d_vocab", 2))
    ids = torch.randint(vocabulary, (_TEXTS, positions), generator=torch.Generator().manual_seed(0))
    keep = torch.ones_like(ids, dtype=torch.bool)
    return Tokens(ids, keep, torch.cat([ids[:, 1:], torch.full((_TEXTS, 1), NO_TARGET)], dim=1))


def _cropped(tokens: Tokens) -> Tokens:
    return Tokens(*(part[:_TEXTS, :_POSITIONS] for part in (tokens.ids, tokens.keep, tokens.targets)))
