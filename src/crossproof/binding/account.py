"""The account of a model's units on its own texts: MLPs, attention layers and norms in one currency.

What the currency is, `interaction/account.py` says. A norm is heard by the units that it feeds, and is left out where
one of them is not measured: so is the norm before the unembedding, after which nothing is written to the stream.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.bound_units import bound_attention, bound_norms, heads_at
from crossproof.binding.encoding import Encoded
from crossproof.codes import Codes, decode
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.account import Account, summed_by_text
from crossproof.interaction.attention.heads import Heads
from crossproof.interaction.attention.pairs import query_key_pairs
from crossproof.interaction.contributions import GatedNeurons, Neurons
from crossproof.interaction.norms.features import NormFeatures, norm_features
from crossproof.interaction.norms.pairs import norm_pairs
from crossproof.interaction.norms.reach import (
    Listener,
    TypicalNeurons,
    heard_by_attention,
    heard_by_gated_mlp,
    heard_by_mlp,
    typical_neurons,
)
from crossproof.interaction.result import Interactions
from crossproof.records import Kind
from crossproof.subject.subject import Subject
from crossproof.units import MLP, GatedMLP

ROWS = 4096
"""Tokens at a time where an MLP is run on their reconstruction."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The units of one account, as the features of a dictionary reach them."""

    neurons: tuple[Neurons, ...]
    heads: tuple[Heads, ...]
    norms: tuple[NormFeatures, ...]
    feeds: Mapping[str, tuple[str, ...]]
    """What each norm feeds, by name."""
    kinds: Mapping[str, Kind]
    """Of each unit, in order of computation."""
    typical: Mapping[str, TypicalNeurons]
    """With these neurons the gated MLPs hear their norms; none where no norm is included."""


def measured_units(
    subject: Subject,
    coder: Crosscoder,
    codes: Codes,
    include: Sequence[Kind],
    dtype: torch.dtype = torch.float32,
    neurons: Sequence[Neurons] | None = None,
    typical: Mapping[str, TypicalNeurons] | None = None,
) -> Measured:
    """The MLPs, and what else is included. A gated MLP hears its norm as it usually does on these tokens.

    `neurons` of this dtype, and what is `typical`, are made here where they are not there yet.
    """
    device = coder.W_dec.device
    directions, biases = coder.decoder.detach().to(dtype), coder.decoder_bias.detach().to(dtype)
    mlps, neurons = bound_mlps(subject, coder), neurons_of(subject, coder, dtype) if neurons is None else neurons
    attention = bound_attention(subject, coder) if "attention" in include else ()
    heads = [heads_at(coder, its, dtype) for its in attention]
    names = {id(its.unit): its.name for its in mlps} | {id(its.unit): its.name for its in attention}
    norms, feeds = [], {}
    heard_with: dict[str, TypicalNeurons] = {}
    if "norm" in include:
        for reached in neurons:
            if isinstance(reached, GatedNeurons):
                usual = typical_neurons(codes, reached) if typical is None else typical[reached.name]
                heard_with[reached.name] = TypicalNeurons(*(part.to(reached.loudness) for part in usual))
        listeners = {
            mlp.name: _heard_by_mlp(mlp.unit.to(dtype).to(device), heard_with.get(mlp.name)) for mlp in mlps
        } | {its.name: heard_by_attention(its.attention) for its in heads}
        for its in bound_norms(subject, coder):
            if its.feeds and all(id(unit) in names for unit in its.feeds):
                feeds[its.name] = tuple(names[id(unit)] for unit in its.feeds)
                heard = _together([listeners[name] for name in feeds[its.name]])
                unit = its.unit.to(dtype).to(device)
                norms.append(norm_features(unit, directions[:, its.site], biases[its.site], its.name, heard))
        names |= {id(its.unit): its.name for its in bound_norms(subject, coder) if its.name in feeds}
    kind_of: dict[str, Kind] = dict.fromkeys((its.name for its in neurons), "mlp")
    kind_of |= dict.fromkeys((its.name for its in heads), "attention")
    kind_of |= dict.fromkeys((its.name for its in norms), "norm")
    in_order = [names[id(unit)] for unit in subject.units if id(unit) in names]
    kinds = {name: kind_of[name] for name in in_order}
    return Measured(tuple(neurons), tuple(heads), tuple(norms), feeds, kinds, heard_with)


@torch.no_grad()
def measure_account(
    subject: Subject, coder: Crosscoder, encoded: Encoded, found: Interactions, units: Measured
) -> Account:
    """Of what was found in the MLPs and of these units; `encoded` was asked for `attention_inputs`. On the CPU."""
    codes, kinds = encoded.codes, units.kinds
    text, tokens = encoded.text.cpu().unique(return_inverse=True, return_counts=True)[1:]
    by_text: dict[str, Float64[Tensor, " text"]] = {}
    written: dict[str, float] = {}
    same: dict[str, Float64[Tensor, " pair"]] = {}
    across: dict[str, Float[Tensor, "head feature feature"]] = {}

    assert found.token_scores is not None
    for number, (its, mlp) in enumerate(zip(units.neurons, bound_mlps(subject, coder), strict=True)):
        by_text[its.name] = summed_by_text(found.token_scores[:, number], text, len(tokens))
        tables = [found.sums[metric][number].mean for metric in ("directed", "cross") if metric in found.sums]
        same[its.name] = torch.stack(tables).sum(0) * len(its.loudness)
        written[its.name] = _written_by_mlp(
            mlp.unit.to(codes.values.dtype).to(codes.values.device),
            codes,
            coder.decoder[:, mlp.site],
            coder.decoder_bias[mlp.site],
        )
    if units.heads:
        for table in query_key_pairs(encoded.passages(), units.heads, total=len(tokens)):
            by_text[table.name] = table.by_text.sum(1).cpu()
            across[table.name] = table.mean.cpu()
        for number, heads in enumerate(units.heads):
            written[heads.name] = _written_by_attention(encoded, heads, number)
    coactive = found.coactive.to(codes.values.device)
    for norm, sums in zip(units.norms, norm_pairs(codes, units.norms, coactive), strict=True):
        by_text[norm.name] = summed_by_text(sums.score.cpu(), text, len(tokens))
        same[norm.name] = sums.pairs.mean.cpu()
        written[norm.name] = sum(written[name] for name in units.feeds[norm.name])
    return Account(
        kinds,
        torch.stack([by_text[name] for name in kinds], dim=1),
        tokens,
        torch.tensor([written[name] for name in kinds], dtype=torch.float64),
        found.coactive,
        same,
        across,
    )


def attention_inputs(subject: Subject, coder: Crosscoder, include: Sequence[Kind]) -> tuple[str, ...]:
    """The sites that the attention layers to be measured read."""
    return tuple(its.unit.input_site for its in bound_attention(subject, coder)) if "attention" in include else ()


def _heard_by_mlp(unit: MLP | GatedMLP, typical: TypicalNeurons | None) -> Listener:
    if isinstance(unit, MLP):
        return heard_by_mlp(unit)
    assert typical is not None
    return heard_by_gated_mlp(unit, typical)


def _together(listeners: Sequence[Listener]) -> Listener:
    def heard(directions: Float[Tensor, "direction d_model"]) -> Float[Tensor, " direction"]:
        return torch.stack([listener(directions) for listener in listeners]).sum(0)

    return heard


def _written_by_attention(encoded: Encoded, heads: Heads, number: int) -> float:
    """The mean length of what it writes, less its bias."""
    total = 0.0
    for passage in encoded.passages():
        out = heads.attention(heads.input(passage, number)[None])[0] - heads.attention.b_O
        total += float(out[passage.described].norm(dim=1).sum(dtype=torch.float64))
    return total / encoded.codes.pattern.n_rows


def _written_by_mlp(unit: MLP | GatedMLP, codes: Codes, directions: Tensor, bias: Tensor) -> float:
    """The mean length of what it writes, less its bias."""
    total, n_rows = 0.0, codes.pattern.n_rows
    directions, bias = directions.detach().contiguous(), bias.detach().contiguous()
    for start in range(0, n_rows, ROWS):
        x = decode(codes.rows(start, min(n_rows, start + ROWS)), directions, bias)
        total += float((unit(x) - unit.b_out).norm(dim=1).sum(dtype=torch.float64))
    return total / n_rows
