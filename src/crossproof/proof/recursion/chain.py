"""A subject's units from the first site that a crosscoder describes to the logits, and texts as they enter them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import part as part_of
from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.tally import count, part, tallied
from crossproof.proof.units.attention import BoundedAttention
from crossproof.proof.units.loss import BoundedLoss
from crossproof.proof.units.mlp import BoundedMLP
from crossproof.proof.units.norms import BoundedNorm
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens
from crossproof.units import MLP, Attention, GatedMLP, Norm, Unit

Bounded = BoundedNorm | BoundedAttention | BoundedMLP | BoundedLoss
Made = TypeVar("Made")
TOLERANCE = 1e-3
"""How far the units' loss may be from the model's, which is rounded to float32 at every step."""


@dataclass(frozen=True)
class Step:
    unit: Unit
    bounded: Bounded


@dataclass(frozen=True)
class Chain:
    """From `start` on: each unit reads its input site, and what attention and MLPs write is added to the stream."""

    subject: Subject
    coder: Crosscoder
    start: str
    steps: tuple[Step, ...]
    described: dict[str, int]
    """Sites of the chain that the crosscoder describes, in order, and where they stand on its axis."""

    @classmethod
    def of(cls, subject: Subject, coder: Crosscoder) -> Chain:
        at = part_of(subject, coder).at
        units, written = subject.units, {unit.output_site for unit in subject.units}
        first = next((n for n, u in enumerate(units) if u.input_site in at and u.input_site not in written), None)
        if first is None:
            streams = [unit.input_site for unit in units if unit.input_site not in written]
            raise MismatchError(
                f"this crosscoder has the sites {', '.join(at)}, and none of them is a residual stream that a unit of "
                f"{subject.name} reads: the recursion cannot begin. Train a crosscoder that has {streams[0]}"
            )
        units = units[first:]
        met = [site for unit in units for site in (unit.input_site, unit.output_site)]
        described = {site: at[site] for site in met if site in at}
        directions, biases = coder.decoder.detach(), coder.decoder_bias.detach()

        def bounded(unit: Unit) -> Bounded:
            if isinstance(unit, MLP | GatedMLP):
                site = described.get(unit.input_site)
                if site is None:
                    return BoundedMLP(unit)
                return BoundedMLP(unit, exact(directions[:, site]), exact(biases[site]))
            if isinstance(unit, Norm):
                return BoundedNorm(unit)
            return BoundedAttention(unit) if isinstance(unit, Attention) else BoundedLoss(unit)

        steps = tuple(Step(unit, bounded(unit)) for unit in units)
        return cls(subject, coder, units[0].input_site, steps, described)

    @property
    def written(self) -> set[str]:
        """Sites that are some unit's output, and no residual stream."""
        return {step.unit.output_site for step in self.steps}

    def texts(self, tokens: Tokens) -> Iterator[Text]:
        """Each cut after its last position that counts; those without one are left out."""
        directions, biases = self.coder.decoder.detach(), self.coder.decoder_bias.detach()
        for number in range(len(tokens)):
            its = tokens[number : number + 1]
            counts = (its.keep | (its.targets != NO_TARGET))[0].nonzero()
            if len(counts) == 0 or not its.n_kept:
                continue
            length = int(counts.max()) + 1
            its = Tokens(its.ids[:, :length], its.keep[:, :length], its.targets[:, :length])
            values = self.subject.cache(its, self.coder.sites)
            losses = self.subject.token_losses(its)[0].double()
            self._check(values[self.start], losses, its.targets[0])
            keep = its.keep[0]
            codes = self.coder.encode(self.subject.kept(its, self.coder.sites, values)).active()
            counts = codes.pattern.row_starts.diff()
            features = _side_by_side(codes.pattern.features, counts)
            strengths = _side_by_side(codes.values.detach().double(), counts)
            decoded = {}
            with tallied() as tally, part("decoding"):
                for site, at in self.described.items():
                    each = exact(directions[:, at])[features] * exact(strengths)[:, :, None]
                    decoded[site] = each.sum(1) + exact(biases[at])
            own = {site: exact(values[site][0]) for site in self.described}
            targets = its.targets[0]
            yield Text(number, keep, targets, features, strengths, own, decoded, losses, tally.total)

    def _check(self, values: Tensor, losses: Tensor, targets: Tensor) -> None:
        """That the units, one after the other, are the model: what is proved of them is then proved of it."""
        known, stream = {self.start: values.double()}, values.double()
        for step in self.steps:
            unit = step.unit.to(torch.float64)
            x = known.setdefault(unit.input_site, stream)
            known[unit.output_site] = unit(x)
            if isinstance(unit, Attention | MLP):
                stream = stream + known[unit.output_site]
        logits = known[self.steps[-1].unit.output_site][0]
        scored = targets != NO_TARGET
        found = torch.nn.functional.cross_entropy(logits[scored], targets[scored], reduction="none")
        apart = float((found - losses[scored]).abs().max()) if bool(scored.any()) else 0.0
        if not apart <= TOLERANCE:
            raise UnsupportedModel(
                f"{self.subject.name}: its units, one after the other, give a loss that is up to {apart:.3g} nat from "
                "the model's, so nothing that is proved of them would be proved of the model. Its blocks are joined in "
                "a way the recursion does not know; `crossproof doctor` says which unit is not what it seems"
            )


@dataclass(frozen=True)
class Text:
    """What is known of a text: codes where the crosscoder has some, the model's own values at the sites."""

    number: int
    keep: Bool[Tensor, " pos"]
    """Where the crosscoder describes it. Elsewhere, such as at beginning-of-text, the model is run."""
    targets: Int[Tensor, " pos"]
    features: Int[Tensor, "row slot"]
    strengths: Float[Tensor, "row slot"]
    """Of the positions that are kept; 0 in slots that are not needed."""
    own: dict[str, Ball]
    decoded: dict[str, Ball]
    """[row, width] at the sites that are described."""
    losses: Float[Tensor, " pos"]
    decoding: int
    """Operations."""
    _made: dict[Any, tuple[Any, dict[str, int]]] = field(default_factory=dict)

    @property
    def scored(self) -> Bool[Tensor, " pos"]:
        return self.targets != NO_TARGET

    def once(self, key: Any, make: Callable[[], Made]) -> Made:
        """What several ways have in common is computed once, and its operations are counted for each."""
        if key not in self._made:
            with tallied() as tally:
                value = make()
            self._made[key] = value, tally.parts
        value, parts = self._made[key]
        for name, operations in parts.items():
            with part(name):
                count(operations)
        return value


def _side_by_side(entries: Tensor, counts: Int[Tensor, " row"]) -> Tensor:
    """Rows of different lengths with zeros after each, one column at least."""
    rows = torch.nn.utils.rnn.pad_sequence(list(entries.split(counts.tolist())), batch_first=True)
    return rows if rows.shape[1] else entries.new_zeros(len(counts), 1)
