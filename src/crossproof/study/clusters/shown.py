"""Clusters for people to read: what their members fire on, and how much they interact inside and outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.functional import normalize

from crossproof.codes import Codes
from crossproof.study.clusters.judge import Profiles
from crossproof.study.clusters.records import Clustering, ShownCluster
from crossproof.study.clusters.similarities import Square
from crossproof.study.token_labels import pieces_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

SHOWN = 10
"""So many of the largest clusters, and of those whose members were assigned right most often."""
_MEMBERS, _WORDS, _LABELS = 8, 3, 3


@dataclass(frozen=True, eq=False)
class Words:
    """What is said of the features that were clustered, on the texts that clusters are made and described on."""

    subject: Subject
    feature: Int[Tensor, " feature"]
    """Their numbers in the dictionary."""
    ids: Int[Tensor, "feature word"]
    """The tokens that each is strongest on, all occurrences together; −1 where there are no more."""
    profiles: Profiles
    labels: Sequence[str]

    @classmethod
    def of(
        cls,
        subject: Subject,
        tokens: Tokens,
        codes: Codes,
        feature: Int[Tensor, " feature"],
        profiles: Profiles,
        labels: Sequence[str],
    ) -> Words:
        vocabulary, id_of_row = tokens.ids[tokens.keep].unique(return_inverse=True)
        total = torch.zeros(codes.pattern.n_features, len(vocabulary), dtype=torch.float64)
        where = codes.pattern.features, id_of_row[codes.pattern.rows]
        total.index_put_(where, codes.values.double(), accumulate=True)
        strongest = total.sort(dim=1, descending=True, stable=True)
        ids = vocabulary[strongest.indices[:, :_WORDS]].masked_fill(strongest.values[:, :_WORDS] == 0, -1)
        return cls(subject, feature, ids, profiles, labels)

    def member(self, place: int) -> str:
        ids = [id_ for id_ in self.ids[place].tolist() if id_ >= 0]
        words = ", ".join(f"“{piece}”" for piece in pieces_of(self.subject, ids)).replace("\n", "⏎")
        return f"{int(self.feature[place])}: {words} ({self.about(self.profiles[place], 1)})"

    def about(self, direction: Tensor, count: int) -> str:
        """The labels that a direction in the space of profiles has most of."""
        strongest = direction.sort(descending=True, stable=True).indices[:count]
        return "; ".join(self.labels[label] for label in strongest.tolist())


def shown(clustering: Clustering, interaction: Square, words: Words) -> list[ShownCluster]:
    """The largest and the surest clusters of one clustering, the surest first; none where it could not be judged."""
    if clustering.right is None:
        return []
    cluster, right = torch.tensor(clustering.cluster), torch.tensor(clustering.right)
    found = [_one(members, right, interaction, words, clustering.matrix) for members in _members(cluster)]
    surest = sorted(found, key=lambda its: (-its.right, -its.size))
    largest = sorted(found, key=lambda its: -its.size)[:SHOWN]
    return [its for place, its in enumerate(surest) if place < SHOWN or its in largest]


def _members(cluster: Int[Tensor, " feature"]) -> list[Int[Tensor, " member"]]:
    return [(cluster == number).nonzero().squeeze(1) for number in range(int(cluster.max()) + 1)]


def _one(members: Tensor, right: Tensor, interaction: Square, words: Words, matrix: str) -> ShownCluster:
    size, features = len(members), len(interaction)
    its = interaction[members]
    inside = float(its[:, members].sum() - its[torch.arange(size), members].sum())
    outside = float(its.sum() - its[:, members].sum())
    direction = words.profiles[members].sum(0)
    typical = (words.profiles[members] @ normalize(direction, dim=0)).sort(descending=True, stable=True).indices
    return ShownCluster(
        matrix=matrix,
        size=size,
        right=float(right[members].mean()),
        about=words.about(direction, _LABELS),
        members=[words.member(place) for place in members[typical[:_MEMBERS]].tolist()],
        inside=inside / (size * (size - 1)),
        outside=outside / (size * (features - size)) if features > size else 0.0,
    )
