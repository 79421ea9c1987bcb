"""Pairwise interaction in MLPs, accumulated over tokens (MATHS §4).

    directed    at each token, a neuron's dominant feature i is charged with every other active j: (w_n / N) |p_nj|
    mass        (w_n / N) min(|p_ni|, |p_nj|) over the neurons where the two pull in opposite directions (ReLU; T3, T4)
    ratio       min(|p_ni|, |p_nj|) / max(|p_ni|, |p_nj|), mean over the neurons that either touches

Each takes the codes, the neurons of any number of MLPs, and the pairs that `CoActive.of(codes)` found, and gives one
table for each MLP. Mass and ratio are symmetric; both orders of a pair hold the same number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.interaction.coactive import CoActive, PairSums, Summing
from crossproof.interaction.contributions import Chunk, Neurons, PlainNeurons, chunks, tables
from crossproof.interaction.neurons import most_neurons, prepared, ranked
from crossproof.progress import progress


def directed(codes: Codes, units: Sequence[Neurons], pairs: CoActive) -> list[PairSums]:
    """I[i→j]: what feature j adds to the neurons that i dominates, weighted by w_n / N.

    In a gated MLP j is charged twice, by the dominant feature of the gate and by that of the value, with the weights of
    T5. Over all pairs a token's I is (1/N) Σ_n w_n (Σ|p_n| − max|p_n|) (T7).
    """
    return _summed(codes, units, pairs, "directed pairs", directed_at)


def ratio(codes: Codes, units: Sequence[Neurons], pairs: CoActive) -> list[PairSums]:
    """How alike the magnitudes of two features' contributions are. Neurons that neither touches do not count.

    In a gated MLP the mean is over gates and values together. Where the two touch no neuron at all it is 0.
    """
    return _summed(codes, units, pairs, "ratios", _ratio)


@dataclass(frozen=True, eq=False)
class MassSums:
    pairs: PairSums
    """Both orders of a pair hold the same number."""
    bias: PairSums
    """Between each feature and the bias β, a player that is always there; its axis is that of features."""

    @property
    def mean_per_token(self) -> float:
        """Mean over tokens of the sum over pairs, each unordered pair once, and those with the bias."""
        return float(self.pairs.mean.sum() / 2 + self.bias.mean.sum())


def mass(codes: Codes, units: Sequence[Neurons], pairs: CoActive) -> list[MassSums]:
    """How much of each other's contribution two features of opposite sign cancel, weighted by w_n / N."""
    codes, units = prepared(codes, units)
    pairs.check(codes)
    plain = [_plain(unit) for unit in units]
    of_pairs = [Summing(len(pairs), unit.loudness.device) for unit in plain]
    of_bias = [Summing(pairs.n_features, unit.loudness.device) for unit in plain]
    for chunk, positions in _walk(codes, units, pairs, "mass pairs"):
        for unit, to_pairs, to_bias in zip(plain, of_pairs, of_bias, strict=True):
            between, with_bias = _mass(chunk, unit)
            to_pairs.add(positions, between)
            to_bias.add(chunk.features, with_bias)
    return [
        MassSums(a.result(pairs.count, pairs.n_tokens), b.result(pairs.firing, pairs.n_tokens))
        for a, b in zip(of_pairs, of_bias, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class Strongest:
    """The neuron that carries most of each pair's directed strength in one MLP."""

    neuron: Int[Tensor, " pair"]
    """The lowest of several; −1 where the pair has no strength here."""
    share: Float64[Tensor, " pair"]
    """Its share of the strength; not a number where there is none."""


def strongest_neurons(
    codes: Codes, units: Sequence[Neurons], i: Int[Tensor, " pair"], j: Int[Tensor, " pair"]
) -> list[Strongest]:
    """Of each of these pairs i→j, in each MLP. Keeps pairs × neurons numbers: ask for the pairs that you will look at.

    Looks only at tokens where one of the pairs is active together.
    """
    codes, units = prepared(codes, units)
    n_features, empty = codes.pattern.n_features, torch.zeros_like
    if i.shape != j.shape or bool(((i < 0) | (i >= n_features) | (j < 0) | (j >= n_features) | (i == j)).any()):
        raise MismatchError(f"pairs i, j: expected as many i as j, different, from 0 to {n_features - 1}")
    keys, which = (i * n_features + j).unique(return_inverse=True)
    wanted = CoActive(n_features, codes.pattern.n_rows, keys // n_features, keys % n_features, empty(keys), keys[:0])
    strength = [
        torch.zeros(len(keys), len(unit.loudness), dtype=torch.float64, device=unit.loudness.device) for unit in units
    ]
    for chunk, positions in _walk(codes, units, wanted, "strongest neurons"):
        active = chunk.strengths > 0
        hits = (positions < len(keys)) & active[:, :, None] & active[:, None]
        here = hits.any(2).any(1)
        if bool(here.any()):
            narrow = Chunk(chunk.tokens[here], chunk.features[here], chunk.strengths[here], chunk.entries[here])
            for unit, to in zip(units, strength, strict=True):
                _add_neurons(to, narrow, unit, hits[here], positions[here])
    return [_strongest(per_neuron[which]) for per_neuron in strength]


class MeanPairwise(NamedTuple):
    """*Mean pairwise interaction* of a dictionary: of the sum over MLPs of each pair's mean over tokens."""

    all_entries: float
    """Over all features × features entries, as the paper has it: dead features lower it."""
    alive_pairs: float
    """Over the ordered pairs of features that fire at all; not a number for fewer than two."""


def mean_pairwise(sums: Sequence[PairSums], pairs: CoActive) -> MeanPairwise:
    """From the directed table of every MLP."""
    total = sum(float(of_unit.total.sum()) for of_unit in sums) / max(1, pairs.n_tokens)
    alive = int((pairs.firing > 0).sum())
    return MeanPairwise(
        total / max(1, pairs.n_features**2), total / (alive * (alive - 1)) if alive > 1 else float("nan")
    )


# -- over tokens -------------------------------------------------------------------------------------------------------

PerToken = Callable[[Chunk, Neurons], Float[Tensor, "token slot slot"]]
"""A quantity for each two slots of a token; 0 for slots that it does not need."""


def _summed(codes: Codes, units: Sequence[Neurons], pairs: CoActive, what: str, per_token: PerToken) -> list[PairSums]:
    codes, units = prepared(codes, units)
    pairs.check(codes)
    sums = [Summing(len(pairs), unit.loudness.device) for unit in units]
    for chunk, positions in _walk(codes, units, pairs, what):
        for unit, its in zip(units, sums, strict=True):
            its.add(positions, per_token(chunk, unit))
    return [its.result(pairs.count, pairs.n_tokens) for its in sums]


def _walk(
    codes: Codes, units: Sequence[Neurons], pairs: CoActive, what: str
) -> Iterator[tuple[Chunk, Int[Tensor, "token slot slot"]]]:
    """Chunk by chunk, with the places on the pair axis of each token's pairs."""
    with progress(what, codes.pattern.n_rows, "tokens") as bar:
        for chunk in chunks(codes, most_neurons(units)):
            yield chunk, pairs.in_chunk(chunk)
            bar(len(chunk.tokens))


# -- at a token --------------------------------------------------------------------------------------------------------


def directed_at(chunk: Chunk, unit: Neurons) -> Float[Tensor, "token slot slot"]:
    """The dominant slot is a one-hot vector per neuron, so that charging the others is a product [i, n] @ [n, j]."""
    n_neurons = len(unit.loudness)
    parts = [its.dominant.mul_(its.weight[:, None] / n_neurons) @ its.magnitude.mT for its in ranked(chunk, unit)]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _ratio(chunk: Chunk, unit: Neurons) -> Float[Tensor, "token slot slot"]:
    total = neurons = torch.zeros_like(chunk.strengths)[:, :, None]
    for table in tables(unit):
        p = chunk.contributions(table.magnitude)
        least = torch.finfo(p.dtype).tiny  # 0 over this is the 0 that two contributions of 0 count as
        ratios = p.new_zeros(*chunk.features.shape, p.shape[1])
        for slot in range(p.shape[1] - 1):  # all pairs of slots at once would be slots times the chunk
            one, others = p[:, slot, None], p[:, slot + 1 :]
            larger = torch.maximum(others, one).clamp_(min=least)
            ratios[:, slot, slot + 1 :] = torch.minimum(others, one).div_(larger).sum(2)
        untouched = (p == 0).to(p.dtype)
        total = total + ratios + ratios.mT
        neurons = neurons + p.shape[2] - untouched @ untouched.mT
    return total / neurons.clamp(min=1)


def _mass(chunk: Chunk, unit: PlainNeurons) -> tuple[Float[Tensor, "token slot slot"], Float[Tensor, "token slot"]]:
    p, weight, beta = chunk.contributions(unit.pre.A), unit.loudness / len(unit.loudness), unit.pre.beta
    up, down = p.clamp(min=0), p.neg().clamp_(min=0)
    up_against_down = torch.stack([torch.minimum(up[:, s, None], down) @ weight for s in range(p.shape[1])], dim=1)
    with_bias = torch.minimum(up, beta.neg().clamp_(min=0)) + torch.minimum(down, beta.clamp(min=0))
    return up_against_down + up_against_down.mT, with_bias @ weight


def _plain(unit: Neurons) -> PlainNeurons:
    if not isinstance(unit, PlainNeurons):
        raise UnsupportedModel(
            f"{unit.name}: mass is defined for plain MLPs, and this one is gated; use directed or ratio"
        )
    return unit


def _add_neurons(to: Tensor, chunk: Chunk, unit: Neurons, hits: Tensor, positions: Tensor) -> None:
    """Each hit's directed strength, neuron by neuron."""
    token, i, j = hits.nonzero(as_tuple=True)
    to_pair = positions[token, i, j]
    for its in ranked(chunk, unit):
        weighted = its.dominant.mul_(its.weight[:, None])
        # as many hits at a time as there are slots in the chunk: no larger than the contributions themselves
        for some in torch.arange(len(token), device=token.device).split(max(1, chunk.features.numel())):
            rows = weighted[token[some], i[some]] * its.magnitude[token[some], j[some]]
            to.index_add_(0, to_pair[some], rows.double())


def _strongest(strength: Float64[Tensor, "pair neuron"]) -> Strongest:
    if strength.numel() == 0:
        none = torch.full((len(strength),), -1, device=strength.device)
        return Strongest(none, none.double() * torch.nan)
    most, total = strength.amax(1), strength.sum(1)
    # counted down, so that the first of several is the largest: argmax promises none in particular
    count_down = torch.arange(strength.shape[1], 0, -1, device=strength.device)
    neuron = strength.shape[1] - ((strength == most[:, None]) * count_down).amax(1)
    return Strongest(neuron.masked_fill(total == 0, -1), most / total)
