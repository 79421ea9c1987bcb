"""Proving a bound on a model of windows: choose a witness, verify with it, count, and hold the result against truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.dictionary import Dictionary
from crossproof.proof.explanation import conjunctions
from crossproof.proof.network import Network
from crossproof.proof.rungs import brute, masses, offsets, pairs, uniform, vectors
from crossproof.proof.statement import Bounds, Items, Proved, Witness, proved

Verify = Callable[[Network, Items, Witness], Bounds]


@dataclass(frozen=True)
class How:
    """A rung and what can be chosen of it."""

    rung: str
    joined: int = 1
    """How many neighbouring positions one feature reads."""
    read: int = 0
    """masses: how many neurons' corrections are read out."""
    offsets: int = 0
    """masses: how many steps are spent to find offsets; 0 for none."""
    dictionary: Dictionary | None = None
    """masses, uniform: what features are taken apart along. None: they are tokens as they are."""

    def check(self) -> None:
        """That what is chosen goes together."""
        if self.dictionary is None:
            return
        if self.rung not in WITH_DICTIONARY:
            raise CrossproofError(
                f"rung: {self.rung} knows no dictionary's features; take {' or '.join(WITH_DICTIONARY)}, or leave out "
                "the coder"
            )
        if self.offsets:
            raise CrossproofError(
                "offsets: a search for them takes out of the masses again what a dictionary adds (docs/proofs.md, "
                "T13); leave out the coder, or set offsets to 0"
            )

    def __str__(self) -> str:
        parts = [self.rung]
        if self.rung == "masses":
            parts.append(f"{self.read} read out" + (", offsets" if self.offsets else ""))
        if self.joined > 1:
            parts.append(f"features of {self.joined} positions")
        if self.dictionary is not None:
            parts.append(f"in the directions of {self.dictionary.name}")
        return ", ".join(parts)


@dataclass(frozen=True)
class Rung:
    """One way to prove."""

    about: str
    verify: Verify
    choose: Callable[[Network, Items, dict[str, Tensor], How], dict[str, Tensor]]
    """What it adds to the witness of the explanation."""


def _for_masses(network: Network, items: Items, witness: dict[str, Tensor], how: How) -> dict[str, Tensor]:
    found = offsets.find(network, items, witness, how.read, how.offsets) if how.offsets else {}
    return found | {"read": masses.choose(network, items, witness | found, how.read)}


RUNGS: dict[str, Rung] = {
    "brute": Rung("the model on every different window, from tables", brute.cached, lambda *_: {}),
    "masses": Rung("masses at every neuron, the largest corrections read out", masses.verify, _for_masses),
    "pairs": Rung(
        "a number for each pair of features that meets",
        pairs.verify,
        lambda network, items, witness, _: pairs.choose(network, items, witness),
    ),
    "vectors": Rung(
        "logits for each pair of features that meets",
        vectors.verify,
        lambda network, items, witness, _: vectors.choose(network, items, witness),
    ),
    "uniform": Rung("a number for each feature", uniform.verify, lambda *_: {}),
}


WITH_DICTIONARY = ("masses", "uniform")


@dataclass(frozen=True)
class Proof:
    how: How
    witness: dict[str, Tensor]
    bounds: Bounds
    proved: Proved
    operations: dict[str, int]
    """By part."""


def prove(network: Network, items: Items, how: How) -> Proof:
    """Choose a witness, and prove with it what it gives."""
    how.check()
    witness = conjunctions(network, items, how.joined)
    if how.dictionary is not None:
        witness |= how.dictionary.witness(network, items, witness)
    witness |= RUNGS[how.rung].choose(network, items, witness, how)
    with tallied() as tally:
        bounds = RUNGS[how.rung].verify(network, items, witness)
        result = proved(bounds, items)
    return Proof(how, witness, bounds, result, tally.parts)


def operations(verify: Verify, network: Network, items: Items, witness: Witness) -> dict[str, int]:
    """How many operations verifying takes, by part, from shapes alone."""
    with tallied() as tally:
        unknown = {name: value.to("meta") for name, value in witness.items()}
        proved(verify(network.shapes(), items.shapes(), unknown), items.shapes())
    return tally.parts


@dataclass(frozen=True)
class Rivals:
    """How many operations brute force takes for the same statement."""

    cached: int
    """At best over how many positions a feature joins."""
    naive: int

    @classmethod
    def of(cls, network: Network, items: Items, most: int = 3) -> Rivals:
        joined = range(1, 2 if network.has_attention else 1 + min(most, network.context))
        cached = (operations(brute.cached, network, items, conjunctions(network, items, each)) for each in joined)
        naive = operations(brute.naive, network, items, {})
        return cls(min(sum(parts.values()) for parts in cached), sum(naive.values()))


@dataclass(frozen=True)
class Truth:
    """What the model does on every item, up to the rounding of one run in balls."""

    loss: float
    right: int
    bounds: Bounds

    @classmethod
    def of(cls, network: Network, items: Items) -> Truth:
        bounds = brute.cached(network, items, {})
        mean = proved(bounds, items)
        return cls(mean.loss, mean.right, bounds)

    @classmethod
    def from_brute_force(cls, proof: Proof) -> Truth:
        return cls(proof.proved.loss, proof.proved.right, proof.bounds)


def check_every_item(proof: Proof, truth: Truth) -> None:
    """That no item's loss exceeds its bound, and that what is certainly right is right.

    The upper ends of brute force exceed the truth by their rounding, far less than the 1e-9 that is allowed here.
    """
    excess = truth.bounds.loss.mid - proof.bounds.loss.mid
    wrong = (excess > 1e-9 * (1 + truth.bounds.loss.mid)) | (proof.bounds.right & ~truth.bounds.right)
    if bool(wrong.any()):
        item = int(wrong.nonzero()[0])
        raise CrossproofError(
            f"item {item}: its loss {float(truth.bounds.loss.mid[item]):.9g} is above its bound "
            f"{float(proof.bounds.loss.mid[item]):.9g} by {proof.how}: this is a bug, and nothing is proved"
        )
