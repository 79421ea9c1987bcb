"""Metrics and the Shapley-Taylor index set side by side: within tokens, and between pairs over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.progress import progress
from crossproof.study.ranking.agreement import bootstrap, precision_of_top, spearman
from crossproof.study.ranking.results import ALL, Agreement, Estimate, Level
from crossproof.study.ranking.tokens import TokenPairs

TOPS = (20, 50, 100)
"""k of precision at k."""
DRAWS = 100
"""Of the bootstrap over texts."""

Numbers = Float64[Tensor, "unit metric number"]
"""Spearman, then precision at each k."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Pairs at sampled tokens, and scores that a larger set of tokens gave them."""

    at: TokenPairs
    pair: Int[Tensor, " row"]
    """Which pair, of all that were seen, each row is."""
    ranked: Bool[Tensor, " pair"]
    """Those that are ranked by their means over tokens."""
    corpus: dict[str, Float64[Tensor, "unit pair"]]
    """Scores of all pairs."""
    corpus_of_ranked: dict[str, Float64[Tensor, "unit ranked"]]
    """Scores that only these have."""
    text: Int[Tensor, " token"]
    """Of which text each sampled token is, counted from 0."""
    texts: int

    def agreements(self, unit_names: tuple[str, ...], seed: int) -> list[Agreement]:
        """Every metric in every MLP and in the mean of them, within tokens and between pairs."""
        within = (*self.corpus, *self.at.here)
        between = (*self.corpus, *self.corpus_of_ranked, *self.at.here)
        tops = [k for k in TOPS if k < int(self.ranked.sum())]
        found = self._level("token", within, [], unit_names, seed)
        return found + (self._level("pair", between, tops, unit_names, seed) if int(self.ranked.sum()) > 2 else [])

    def halves(self) -> list[float | None]:
        """For each MLP, Spearman between the mean index of the texts with even numbers and of the others."""
        even = (torch.arange(self.texts) % 2 == 0).double()
        first, second = self._means(self.at.index, even), self._means(self.at.index, 1 - even)
        both = (first.isfinite() & second.isfinite()).all(0)
        enough = int(both.sum()) > 2
        return [spearman(a[both], b[both]) if enough else None for a, b in zip(first, second, strict=True)]

    # -- statistics: numbers from weights of texts -------------------------------------------------------------------

    def within_tokens(self, weights: Float64[Tensor, " text"]) -> Numbers:
        """Mean over tokens of Spearman among the token's pairs."""
        per_token, counts = self._per_token, self._ordered
        weight = weights[self.text] * counts
        return ((per_token * weight[:, None]).sum(2) / weight.sum(1, keepdim=True))[..., None]

    def between_pairs(self, weights: Float64[Tensor, " text"]) -> Numbers:
        """Spearman and precisions between the means of pairs; a pair of which no text is left does not count."""
        index = self._means(self.at.index, weights)
        left = index[0].isfinite()
        here = {name: self._means(values, weights) for name, values in self.at.here.items()}
        fixed = {name: scores[:, self.ranked] for name, scores in self.corpus.items()} | self.corpus_of_ranked
        tops = [k for k in TOPS if k < len(left)]
        return torch.tensor(
            [
                [
                    [spearman(truth, score), *(precision_of_top(truth, score, k) for k in tops)]
                    for score in (scores[u][left] for scores in (fixed | here).values())
                ]
                for u, truth in enumerate(index[:, left])
            ],
            dtype=torch.float64,
        )

    # -- what they are made of ---------------------------------------------------------------------------------------

    @cached_property
    def _ordered(self) -> Float64[Tensor, "unit token"]:
        """1 where the index puts a token's pairs in any order, 0 where they are too few or all alike."""
        found = [
            [float(len(values) > 2 and bool((values != values[0]).any())) for values in index.split(self._sizes)]
            for index in self.at.index
        ]
        return torch.tensor(found, dtype=torch.float64)

    @cached_property
    def _per_token(self) -> Float64[Tensor, "unit metric token"]:
        """Spearman; 0 where there is no order."""
        metrics = [scores[:, self.pair] for scores in self.corpus.values()] + list(self.at.here.values())
        with progress("ranking within tokens", len(self.at.index) * len(metrics), "tables") as bar:
            rows = []
            for u, index in enumerate(self.at.index):
                truths, ordered = index.split(self._sizes), self._ordered[u].bool().tolist()
                row = []
                for metric in metrics:
                    both = zip(truths, metric[u].split(self._sizes), ordered, strict=True)
                    row.append([spearman(truth, score) if any_order else 0.0 for truth, score, any_order in both])
                    bar(1)
                rows.append(row)
        return torch.tensor(rows, dtype=torch.float64)

    @cached_property
    def _sizes(self) -> list[int]:
        sizes: list[int] = torch.bincount(self.at.token, minlength=len(self.text)).tolist()
        return sizes

    def _means(
        self, values: Float64[Tensor, "unit row"], weights: Float64[Tensor, " text"]
    ) -> Float64[Tensor, "unit ranked"]:
        """Of each ranked pair over its tokens; not a number where none of them counts."""
        weight = weights[self.text[self.at.token]]
        totals = values.new_zeros(len(values), len(self.ranked)).index_add_(1, self.pair, values * weight)
        count = values.new_zeros(len(self.ranked)).index_add_(0, self.pair, weight)
        return (totals / count)[:, self.ranked]

    def _level(
        self, level: Level, metrics: tuple[str, ...], tops: list[int], unit_names: tuple[str, ...], seed: int
    ) -> list[Agreement]:
        statistic = self.within_tokens if level == "token" else self.between_pairs

        with progress("bootstrap over texts", DRAWS + 1, "draws") as bar:

            def of_units_and_their_mean(weights: Tensor) -> Numbers:
                bar(1)
                numbers = statistic(weights)
                return torch.cat([numbers, numbers.mean(0, keepdim=True)])

            estimate, reach = bootstrap(of_units_and_their_mean, self.texts, DRAWS, seed)
        if not bool(estimate.isfinite().all()):
            return []  # at no token is there any order
        found = []
        for u, unit in enumerate((*unit_names, ALL)):
            for m, metric in enumerate(metrics):
                first, *rest = [
                    Estimate(value=v, low=v - r, high=v + r)
                    for v, r in zip(estimate[u, m].tolist(), reach[u, m].tolist(), strict=True)
                ]
                precision = dict(zip(tops, rest, strict=True))
                found.append(Agreement(level=level, unit=unit, metric=metric, spearman=first, precision=precision))
        return found
