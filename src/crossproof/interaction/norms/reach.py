"""How loudly a direction in a norm's output is heard by what comes after: a *listener* gives its reach.

A reach is homogeneous: half the direction, half the reach. `heard_at_once` is the norm's own output; the others measure
in the residual stream, in which an MLP's score and an attention layer's are measured too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import GatedNeurons, check_codes, chunks
from crossproof.progress import progress
from crossproof.units import ACTIVATIONS, MLP, Attention, GatedMLP

Listener = Callable[[Float[Tensor, "direction d_model"]], Float[Tensor, " direction"]]
"""Of directions in the norm's output, the gain multiplied in."""


def heard_at_once(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, " direction"]:
    """By the norm's own output: their lengths."""
    return directions.norm(dim=1)


def heard_by_mlp(mlp: MLP) -> Listener:
    """By each neuron as far as its pre-activation moves, times how loudly it speaks: Σ_n w_n |v · W_in[:, n]|."""
    loudness = mlp.W_out.norm(dim=1)

    def reach(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, " direction"]:
        return (directions @ mlp.W_in).abs() @ loudness

    return reach


class TypicalNeurons(NamedTuple):
    """How large the factors of a gated MLP's neurons φ(g) h usually are: means over tokens of their magnitudes."""

    activation: Float[Tensor, " neuron"]
    """Of φ(g)."""
    value: Float[Tensor, " neuron"]
    """Of h."""


def heard_by_gated_mlp(mlp: GatedMLP, typical: TypicalNeurons) -> Listener:
    """By gates and values, with the weights of T5 at a typical token: each counts as much as the other is large.

    Σ_n w_n (Lip(φ) E|h_n| |v · W_gate[:, n]| + E|φ(g_n)| |v · W_in[:, n]|).
    """
    loudness, lipschitz = mlp.W_out.norm(dim=1), ACTIVATIONS[mlp.activation].lipschitz
    of_gate, of_value = loudness * lipschitz * typical.value, loudness * typical.activation

    def reach(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, " direction"]:
        return (directions @ mlp.W_gate).abs() @ of_gate + (directions @ mlp.W_in).abs() @ of_value

    return reach


@torch.no_grad()
def typical_neurons(codes: Codes, neurons: GatedNeurons) -> TypicalNeurons:
    """Over these tokens, with the features of the codes and nothing else at the MLP's input."""
    check_codes(codes, neurons.gate.n_features)
    check_features(codes.values)
    if codes.pattern.n_rows == 0:
        raise MismatchError("codes: no tokens to take a mean over")
    sums = [torch.zeros(len(neurons.loudness), dtype=torch.float64, device=neurons.loudness.device) for _ in range(2)]
    with progress("typical neurons", codes.pattern.n_rows, "tokens") as bar:
        for chunk in chunks(codes, len(neurons.loudness)):
            gate, value = (chunk.contributions(its.A).sum(1) + its.beta for its in (neurons.gate, neurons.value))
            for its, seen in zip(sums, (neurons.activation.function(gate), value), strict=True):
                its += seen.abs().double().sum(0)
            bar(len(chunk.tokens))
    activation, value = ((its / codes.pattern.n_rows).to(neurons.loudness) for its in sums)
    return TypicalNeurons(activation, value)


def heard_by_attention(attention: Attention) -> Listener:
    """By an attention layer through its values: Σ_h ‖v W_V^h W_O^h‖, as if each head looked here alone.

    A query's pattern sums to one, so no head can make more of it. How the direction moves the pattern, through queries
    and keys, is not counted.
    """
    group = len(attention.W_Q) // len(attention.W_K)

    def reach(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, " direction"]:
        heard = directions.new_zeros(len(directions))
        for head, W_O in enumerate(attention.W_O):
            heard += (directions @ attention.W_V[head // group] @ W_O).norm(dim=1)
        return heard

    return reach
