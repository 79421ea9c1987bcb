"""How well each metric ranks pairs as the Shapley-Taylor index does, in the attention layers and norms of a real model.

As `study/ranking` does for MLPs, and with its statistics: the index at sampled tokens of held-out texts, and each
metric beside it within a token and between pairs. What pairs are, and which metrics there are of them, `attention.py`
and `norms.py` say.

run.json  results.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Int
from pydantic import Field
from torch import Tensor

from crossproof import runs
from crossproof.binding.bound_units import bound_attention, bound_norms, heads_at
from crossproof.binding.encoding import Encoded, active_counts, encode, rows_with_pairs
from crossproof.crosscoder.config import Count, Strict
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.study.ranking.comparison import Comparison
from crossproof.study.unit_ranking import attention, norms
from crossproof.study.unit_ranking.index import UnitPairs
from crossproof.study.unit_ranking.results import ALL, Kind, KindRecord, UnitRanking, UnitRecord
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "unit-ranking"


class UnitRankingConfig(Strict):
    """Rank pairs in attention layers and norms by every metric and by the Shapley-Taylor index."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coder: str
    """The crosscoder: its folder, the folder of the run that trained it, or a hub id."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=2)] = 100
    """Held-out texts that the metrics look at."""
    queries: Count = 100
    """How many of their tokens the index is computed at."""
    keys: Count = 8
    """At most so many of the features that a query sees are players."""
    seen: Count = 2
    """A pair is ranked among all pairs if it is met at this many of these tokens."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the tokens, the key features, the random metric and the bootstrap."""


def run(config: UnitRankingConfig) -> UnitRanking:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], UnitRanking]:
        subject, coder = Subject.load(config.subject), Crosscoder.from_pretrained(config.coder)
        _check(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        return lambda: study(subject, coder, tokens, config.queries, config.keys, config.seen, config.seed)

    return runs.once(config.out, KIND, config, UnitRanking, prepare)


@torch.no_grad()
def study(
    subject: Subject, coder: Crosscoder, tokens: Tokens, queries: int, keys: int, seen: int, seed: int
) -> UnitRanking:
    """On these texts, at `queries` of their tokens: the same ones in attention layers and in norms."""
    _check(subject, coder)
    bound = bound_attention(subject, coder)
    encoded = encode(subject, coder, tokens, [its.unit.input_site for its in bound])
    codes = encoded.codes
    active, rows = active_counts(codes), rows_with_pairs(codes, queries, seed)
    directions, biases = coder.decoder.detach(), coder.decoder_bias.detach()
    kinds = []
    if bound:
        layers = [heads_at(coder, its) for its in bound]
        at = attention.at_positions(encoded, rows, layers, keys, seed)
        i, j, pair, ranked = _pairs(at, codes.pattern.n_features, seen)
        scores = attention.corpus_scores(encoded, layers, i, j, seed)
        kinds.append(_record("attention", [its.name for its in bound], at, pair, ranked, scores, encoded, rows, seed))
    reached = [
        norms.Reached(its.name, its.unit, directions[:, its.site], biases[its.site])
        for its in bound_norms(subject, coder)
    ]
    if reached:
        at = norms.at_tokens(codes, rows, reached, seed)
        i, j, pair, ranked = _pairs(at, codes.pattern.n_features, seen)
        scores = norms.corpus_scores(codes, reached, i, j, seed)
        names = [its.features.name for its in reached]
        kinds.append(_record("norm", names, at, pair, ranked, scores, encoded, rows, seed))
    return UnitRanking(
        subject=subject.name,
        texts=len(tokens),
        tokens=tokens.n_kept,
        sampled=len(rows),
        active=float(active[rows.to(active.device)].double().mean()),
        seen=seen,
        kinds=tuple(kinds),
    )


def _check(subject: Subject, coder: Crosscoder) -> None:
    if not bound_attention(subject, coder) and not bound_norms(subject, coder):
        raise CrossproofError(
            f"the crosscoder has no site that an attention layer or a norm of {subject.name} reads (its sites: "
            f"{', '.join(coder.sites)}): train one with `--sites '*.hook_resid_pre' '*.ln1.hook_normalized'`"
        )


def _pairs(at: UnitPairs, n_features: int, seen: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs that were met, which of them each row is, and which are met often enough to rank."""
    keys, pair, count = (at.i * n_features + at.j).unique(return_inverse=True, return_counts=True)
    return keys // n_features, keys % n_features, pair, count >= seen


def _record(
    kind: Kind,
    names: list[str],
    at: UnitPairs,
    pair: Int[Tensor, " row"],
    ranked: Tensor,
    scores: attention.Scores,
    encoded: Encoded,
    rows: Int[Tensor, " token"],
    seed: int,
) -> KindRecord:
    text = encoded.keep.nonzero()[rows.to(encoded.keep.device), 0].cpu()
    scores = {name: values.cpu() for name, values in scores.items()}
    compared = Comparison(at, pair, ranked, scores, {}, text, len(encoded.keep))
    halves = compared.halves()
    return KindRecord(
        kind=kind,
        players=at.players,
        estimated=at.estimated,
        pairs=len(ranked),
        ranked_pairs=int(ranked.sum()),
        units=tuple(
            UnitRecord(
                unit=name,
                gap=float(at.gap[u]),
                relative_error=float(at.relative_error[u]) if at.estimated else None,
                halves=halves[u],
            )
            for u, name in enumerate(names)
        ),
        agreements=tuple(compared.agreements(tuple(names), seed, ALL[kind])),
    )
