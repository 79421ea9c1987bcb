"""A run that measures interactions between two sites: its settings, its folder, its tables.

run.json  done.jsonl  results.json  span/{pairs,tokens}.parquet
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from crossproof import runs
from crossproof.binding.span import check_span
from crossproof.binding.spans import SpanInteractions, span_interactions
from crossproof.crosscoder.config import Count, Strict
from crossproof.crosscoder.model import Crosscoder
from crossproof.files import replace_folder
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND, DONE = "span", "done.jsonl"
SHOWN = 20
RESAMPLES = 1000


class SpanConfig(Strict):
    """From where to where, and at how many tokens."""

    subject: str
    coder: str
    input_site: str
    output_site: str
    out: Path
    tokens: Count = 50
    orders: Annotated[int, Field(ge=2)] = 16
    texts: Count = 100
    keep_error: bool = False
    data: Path | None = None
    seed: Annotated[int, Field(ge=0)] = 0


class SpanPair(BaseModel):
    """Two features that met."""

    model_config = ConfigDict(extra="forbid")
    i: int
    j: int
    strength: float
    count: int
    score: float


class SpanStudy(BaseModel):
    """`results.json` of a run that measured a span. Intervals are 95 %, from resampled tokens."""

    model_config = ConfigDict(extra="forbid")
    subject: str
    input_site: str
    output_site: str
    tokens: int
    estimated: int
    features: float
    """Mean number of active features."""
    change: float
    """Mean length by which all features together move the output."""
    sizes: float
    """Mean sum of the pairs' lengths."""
    together_share: float | None
    """Of the change, the length of all pairs' indices summed as vectors, tokens pooled. None if nothing changes."""
    together_share_low: float | None
    together_share_high: float | None
    pairs: int
    strongest: list[SpanPair]


def measure_span(config: SpanConfig) -> SpanStudy:
    """Measure, and write the run folder; a stopped run goes on after its last token, a finished one is read."""

    def prepare() -> Callable[[], SpanStudy]:
        subject, coder = Subject.load(config.subject), Crosscoder.from_pretrained(config.coder)
        tokens = subject.held_out(config.texts, config.data)
        check_span(subject, coder, config.input_site, config.output_site)
        return lambda: _measured(config, subject, coder, tokens)

    return runs.once(config.out, KIND, config, SpanStudy, prepare)


def _measured(config: SpanConfig, subject: Subject, coder: Crosscoder, tokens: Tokens) -> SpanStudy:
    found = span_interactions(
        subject, coder, tokens, config.input_site, config.output_site, config.tokens, config.orders,
        config.keep_error, config.seed, config.out / DONE,
    )  # fmt: skip
    with replace_folder(config.out / "span") as new:
        found.pairs.to_parquet(new / "pairs.parquet")
        found.tokens.to_parquet(new / "tokens.parquet")
    return summary(found, subject.name, config.seed)


def summary(found: SpanInteractions, subject: str, seed: int) -> SpanStudy:
    tokens = found.tokens
    change, together = tokens.change.to_numpy(), tokens.together.to_numpy()
    share = low = high = None
    if change.sum() > 0:
        share = float(together.sum() / change.sum())
        drawn = np.random.default_rng(seed).integers(0, len(tokens), (RESAMPLES, len(tokens)))
        of_drawn = together[drawn].sum(1) / change[drawn].sum(1).clip(min=np.finfo(float).tiny)
        low, high = map(float, np.quantile(of_drawn, [0.025, 0.975]))
    return SpanStudy(
        subject=subject,
        input_site=found.input_site,
        output_site=found.output_site,
        tokens=len(tokens),
        estimated=int(tokens.estimated.sum()),
        features=float(tokens.features.mean()),
        change=float(change.mean()),
        sizes=float(tokens.sizes.mean()),
        together_share=share,
        together_share_low=low,
        together_share_high=high,
        pairs=len(found.pairs),
        strongest=[SpanPair(**row) for row in found.pairs.head(SHOWN).to_dict("records")],
    )
