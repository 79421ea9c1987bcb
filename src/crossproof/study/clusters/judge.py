"""The paper's test of clusters: one member is held out, and a judge finds its cluster among five, by labels alone.

    description = profiles(codes, labels)         # on the texts that the clusters were made on
    heard = profiles(later_codes, later_labels)   # on others
    right = assigned(description, heard, clusters)

A feature's *profile* is how its firing correlates with every label of the tokens, scaled to length 1, so that frequency
drops out of it, less the mean of all features' profiles: what all have in common tells nothing. A cluster is described
by the sum of the other members' profiles on one half of the texts; the one that is held out is heard on the other half.
The judge chooses the cluster whose description points most nearly the same way. Against which four others it stands is
not drawn: what is returned is the share of all draws in which it is assigned right.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from torch.nn.functional import normalize

from crossproof.codes import Codes
from crossproof.study.clusters.algorithms import Clusters

OTHERS = 4
"""Clusters that a feature's own stands among."""
CHANCE = 1 / (1 + OTHERS)
_ROWS = 4096
_ALIKE = 20
"""So many features, or more, of nearly the same frequency may be exchanged for each other."""

Profiles = Float64[Tensor, "feature label"]


def profiles(codes: Codes, labels: Bool[Tensor, "token label"]) -> Profiles:
    """Of all features of these codes; zero where a feature, or a label, is there always or never."""
    tokens, features = codes.pattern.n_rows, codes.pattern.n_features
    together = torch.zeros(features, labels.shape[1], dtype=torch.float64)
    for start in range(0, tokens, _ROWS):
        active = codes.rows(start, min(start + _ROWS, tokens)).dense() > 0
        # sums of fewer than 2^24 ones are exact in float32
        together += (active.float().T @ labels[start : start + _ROWS].float()).double()
    share = labels.double().mean(0)
    fires = codes.firing_counts().double() / tokens
    spread = (share * (1 - share)).sqrt()
    correlation = torch.where(spread > 0, (together / tokens - fires[:, None] * share) / spread, 0.0)
    return _centred(normalize(correlation, dim=1))


def _centred(profiles: Profiles) -> Profiles:
    """Less what all have in common; those of no direction stay so."""
    known = profiles.any(1)
    return torch.where(known[:, None], profiles - profiles[known].mean(0), 0.0)


def assigned(description: Profiles, heard: Profiles, clusters: Clusters) -> Float64[Tensor, " feature"] | None:
    """How probably each feature is assigned to its own cluster; 0 for one in none. None if there are too few."""
    n_clusters = int(clusters.max()) + 1
    if n_clusters <= OTHERS:
        return None
    members = (clusters >= 0).nonzero().squeeze(1)
    its = clusters[members]
    sums = description.new_zeros(n_clusters, description.shape[1]).index_add_(0, its, description[members])
    alike = heard[members] @ normalize(sums, dim=1).T
    home = (heard[members] * normalize(sums[its] - description[members], dim=1)).sum(1, keepdim=True)
    other = torch.ones_like(alike, dtype=torch.bool).scatter_(1, its[:, None], False)
    better, tied = ((alike > home) & other).sum(1), ((alike == home) & other).sum(1)
    right = torch.zeros(len(clusters), dtype=torch.float64)
    right[members] = share_right(better, tied, n_clusters - 1)
    return right


def share_right(
    better: Int[Tensor, " feature"], tied: Int[Tensor, " feature"], others: int
) -> Float64[Tensor, " feature"]:
    """In what share of all draws of four others none is better than the own one; ties are broken by lot."""
    from scipy.special import comb  # type: ignore[import-untyped]

    worse = others - better - tied
    ways = [comb(tied.numpy(), s) * comb(worse.numpy(), OTHERS - s) / (1 + s) for s in range(OTHERS + 1)]
    return torch.from_numpy(sum(ways) / comb(others, OTHERS)).double()


def others_as_frequent(firing: Int[Tensor, " feature"], generator: torch.Generator) -> Int[Tensor, " feature"]:
    """For each feature another to stand in its place, drawn from those that fire nearly as often."""
    stands = torch.empty_like(firing)
    for alike in firing.sort(stable=True).indices.tensor_split(max(1, len(firing) // _ALIKE)):
        stands[alike] = alike[torch.randperm(len(alike), generator=generator)]
    return stands


def apart(clusters: Clusters, cosine: Float64[Tensor, "feature feature"], below: float) -> Bool[Tensor, " feature"]:
    """Which features of a cluster fire with none of its other members as with a near-duplicate of themselves."""
    fellow = (clusters[:, None] == clusters).fill_diagonal_(False)
    return (clusters >= 0) & (torch.where(fellow, cosine, -torch.inf).amax(1) < below)
