"""Three ways to make clusters of mutual ranks, each with settings that have nothing to do with what comes of them.

The similarity is 1 / mutual rank, in the form that each algorithm is made for:

    affinity propagation   its logarithm (similarities add up like log-likelihoods there), and for the preference the
                           median of all pairs', as its authors propose
    HDBSCAN                mutual ranks as distances, whose reciprocals are its densities
    Louvain                a graph of near neighbours, those of mutual rank up to √features, weighted by the similarity

A cluster has at least three features: two that describe it and one that is held out.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.errors import CrossproofError

LEAST = 3
"""Features of a cluster; smaller ones count as none."""
DAMPINGS = (0.5, 0.75, 0.95)
"""Of affinity propagation: where it swings to and fro it is damped more."""

Square = Float64[Tensor, "feature feature"]
Clusters = Int[Tensor, " feature"]
"""Each feature's cluster, numbered from 0 by their first features; −1 where it is in none."""


def need_sklearn() -> None:
    """Refuse to start what could not go on."""
    if find_spec("sklearn") is None:
        raise CrossproofError("clusters are made by scikit-learn, which is missing: pip install 'crossproof[studies]'")


def affinity_propagation(ranks: Square, seed: int) -> Clusters:
    from sklearn.cluster import AffinityPropagation  # type: ignore[import-untyped]
    from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

    similarity = -ranks.clone().fill_diagonal_(1).log()
    preference = float(_pairs(similarity).median())
    for damping in DAMPINGS:
        made = AffinityPropagation(
            affinity="precomputed", preference=preference, damping=damping, max_iter=1000, random_state=seed
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            made.fit(similarity.numpy())
        if made.n_iter_ < made.max_iter:
            return _numbered(torch.from_numpy(made.labels_))
    return torch.full((len(ranks),), -1)


def hdbscan(ranks: Square, seed: int) -> Clusters:
    from sklearn.cluster import HDBSCAN

    made = HDBSCAN(min_cluster_size=LEAST, metric="precomputed", copy=True)
    return _numbered(torch.from_numpy(made.fit(ranks.numpy()).labels_))


def louvain(ranks: Square, seed: int) -> Clusters:
    import networkx  # type: ignore[import-untyped]

    near = (ranks <= len(ranks) ** 0.5).triu(1)
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(ranks)))
    i, j = near.nonzero(as_tuple=True)
    graph.add_weighted_edges_from(zip(i.tolist(), j.tolist(), (1 / ranks[i, j]).tolist(), strict=True))
    labels = torch.full((len(ranks),), -1)
    for number, members in enumerate(networkx.community.louvain_communities(graph, seed=seed)):
        labels[list(members)] = number
    return _numbered(labels)


AFFINITY_PROPAGATION = "affinity propagation"
ALGORITHMS: dict[str, Callable[[Square, int], Clusters]] = {
    AFFINITY_PROPAGATION: affinity_propagation,
    "HDBSCAN": hdbscan,
    "Louvain": louvain,
}


def _pairs(matrix: Square) -> Float64[Tensor, " pair"]:
    i, j = torch.triu_indices(len(matrix), len(matrix), 1)
    return matrix[i, j]


def _numbered(labels: Int[Tensor, " feature"]) -> Clusters:
    """Without clusters that are too small, the others in the order of their first features."""
    found: list[int] = labels.tolist()
    size = Counter(found)
    numbers: dict[int, int] = {-1: -1}
    for label in found:
        if label >= 0 and size[label] >= LEAST:
            numbers.setdefault(label, len(numbers) - 1)
    return torch.tensor([numbers.get(label, -1) for label in found])
