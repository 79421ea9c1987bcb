"""`results.json` of the study of modular addition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from crossproof.findings import Findings
from crossproof.study.base import StudyResults
from crossproof.study.estimates import Drawn, Estimate, text_weights
from crossproof.study.modadd.measure import Described, Example, Feature, Measured, Record
from crossproof.study.modadd.measures import MEASURES
from crossproof.study.modadd.network import Network
from crossproof.study.modadd.pairs import PairGrid, Pairs
from crossproof.study.tradeoff.frontier import estimated, paired


class Shuffled(Record):
    """Of one dictionary: frequencies dealt out at random among its features."""

    seed: int
    share: float
    """Of the interaction, between features of the same frequency."""
    expected: float | None
    """In the mean of all deals."""
    high: float
    """Exceeded by one deal in forty."""
    reached: float
    """The part of the deals that reach the share."""


class Kind(Record):
    """Dictionaries trained alike, but for their seeds."""

    name: str
    seeds: list[int]
    measures: dict[str, Estimate | None]
    against_first: dict[str, Estimate | None]
    """Over what the dictionary of the same seed and of the first kind has, or less it (see MEASURES)."""
    features: list[float]
    """How many features each frequency has, from 1 on: mean over dictionaries."""
    nameless: float
    """How many vary over all pairs but not over training pairs, and have no frequency."""
    directions: list[float]
    directions_mlp: list[float]
    """Means of those of `Described`."""
    grid: list[list[float | None]]
    """Interaction between frequencies over that if frequencies were dealt out at random; sums over dictionaries."""
    shuffled: list[Shuffled]
    first: list[Feature]
    """Of the dictionary of the first seed."""
    examples: list[Example]


class ModaddStudy(StudyResults):
    subject: str
    network: Network
    train_pairs: int
    pairs: int
    """Held-out ones, measured on."""
    kinds: list[Kind]
    """The first is what the others are held against; claims are made of the second."""

    def findings(self) -> Findings:
        from crossproof.study.modadd.findings import findings_of

        return findings_of(self)


def study_of(
    subject: str,
    network: Network,
    pairs: PairGrid,
    held_out: Pairs,
    found: Mapping[str, Mapping[int, Measured]],
    seed: int,
) -> ModaddStudy:
    """Every estimate resamples the same pairs, each together with its mirror image."""
    together = pairs.unordered(held_out)
    weights = text_weights(int(together.max()) + 1, seed)[:, together]
    numbers = {
        name: {key: {number: its.of(one, weights) for number, one in of.items()} for key, its in MEASURES.items()}
        for name, of in found.items()
    }
    first = next(iter(numbers.values()))
    return ModaddStudy(
        subject=subject,
        network=network,
        train_pairs=len(pairs.train),
        pairs=len(held_out),
        kinds=[_kind(name, found[name], numbers[name], first, pairs.modulus, seed) for name in found],
    )


def _kind(
    name: str,
    found: Mapping[int, Measured],
    numbers: Mapping[str, Mapping[int, Drawn]],
    first: Mapping[str, Mapping[int, Drawn]],
    modulus: int,
    seed: int,
) -> Kind:
    said = {number: its.said for number, its in found.items()}
    one = next(iter(said.values()))
    counts = torch.zeros(modulus // 2 + 1, dtype=torch.float64)
    for its in said.values():
        named = torch.tensor([feature.frequency for feature in its.features], dtype=torch.long)
        counts += torch.bincount(named, minlength=len(counts)).double() / len(said)
    return Kind(
        name=name,
        seeds=list(found),
        measures={key: estimated(list(of.values()), seed) for key, of in numbers.items()},
        against_first={key: paired(of, first[key], seed, MEASURES[key].ratio)[0] for key, of in numbers.items()},
        features=counts[1:].tolist(),
        nameless=float(counts[0]),
        directions=_mean([its.directions for its in said.values()]),
        directions_mlp=_mean([its.directions_mlp for its in said.values()]),
        grid=_ratios(list(said.values())),
        shuffled=[_shuffled(number, its, numbers["same"][number].value) for number, its in said.items()],
        first=one.features,
        examples=one.examples,
    )


def _mean(rows: Sequence[Sequence[float]]) -> list[float]:
    return [float(value) for value in torch.tensor(rows, dtype=torch.float64).mean(0)]


def _ratios(said: Sequence[Described]) -> list[list[float | None]]:
    """None where no two features could have these frequencies."""
    found, expected = (
        torch.tensor(its, dtype=torch.float64).sum(0)
        for its in ([one.grid for one in said], [one.expected_grid for one in said])
    )
    ratios = (found / expected).where(expected > 0, torch.nan)
    return [[value if value == value else None for value in row] for row in ratios.tolist()]


def _shuffled(seed: int, said: Described, share: float) -> Shuffled:
    deals = torch.tensor(said.shuffled, dtype=torch.float64)
    share = 0.0 if share != share else share
    return Shuffled(
        seed=seed,
        share=share,
        expected=said.expected_share,
        high=float(deals.quantile(0.975)),
        reached=float((deals >= share).double().mean()),
    )
