"""Measure on a model's own texts how the features of a crosscoder interact in its units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.binding.account import attention_inputs, measure_account, measured_units
from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.bound_units import bound_attention
from crossproof.binding.encoding import Encoded, encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction import frames
from crossproof.interaction.attention.pairs import at_positions, check_size
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Neurons
from crossproof.interaction.norms.pairs import norm_tokens
from crossproof.interaction.norms.reach import TypicalNeurons
from crossproof.interaction.result import Interactions, choose_metrics, measure
from crossproof.interaction.tokens import AtTokens, at_tokens, together
from crossproof.interaction.weights import hadamard_of_pairs, typical_strengths
from crossproof.records import KINDS, Kind
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import Attention, Norm

if TYPE_CHECKING:
    import pandas as pd


def interactions(
    subject: Subject,
    coder: Crosscoder,
    tokens: Tokens,
    metrics: Sequence[str] | None = None,
    include: Sequence[Kind | str] | None = None,
) -> Interactions:
    """How the features interact on these tokens, in every unit whose input the crosscoder reconstructs.

    `metrics`: of METRICS, of pairs in MLPs; by default all that these MLPs have, and hadamard. `include`: which kinds
    of units stand in the account beside the MLPs, `attention` and `norm`; by default those whose inputs are there.
    Attention layers hold a table of features × features for every head, and take most of the time in models with rotary
    positions. The codes of all tokens are held: 12 bytes for each active feature of a token, twice that while they are
    put together.
    """
    units = neurons_of(subject, coder)
    chosen = choose_metrics(units, metrics)
    kinds = choose_kinds(subject, coder, include)
    if "attention" in kinds:  # before the model runs
        check_size(sum(len(its.unit.W_Q) for its in bound_attention(subject, coder)), coder.config.features)
    encoded = encode(subject, coder, tokens, attention_inputs(subject, coder, kinds))
    return of_encoded(subject, coder, encoded, units, chosen, kinds)


def of_encoded(
    subject: Subject,
    coder: Crosscoder,
    encoded: Encoded,
    units: Sequence[Neurons],
    metrics: Sequence[str],
    kinds: Sequence[Kind],
) -> Interactions:
    """The same on texts that are encoded already, with the inputs of `attention_inputs`; `units` are all MLPs."""
    about = f"{coder.config.features:,} features at {len(coder.sites)} sites of {subject.name}"
    found = measure(encoded.codes, units, metrics, about)
    found.columns["hadamard"] = _hadamard(subject, coder, encoded.codes, found.coactive)
    measured = measured_units(subject, coder, encoded.codes, kinds, neurons=units)
    found.account = measure_account(subject, coder, encoded, found, measured)
    found.reader = partial(_read, subject, coder, kinds, measured.typical)
    return found


def choose_kinds(subject: Subject, coder: Crosscoder, include: Sequence[Kind | str] | None = None) -> tuple[Kind, ...]:
    """The kinds of units to include beside the MLPs: those asked for, or those whose inputs are sites.

    One that does not exist is refused, and one that is asked for where the crosscoder has none of its sites.
    """
    inputs = {
        "attention": [unit.input_site for unit in subject.units if isinstance(unit, Attention)],
        "norm": [unit.input_site for unit in subject.units if isinstance(unit, Norm)],
    }
    there = [kind for kind, sites in inputs.items() if any(site in coder.sites for site in sites)]
    wanted = there if include is None else [include] if isinstance(include, str) else include
    for kind in wanted:
        if kind not in KINDS:
            raise CrossproofError(f"include: no kind of unit {kind!r}; there are {', '.join(KINDS)}")
        if kind != "mlp" and kind not in there:
            needed = ", ".join(dict.fromkeys(inputs[kind])) or f"{subject.name} has none"
            raise MismatchError(
                f"include: this crosscoder has the sites {', '.join(coder.sites)}, and none is the input of a unit of "
                f"kind {kind} ({needed}). Leave it out, or train a crosscoder that has these sites"
            )
    return tuple(kind for kind in KINDS if kind != "mlp" and kind in wanted)


def _hadamard(subject: Subject, coder: Crosscoder, codes: Codes, pairs: CoActive) -> Float[Tensor, " pair"]:
    """Of the pairs at typical strengths, MLPs summed."""
    strengths, directions, biases = typical_strengths(codes), coder.decoder.detach(), coder.decoder_bias.detach()
    i, j = pairs.i.to(directions.device), pairs.j.to(directions.device)
    found = [
        hadamard_of_pairs(mlp.unit.to(directions.device), directions[:, mlp.site], i, j, biases[mlp.site], strengths)
        for mlp in bound_mlps(subject, coder)
    ]
    return torch.stack(found).sum(0).cpu()


def token_interactions(
    subject: Subject, coder: Crosscoder, text: str, include: Sequence[Kind | str] | None = None
) -> pd.DataFrame:
    """Interaction at each token of a text: the score, by unit too, and the strongest pair. Computed in float64.

    In an attention layer the pair is a feature of this token, in the query, and one of a token before it, as a key.
    A gated MLP hears its norm as it usually does in this text; `Interactions.tokens`, as in what was measured there.
    """
    return _read(subject, coder, choose_kinds(subject, coder, include), None, text)


def _read(
    subject: Subject,
    coder: Crosscoder,
    kinds: Sequence[Kind],
    typical: Mapping[str, TypicalNeurons] | None,
    text: str,
) -> pd.DataFrame:
    tokens = subject.tokens([text])
    encoded = encode(subject, coder, tokens, attention_inputs(subject, coder, kinds))
    codes = Codes(encoded.codes.pattern, encoded.codes.values.double())
    units = measured_units(subject, coder, codes, kinds, torch.float64, typical=typical)
    names, found = [its.name for its in units.neurons], [at_tokens(codes, units.neurons)]
    if units.norms:
        names += [its.name for its in units.norms]
        found.append(norm_tokens(codes, units.norms))
    if units.heads:
        names += [its.name for its in units.heads]
        (passage,) = Encoded(codes, encoded.keep, encoded.given).passages()
        asked, described = at_positions(passage, units.heads), passage.described
        pairs = (its[described] for its in (asked.value, asked.i, asked.j, asked.layer))
        found.append(AtTokens(asked.score.sum(2)[described], *pairs))
    words = [subject.tokenizer.decode([each]) for each in tokens.ids[tokens.keep].tolist()]
    in_order = list(units.kinds)
    at = together(found, [names.index(name) for name in in_order])
    return frames.tokens(words, in_order, {name: values.cpu() for name, values in at._asdict().items()})
