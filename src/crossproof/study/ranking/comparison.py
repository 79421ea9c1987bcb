"""Metrics and the Shapley-Taylor index set side by side: within tokens, and between pairs over tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.progress import progress
from crossproof.study.ranking.agreement import bootstrap, precision_of_top, spearman
from crossproof.study.ranking.results import ALL, Agreement, Estimate, Level

TOPS = (20, 50, 100)
"""k of precision at k."""
DRAWS = 100
"""Of the bootstrap over texts."""

Numbers = Float64[Tensor, "unit metric number"]
"""Spearman, then precision at each k."""


@dataclass(frozen=True, eq=False)
class PairsAtTokens:
    """Pairs of features at every sampled token: a row for each, the same rows in every unit."""

    token: Int[Tensor, " row"]
    """Which of the sampled tokens, ascending."""
    i: Int[Tensor, " row"]
    j: Int[Tensor, " row"]
    index: Float64[Tensor, "unit row"]
    """How far the pair moves the unit's output by the index: the L2 norm over the output vector."""
    here: dict[str, Float64[Tensor, "unit row"]]
    """What the metrics say that look at the sampled tokens alone."""
    estimated: int
    """At how many tokens the index is not exact."""
    relative_error: Float64[Tensor, " unit"]
    """Of a pair there: the median of its standard error over its size; not a number where all are exact."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Pairs at sampled tokens, and scores that a larger set of tokens gave them."""

    at: PairsAtTokens
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

    def agreements(self, unit_names: tuple[str, ...], seed: int, mean: str = ALL) -> list[Agreement]:
        """Every metric in every unit where the index has an order, and in the `mean` of these, at both levels."""
        within = (*self.corpus, *self.at.here)
        between = (*self.corpus, *self.corpus_of_ranked, *self.at.here)
        tops = [k for k in TOPS if k < int(self.ranked.sum())]
        found = self._level("token", within, [], (*unit_names, mean), seed)
        if int(self.ranked.sum()) > 2:
            found += self._level("pair", between, tops, (*unit_names, mean), seed)
        return found

    def halves(self) -> list[float | None]:
        """For each unit, Spearman between the mean index of the texts with even numbers and of the others."""
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
        """Spearman and precisions between the means of pairs; a pair of which no text is left does not count.

        Not a number: a precision at k where k pairs or fewer are left, and all where the index has no order.
        """
        index = self._means(self.at.index, weights)
        left = index[0].isfinite()
        here = {name: self._means(values, weights) for name, values in self.at.here.items()}
        fixed = {name: scores[:, self.ranked] for name, scores in self.corpus.items()} | self.corpus_of_ranked
        tops, enough = [k for k in TOPS if k < len(left)], int(left.sum())
        found = torch.full((len(index), len(fixed | here), 1 + len(tops)), torch.nan, dtype=torch.float64)
        for u, truth in enumerate(index[:, left]):
            if not _any_order(truth):
                continue
            for m, scores in enumerate((fixed | here).values()):
                score = scores[u][left]
                found[u, m, 0] = spearman(truth, score)
                for place, k in enumerate(tops, 1):
                    if k < enough:
                        found[u, m, place] = precision_of_top(truth, score, k)
        return found

    # -- what they are made of ---------------------------------------------------------------------------------------

    @cached_property
    def _ordered(self) -> Float64[Tensor, "unit token"]:
        """1 where the index puts a token's pairs in any order, 0 where they are too few or all alike."""
        found = [[float(_any_order(values)) for values in index.split(self._sizes)] for index in self.at.index]
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
        self, level: Level, metrics: tuple[str, ...], tops: list[int], names: tuple[str, ...], seed: int
    ) -> list[Agreement]:
        """`names` are those of the units, and last that of their mean."""
        statistic = self.within_tokens if level == "token" else self.between_pairs
        ordered = statistic(torch.ones(self.texts, dtype=torch.float64)).isfinite().all(2).all(1)
        if not bool(ordered.any()):
            return []

        with progress("bootstrap over texts", DRAWS + 1, "draws") as bar:

            def of_units_and_their_mean(weights: Tensor) -> Numbers:
                bar(1)
                numbers = statistic(weights)
                return torch.cat([numbers[ordered], numbers[ordered].mean(0, keepdim=True)])

            estimate, reach = bootstrap(of_units_and_their_mean, self.texts, DRAWS, seed)
        found = []
        named = [name for name, any_order in zip(names[:-1], ordered.tolist(), strict=True) if any_order]
        for u, unit in enumerate((*named, names[-1])):
            for m, metric in enumerate(metrics):
                first, *rest = [
                    Estimate(value=v, low=v - r, high=v + r) if isfinite(r) else Estimate(value=v, low=None, high=None)
                    for v, r in zip(estimate[u, m].tolist(), reach[u, m].tolist(), strict=True)
                ]
                precision = dict(zip(tops, rest, strict=True))
                found.append(Agreement(level=level, unit=unit, metric=metric, spearman=first, precision=precision))
        return found


def _any_order(index: Float64[Tensor, " pair"]) -> bool:
    """Whether there are pairs enough to rank, and not all alike."""
    return len(index) > 2 and bool((index != index[0]).any())
