"""A certificate: the folder that holds a statement and all that is needed to derive it again (docs/certificates.md)."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof import runs
from crossproof.errors import CrossproofError
from crossproof.files import replace_folder, write_json, write_safetensors
from crossproof.proof.dictionary import unexplained
from crossproof.proof.provable import Provable
from crossproof.proof.prove import Proof, Rivals, Truth, check_every_item
from crossproof.subject.zoo.records import sha256

FORMAT, VERSION = "crossproof-certificate", 1
CERTIFICATE, WEIGHTS, DATA, WITNESS = (
    "certificate.json",
    "weights.safetensors",
    "data.safetensors",
    "witness.safetensors",
)
DECIMALS = 9
ASSUMPTIONS = (
    "The model is the function of real numbers that its stored float32 weights define; what a machine makes of it by "
    "rounding is not bounded.",
    "float64 additions, products, quotients and square roots round to nearest (IEEE 754), in any order and with or "
    "without fused products; exp and log are right to 4 units in the last place. All of it is covered by error radii.",
)


class Statement(BaseModel):
    model_config = ConfigDict(extra="forbid")
    subject: str
    loss: float
    """The mean loss is at most this."""
    right: int
    """The largest logit is the target's on at least so many."""
    windows: int
    """Of so many."""
    context: int
    data: str


class Certificate(BaseModel):
    """`certificate.json`."""

    model_config = ConfigDict(extra="forbid")
    format: str = FORMAT
    version: int = VERSION
    statement: Statement
    model: dict[str, Any]
    rung: str
    hashes: dict[str, str]
    operations: dict[str, int]
    brute_force: dict[str, int]
    assumptions: list[str]
    measured: dict[str, float]
    made: dict[str, Any]

    @property
    def total(self) -> int:
        return sum(self.operations.values())

    @property
    def vacuous(self) -> bool:
        """No better than saying that all tokens are as likely."""
        return self.statement.loss >= self.uniform

    @property
    def uniform(self) -> float:
        return self.measured["uniform"]


def rounded_up(bound: float) -> float:
    """To nine decimals, with one to two units to spare: programs that round differently must agree."""
    return math.inf if math.isinf(bound) else (math.ceil(bound * 10**DECIMALS) + 1) / 10**DECIMALS


@dataclass(frozen=True)
class Made:
    """A proof that was held against the truth, and what goes into its certificate."""

    statement: Statement
    weights: Path
    stream: Tensor | None
    """None if the data are all sequences."""
    norm: bool
    vocabulary: int
    rung: str
    witness: dict[str, Tensor]
    operations: dict[str, int]
    brute_force: dict[str, int]
    loss: float
    """The model's own, up to the rounding of one run in balls."""
    right: int
    dictionary: str | None = None
    """In whose directions features were written."""
    unexplained: float | None = None
    """What that leaves to error atoms."""


def of_windows(of: Provable, proof: Proof, truth: Truth, rivals: Rivals) -> Made:
    check_every_item(proof, truth)
    dictionary = proof.how.dictionary
    return Made(
        statement=Statement(
            subject=of.name,
            loss=rounded_up(proof.proved.loss),
            right=proof.proved.right,
            windows=of.items.windows,
            context=of.network.context,
            data="stream",
        ),
        weights=of.weights,
        stream=of.stream,
        norm=of.network.norm,
        vocabulary=of.network.vocabulary,
        rung=proof.how.rung,
        witness=proof.witness,
        operations=proof.operations,
        brute_force={"cached": rivals.cached, "naive": rivals.naive},
        loss=truth.loss,
        right=truth.right,
        dictionary=None if dictionary is None else dictionary.name,
        unexplained=None if dictionary is None else unexplained(of.network, of.items, proof.witness).part,
    )


def write(folder: Path, made: Made) -> Certificate:
    """Into a folder that appears whole or not at all."""
    if not math.isfinite(made.statement.loss):
        raise CrossproofError(
            f"the rung {made.rung} has no finite bound: weights or features are so large that exp overflows; "
            "nothing is proved"
        )
    with replace_folder(folder) as fresh:
        shutil.copyfile(made.weights, fresh / WEIGHTS)
        if made.stream is not None:
            write_safetensors(fresh / DATA, {"stream": made.stream})
        write_safetensors(fresh / WITNESS, made.witness)
        certificate = Certificate(
            statement=made.statement,
            model={"kind": "window", "norm": made.norm},
            rung=made.rung,
            hashes={name: sha256(fresh / name) for name in (WEIGHTS, DATA, WITNESS) if (fresh / name).exists()},
            operations=made.operations,
            brute_force=made.brute_force,
            assumptions=list(ASSUMPTIONS),
            measured={"loss": made.loss, "right": made.right, "uniform": math.log(made.vocabulary)}
            | ({} if made.unexplained is None else {"unexplained": made.unexplained}),
            made=runs.provenance() | ({} if made.dictionary is None else {"dictionary": made.dictionary}),
        )
        write_json(fresh / CERTIFICATE, certificate.model_dump())
    return certificate
