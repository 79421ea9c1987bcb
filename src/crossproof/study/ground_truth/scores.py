"""Every metric's score of every pair of features that one block of the planted model reads, set beside the truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import PlainNeurons
from crossproof.interaction.games import token_index
from crossproof.progress import progress
from crossproof.study.ground_truth.dictionaries import INDISTINCT, PlantedDictionary
from crossproof.study.ground_truth.results import OTHERS, REFERENCE, DictionaryName, KindScore, Score
from crossproof.study.metrics import pair_scores
from crossproof.study.retrieval import auroc, average_precision, percentile, precision_at
from crossproof.subject.zoo.planted_model import PlantedModel
from crossproof.subject.zoo.planted_truth import Pair
from crossproof.units import MLP

NOTHING = 1e-12
"""An index below this, or a score below this share of the largest, is rounding of 0: outputs are of order 1."""
RARE = 0.02
"""Pairs that meet on a smaller share of tokens are kinds of their own."""


@dataclass(frozen=True, eq=False)
class BlockScores:
    """The pairs i < j of a dictionary's features, what is true of them, and what each metric says."""

    block: int
    i: Int[Tensor, " pair"]
    j: Int[Tensor, " pair"]
    interacts: Bool[Tensor, " pair"]
    seen: Bool[Tensor, " pair"]
    """Active together on some token."""
    kinds: dict[str, list[int]]
    """Where the pairs of each kind are; those that no table names are the others."""
    by_metric: dict[str, Float64[Tensor, " pair"]]

    def scores(self, dictionary: DictionaryName, seed: int) -> list[Score]:
        planted = int(self.interacts.sum())
        found = []
        for metric, score in self.by_metric.items():
            at_2k = precision_at(self.interacts, score, 2 * planted)
            seen = self.interacts[self.seen]
            found.append(
                Score(
                    dictionary=dictionary,
                    seed=seed,
                    block=self.block,
                    metric=metric,
                    pairs=len(score),
                    planted=planted,
                    average_precision=average_precision(self.interacts, score) if planted else None,
                    precision_at_k=precision_at(self.interacts, score, planted) if planted else None,
                    recall_at_2k=2 * at_2k if planted else None,
                    auroc=auroc(self.interacts, score) if planted else None,
                    average_precision_seen=average_precision(seen, score[self.seen]) if bool(seen.any()) else None,
                )
            )
        return found

    def of_kinds(self, dictionary: DictionaryName) -> list[KindScore]:
        found = []
        for metric, score in self.by_metric.items():
            place = percentile(score)
            for kind, where in self.kinds.items():
                mine, largest = score[where], float(score.max())
                found.append(
                    KindScore(
                        dictionary=dictionary,
                        block=self.block,
                        metric=metric,
                        kind=kind,
                        interacts=bool(self.interacts[where].all()),
                        pairs=len(where),
                        percentile=float(place[where].mean()),
                        relative=float(mine.mean()) / largest if largest > 0 else 0.0,
                        zero=not bool(mine.any()),
                    )
                )
        return found


def score_block(
    model: PlantedModel, dictionary: PlantedDictionary, block: int, reference_tokens: int, seed: int
) -> BlockScores:
    """The Shapley-Taylor index is averaged over the first `reference_tokens` tokens, all others over all."""
    features = dictionary.scored(block)
    i, j = torch.combinations(features).unbind(1)
    unit, neurons = dictionary.neurons(model, block)
    directions, bias = dictionary.directions[block], dictionary.biases[block]
    reference = shapley_taylor(dictionary.codes, unit, neurons, reference_tokens)[i, j]
    by_metric = {REFERENCE: reference} | pair_scores(dictionary.codes, neurons, unit, directions, bias, i, j, seed)
    if dictionary.exact:
        by_metric = {m: s.masked_fill(s.abs() < NOTHING * s.abs().max(), 0) for m, s in by_metric.items()}
    pairs = CoActive.of(dictionary.codes)
    true = [tuple(sorted(pair)) for pair in dictionary.stands_for[torch.stack([i, j], 1)].tolist()]
    planted = model.truth.interacting(block)
    return BlockScores(
        block=block,
        i=i,
        j=j,
        interacts=torch.tensor([pair in planted for pair in true], dtype=torch.bool),
        seen=pairs.positions(i, j) < len(pairs),
        kinds=_kinds(model, block, true),
        by_metric=by_metric,
    )


def shapley_taylor(codes: Codes, unit: MLP, neurons: PlainNeurons, tokens: int) -> Float64[Tensor, "feature feature"]:
    """How far each pair moves the MLP's output, by the index; mean over tokens, those without one of the two as 0."""
    n_features = codes.pattern.n_features
    # features that the block does not read are null players: they change no index and double the coalitions
    read = (neurons.pre.A != 0).any(1)
    codes = Codes.from_dense(codes.dense()[:tokens] * read)
    total = torch.zeros(n_features, n_features, dtype=torch.float64)
    with progress("Shapley-Taylor", codes.pattern.n_rows, "tokens") as bar:
        for row in range(codes.pattern.n_rows):
            players, index = token_index(codes, row, neurons, unit.W_out)
            strength = index.strength()
            total[players[:, None], players] += strength * (strength > NOTHING)
            bar(1)
    return total / max(1, codes.pattern.n_rows)


def _kinds(model: PlantedModel, block: int, true: list[tuple[int, ...]]) -> dict[str, list[int]]:
    where = {pair: place for place, pair in enumerate(true)}
    kinds: dict[str, list[int]] = {}
    for pair in model.truth.pairs:
        place = where.get((min(pair.i, pair.j), max(pair.i, pair.j)))
        if place is not None and pair.block in (block, None):
            kinds.setdefault(_kind(pair), []).append(place)
    named = {place for places in kinds.values() for place in places}
    others = [place for place in range(len(true)) if place not in named]
    return kinds | ({OTHERS: others} if others else {})


def _kind(pair: Pair) -> str:
    """The planted kind, told apart where how often the two meet makes it another task."""
    if set(pair.names) == set(INDISTINCT):
        return "halves"
    if pair.potential:
        return f"{pair.kind}, unseen"
    return f"{pair.kind}, rare" if pair.together < RARE else pair.kind
