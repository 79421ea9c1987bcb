"""A gated MLP with planted interactions, and every metric's score of every pair of its features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.contributions import contributions
from crossproof.interaction.games import token_index
from crossproof.study.metrics import pair_scores
from crossproof.study.planted_units.results import UnitName
from crossproof.study.planted_units.scenes import NOTHING, STRONGEST, Scored, paired_codes, uniform
from crossproof.units import GatedMLP

REFERENCE = "Shapley-Taylor"
OPEN = 20.0
"""A gate's bias that no features move off the straight part of its activation, nor, when negative, out of silence."""


@dataclass(frozen=True)
class Half:
    """What a gate or a value is: `a` and `b` times the two features of a pair, and a bias."""

    a: float = 0.0
    b: float = 0.0
    bias: float = 0.0


@dataclass(frozen=True)
class Gadget:
    """A pair of features and the neurons it reaches, gate and value of each; none else reads the two."""

    kind: str
    interacts: bool
    neurons: tuple[tuple[Half, Half], ...]
    seen: bool = True
    """Whether the two are ever active together."""
    cancelled: bool = False
    """Whether its two neurons write the same with opposite signs."""


A, B, SUM, DIFFERENCE = Half(a=1.0), Half(b=1.0), Half(a=1.0, b=1.0), Half(a=1.0, b=-1.0)
ON, ONE = Half(bias=OPEN), Half(bias=1.0)

GADGETS = (
    *(Gadget("product", True, ((A, B),)) for _ in range(3)),
    Gadget("product, gate held open", True, ((Half(a=1.0, bias=2.0), B),)),
    Gadget("square of a sum", True, ((SUM, SUM),)),
    Gadget("conjunction in the gate", True, ((Half(a=1.0, b=1.0, bias=-STRONGEST), ONE),)),
    Gadget("veto in the gate", True, ((Half(a=1.0, b=-2.0), ONE),)),
    Gadget("product, unseen", True, ((A, B),), seen=False),
    *(Gadget("same", False, ((A, A), (B, B))) for _ in range(2)),
    Gadget("gate always on", False, ((ON, A), (ON, B))),
    Gadget("sum in the value", False, ((ON, SUM),)),
    Gadget("offset in the value", False, ((ON, DIFFERENCE),)),
    Gadget("sum in the gate", False, ((Half(a=1.0, b=1.0, bias=OPEN), ONE),)),
    Gadget("gate × bias, bias × value", False, ((A, ONE), (Half(bias=1.0), B))),
    Gadget("closed gate", False, ((Half(a=1.0, bias=-OPEN), B),)),
    Gadget("cancelled products", False, ((A, B), (A, B)), cancelled=True),
)
OTHERS = "no neuron in common"


def planted_gated(activation: Literal["relu", "silu"], draw: torch.Generator) -> GatedMLP:
    """Features 2p and 2p + 1 are those of GADGETS[p]; how loudly a gadget speaks is drawn."""
    neurons = [(p, halves) for p, gadget in enumerate(GADGETS) for halves in gadget.neurons]
    n, d_model = len(neurons), 2 * len(GADGETS)
    weights = torch.zeros(2, max(n, d_model), n, dtype=torch.float64)
    biases = torch.zeros(2, n, dtype=torch.float64)
    loudness = uniform(0.5, 2.0, len(GADGETS), draw=draw)
    W_out = torch.zeros(n, max(n, d_model), dtype=torch.float64)
    for neuron, (p, halves) in enumerate(neurons):
        for part, half in enumerate(halves):
            weights[part, 2 * p, neuron], weights[part, 2 * p + 1, neuron] = half.a, half.b
            biases[part, neuron] = half.bias
        again = GADGETS[p].cancelled and neuron > 0 and neurons[neuron - 1][0] == p
        W_out[neuron, neuron - again] = -loudness[p] if again else loudness[p]
    return GatedMLP(
        W_gate=weights[0],
        b_gate=biases[0],
        W_in=weights[1],
        b_in=biases[1],
        activation=activation,
        W_out=W_out,
        b_out=torch.zeros(W_out.shape[1], dtype=torch.float64),
    )


def score_gated(
    name: UnitName, activation: Literal["relu", "silu"], tokens: int, reference_tokens: int, seed: int
) -> Scored:
    """All pairs of features; the index is averaged over the first `reference_tokens` tokens, all others over all."""
    draw = torch.Generator().manual_seed(seed)
    unit = planted_gated(activation, draw)
    apart = [p for p, gadget in enumerate(GADGETS) if not gadget.seen]
    codes = Codes.from_dense(paired_codes(len(GADGETS), apart, tokens, draw))
    n_features = codes.pattern.n_features
    directions = torch.eye(n_features, unit.W_in.shape[0], dtype=torch.float64)
    bias = torch.zeros(unit.W_in.shape[0], dtype=torch.float64)
    neurons = contributions(unit, directions, bias, name)
    i, j = torch.combinations(torch.arange(n_features)).unbind(1)
    reference = _index(codes, unit, directions, reference_tokens, i, j)
    of_gadget = torch.where(i // 2 == j // 2, i // 2, -1)
    kinds: dict[str, list[int]] = {}
    for place, p in enumerate(of_gadget.tolist()):
        kinds.setdefault(OTHERS if p < 0 else GADGETS[p].kind, []).append(place)
    interacting = torch.tensor([gadget.interacts for gadget in GADGETS] + [False])
    scores = pair_scores(codes, neurons, unit, directions, bias, i, j, seed)
    return Scored(name, interacting[of_gadget], kinds, {REFERENCE: reference, **scores})


def _index(
    codes: Codes, unit: GatedMLP, directions: Tensor, tokens: int, i: Int[Tensor, " pair"], j: Int[Tensor, " pair"]
) -> Float64[Tensor, " pair"]:
    """How far each pair moves the MLP's output by the index; mean over tokens, those without one of the two as 0."""
    neurons, rows = contributions(unit, directions), min(tokens, codes.pattern.n_rows)
    total = torch.zeros(len(directions), len(directions), dtype=torch.float64)
    for row in range(rows):
        players, index = token_index(codes, row, neurons, unit.W_out)
        strength = index.strength()
        total[players[:, None], players] += strength * (strength > NOTHING)
    return total[i, j] / max(1, rows)
