"""A certificate: the folder that holds a statement and all that is needed to derive it again (docs/certificates.md)."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from crossproof import runs
from crossproof.errors import CrossproofError
from crossproof.files import replace_folder, write_json, write_safetensors
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


def write(folder: Path, of: Provable, proof: Proof, truth: Truth, rivals: Rivals) -> Certificate:
    """Into a folder that appears whole or not at all, once every item's bound was held against the truth."""
    if not math.isfinite(proof.proved.loss):
        raise CrossproofError(
            f"the rung {proof.how.rung} has no finite bound: weights or features are so large that exp overflows; "
            "nothing is proved"
        )
    check_every_item(proof, truth)
    with replace_folder(folder) as fresh:
        shutil.copyfile(of.weights, fresh / WEIGHTS)
        write_safetensors(fresh / DATA, {"stream": of.stream})
        write_safetensors(fresh / WITNESS, proof.witness)
        hashes = {name: sha256(fresh / name) for name in (WEIGHTS, DATA, WITNESS)}
        certificate = Certificate(
            statement=Statement(
                subject=of.name,
                loss=rounded_up(proof.proved.loss),
                right=proof.proved.right,
                windows=of.items.windows,
                context=of.network.context,
                data="stream",
            ),
            model={"kind": "window", "norm": of.network.norm},
            rung=proof.how.rung,
            hashes=hashes,
            operations=proof.operations,
            brute_force={"cached": rivals.cached, "naive": rivals.naive},
            assumptions=list(ASSUMPTIONS),
            measured={"loss": truth.loss, "right": truth.right, "uniform": math.log(of.network.vocabulary)},
            made=runs.provenance(),
        )
        write_json(fresh / CERTIFICATE, certificate.model_dump())
    return certificate
