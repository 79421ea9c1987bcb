"""Certificates of small models with random weights, made by the prover."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from crossproof.files import write_safetensors
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.certificate import CERTIFICATE, DATA, WEIGHTS, WITNESS, of_windows, rounded_up, write
from crossproof.proof.dictionary import Dictionary
from crossproof.proof.groups import brute
from crossproof.proof.groups.verify import verify
from crossproof.proof.network import Network
from crossproof.proof.provable import Provable
from crossproof.proof.prove import RUNGS, How, Proof, Rivals, Truth, prove
from crossproof.proof.statement import Items, proved
from crossproof.subject.zoo.windows import cut_windows


def standing_alone() -> ModuleType:
    """The checker as a file of its own, as people run it who have nothing of ours."""
    path = Path(__file__).parents[2] / "src" / "crossproof" / "checker" / "check.py"
    spec = importlib.util.spec_from_file_location("check_standing_alone", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = standing_alone()


@dataclass(frozen=True)
class Case:
    """What is proved, and how."""

    rung: str
    attention: bool = False
    norm: bool = False
    mlps: int = 1
    joined: int = 1
    read: int = 0
    context: int = 4
    bent: bool = False
    """Whether masses have offsets and scales."""
    directions: str = ""
    """In which features are taken apart: "pursued", by the prover, or "random" with random strengths."""

    @property
    def name(self) -> str:
        how = f"{self.rung}-{self.mlps}mlp-joined{self.joined}-read{self.read}"
        how += "-attention" * self.attention + "-norm" * self.norm + "-bent" * self.bent
        return how + f"-{self.directions}" * bool(self.directions)

    @property
    def features(self) -> int:
        """How many there are where they are single tokens."""
        return 5 * (self.context + self.attention) + self.norm


CASES = (
    Case("brute"),
    Case("brute", joined=2, norm=True),
    Case("brute", attention=True),
    Case("brute", attention=True, norm=True),
    Case("brute", mlps=2, joined=3),
    Case("brute", mlps=0),
    Case("brute", attention=True, mlps=0),
    Case("masses"),
    Case("masses", read=3, joined=2),
    Case("masses", read=7, attention=True),
    Case("masses", read=2, norm=True, joined=3),
    Case("masses", read=2, attention=True, norm=True),
    Case("pairs"),
    Case("pairs", joined=3),
    Case("masses", joined=4),
    Case("masses", mlps=3, joined=2, read=2),
    Case("masses", read=2, bent=True),
    Case("masses", attention=True, norm=True, bent=True),
    Case("pairs", attention=True),
    Case("pairs", norm=True, joined=2),
    Case("pairs", attention=True, norm=True),
    Case("vectors"),
    Case("vectors", joined=2),
    Case("vectors", mlps=2, joined=2),
    Case("vectors", mlps=3),
    Case("uniform"),
    Case("uniform", joined=2),
    Case("uniform", attention=True),
    Case("uniform", joined=3, norm=True),
    Case("uniform", attention=True, norm=True),
    Case("uniform", mlps=2),
    Case("uniform", attention=True, mlps=3),
    *(
        Case(rung, attention=attention, norm=norm, joined=1 if attention else 2, directions="pursued")
        for rung in ("masses", "uniform")
        for attention in (False, True)
        for norm in (False, True)
    ),
    Case("masses", read=2, directions="random"),
    Case("masses", read=2, attention=True, norm=True, bent=True, directions="random"),
    Case("masses", read=3, mlps=2, bent=True, directions="random"),
    Case("uniform", norm=True, directions="random"),
    Case("uniform", attention=True, norm=True, directions="random"),
    Case("uniform", attention=True, mlps=2, directions="random"),
    Case("uniform", mlps=2, joined=2, directions="pursued"),
)


def weights(case: Case, seed: int = 0, vocabulary: int = 5, width: int = 6, neurons: int = 7) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * scale

    found = {"W_E": random(case.context, vocabulary, width), "W_U": random(width, vocabulary)}
    if case.attention:
        found |= {f"attn.W_{name}": random(width, width, scale=width**-0.5) for name in "QKVO"}
    for mlp in range(case.mlps):
        found |= {
            f"mlps.{mlp}.W_in": random(width, neurons + mlp, scale=width**-0.5),
            f"mlps.{mlp}.b_in": random(neurons + mlp, scale=0.3),
            f"mlps.{mlp}.W_out": random(neurons + mlp, width, scale=0.5 * neurons**-0.5),
            f"mlps.{mlp}.b_out": random(width, scale=0.3),
        }
    return found


def stream(length: int = 120, vocabulary: int = 5, seed: int = 0) -> Tensor:
    """Tokens of which low ones are frequent: contexts repeat."""
    uniform = torch.rand(length, generator=torch.Generator().manual_seed(seed))
    return (uniform.square() * vocabulary).to(torch.uint8)


RIVALS: dict[tuple[object, ...], Rivals] = {}
"""They depend on shapes alone, and take longest."""


def bent(case: Case, seed: int = 0) -> dict[str, Tensor]:
    """Offsets and scales for features that are single tokens, as no sensible person would choose them."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for mlp in range(case.mlps):
        found[f"offset_{mlp}"] = torch.randn(case.features, 7 + mlp, generator=generator)
        found[f"scale_{mlp}"] = torch.randn(7 + mlp, generator=generator).mul(2).exp()
    return found


def random_directions(
    case: Case, seed: int = 0, number: int = 4, slots: int = 3, spread: float = 0
) -> dict[str, Tensor]:
    """Directions that help nothing, for features that are single tokens. Some are zero, equal or opposite, and the same
    may be there in several slots; `spread` is how many powers of ten they and their strengths are from one."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        size = 10 ** (spread * (2 * torch.rand(shape[0], 1, generator=generator) - 1))
        return torch.randn(*shape, generator=generator) * size * (torch.rand(*shape, generator=generator) < 0.8)

    directions, strength = random(number, 6), random(case.features, slots)
    directions[-1] = -directions[0] * (seed % 2)
    strength[:3] = strength[:3].round()
    active = torch.randint(number, strength.shape, generator=generator)
    return {"directions": directions, "active": active, "strength": strength}


def certify(folder: Path, case: Case, state: dict[str, Tensor], tokens: Tensor) -> Proof:
    """Writes the certificate into `folder`."""
    file = folder.with_name(f"{folder.name}-model.safetensors")
    write_safetensors(file, state)
    network = Network.of(state, case.norm)
    items = Items.of(cut_windows(tokens, network.context))
    dictionary = None
    if case.directions == "pursued":
        dictionary = Dictionary("random", torch.randn(8, 6, generator=torch.Generator().manual_seed(0)), slots=3)
    proof = prove(network, items, How(case.rung, case.joined, case.read, dictionary=dictionary))
    if case.bent or case.directions == "random":
        witness = proof.witness | (bent(case) if case.bent else {})
        witness |= random_directions(case) if case.directions == "random" else {}
        with tallied() as tally:
            bounds = RUNGS[case.rung].verify(network, items, witness)
            result = proved(bounds, items)
        proof = Proof(proof.how, witness, bounds, result, tally.parts)
    of = Provable("random", file, network, tuple("abcde"), tokens, items)
    key = (case.attention, case.norm, case.mlps, case.context, bytes(tokens.tolist()))
    if key not in RIVALS:
        RIVALS[key] = Rivals.of(network, items)
    write(folder, of_windows(of, proof, Truth.of(network, items), RIVALS[key]))
    return proof


def checked(folder: Path) -> tuple[bool, str]:
    """Whether the checker accepts, and what it says."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = check.main([str(folder)])
    assert code in (0, 1)
    assert (code == 1) == said.getvalue().startswith("REFUSED: ")
    assert code == 0 or said.getvalue().count("\n") == 1
    return code == 0, said.getvalue()


def read_claim(folder: Path) -> dict[str, Any]:
    return json.loads((folder / CERTIFICATE).read_text())


def write_claim(folder: Path, claim: dict[str, Any]) -> None:
    (folder / CERTIFICATE).write_text(json.dumps(claim))


def rehash(folder: Path) -> None:
    """The hashes of the files as they are now."""
    claim = read_claim(folder)
    claim["hashes"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in claim["hashes"]}
    write_claim(folder, claim)


def proves(folder: Path) -> tuple[float, int]:
    """What the prover derives from the files of a certificate: mean loss, number right."""
    claim = read_claim(folder)
    network = Network.of(load_file(folder / WEIGHTS), claim["model"]["norm"])
    items = Items.of(cut_windows(load_file(folder / DATA)["stream"], network.context))
    found = proved(RUNGS[claim["rung"]].verify(network, items, load_file(folder / WITNESS)), items)
    return found.loss, found.right


def certify_groups(folder: Path, state: dict[str, Tensor], witness: dict[str, Tensor]) -> dict[str, int]:
    """A certificate of all windows there are; what it takes by part."""
    balls = {name: exact(value) for name, value in state.items()}
    with tallied() as tally:
        found = verify(balls, witness).proved
    with tallied() as cached:
        brute.cached({name: Ball.unknown(*value.shape) for name, value in state.items()})
    context, vocabulary, _ = state["W_E"].shape
    folder.mkdir(parents=True)
    write_safetensors(folder / WEIGHTS, state)
    write_safetensors(folder / WITNESS, witness)
    claim = {
        "format": "crossproof-certificate", "version": 1, "model": {"kind": "window", "norm": False}, "rung": "groups",
        "statement": {
            "subject": "random", "loss": rounded_up(found.loss), "right": found.right, "context": context,
            "windows": vocabulary**context, "data": "all sequences, target the maximum",
        },
        "hashes": {WEIGHTS: "", WITNESS: ""}, "operations": tally.parts,
        "brute_force": {"cached": cached.total, "naive": brute.naive_tally(balls).total},
        "assumptions": [], "measured": {}, "made": {},
    }  # fmt: skip
    write_claim(folder, claim)
    rehash(folder)
    return tally.parts
