"""How well clusters are told apart, with intervals, and which of two matrices gives the better ones at equal sizes.

Intervals resample clusters, because members of one cluster stand or fall together; from five dictionaries on these are
resampled too. A cluster counts with as many members as it has.

Two matrices are compared on the features that are in clusters of both, where both clusters are of like size (the same
power of two): each such feature was held out twice, by the same judge and on the same texts. The interval is taken
twice, resampling the clusters of one and then those of the other, and the ends that lie farther out are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.study.clusters.records import BySize, Clustering, Difference, Row
from crossproof.study.estimates import ENOUGH, Drawn, Estimate, by_text, drawn, estimate, text_weights

ENOUGH_CLUSTERS = 3
"""Fewer have no interval."""
ENOUGH_FEATURES = 30
"""Two matrices are compared on so many features or more."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A clustering that could be judged, as tensors."""

    cluster: Int[Tensor, " feature"]
    right: Float64[Tensor, " feature"]
    wordless: Float64[Tensor, " feature"]
    exchanged: Float64[Tensor, " feature"]
    apart: Bool[Tensor, " feature"]
    seed: int
    """Of the resampling: clusters of different dictionaries must not be drawn alike."""

    @classmethod
    def of(cls, clustering: Clustering, seed: int) -> Judged | None:
        if clustering.right is None or clustering.wordless is None or clustering.exchanged is None:
            return None
        return cls(
            torch.tensor(clustering.cluster),
            torch.tensor(clustering.right, dtype=torch.float64),
            torch.tensor(clustering.wordless, dtype=torch.float64),
            torch.tensor(clustering.exchanged, dtype=torch.float64),
            torch.tensor(clustering.apart),
            seed,
        )

    @property
    def sizes(self) -> Int[Tensor, " cluster"]:
        return self.cluster[self.cluster >= 0].bincount()

    @property
    def power(self) -> Int[Tensor, " feature"]:
        """The power of two that the size of each feature's cluster has reached; −1 where it is in none."""
        reached = self.sizes.double().log2().floor().long()
        return torch.where(self.cluster >= 0, reached[self.cluster.clamp(min=0)], -1)

    def mean(self, values: Float64[Tensor, " feature"], where: Bool[Tensor, " feature"]) -> Drawn | None:
        """Over some of the features that are in a cluster, clusters resampled; None if these are too few."""
        its, cluster = values[where], self.cluster[where]
        n_clusters = len(self.sizes)
        if len(cluster.unique()) < ENOUGH_CLUSTERS:
            return None
        totals, counts = by_text(its, cluster, n_clusters), by_text(torch.ones_like(its), cluster, n_clusters)
        return drawn(totals, counts, text_weights(n_clusters, self.seed))

    def everywhere(self, values: Float64[Tensor, " feature"]) -> Drawn | None:
        return self.mean(values, self.cluster >= 0)


def row(group: str, judged: Sequence[Clustering], seed: int) -> Row:
    """One matrix and algorithm in all dictionaries of a group."""
    found = _judged(judged, seed)
    cluster = [torch.tensor(its.cluster) for its in judged]
    sizes = [its[its >= 0].bincount().double() for its in cluster]
    in_any = [its >= 0 for its in cluster]
    near = [~torch.tensor(its.apart)[some] for its, some in zip(judged, in_any, strict=True) if some.any()]
    return Row(
        group=group,
        matrix=judged[0].matrix,
        algorithm=judged[0].algorithm,
        clusters=average([float(len(its)) for its in sizes]),
        coverage=average([float(some.double().mean()) for some in in_any]),
        median_size=average([float(its.median()) for its in sizes if len(its)]),
        duplicates=average([float(its.double().mean()) for its in near]),
        accuracy=pooled([its.everywhere(its.right) for its in found], seed),
        exchanged=pooled([its.everywhere(its.exchanged) for its in found], seed),
        above=pooled([its.everywhere(its.right - its.exchanged) for its in found], seed),
        apart=pooled([its.mean(its.right, its.apart) for its in found], seed),
        wordless=pooled([its.everywhere(its.wordless) for its in found], seed),
        by_size=_by_size(found, seed),
    )


def _judged(clusterings: Sequence[Clustering], seed: int) -> list[Judged]:
    found = (Judged.of(its, seed + number) for number, its in enumerate(clusterings))
    return [its for its in found if its is not None]


def _by_size(found: Sequence[Judged], seed: int) -> list[BySize]:
    reached = [its.power for its in found]
    rows = []
    for power in range(1, max((int(its.max()) for its in reached), default=0) + 1):
        where = [its == power for its in reached]
        pairs = list(zip(found, where, strict=True))
        rows.append(
            BySize(
                sizes="3" if power == 1 else f"{2**power}–{2 ** (power + 1) - 1}",
                members=sum(int(its.sum()) for its in where),
                accuracy=pooled([its.mean(its.right, some) for its, some in pairs], seed),
                exchanged=pooled([its.mean(its.exchanged, some) for its, some in pairs], seed),
            )
        )
    return rows


def difference(group: str, pairs: Sequence[tuple[Clustering, Clustering]], seed: int) -> Difference:
    """How much more often the same features are assigned right in the first of each pair, at like sizes."""
    gained: list[tuple[Drawn, Drawn]] = []
    wordless: list[tuple[Drawn, Drawn]] = []
    features = 0
    for number, (one, other) in enumerate(pairs):
        first, second = Judged.of(one, seed + number), Judged.of(other, seed + number)
        if first is None or second is None:
            continue
        alike = (first.power == second.power) & (first.cluster >= 0)
        right = _both_ways(first, second, first.right - second.right, alike)
        without = _both_ways(first, second, first.wordless - second.wordless, alike)
        if right is not None and without is not None and int(alike.sum()) >= ENOUGH_FEATURES:
            gained, wordless, features = [*gained, right], [*wordless, without], features + int(alike.sum())
    first_of_all, second_of_all = pairs[0]
    return Difference(
        group=group,
        algorithm=first_of_all.algorithm,
        matrix=first_of_all.matrix,
        baseline=second_of_all.matrix,
        features=features,
        difference=_wider(gained, seed),
        wordless=_wider(wordless, seed),
    )


def _both_ways(
    first: Judged,
    second: Judged,
    gained: Float64[Tensor, " feature"],
    alike: Bool[Tensor, " feature"],
) -> tuple[Drawn, Drawn] | None:
    """The same mean, the clusters of one resampled and those of the other."""
    one, other = first.mean(gained, alike), second.mean(gained, alike)
    return None if one is None or other is None else (one, other)


def _wider(members: Sequence[tuple[Drawn, Drawn]], seed: int) -> Estimate | None:
    one, other = pooled([its[0] for its in members], seed), pooled([its[1] for its in members], seed)
    if one is None or other is None:
        return None
    return one.model_copy(update={"low": min(one.low, other.low), "high": max(one.high, other.high)})


def pooled(members: Sequence[Drawn | None], seed: int) -> Estimate | None:
    """The mean over the dictionaries that have it."""
    found = [its for its in members if its is not None]
    if not found:
        return None
    return estimate(found, seed if len(found) >= ENOUGH else None)


def average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
