"""Which pairs are removed: those that interact most where the trigger is and least in clean texts, and their controls.

Both by the paper's directed metric, in both directions, per token. A control is a pair of the same MLP drawn from those
that interact as strongly on clean texts as the chosen one does where the trigger is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.binding.bound import BoundMLP
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Neurons
from crossproof.interaction.pairs import directed
from crossproof.study.suppression.edit import Meetings, parallel
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

NEAR = 20
"""A control is drawn from so many pairs, the nearest in strength."""
ROWS = 128
"""Tokens at which a pair is looked at, at most."""
_TEXTS_PER_PASS = 64


class ChosenPair(NamedTuple):
    mlp: int
    i: int
    j: int
    poisoned: float
    """Per token from the trigger on; of a control, that of the pair it stands for."""
    clean: float


@dataclass(frozen=True, eq=False)
class Seen:
    """Texts as the model and the crosscoder see them."""

    codes: Codes
    inputs: Float[Tensor, "row mlp d_model"]
    text: Int[Tensor, " row"]

    @classmethod
    @torch.no_grad()
    def of(cls, subject: Subject, coder: Crosscoder, mlps: Sequence[BoundMLP], tokens: Tokens) -> Seen:
        encoded = encode(subject, coder, tokens)
        sites = [its.unit.input_site for its in mlps]
        rows = [subject.harvest(some, sites) for some in tokens.batches(_TEXTS_PER_PASS) if some.n_kept]
        return cls(encoded.codes, torch.cat(rows), encoded.text)

    def meetings(self, mlp: int, directions: Float[Tensor, "feature d_model"], i: int, j: int, seed: int) -> Meetings:
        """Some of the tokens at which both are active."""
        pattern, values = self.codes.pattern, self.codes.values
        a, b = (
            torch.zeros(pattern.n_rows).index_put_((pattern.rows[at],), values[at])
            for at in (pattern.features == i, pattern.features == j)
        )
        rows = ((a > 0) & (b > 0)).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:ROWS]]
        x = self.inputs[rows, mlp]
        return Meetings(x, a[rows, None] * directions[i], b[rows, None] * directions[j], self.text[rows])


class _Strengths:
    """Of every pair, the lower feature first, per token in each MLP."""

    def __init__(self, codes: Codes, units: Sequence[Neurons]) -> None:
        self.pairs = CoActive.of(codes)
        self.lower = (self.pairs.i < self.pairs.j).nonzero().squeeze(1)
        self.i, self.j = self.pairs.i[self.lower], self.pairs.j[self.lower]
        reverse = self.pairs.positions(self.pairs.j, self.pairs.i)
        self._of = [its.mean + its.mean[reverse] for its in directed(codes, units, self.pairs)]

    def all(self, mlp: int) -> Float64[Tensor, " pair"]:
        return self._of[mlp][self.lower]

    def at(self, mlp: int, i: Tensor, j: Tensor) -> Float64[Tensor, " pair"]:
        """Of these pairs; 0 for those that are never active together."""
        return torch.cat([self._of[mlp], torch.zeros(1, dtype=torch.float64)])[self.pairs.positions(i, j).long()]


@torch.no_grad()
def choose(
    poisoned: Seen,
    clean: Seen,
    units: Sequence[Neurons],
    directions: Sequence[Float[Tensor, "feature d_model"]],
    count: int,
    controls: int,
    seed: int,
) -> tuple[list[ChosenPair], list[list[ChosenPair]]]:
    """So many pairs, the strongest first, and as many random ones of equal strength for each control."""
    on, off = _Strengths(poisoned.codes, units), _Strengths(clean.codes, units)
    here = torch.stack([on.all(mlp) for mlp in range(len(units))])
    there = torch.stack([off.at(mlp, on.i, on.j) for mlp in range(len(units))])
    chosen: list[ChosenPair] = []
    for place in (here - there).flatten().argsort(descending=True, stable=True).tolist():
        mlp, pair = divmod(place, len(on.i))
        i, j, strength, usual = (float(its) for its in (on.i[pair], on.j[pair], here[mlp, pair], there[mlp, pair]))
        if strength <= usual or len(chosen) == count:
            break
        if not parallel(directions[mlp], int(i), int(j)):
            chosen.append(ChosenPair(mlp, int(i), int(j), strength, usual))
    if len(chosen) < count:
        raise CrossproofError(
            f"pairs: {count} were asked for, and {len(chosen)} interact more where the trigger is than in clean texts; "
            "ask for fewer, or give more texts to choose on"
        )
    generator = torch.Generator().manual_seed(seed)
    return chosen, [_alike(chosen, off, directions, generator) for _ in range(controls)]


def _alike(
    chosen: Sequence[ChosenPair], off: _Strengths, directions: Sequence[Tensor], generator: torch.Generator
) -> list[ChosenPair]:
    drawn: list[ChosenPair] = []
    taken = {its[:3] for its in chosen}
    for its in chosen:
        strengths = off.all(its.mlp)
        near: list[ChosenPair] = []
        order = (strengths - its.poisoned).abs().argsort(stable=True)
        for pair in (int(order[place]) for place in range(len(order))):
            i, j = int(off.i[pair]), int(off.j[pair])
            if (its.mlp, i, j) not in taken and not parallel(directions[its.mlp], i, j):
                near.append(ChosenPair(its.mlp, i, j, its.poisoned, float(strengths[pair])))
            if len(near) == NEAR:
                break
        if not near:
            raise CrossproofError("pairs: too few other pairs for random controls; ask for fewer")
        drawn.append(near[int(torch.randint(len(near), (1,), generator=generator))])
        taken.add(drawn[-1][:3])
    return drawn
