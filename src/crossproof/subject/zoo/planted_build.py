"""From the tables to weights: a small compiler, all of it in float64 and from one seed.

Every gadget has a direction to write to, every embedding feature one to live on, all orthonormal in a random rotation
but for the split feature's children. Neurons read through the dual basis, so what feature i contributes to a neuron is
the number its table says, for the children as well.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.subject.zoo.planted_gadgets import CHILD_COSINE, CHILDREN, CLUSTERS, GADGETS, STRONGEST, WEAKEST
from crossproof.subject.zoo.planted_truth import SIGNS, Feature, Gadget, GroundTruth, Pair

D_MODEL = 64
VOCABULARY = 8192
BLOCKS = 2
SITES = (
    "blocks.0.hook_resid_pre",
    "blocks.0.hook_mlp_out",
    "blocks.0.hook_resid_post",
    "blocks.1.hook_mlp_out",
    "blocks.1.hook_resid_post",
)
QUIETEST, LOUDEST = 2.0, 16.0
"""Logits per unit of an outcome's output, first to last: what is computed deeper outshouts what is simpler, so that a
token with several active outcomes has a most likely one and is still not certain."""

INPUTS: tuple[str, ...] = tuple(name for cluster in CLUSTERS for name in cluster.members)
OUTPUTS: tuple[str, ...] = tuple(gadget.name for gadget in GADGETS if not gadget.affine)
FEATURES: tuple[str, ...] = INPUTS + OUTPUTS
BASIS: tuple[str, ...] = INPUTS + tuple(gadget.name for gadget in GADGETS if gadget.kind != "private")
"""What owns a direction. The output of a sum or an offset does, without being a feature."""
OUTCOMES: tuple[str, ...] = (
    "nothing",
    *(gadget.writes for gadget in GADGETS if gadget.kind == "private"),
    *(gadget.name for gadget in GADGETS if gadget.kind in ("sum", "offset")),
    *(gadget.name for gadget in GADGETS if not gadget.affine),
)


@dataclass(frozen=True)
class Weights:
    """Of one block's MLP."""

    W_in: Float[Tensor, "d_model neuron"]
    b_in: Float[Tensor, " neuron"]
    W_out: Float[Tensor, "neuron d_model"]
    b_out: Float[Tensor, " d_model"]


@dataclass(frozen=True)
class Plan:
    """A planted model before it is a module: float64 and shared, so nobody writes to it."""

    truth: GroundTruth
    codes: Float[Tensor, "vocabulary feature"]
    W_E: Float[Tensor, "vocabulary d_model"]
    blocks: tuple[Weights, ...]
    W_U: Float[Tensor, "d_model outcome"]
    b_U: Float[Tensor, " outcome"]
    targets: Int[Tensor, " vocabulary"]


@cache
def plan(seed: int) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    basis = _basis(generator)
    readers = torch.linalg.pinv(basis)
    codes = _outputs(_strengths(generator))
    decoder, bias = _decoders(basis)
    embedding = codes @ decoder[SITES[0]]
    W_U, b_U = _unembedding(readers)
    logits = (codes @ decoder[SITES[-1]] + bias[SITES[-1]]) @ W_U + b_U
    return Plan(
        truth=_truth(seed, codes, decoder, bias),
        codes=codes,
        W_E=embedding,
        blocks=tuple(_weights(block, basis, readers) for block in range(BLOCKS)),
        W_U=W_U,
        b_U=b_U,
        targets=torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0],
    )


# -- geometry ------------------------------------------------------------------------------------------------------


def _basis(generator: torch.Generator) -> Float[Tensor, "direction d_model"]:
    """Unit directions in the order of BASIS: rows of a random rotation, the two children bent towards each other."""
    gaussian = torch.randn(D_MODEL, D_MODEL, generator=generator, dtype=torch.float64)
    basis: Tensor = torch.linalg.qr(gaussian).Q[: len(BASIS)]
    first, second = (BASIS.index(name) for name in CHILDREN)
    half = math.acos(CHILD_COSINE) / 2
    parent, apart = math.cos(half) * basis[first], math.sin(half) * basis[second]
    basis[first], basis[second] = parent + apart, parent - apart
    return basis


def _neurons(block: int) -> list[tuple[Gadget, int]]:
    """Who owns each neuron of a block: (gadget, which of its neurons)."""
    return [(gadget, k) for gadget in GADGETS if gadget.block == block for k in range(len(gadget.neurons))]


def _weights(block: int, basis: Tensor, readers: Tensor) -> Weights:
    owners = _neurons(block)
    W_in = torch.zeros(D_MODEL, len(owners), dtype=torch.float64)
    b_in = torch.zeros(len(owners), dtype=torch.float64)
    W_out = torch.zeros(len(owners), D_MODEL, dtype=torch.float64)
    for n, (gadget, k) in enumerate(owners):
        neuron = gadget.neurons[k]
        for name, weight in neuron.reads.items():
            W_in[:, n] += weight * readers[:, BASIS.index(name)]
        b_in[n] = neuron.bias
        W_out[n] = neuron.writes * basis[BASIS.index(gadget.writes)]
    return Weights(W_in, b_in, W_out, torch.zeros(D_MODEL, dtype=torch.float64))


def _unembedding(readers: Tensor) -> tuple[Tensor, Tensor]:
    """Reads every outcome's direction. "nothing" is a constant; the constant of an offset is taken off again."""
    gains = torch.linspace(QUIETEST, LOUDEST, len(OUTCOMES) - 1, dtype=torch.float64)
    W_U = torch.zeros(D_MODEL, len(OUTCOMES), dtype=torch.float64)
    b_U = torch.zeros(len(OUTCOMES), dtype=torch.float64)
    b_U[0] = QUIETEST
    for k, name in enumerate(OUTCOMES[1:]):
        W_U[:, k + 1] = gains[k] * readers[:, BASIS.index(name)]
    for gadget in GADGETS:
        if gadget.kind == "offset":
            k = OUTCOMES.index(gadget.name)
            b_U[k] = -gains[k - 1] * gadget.neurons[0].bias
    return W_U, b_U


# -- the dictionary ------------------------------------------------------------------------------------------------


def _strengths(generator: torch.Generator) -> Float[Tensor, "vocabulary input"]:
    """Each cluster's pattern and each active feature's strength, drawn for every token id."""
    columns = []
    for cluster in CLUSTERS:
        probabilities = [p for _, p in cluster.patterns]
        edges = torch.tensor(probabilities, dtype=torch.float64).cumsum(0)
        drawn = torch.searchsorted(edges, torch.rand(VOCABULARY, generator=generator, dtype=torch.float64))
        fires = torch.tensor(
            [[name in active for name in cluster.members] for active, _ in cluster.patterns]
            + [[False] * len(cluster.members)]
        )
        size = 1 if cluster.equal_strengths else len(cluster.members)
        evenly = torch.rand(VOCABULARY, size, generator=generator, dtype=torch.float64)
        columns.append(fires[drawn] * (WEAKEST + (STRONGEST - WEAKEST) * evenly))
    return torch.cat(columns, 1)


def _outputs(strengths: Tensor) -> Float[Tensor, "vocabulary feature"]:
    """The strengths of all features: those given, then those that gadgets compute from them."""
    code = dict(zip(INPUTS, strengths.T, strict=True))
    for gadget in sorted(GADGETS, key=lambda gadget: gadget.block):
        if not gadget.affine:
            output = torch.zeros(len(strengths), dtype=strengths.dtype)
            for neuron in gadget.neurons:
                pre = torch.full_like(output, neuron.bias)
                for name, weight in neuron.reads.items():
                    pre = pre + weight * code[name]
                output = output + neuron.writes * pre.relu()
            code[gadget.name] = output
    return torch.stack([code[name] for name in FEATURES], 1)


def _decoders(basis: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """d_i^v and b^v at SITES. An affine gadget adds to what it reads; others write their own feature."""
    decoder, bias = {}, {}
    stream = torch.zeros(len(FEATURES), D_MODEL, dtype=torch.float64)
    stream[: len(INPUTS)] = basis[: len(INPUTS)]
    constant = torch.zeros(D_MODEL, dtype=torch.float64)
    decoder[SITES[0]], bias[SITES[0]] = stream, constant
    for block in range(BLOCKS):
        written, shift = torch.zeros_like(stream), torch.zeros_like(constant)
        for gadget in (gadget for gadget in GADGETS if gadget.block == block):
            direction = basis[BASIS.index(gadget.writes)]
            if not gadget.affine:
                written[FEATURES.index(gadget.name)] += direction
                continue
            for neuron in gadget.neurons:
                shift = shift + neuron.writes * neuron.bias * direction
                for name, weight in neuron.reads.items():
                    written[FEATURES.index(name)] += neuron.writes * weight * direction
        stream, constant = stream + written, constant + shift
        decoder[f"blocks.{block}.hook_mlp_out"], bias[f"blocks.{block}.hook_mlp_out"] = written, shift
        decoder[f"blocks.{block}.hook_resid_post"], bias[f"blocks.{block}.hook_resid_post"] = stream, constant
    return decoder, bias


# -- the record ----------------------------------------------------------------------------------------------------


def _truth(seed: int, codes: Tensor, decoder: dict[str, Tensor], bias: dict[str, Tensor]) -> GroundTruth:
    declared = {name: cluster.probability(name) for cluster in CLUSTERS for name in cluster.members}
    origin = {gadget.name: gadget for gadget in GADGETS if not gadget.affine}
    rows = {site: directions.tolist() for site, directions in decoder.items()}
    frequency = (codes > 0).double().mean(0).tolist()
    features = tuple(
        Feature(
            name=name,
            gadget=name if name in origin else None,
            block=origin[name].block if name in origin else None,
            probability=declared.get(name),
            frequency=frequency[i],
            directions={site: tuple(row[i]) for site, row in rows.items()},
        )
        for i, name in enumerate(FEATURES)
    )
    return GroundTruth(
        seed=seed,
        d_model=D_MODEL,
        vocabulary=VOCABULARY,
        weakest=WEAKEST,
        strongest=STRONGEST,
        sites=SITES,
        decoder_bias={site: tuple(vector.tolist()) for site, vector in bias.items()},
        features=features,
        clusters=CLUSTERS,
        gadgets=GADGETS,
        pairs=tuple(_gadget_pairs(codes)) + tuple(_companions(codes)),
        outcomes=OUTCOMES,
    )


def _gadget_pairs(codes: Tensor) -> list[Pair]:
    pairs = []
    for gadget in GADGETS:
        owned = [(n, gadget.neurons[k]) for n, (owner, k) in enumerate(_neurons(gadget.block)) if owner is gadget]
        for a, b in _couples(gadget.reads):
            names = _ordered(a, b)
            together = _together(codes, *names)
            pairs.append(
                Pair(
                    i=FEATURES.index(names[0]),
                    j=FEATURES.index(names[1]),
                    names=names,
                    kind=gadget.kind,
                    gadget=gadget.name,
                    block=gadget.block,
                    neurons=tuple(n for n, neuron in owned if a in neuron.reads and b in neuron.reads),
                    interacts=not gadget.affine,
                    sign=SIGNS[gadget.kind],
                    requires=tuple(c for c in gadget.reads if c not in (a, b)) if gadget.kind == "triple" else (),
                    seen_together=together > 0,
                    together=together,
                )
            )
    return pairs


def _companions(codes: Tensor) -> list[Pair]:
    """Pairs of a cluster that meet and share no neuron anywhere."""
    sharing = {_ordered(a, b) for gadget in GADGETS for a, b in _couples(gadget.reads)}
    pairs = []
    for cluster in CLUSTERS:
        for a, b in _couples(cluster.members):
            names = _ordered(a, b)
            if cluster.probability(a, b) > 0 and names not in sharing:
                together = _together(codes, *names)
                pairs.append(
                    Pair(
                        i=FEATURES.index(names[0]),
                        j=FEATURES.index(names[1]),
                        names=names,
                        kind="companions",
                        gadget=None,
                        block=None,
                        neurons=(),
                        interacts=False,
                        sign=0,
                        requires=(),
                        seen_together=together > 0,
                        together=together,
                    )
                )
    return pairs


def _couples(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(a, b) for k, a in enumerate(names) for b in names[k + 1 :]]


def _ordered(a: str, b: str) -> tuple[str, str]:
    return (a, b) if FEATURES.index(a) < FEATURES.index(b) else (b, a)


def _together(codes: Tensor, a: str, b: str) -> float:
    active = codes[:, [FEATURES.index(a), FEATURES.index(b)]] > 0
    return float(active.all(1).double().mean())
