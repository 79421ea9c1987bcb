"""The clusters of one dictionary: made and described on one half of the texts, judged on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.binding.bound import neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.progress import progress
from crossproof.study.clusters.algorithms import AFFINITY_PROPAGATION, ALGORITHMS, LEAST, Clusters
from crossproof.study.clusters.judge import OTHERS, Profiles, apart, assigned, others_as_frequent, profiles
from crossproof.study.clusters.records import Agreement, Clustering, Measured
from crossproof.study.clusters.shown import Words, shown
from crossproof.study.clusters.similarities import (
    ACTIVATIONS,
    INTERACTION,
    Square,
    mutual_ranks,
    of_features,
    similarities,
)
from crossproof.study.token_labels import TokenLabels
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

ACTIVE = 10
"""On how many tokens of each half a feature must be active: one that is heard less says little."""
MOST = 4000
"""Features: affinity propagation holds several matrices of features × features."""
DEALS = 10
"""How often members are exchanged for others as frequent."""
NEAR = 0.5
"""Two features whose activations have this cosine or more are near-duplicates."""

Clusterings = Mapping[tuple[str, str], Clusters]
"""By matrix and algorithm."""


@dataclass(frozen=True, eq=False)
class Half:
    """Some of the texts."""

    tokens: Tokens
    labels: TokenLabels


@torch.no_grad()
def measured(subject: Subject, coder: Crosscoder, first: Half, second: Half, seed: int) -> Measured:
    """Clusters made on the first half, judged on the second; both have the same labels."""
    codes, later = codes_of(subject, coder, first.tokens), codes_of(subject, coder, second.tokens)
    firing = codes.firing_counts()
    chosen = often_active(codes, later)
    _check(len(chosen))
    written = (coder.decoder * coder.site_scales[:, None]).flatten(1)
    matrices = similarities(codes, neurons_of(subject, coder), written, chosen, seed)
    clusters = clusterings(matrices, seed)
    its = of_features(codes, chosen)
    description = profiles(its, first.labels.values)
    heard = profiles(of_features(later, chosen), second.labels.values)
    others = ~names_a_word(first.labels.names)
    wordless = (
        profiles(its, first.labels.values[:, others]),
        profiles(of_features(later, chosen), second.labels.values[:, others]),
    )
    judged = judge(clusters, (description, heard), wordless, firing[chosen], matrices[ACTIVATIONS], seed)
    words = Words.of(subject, first.tokens, its, chosen, description, first.labels.names)
    return Measured(
        features=len(chosen),
        left_out=int((firing > 0).sum()) - len(chosen),
        clusterings=judged,
        agreements=agreements(clusters),
        shown=[
            cluster
            for clustering in judged
            if clustering.matrix in INTERACTION and clustering.algorithm == AFFINITY_PROPAGATION
            for cluster in shown(clustering, matrices[clustering.matrix], words)
        ],
    )


def often_active(codes: Codes, later: Codes) -> Int[Tensor, " feature"]:
    """The features that can be clustered and heard."""
    return ((codes.firing_counts() >= ACTIVE) & (later.firing_counts() >= ACTIVE)).nonzero().squeeze(1)


def clusterings(matrices: Mapping[str, Square], seed: int) -> dict[tuple[str, str], Clusters]:
    """Every algorithm on every matrix."""
    found = {}
    with progress("clustering", len(matrices) * len(ALGORITHMS), "clusterings") as bar:
        for matrix, similarity in matrices.items():
            ranks = mutual_ranks(similarity)
            for name, algorithm in ALGORITHMS.items():
                found[matrix, name] = algorithm(ranks, seed)
                bar(1)
    return found


def judge(
    clusters: Clusterings,
    both: tuple[Profiles, Profiles],
    wordless: tuple[Float64[Tensor, "feature other_label"], Float64[Tensor, "feature other_label"]],
    firing: Int[Tensor, " feature"],
    cosine: Square,
    seed: int,
) -> list[Clustering]:
    """How well the features of each clustering are assigned, and others in their places.

    `both`: the profiles by which clusters are described and members heard; `wordless`, by labels that name no word.
    """
    description, heard = both
    found = []
    generator = torch.Generator().manual_seed(seed)
    stand_ins = [others_as_frequent(firing, generator) for _ in range(DEALS)]
    with progress("judging", len(clusters), "clusterings") as bar:
        for (matrix, algorithm), labels in clusters.items():
            right = assigned(description, heard, labels)
            dealt = [assigned(description[who], heard[who], labels) for who in stand_ins]
            by_lot = [values for values in dealt if values is not None]
            found.append(
                Clustering(
                    matrix=matrix,
                    algorithm=algorithm,
                    cluster=labels.tolist(),
                    right=_listed(right),
                    wordless=_listed(assigned(*wordless, labels)),
                    exchanged=_listed(torch.stack(by_lot).mean(0) if by_lot else None),
                    apart=apart(labels, cosine, NEAR).tolist(),
                )
            )
            bar(1)
    return found


def names_a_word(names: Sequence[str]) -> Bool[Tensor, " label"]:
    """Which labels only say which word a token is, or which stands before it."""
    return torch.tensor([name.startswith(("“", "tokens after “")) for name in names])


def _listed(values: Tensor | None) -> list[float] | None:
    return None if values is None else values.tolist()


def agreements(clusters: Clusterings) -> list[Agreement]:
    from sklearn.metrics import adjusted_mutual_info_score  # type: ignore[import-untyped]

    found = []
    for ((matrix, algorithm), its), ((other, same), others) in combinations(clusters.items(), 2):
        if same == algorithm:
            both = (its >= 0) & (others >= 0)
            some = bool(both.any())
            value = float(adjusted_mutual_info_score(its[both].numpy(), others[both].numpy())) if some else None
            found.append(Agreement(algorithm=algorithm, matrix=matrix, other=other, value=value))
    return found


def _check(features: int) -> None:
    needed = LEAST * (1 + OTHERS)
    if features < needed:
        raise CrossproofError(
            f"{features} features are active on {ACTIVE} or more tokens of each half of the texts, and {needed} are "
            "needed for five clusters: give more texts, or a crosscoder with more features alive"
        )
    if features > MOST:
        raise CrossproofError(
            f"{features:,} features are active on {ACTIVE} or more tokens of each half of the texts, and clusters are "
            f"made of at most {MOST:,}: every algorithm holds matrices of features × features. Give fewer texts, or a "
            "smaller crosscoder"
        )
