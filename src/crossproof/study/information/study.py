"""How many bits the encoded texts take, what they explain, and how tight a bound they give (the post's last proposal).

Of a crosscoder an explanation is short if its codes are. Held-out texts are cut in two: on one half codes are made for
which features are active and how strong they are (`coding.py`), the other half is encoded. Strengths are rounded to
steps that are the same length in the scaled activations for every feature, chosen so that the crosscoder's error grows
by a given part. What a token's code certifies of each MLP is how far the paper's bound lets its output be from that of
its dominant features (MATHS T1), over how far the output lies from its mean.

run.json  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interaction.interpretations.dominant import Dominant
from crossproof.interaction.interpretations.unit import unit_residual
from crossproof.progress import progress
from crossproof.study.base import once
from crossproof.study.dictionaries import described
from crossproof.study.estimates import by_text
from crossproof.study.information.coding import StrengthCode, SupportCode, rounded
from crossproof.study.information.config import InformationConfig
from crossproof.study.information.results import InformationStudy, study_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "information"
TEXTS_PER_PASS = 64


@dataclass(frozen=True, eq=False)
class Level:
    """Strengths rounded so coarsely."""

    noise: float
    strength_bits: Float64[Tensor, " text"]
    error: Float64[Tensor, " text"]
    """Squared error of the rounded codes, in scaled units."""


@dataclass(frozen=True, eq=False)
class Measured:
    """One dictionary on the encoded half; sums over each text's tokens."""

    tokens: Float64[Tensor, " text"]
    active: Float64[Tensor, " text"]
    support_bits: Float64[Tensor, " text"]
    error: Float64[Tensor, " text"]
    variance: Float64[Tensor, " text"]
    """Squared distance from the mean of all texts, in scaled units."""
    certified: Float64[Tensor, " text"]
    """How far the dominant features' account may be off, MLPs summed."""
    written: Float64[Tensor, " text"]
    """How far what the MLPs write lies from its mean, MLPs summed."""
    levels: tuple[Level, ...]


def run(config: InformationConfig) -> InformationStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], InformationStudy]:
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        for coder in coders:
            bound_mlps(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        if len(tokens) < 4:
            raise CrossproofError(f"texts: {len(tokens)} held-out ones are too few to be cut in two; give at least 4")
        return lambda: study(config, subject, coders, tokens)

    return once(config.out, KIND, config, InformationStudy, prepare)


def study(
    config: InformationConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens
) -> InformationStudy:
    fit, encoded = tokens.halves(config.seed)
    found = [
        (about, measured(subject, coder, fit, encoded, config.noise))
        for about, coder in zip(described(config.coders), coders, strict=True)
    ]
    return study_of(subject.name, found, config.noise, config.seed)


@torch.no_grad()
def measured(subject: Subject, coder: Crosscoder, fit: Tokens, encoded: Tokens, noise: Sequence[float]) -> Measured:
    """What the second texts take, in codes made on the first."""
    codes, text, x = _read(subject, coder, fit)
    support, strength = SupportCode.fitted(codes, text), StrengthCode.fitted(codes)
    scales = coder.site_scales[:, None]  # a saved crosscoder has them in its weights
    error = (x - coder.decode(codes) * scales).square().sum(dtype=torch.float64) / len(x)
    lengths = (coder.decoder * scales).flatten(1).norm(dim=1).double().clamp(min=torch.finfo(torch.float32).tiny)
    per_token = max(1.0, float(codes.l0))

    codes, text, x = _read(subject, coder, encoded)
    texts = len(encoded)

    def total(values: Tensor) -> Float64[Tensor, " text"]:
        return by_text(values, text, texts)

    def missed(its: Codes) -> Float64[Tensor, " text"]:
        return total((x - coder.decode(its) * scales).square().sum((1, 2)))

    levels = []
    for part in noise:
        # rounding to steps of length s adds s²/12 to the squared error of each active feature
        step = (12 * part * float(error) / per_token) ** 0.5 / lengths
        bits = torch.zeros(len(x), dtype=torch.float64).index_add(0, codes.pattern.rows, strength.bits(codes, step))
        levels.append(Level(part, total(bits), missed(rounded(codes, step))))
    certified, written = torch.zeros(len(x), dtype=torch.float64), torch.zeros(len(x), dtype=torch.float64)
    for bound, neurons in zip(bound_mlps(subject, coder), neurons_of(subject, coder), strict=True):
        certified += unit_residual(Dominant(), codes, neurons, bound.unit.W_out.to(coder.W_dec.device)).certified
        out = bound.unit(coder.decode(codes)[:, bound.site])
        written += (out - out.mean(0)).norm(dim=1)
    return Measured(
        tokens=total(torch.ones(len(x))),
        active=total(torch.bincount(codes.pattern.rows, minlength=len(x)).double()),
        support_bits=total(support.bits(codes, text)),
        error=missed(codes),
        variance=total((x - x.mean(0)).square().sum((1, 2))),
        certified=total(certified),
        written=total(written),
        levels=tuple(levels),
    )


def _read(
    subject: Subject, coder: Crosscoder, tokens: Tokens
) -> tuple[Codes, Int[Tensor, " token"], Float[Tensor, "token site width"]]:
    """Active features, texts, and the scaled activations of all kept tokens."""
    rows = []
    with progress("encoding", tokens.n_kept, "tokens") as bar:
        for batch in tokens.batches(TEXTS_PER_PASS):
            if batch.n_kept:
                rows.append(subject.harvest(batch, coder.sites).to(coder.W_dec.device))
                bar(batch.n_kept)
    activations = torch.cat(rows)
    text = tokens.keep.nonzero()[:, 0]
    return coder.encode(activations).active(), text, activations * coder.site_scales[:, None]
