"""Games whose players are a token's active features: what a neuron or an MLP gives with only some of them on."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import Neurons, PlainNeurons, Table, check_codes, tables
from crossproof.interaction.shapley import MOST_PLAYERS, Game, ReadOut, ShapleyTaylor, exact, sampled
from crossproof.units import Activation


def neuron_game(p: Float[Tensor, "player neuron"], beta: Float[Tensor, " neuron"], activation: Activation) -> Game:
    """The outputs are neurons: φ(β_n + Σ_{i∈C} p_in)."""

    def game(coalitions: Bool[Tensor, "coalition player"]) -> Float[Tensor, "coalition neuron"]:
        return activation.function(_pre(coalitions, p, beta))

    return game


def mlp_game(
    neurons: Neurons,
    strengths: Float[Tensor, " player"],
    features: Int[Tensor, " feature"],
    W_out: Float[Tensor, "neuron d_model"],
    b_out: Float[Tensor, " d_model"] | None = None,
) -> ReadOut:
    """The outputs are the MLP's, with these features on at these strengths and no others.

    Values are computed in the dtype of the tables: double the neurons to see pairs a million times weaker than values.
    """
    if len(strengths) != len(features):
        raise MismatchError(f"strengths: {len(strengths)} of them, but {len(features)} features; give one for each")
    n_neurons = tables(neurons)[0].n_neurons
    if W_out.shape[0] != n_neurons:
        raise MismatchError(
            f"W_out: {W_out.shape[0]} neurons on the first axis, but {neurons.name or 'the MLP'} has {n_neurons}"
        )

    def players(table: Table) -> Tensor:
        return strengths[:, None] * table.A[features]

    if isinstance(neurons, PlainNeurons):
        return ReadOut(neuron_game(players(neurons.pre), neurons.pre.beta, neurons.activation), W_out, b_out)
    gates = neuron_game(players(neurons.gate), neurons.gate.beta, neurons.activation)
    values, beta = players(neurons.value), neurons.value.beta
    return ReadOut(lambda coalitions: gates(coalitions) * _pre(coalitions, values, beta), W_out, b_out)


def token_index(
    codes: Codes,
    row: int,
    neurons: Neurons,
    W_out: Float[Tensor, "neuron d_model"],
    samples: int = 128,
    seed: int = 0,
) -> tuple[Int[Tensor, " player"], ShapleyTaylor]:
    """The features active at one token, and the index of their pairs in an MLP's output, less its bias.

    Exact for up to 16 features, from `samples` random orders beyond.
    """
    check_codes(codes, tables(neurons)[0].n_features)
    n_rows = codes.pattern.n_rows
    if not 0 <= row < n_rows:
        raise MismatchError(f"row {row}: these codes have the rows 0 to {n_rows - 1}")
    one = codes.rows(row, row + 1)
    check_features(one.values)
    one = one.active()
    features, strengths = one.pattern.features, one.values
    game, players = mlp_game(neurons, strengths, features, W_out), len(features)
    if players <= MOST_PLAYERS:
        return features, exact(game, players)
    return features, sampled(game, players, samples, seed)


def _pre(coalitions: Tensor, p: Tensor, beta: Tensor) -> Tensor:
    return torch.addmm(beta, coalitions.to(p), p)
