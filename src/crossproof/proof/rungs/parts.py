"""What a feature says to a neuron, taken apart: along the directions of a dictionary, and a rest.

    p = Σ_slot p_slot + rest,    P⁺ = Σ relu(p_slot) + relu(rest) at every neuron, and P⁻ alike

A learned dictionary reproduces no model's embedding exactly. What it leaves is an *error atom* of each feature, so that
its parts and the rest are what the feature says, whatever the witness holds, and L1 is about all of them.
"""

from __future__ import annotations

from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball, concatenate, exact
from crossproof.proof.statement import Witness

DICTIONARY = ("directions", "active", "strength")
"""Directions in the stream that the first MLP reads, [direction, width]; which of them each feature of the explanation
is made of, and how much, [feature, slot]."""
CHUNK = 256
"""Features at a time."""


def masses_of(table: Ball, W_in: Ball, witness: Witness) -> tuple[Ball, Ball]:
    """The positive and the negative mass of each feature, [feature, neuron], from what it says in all."""
    there = [name for name in DICTIONARY if name in witness]
    if not there:
        return table.relu(), (-table).relu()
    if len(there) < len(DICTIONARY):
        raise MismatchError(f"{', '.join(there)}: the witness lacks the rest of {', '.join(DICTIONARY)}")
    directions, active, strength = (witness[name] for name in DICTIONARY)
    _check(active, strength, len(table), len(directions))
    said, weight = exact(directions) @ W_in, exact(strength)
    sides = [
        _sides(table[start : start + CHUNK], said, active[start : start + CHUNK].long(), weight[start : start + CHUNK])
        for start in range(0, len(table), CHUNK)
    ]
    positive, negative = zip(*sides, strict=True)
    return concatenate(list(positive)), concatenate(list(negative))


def _sides(table: Ball, said: Ball, active: Tensor, strength: Ball) -> tuple[Ball, Ball]:
    parts = said[active] * strength[:, :, None]
    rest = table - parts.sum(1)
    return parts.relu().sum(1) + rest.relu(), (-parts).relu().sum(1) + (-rest).relu()


def _check(active: Tensor, strength: Tensor, features: int, directions: int) -> None:
    for name, its in (("active", active), ("strength", strength)):
        if its.shape != active.shape or len(its) != features:
            raise MismatchError(f"{name}: the witness has {tuple(its.shape)} for {features} features")
    if not active.is_meta and not bool(((active >= 0) & (active < directions)).all()):
        raise MismatchError(f"active: the witness names a direction that is none of {directions}")
