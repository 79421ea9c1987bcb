"""How much of the interaction is between features of the same frequency, against frequencies dealt out at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Neurons, chunks
from crossproof.interaction.neurons import most_neurons, prepared, ranked
from crossproof.interaction.pairs import directed
from crossproof.progress import progress
from crossproof.study.modadd.waves import NONE

SHUFFLES = 1000
STRONGEST = 100
"""How many pairs are looked at as the strongest."""


@dataclass(frozen=True, eq=False)
class Sharing:
    """Directed interaction, MLPs summed. Features of no frequency share it with none."""

    interaction: Float64[Tensor, " token"]
    """At each token, of all pairs."""
    same: Float64[Tensor, " token"]
    """Of the pairs that have the same frequency."""
    meetings: Float64[Tensor, " token"]
    """How many ordered pairs of features are active together."""
    same_meetings: Float64[Tensor, " token"]
    grid: Float64[Tensor, "frequency frequency"]
    """Per token, frequency of the dominant feature × that of the other; index 0 is frequency 1."""
    expected: Float64[Tensor, "frequency frequency"]
    """What the grid is on average when frequencies are dealt out anew among the features that fire."""
    shuffled: Float64[Tensor, " shuffle"]
    """The share of the same frequency in each of some such deals."""
    strongest: float
    """What share of the STRONGEST pairs, or of all where there are fewer, has the same frequency."""

    @property
    def expected_share(self) -> float:
        """Exactly: any two features are as likely as any others to get the same."""
        total = float(self.interaction.mean())
        return float(self.expected.diagonal().sum()) / total if total > 0 else float("nan")


def sharing(
    codes: Codes, units: Sequence[Neurons], frequency: Int[Tensor, " feature"], known: int, seed: int
) -> Sharing:
    """Of codes of some tokens; `known` is how many frequencies there are."""
    codes, units = prepared(codes, units)
    by_token = _by_token(codes, units, frequency)
    pairs = CoActive.of(codes)
    between = torch.stack([its.mean for its in directed(codes, units, pairs)]).sum(0).cpu()
    pairs, frequency = pairs.to("cpu"), frequency.cpu()
    fires = pairs.firing > 0
    counts = torch.bincount(frequency[fires], minlength=known + 1)[1:].double()
    ways = counts[:, None] * counts - torch.diag(counts)
    features = int(fires.sum())
    chance = ways / max(1, features * (features - 1))
    alike = _alike(frequency, pairs.i, pairs.j)
    strongest = between.argsort(descending=True, stable=True)[:STRONGEST]
    return Sharing(
        interaction=by_token[0],
        same=by_token[1],
        meetings=by_token[2],
        same_meetings=by_token[3],
        grid=_grid(frequency, pairs, between, known),
        expected=chance * between.sum(),
        shuffled=_shuffled(frequency, pairs, between, seed),
        strongest=float(alike[strongest].double().mean()) if len(strongest) else 0.0,
    )


def _alike(frequency: Tensor, i: Tensor, j: Tensor) -> Tensor:
    return (frequency[i] == frequency[j]) & (frequency[i] != NONE)


def _grid(frequency: Tensor, pairs: CoActive, between: Tensor, known: int) -> Float64[Tensor, "frequency frequency"]:
    sums = torch.zeros((known + 1) ** 2, dtype=torch.float64)
    sums.index_add_(0, frequency[pairs.i] * (known + 1) + frequency[pairs.j], between)
    return sums.view(known + 1, known + 1)[1:, 1:]


def _shuffled(frequency: Tensor, pairs: CoActive, between: Tensor, seed: int) -> Float64[Tensor, " shuffle"]:
    generator = torch.Generator().manual_seed(seed)
    fires = (pairs.firing > 0).nonzero().squeeze(1)
    found = torch.zeros(SHUFFLES, dtype=torch.float64)
    dealt = frequency.clone()
    for number in range(SHUFFLES):
        dealt[fires] = frequency[fires[torch.randperm(len(fires), generator=generator)]]
        found[number] = between[_alike(dealt, pairs.i, pairs.j)].sum()
    return found / between.sum()


def _by_token(codes: Codes, units: Sequence[Neurons], frequency: Tensor) -> Float64[Tensor, "4 token"]:
    """Interaction and meetings, of each what is in all pairs and what is between the same frequency."""
    found = torch.zeros(4, codes.pattern.n_rows, dtype=torch.float64)
    with progress("frequencies that interact", codes.pattern.n_rows, "tokens") as bar:
        for chunk in chunks(codes, most_neurons(units)):
            tokens = chunk.tokens.cpu()
            of_slot = frequency.to(chunk.features.device)[chunk.features].to(codes.values.dtype)
            active = (chunk.strengths > 0).double()
            named = active * (of_slot != NONE)
            both = (of_slot[:, :, None] == of_slot[:, None]).double() * named[:, :, None] * named[:, None]
            found[2, tokens] = (active.sum(1).square() - active.sum(1)).cpu()
            found[3, tokens] = (both.sum((1, 2)) - named.sum(1)).cpu()
            for unit in units:
                for its in ranked(chunk, unit):
                    of_dominant = (its.dominant * of_slot[..., None]).sum(1, keepdim=True)
                    others = its.magnitude * (1 - its.dominant) * (its.weight / len(unit.loudness))[:, None]
                    alike = (of_slot[..., None] == of_dominant) & (of_dominant != NONE)
                    for row, values in enumerate((others, others * alike)):
                        found[row, tokens] += values.sum((1, 2), dtype=torch.float64).cpu()
            bar(len(chunk.tokens))
    return found
