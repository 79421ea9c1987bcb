"""What each feature of a dictionary contributes to each neuron of an MLP.

Feature i at strength f_i adds p_ni = f_i A_in to the pre-activation of neuron n, where A = d W_in is the *contribution
table*: made once, never per token. What no feature contributes, β_n = b · W_in[:, n] + b_in[n], comes from the decoder
bias and the MLP's own. Both are made here and nowhere else, from directions and biases in the model's raw units.

Work on tokens goes in chunks. In a chunk, a token's active features stand side by side in *slots*, in order of their
index, so that a tie between contributions goes to the lowest slot. Slots that a token does not need have strength 0.
Chunks hold a bounded number of contributions: memory never grows with tokens × neurons × features.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError, NonFinite
from crossproof.units import ACTIVATIONS, MLP, Activation, GatedMLP

CHUNK = 2**19
"""Contributions held at a time: 2 MB in float32, which stays in a core's cache between one operation and the next."""


@dataclass(frozen=True, eq=False)
class Table:
    """What features add to the pre-activations of one layer of neurons."""

    A: Float[Tensor, "feature neuron"]
    beta: Float[Tensor, " neuron"]
    """What the pre-activations are where no feature is active."""

    @property
    def n_features(self) -> int:
        return self.A.shape[0]

    @property
    def n_neurons(self) -> int:
        return self.A.shape[1]

    @cached_property
    def magnitude(self) -> Float[Tensor, "feature neuron"]:
        return self.A.abs()


@dataclass(frozen=True, eq=False)
class PlainNeurons:
    """The neurons φ(z) of a plain MLP, as a dictionary reaches them."""

    name: str
    pre: Table
    activation: Activation
    loudness: Float[Tensor, " neuron"]
    """w_n = ‖W_out[n]‖₂."""


@dataclass(frozen=True, eq=False)
class GatedNeurons:
    """The neurons φ(g) h of a gated MLP, as a dictionary reaches them."""

    name: str
    gate: Table
    value: Table
    activation: Activation
    loudness: Float[Tensor, " neuron"]


Neurons = PlainNeurons | GatedNeurons


def tables(neurons: Neurons) -> tuple[Table, ...]:
    return (neurons.pre,) if isinstance(neurons, PlainNeurons) else (neurons.gate, neurons.value)


def contributions(
    unit: MLP | GatedMLP,
    directions: Float[Tensor, "..."],
    bias: Float[Tensor, "..."] | None = None,
    name: str = "",
) -> Neurons:
    """An MLP's neurons as the directions of a dictionary at the MLP's input reach them. Carries gradients to both.

    Directions, [feature, d_model], and bias, [d_model], are in raw units: the unit's input is
    `bias + Σ_i f_i directions[i]`.
    """
    check_dictionary(directions, bias, unit.W_in[:, 0], f"the first axis of {name or 'the MLP'}'s W_in")
    activation, loudness = ACTIVATIONS[unit.activation], unit.W_out.norm(dim=1)

    def table(W: Tensor, b: Tensor) -> Table:
        return Table(directions @ W, b if bias is None else bias @ W + b)

    if isinstance(unit, MLP):
        return PlainNeurons(name or unit.output_site, table(unit.W_in, unit.b_in), activation, loudness)
    gate, value = table(unit.W_gate, unit.b_gate), table(unit.W_in, unit.b_in)
    return GatedNeurons(name or unit.output_site, gate, value, activation, loudness)


def check_dictionary(directions: Tensor, bias: Tensor | None, weights: Float[Tensor, " d_model"], what: str) -> None:
    """Refuse what is no dictionary at the input of a unit. `weights` are some of the unit's, along the axis `what`."""
    d_model = len(weights)
    if directions.dim() != 2 or directions.shape[1] != d_model:
        raise MismatchError(
            f"directions: expected [feature, d_model] with d_model {d_model}, {what}, "
            f"not the shape {tuple(directions.shape)}"
        )
    if bias is not None and bias.shape != (d_model,):
        raise MismatchError(f"bias: expected the shape ({d_model},), {what}, not {tuple(bias.shape)}")
    all_given = {"directions": directions} | ({} if bias is None else {"bias": bias})
    for name, given in all_given.items():
        if not bool(torch.isfinite(given.detach()).all()):
            raise NonFinite(f"{name}: some numbers are not finite")
    for name, given in all_given.items():
        if given.dtype != weights.dtype:
            raise MismatchError(
                f"{name}: {given.dtype}, but the weights ({what}) are {weights.dtype}; call .to on one of the two"
            )


def check_codes(codes: Codes, n_features: int) -> None:
    """Refuse codes that are not of this dictionary."""
    if codes.pattern.n_features != n_features:
        raise MismatchError(
            f"codes: {codes.pattern.n_features} features on the last axis, but the contribution table has {n_features} "
            "rows: they are of different dictionaries"
        )


def check_directions(
    codes: Codes, directions: Sequence[Tensor], widths: Sequence[int], unit: str = "MLP", axis: str = "W_in's first"
) -> None:
    """Refuse what is not one [feature, d_model] for each unit, of these widths and of the codes' features."""
    if len(directions) != len(widths):
        raise MismatchError(
            f"directions: {len(directions)} for {len(widths)} {unit}s; expected one for each, in their order"
        )
    for number, (at, d_model) in enumerate(zip(directions, widths, strict=True)):
        if at.dim() != 2 or at.shape[1] != d_model:
            raise MismatchError(
                f"directions[{number}]: expected [feature, d_model] with d_model {d_model}, that {unit}'s {axis} axis, "
                f"not the shape {tuple(at.shape)}"
            )
        check_codes(codes, at.shape[0])


@dataclass(frozen=True, eq=False)
class Chunk:
    """A few tokens, their active features side by side in slots."""

    tokens: Int[Tensor, " token"]
    """Which rows of the codes these are."""
    features: Int[Tensor, "token slot"]
    strengths: Float[Tensor, "token slot"]
    """0 in a slot that the token does not need."""
    entries: Int[Tensor, "token slot"]
    """Where in the codes' values each strength stands; the number of entries in a slot that is not needed."""

    def contributions(self, table: Float[Tensor, "feature neuron"]) -> Float[Tensor, "token slot neuron"]:
        """f_i times the rows of a table, which may be a function of A that is homogeneous in f (|A|, relu(A))."""
        rows = table.index_select(0, self.features.flatten())
        scaled = rows.unflatten(0, self.features.shape)
        strengths = self.strengths[..., None]
        # in place where no gradient needs what was there before
        return scaled * strengths if torch.is_grad_enabled() else scaled.mul_(strengths)


def chunks(codes: Codes, neurons: int, budget: int = CHUNK) -> Iterator[Chunk]:
    """All tokens, those with as many active features together, so that hardly a slot is wasted.

    Every token comes in exactly one chunk, those without an active feature too. A chunk has at least one slot.
    """
    pattern = codes.pattern
    entries, device = pattern.n_entries, pattern.features.device
    counts = pattern.row_starts.diff()
    order = torch.argsort(counts, stable=True)
    in_order: list[int] = counts[order].tolist()
    features = torch.cat([pattern.features, pattern.features.new_zeros(1)])
    values = torch.cat([codes.values, codes.values.new_zeros(1)])
    end = len(in_order)
    while end > 0:
        slots = max(1, in_order[end - 1])
        start = max(0, end - max(1, budget // (slots * max(1, neurons))))
        tokens = order[start:end]
        slot = torch.arange(slots, device=device)
        where = pattern.row_starts[tokens][:, None] + slot
        where = torch.where(slot < counts[tokens][:, None], where, entries)
        yield Chunk(tokens, features[where], values[where], where)
        end = start
