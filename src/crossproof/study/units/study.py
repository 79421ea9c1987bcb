"""Which units of a model interact most, with dictionaries trained with and without a penalty.

At sampled tokens of held-out texts the interaction of every pair of features is measured exactly, by removing them: the
lengths of the second differences of what a unit writes to the residual stream, pairs summed. The same tokens are looked
at with every dictionary, so that ratios between dictionaries are paired. Beside it stands the account of all tokens
(`Interactions.account`), which removes nothing and is far cheaper.

    an MLP          pairs of features at the token, the scale of its norm held still
    its norm        what the scale adds to that: the second differences with the scale alive, less those without
    an attention    a feature in the query of the token, another in all keys that it sees; values held still

run.json  results.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Float64, Int
from pydantic import Field
from torch import Tensor

from crossproof import runs
from crossproof.binding.account import attention_inputs
from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.bound_units import bound_norms, heads_in
from crossproof.binding.encoding import Encoded, encode
from crossproof.binding.interactions import choose_kinds, of_encoded
from crossproof.crosscoder.config import Strict
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interaction.attention.removal import second_differences
from crossproof.interaction.norms.removal import norm_share
from crossproof.interaction.result import choose_metrics
from crossproof.progress import progress
from crossproof.study.dictionaries import described
from crossproof.study.units.results import Measured, UnitsStudy, study_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "units"


class UnitsConfig(Strict):
    """Compare the units of a model, and dictionaries."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coders: tuple[str, ...]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    texts: Annotated[int, Field(ge=2)] = 100
    tokens: Annotated[int, Field(ge=2)] = 100
    """At how many of their tokens features are removed."""
    data: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the tokens and the bootstrap."""


def run(config: UnitsConfig) -> UnitsStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], UnitsStudy]:
        if not config.coders:
            raise CrossproofError("coders: none; name at least one crosscoder")
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        for coder in coders:
            bound_mlps(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        return lambda: study(config, subject, coders, tokens)

    return runs.once(config.out, KIND, config, UnitsStudy, prepare)


def study(config: UnitsConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens) -> UnitsStudy:
    """On these texts, at the same of their tokens for every dictionary."""
    drawn = torch.randperm(tokens.n_kept, generator=torch.Generator().manual_seed(config.seed))
    rows = drawn[: config.tokens].sort().values
    records = described(config.coders)
    found = [(about, measured(subject, coder, tokens, rows)) for about, coder in zip(records, coders, strict=True)]
    return study_of(subject.name, found, tokens.n_kept, len(rows), config.seed)


@torch.no_grad()
def measured(subject: Subject, coder: Crosscoder, tokens: Tokens, rows: Int[Tensor, " row"]) -> Measured:
    """All units at these kept tokens, and the account of all tokens."""
    neurons, kinds = neurons_of(subject, coder), choose_kinds(subject, coder)
    encoded = encode(subject, coder, tokens, attention_inputs(subject, coder, kinds))
    metrics = choose_metrics(neurons, ["directed"])
    account = of_encoded(subject, coder, encoded, neurons, metrics, kinds).account
    assert account is not None
    sizes: dict[str, Float64[Tensor, " row"]] = _of_attention(subject, coder, encoded, rows)
    sizes |= _of_mlps(subject, coder, encoded, rows)
    text = encoded.text.unique(return_inverse=True)[1][rows]
    return Measured(account, {name: values for name, values in sizes.items() if name in account.kinds}, text)


def _of_attention(
    subject: Subject, coder: Crosscoder, encoded: Encoded, rows: Int[Tensor, " row"]
) -> dict[str, Float64[Tensor, " row"]]:
    layers = heads_in(subject, coder)
    sizes = {heads.name: torch.zeros(len(rows), dtype=torch.float64) for heads in layers}
    if not layers:
        return {}
    places = encoded.keep.nonzero()[rows]
    wanted = {text: number for number, text in enumerate(encoded.text.unique().tolist())}
    passages = list(encoded.passages())
    with progress("removing features from attention", len(rows), "tokens") as bar:
        for place, (text, position) in enumerate(places.tolist()):
            for number, heads in enumerate(layers):
                found = second_differences(passages[wanted[text]], number, heads, position)
                sizes[heads.name][place] = found.size.sum()
            bar(1)
    return sizes


def _of_mlps(
    subject: Subject, coder: Crosscoder, encoded: Encoded, rows: Int[Tensor, " row"]
) -> dict[str, Float64[Tensor, " row"]]:
    """MLPs behind a norm whose input the crosscoder reconstructs too, and these norms."""
    sizes: dict[str, Float64[Tensor, " row"]] = {}
    directions, biases = coder.decoder.detach(), coder.decoder_bias.detach()
    for norm in bound_norms(subject, coder):
        for mlp in bound_mlps(subject, coder):
            if mlp.unit.input_site == norm.unit.output_site:
                at = directions[:, norm.site], biases[norm.site]
                share = norm_share(encoded.codes, norm.unit, mlp.unit, *at, rows)
                sizes[mlp.name], sizes[norm.name] = share.frozen.cpu(), share.scale_only.cpu()
    return sizes
