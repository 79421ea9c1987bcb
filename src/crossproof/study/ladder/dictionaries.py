"""Learned dictionaries on the ladder: crosscoders along whose directions proofs take features apart, and what it costs.

Each belongs to the model that it was trained on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Float64
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.proof.costs import costs
from crossproof.proof.dictionary import Dictionary, subject_of, unexplained
from crossproof.proof.names import Names
from crossproof.proof.network import Network
from crossproof.proof.provable import Provable
from crossproof.proof.prove import How, Proof
from crossproof.study.dictionaries import CoderRecord, described
from crossproof.study.ladder.config import LadderConfig
from crossproof.study.ladder.results import CostsRecord, DictionaryRecord

PAIRS_SHOWN = 20
"""Of all pairs, and of those of two features."""
ALONE_SHOWN = 10
"""Features, and neurons."""


@dataclass(frozen=True)
class Learned:
    """A crosscoder of a model, as its proofs know it."""

    coder: CoderRecord
    dictionary: Dictionary

    def named(self, direction: int) -> str:
        its = len(self.dictionary.directions)
        return f"feature {direction}" if direction < its else "what the dictionary leaves"


def opened(config: LadderConfig, subjects: list[Provable]) -> dict[str, list[Learned]]:
    """Those of each model, by its name."""
    if config.coders and not config.read:
        raise CrossproofError("read: what a dictionary certifies is shown by masses; give at least one number")
    mine: dict[str, list[str]] = {of.name: [] for of in subjects}
    for folder in config.coders:
        mine[_subject_of(folder, subjects).name].append(folder)
    return {of.name: _learned(of, mine[of.name]) for of in subjects}


def _subject_of(folder: str, subjects: list[Provable]) -> Provable:
    name = subject_of(folder, Crosscoder.from_pretrained(folder))
    of = next((of for of in subjects if Path(of.name).resolve() == Path(name).resolve()), None)
    if of is None:
        raise MismatchError(
            f"coders: {folder} was trained on {name}, and the subjects are {', '.join(of.name for of in subjects)}; "
            "leave it out, or add its model to the subjects if that reads windows"
        )
    if of.network.n_mlps != 1:
        raise UnsupportedModel(
            f"coders: {folder} was trained on {name}, which has {of.network.n_mlps} MLPs, and what a dictionary costs "
            "is known of models with one; leave it out"
        )
    return of


def _learned(of: Provable, folders: list[str]) -> list[Learned]:
    found = []
    for record, folder in zip(described(folders), folders, strict=True):
        found.append(Learned(record, Dictionary.open(folder, of.name, of.network)))
    for name, several in Counter(its.dictionary.name for its in found).items():
        if several > 1:
            raise CrossproofError(f"coders: {several} of one model are called {name}; give folders of different names")
    return found


def rungs_for(config: LadderConfig, network: Network, learned: list[Learned]) -> Iterator[How]:
    """In their directions, and in none where these proofs are not made anyway: of single tokens, without offsets."""
    if learned and not network.has_attention:
        yield from (How("masses", 1, read) for read in config.read)
    for its in learned:
        yield from (How("masses", 1, read, 0, its.dictionary) for read in config.read)
        yield How("uniform", dictionary=its.dictionary)


def recorded(config: LadderConfig, of: Provable, learned: Learned, proofs: list[Proof]) -> DictionaryRecord:
    """What its proof with the most read out says of it."""
    dictionary, read = learned.dictionary, max(config.read)
    proof = next(its for its in proofs if its.how == How("masses", 1, read, 0, dictionary))
    left = unexplained(of.network, of.items, proof.witness)
    finite = math.isfinite(proof.proved.loss)
    return DictionaryRecord(
        name=dictionary.name,
        coder=learned.coder,
        features=len(dictionary.directions),
        slots=proof.witness["active"].shape[1],
        unexplained=left.part,
        worst=Names(of, proof.witness).feature(left.worst),
        worst_part=left.worst_part,
        rung=str(proof.how),
        tokens=str(How("masses", 1, read)),
        loss=proof.proved.loss if finite else None,
        operations=sum(proof.operations.values()),
        costs=_costs(of, learned, proof) if finite else None,
    )


def _costs(of: Provable, learned: Learned, proof: Proof) -> CostsRecord:
    found = costs(of.network, of.items, proof)
    shown = {*found.top(PAIRS_SHOWN), *found.top(PAIRS_SHOWN, known=True)}
    return CostsRecord(
        centre=found.centre,
        bound=found.bound,
        drawn=found.drawn,
        pairs=[(learned.named(i), learned.named(j), paid) for i, j, paid in sorted(shown, key=lambda its: -its[2])],
        features=[(learned.named(i), paid) for i, paid in _most(found.directions)],
        neurons=_most(found.neurons),
        left=found.left / max(float(found.pairs.sum()), 1e-300),
    )


def _most(paid: Float64[Tensor, " one"]) -> list[tuple[int, float]]:
    worst = paid.topk(min(ALONE_SHOWN, len(paid)))
    return [(index, cost) for cost, index in zip(worst.values.tolist(), worst.indices.tolist(), strict=True)]
