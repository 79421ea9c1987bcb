"""How well each metric ranks pairs of features as the Shapley-Taylor index does, in the MLPs of a real model.

At sampled tokens of held-out texts the index of every pair of active features is computed, exact for up to 16 features
(`tokens.py`). Each metric is set beside it twice: among the pairs of one token, and among all pairs that are
seen often enough, by the mean of their index over the tokens where they are. The metrics of `metrics.py` look at all
tokens of the texts; those named "here" look at the sampled tokens alone, as the index does.

run.json  results.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
from jaxtyping import Bool, Float64, Int
from pydantic import Field
from torch import Tensor

from crossproof import runs
from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import active_counts, codes_of, rows_with_pairs
from crossproof.codes import Codes
from crossproof.crosscoder.config import Count, Strict
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.contributions import PlainNeurons
from crossproof.interaction.probabilistic import pair_kl
from crossproof.progress import progress
from crossproof.study.metrics import MOST_KL_PAIRS, pair_scores
from crossproof.study.ranking.comparison import Comparison
from crossproof.study.ranking.results import RankingStudy, UnitRecord
from crossproof.study.ranking.tokens import at_tokens
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "ranking"
KL = "pair KL"


class RankingConfig(Strict):
    """Rank pairs by every metric and by the Shapley-Taylor index."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coder: str
    """The crosscoder: its folder, the folder of the run that trained it, or a hub id."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=2)] = 200
    """Held-out texts that the metrics look at."""
    tokens: Count = 300
    """How many of their tokens the index is computed at."""
    seen: Count = 3
    """A pair is ranked among all pairs if it is active at this many of these tokens."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the tokens, the random metric and the bootstrap."""


def run(config: RankingConfig) -> RankingStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], RankingStudy]:
        subject, coder = Subject.load(config.subject), Crosscoder.from_pretrained(config.coder)
        bound_mlps(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        return lambda: study(subject, coder, tokens, config.tokens, config.seen, config.seed)

    return runs.once(config.out, KIND, config, RankingStudy, prepare)


@torch.no_grad()
def study(subject: Subject, coder: Crosscoder, tokens: Tokens, sample: int, seen: int, seed: int) -> RankingStudy:
    """On these texts, at `sample` of their tokens."""
    mlps, features = bound_mlps(subject, coder), coder.config.features
    codes = codes_of(subject, coder, tokens)
    active, rows = active_counts(codes), rows_with_pairs(codes, sample, seed)
    doubled = [its.unit.to(torch.float64) for its in mlps]
    at = at_tokens(codes, rows, neurons_of(subject, coder, torch.float64), doubled, seed)
    keys, pair, count = (at.i * features + at.j).unique(return_inverse=True, return_counts=True)
    ranked = count >= seen
    corpus = _corpus_scores(subject, coder, codes, keys // features, keys % features, ranked, seed)
    text = tokens.keep.nonzero()[rows, 0]
    compared = Comparison(at, pair, ranked, *corpus, text, len(tokens))
    names = tuple(its.name for its in mlps)
    halves = compared.halves()
    return RankingStudy(
        subject=subject.name,
        texts=len(tokens),
        tokens=tokens.n_kept,
        sampled=len(rows),
        estimated=at.estimated,
        unordered=int((active[rows] < 3).sum()),
        passed_over=int((active < 2).sum()),
        active=float(active[rows].double().mean()),
        pairs=len(keys),
        ranked_pairs=int(ranked.sum()),
        seen=seen,
        units=tuple(
            UnitRecord(
                unit=name,
                neurons=doubled[u].W_in.shape[1],
                residual_gap=float(at.residual_gap[u]),
                relative_error=float(at.relative_error[u]) if at.estimated else None,
                halves=halves[u],
            )
            for u, name in enumerate(names)
        ),
        agreements=tuple(compared.agreements(names, seed)),
    )


Scores = dict[str, Float64[Tensor, "unit pair"]]


def _corpus_scores(
    subject: Subject,
    coder: Crosscoder,
    codes: Codes,
    i: Int[Tensor, " pair"],
    j: Int[Tensor, " pair"],
    ranked: Bool[Tensor, " pair"],
    seed: int,
) -> tuple[Scores, Scores]:
    """What the metrics say of all pairs, and what they say of the ranked ones where all are too many."""
    of_all: dict[str, list[Tensor]] = {}
    of_ranked: dict[str, list[Tensor]] = {}
    bound, neurons = bound_mlps(subject, coder), neurons_of(subject, coder)
    with progress("metrics", len(bound), "MLPs") as bar:
        for mlp, its in zip(bound, neurons, strict=True):
            directions, bias = coder.decoder[:, mlp.site], coder.decoder_bias[mlp.site]
            scores = pair_scores(codes, its, mlp.unit, directions, bias, i, j, seed)
            for name, values in scores.items():
                of_all.setdefault(name, []).append(values)
            if isinstance(its, PlainNeurons) and KL not in scores and int(ranked.sum()) <= MOST_KL_PAIRS:
                kl = pair_kl(codes, its, i[ranked], j[ranked], shuffles=2, seed=seed)
                of_ranked.setdefault(KL, []).append(kl.excess)
            bar(1)
    return _in_all(of_all, len(bound)), _in_all(of_ranked, len(bound))


def _in_all(scores: dict[str, list[Tensor]], mlps: int) -> Scores:
    """Those that every MLP has: some metrics are for plain ones only, some for gated ones."""
    return {name: torch.stack(values) for name, values in scores.items() if len(values) == mlps}
