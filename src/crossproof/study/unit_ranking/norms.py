"""What features do to each other through a norm's scale: the index of all pairs at sampled tokens, and every metric.

Everything is measured in the norm's own output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes, decode
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.norms.features import NormFeatures, norm_features
from crossproof.interaction.norms.pairs import norm_pairs
from crossproof.interaction.norms.removal import norm_game, second_differences
from crossproof.interaction.weights import typical_strengths
from crossproof.progress import progress
from crossproof.study.ranking.tokens import row_of
from crossproof.study.unit_ranking.index import Sampled, UnitPairs, index_of
from crossproof.units import Norm

HERE = {
    "second difference, here": "how the output changes when both are removed, less when either is",
    "directed, here": "what removing one does to the other's share of the output, both ways",
    "inner product, here": "of what both add to the input: size of the term they have in the scale together",
    "lengths, here": "the product of the lengths of what they add to the input",
    "strengths, here": "the product of their strengths",
}
CORPUS = {
    "directed": "what removing one does to the other's share of the output, both ways; mean over all tokens",
    "directed, together": "the same, mean over the tokens where both are active",
    "inner product, typical": "of what both add to the input at typical strengths; its size",
    "lengths, typical": "the product of the lengths of what they add at typical strengths",
    "strengths, typical": "the product of typical strengths",
    "cosine of directions": "its size; centred in a LayerNorm",
    "count": "tokens on which both are active",
    "random": "a random number",
}
Scores = dict[str, Float64[Tensor, "unit pair"]]


class Reached:
    """A norm, and a dictionary at its input; in float64."""

    def __init__(self, name: str, norm: Norm, directions: Tensor, bias: Tensor) -> None:
        self.norm = norm.to(torch.float64).to(directions.device)
        self.directions, self.bias = directions.detach().double().contiguous(), bias.detach().double().contiguous()
        self.features: NormFeatures = norm_features(self.norm, self.directions, self.bias, name)


def at_tokens(codes: Codes, rows: Int[Tensor, " token"], norms: Sequence[Reached], seed: int) -> UnitPairs:
    """At these rows of the codes: all pairs i < j, the index of each."""
    found = Sampled(len(norms))
    with progress("Shapley-Taylor at tokens", len(rows), "tokens") as bar:
        for place, row in enumerate(rows.tolist()):
            one = row_of(codes, row)
            features, strengths, players = one.pattern.features, one.values, one.pattern.n_entries
            a, b = torch.triu_indices(players, players, 1)
            here = metrics_at(one, norms)
            units = []
            for number, its in enumerate(norms):
                game = norm_game(its.norm, its.directions, its.bias, strengths, features)
                output = its.norm(decode(one, its.directions, its.bias))[0]
                its_here = {name: values[number] for name, values in here.items()}
                units.append(index_of(game, a, b, players, seed + row, output, its_here))
            found.add(place, features[a], features[b], players, units)
            bar(1)
    return found.pairs()


def metrics_at(one: Codes, norms: Sequence[Reached]) -> dict[str, Float64[Tensor, "unit pair"]]:
    """Those of `HERE` at one token, of its pairs i < j in the order of `triu_indices`."""
    features, strengths = one.pattern.features, one.values
    a, b = torch.triu_indices(len(features), len(features), 1)
    pairs, found = CoActive.of(one), []
    for its, sums in zip(norms, norm_pairs(one, [its.features for its in norms], pairs), strict=True):
        parts = strengths[:, None] * its.features.directions[features]
        length = parts.norm(dim=1)
        found.append(
            {
                "second difference, here": second_differences(one, 0, its.features)[1][a, b],
                "directed, here": _both_ways(sums.pairs.total, pairs, features[a], features[b]),
                "inner product, here": (parts[a] * parts[b]).sum(1).abs(),
                "lengths, here": length[a] * length[b],
                "strengths, here": strengths[a] * strengths[b],
            }
        )
    return {name: torch.stack([its[name] for its in found]) for name in HERE}


def corpus_scores(
    codes: Codes, norms: Sequence[Reached], i: Int[Tensor, " pair"], j: Int[Tensor, " pair"], seed: int
) -> Scores:
    """What the metrics of `CORPUS` say of these pairs, which are active together somewhere."""
    pairs, typical = CoActive.of(codes), typical_strengths(codes)
    random = torch.rand(len(i), generator=torch.Generator().manual_seed(seed)).double().to(typical.device)
    found: dict[str, list[Tensor]] = {name: [] for name in CORPUS}
    for its, sums in zip(norms, norm_pairs(codes, [its.features for its in norms], pairs), strict=True):
        parts = typical[:, None] * its.features.directions
        length = parts.norm(dim=1)
        inner = (parts[i] * parts[j]).sum(1).abs()
        scores = {
            "directed": _both_ways(sums.pairs.mean, pairs, i, j),
            "directed, together": _both_ways(sums.pairs.mean_together, pairs, i, j),
            "inner product, typical": inner,
            "lengths, typical": length[i] * length[j],
            "strengths, typical": typical[i] * typical[j],
            "cosine of directions": torch.cosine_similarity(parts[i], parts[j]).abs(),
            "count": pairs.count[pairs.positions(i, j)].double(),
            "random": random,
        }
        for name, values in scores.items():
            found[name].append(values)
    return {name: torch.stack(values) for name, values in found.items()}


def _both_ways(values: Float64[Tensor, " on_axis"], pairs: CoActive, i: Tensor, j: Tensor) -> Float64[Tensor, " pair"]:
    return values[pairs.positions(i, j)] + values[pairs.positions(j, i)]
