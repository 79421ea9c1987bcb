"""A learned dictionary as the features of a proof: what tokens say to an MLP, in the directions of a crosscoder.

The directions are the decoder rows at the stream that the first MLP reads. What each token at each position says there
(a feature of `explanation.py`) is written as a few of them with strengths that are not negative, found by pursuit and
not by the crosscoder's encoder; how is of no concern to the proof. What they leave over is its *error atom*, to which
the proof adds the neurons' biases where there is no norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.progress import progress
from crossproof.proof.explanation import vectors
from crossproof.proof.network import Network
from crossproof.proof.rungs.parts import DICTIONARY
from crossproof.proof.statement import Items, Witness

SITES = ("blocks.0.hook_resid_mid", "blocks.0.hook_mlp_in")
"""The stream that the first MLP reads, under either name."""
SLOTS = 16
"""How many directions a feature has where the crosscoder has no k."""
FEATURES_AT_ONCE = 512
SWEEPS = 8
"""How often all strengths are made anew for each direction that joins."""
TINY = 1e-30

Vectors = Float[Tensor, "feature width"]


@dataclass(frozen=True, eq=False)
class Dictionary:
    name: str
    directions: Float[Tensor, "direction width"]
    slots: int
    """How many of them each feature may have."""

    @classmethod
    def open(cls, folder: str, subject: str, network: Network) -> Dictionary:
        """Of a crosscoder that reads this model where its first MLP does."""
        coder = Crosscoder.from_pretrained(folder)
        name = subject_of(folder, coder)
        if Path(name).resolve() != Path(subject).resolve():
            raise MismatchError(f"coder: {folder} was trained on {name}, and the model is {subject}; give one of that")
        sites = coder.positions(name)
        site = next((sites[hook] for hook in SITES if hook in sites), None)
        if site is None:
            raise MismatchError(
                f"coder: {folder} reads {', '.join(sites)}, and a proof needs what it writes at {' or '.join(SITES)}: "
                "train one with that site"
            )
        if coder.config.width != network.width:
            raise MismatchError(
                f"coder: {folder}: its directions are {coder.config.width} wide, the model {network.width}"
            )
        return cls(Path(folder).name, coder.decoder[:, site].detach(), coder.config.k or SLOTS)

    def witness(self, network: Network, items: Items, witness: Witness) -> dict[str, Tensor]:
        """`directions`, `active` and `strength` (rungs/parts.py) for the features that a witness gives the model."""
        if network.n_mlps == 0:
            raise UnsupportedModel("the model has no MLP that could hear a dictionary's features")
        its, directions = vectors(network, items, witness).float(), self.directions
        if network.norm:  # the MLP hears no mean
            directions = directions - directions.mean(1, keepdim=True)
        active, strength = pursued(its, directions, min(self.slots, len(directions)))
        return dict(zip(DICTIONARY, (directions, active.to(torch.int32), strength), strict=True))


def subject_of(folder: str, coder: Crosscoder) -> str:
    """The one model that a crosscoder reads."""
    if len(coder.subjects) > 1:
        raise MismatchError(
            f"coder: {folder} reads several models ({', '.join(coder.subjects)}), and a proof is of one; leave it out"
        )
    return coder.subjects[0]


def pursued(
    vectors: Vectors, directions: Float[Tensor, "direction width"], slots: int
) -> tuple[Integer[Tensor, "feature slot"], Float[Tensor, "feature slot"]]:
    """Matching pursuit without negative strengths: direction after direction, the one that points most at what is left,
    and then all strengths in turn a few times, each as good as the others allow, so that never more is left."""
    found = [_pursued(some, directions, slots) for some in vectors.split(FEATURES_AT_ONCE)]
    active, strength = zip(*found, strict=True)
    return torch.cat(active), torch.cat(strength)


def _pursued(vectors: Vectors, directions: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    length = directions.norm(dim=1, keepdim=True).clamp(min=TINY)
    unit = directions / length
    active = torch.zeros(len(vectors), 0, dtype=torch.long)
    strength = torch.zeros(len(vectors), 0)
    left = vectors.clone()
    for number in range(1, slots + 1):
        towards = left @ unit.T
        towards.scatter_(1, active, -torch.inf)
        active = torch.cat([active, towards.argmax(1, keepdim=True)], 1)
        strength = torch.nn.functional.pad(strength, (0, 1))
        for slot in list(range(number)) * SWEEPS:
            its, long = unit[active[:, slot]], length[active[:, slot], 0]
            better = (strength[:, slot] + (left * its).sum(1) / long).clamp(min=0)
            left -= ((better - strength[:, slot]) * long)[:, None] * its
            strength[:, slot] = better
    return active, strength


@dataclass(frozen=True)
class Unexplained:
    """What a dictionary leaves over of the features of an explanation, as a part of their squared length."""

    part: float
    worst: int
    """Of the feature of which most is left."""
    worst_part: float


def unexplained(network: Network, items: Items, witness: Witness) -> Unexplained:
    """With a dictionary's tensors in the witness."""
    its = vectors(network, items, witness)
    directions, active, strength = (witness[name] for name in DICTIONARY)
    square, left = its.square().sum(1), torch.zeros(len(its), dtype=torch.float64)
    with progress("error atoms", len(its), "features") as bar:
        for start in range(0, len(its), FEATURES_AT_ONCE):
            some = slice(start, start + FEATURES_AT_ONCE)
            parts = torch.einsum("fs,fsd->fd", strength[some].double(), directions.double()[active[some].long()])
            left[some] = (its[some] - parts).square().sum(1)
            bar(len(parts))
    each = torch.where(square > 0, left / square.clamp(min=1e-300), 0.0)
    worst = int(each.argmax())
    return Unexplained(float(left.sum() / square.sum().clamp(min=1e-300)), worst, float(each[worst]))
