"""How interactions differ between two models that are read with the same codes.

On each text every pair's directed interaction is measured four times, at the same strengths: with the MLPs of either
model, reached by the directions in either.

    base                the base's MLPs and directions
    weights             the tuned model's MLPs, the base's directions: what changed weights do alone
    directions          the base's MLPs, the tuned model's directions: what turned features do alone
    tuned               both of the tuned model

Mass is measured for base and tuned. For each pair that is active together in a text, tables hold a sum over its tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.binding.bound import bound_mlps
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Neurons, PlainNeurons, chunks, contributions
from crossproof.interaction.neurons import most_neurons
from crossproof.interaction.pairs import directed, directed_at, mass
from crossproof.progress import progress
from crossproof.study.diffing.texts import Texts
from crossproof.study.estimates import Drawn
from crossproof.subject.subject import Subject

WAYS = ("base", "weights", "directions", "tuned")
PAIRS_AT_ONCE = 4096
"""How many pairs are resampled together: draws × pairs numbers are held."""


def neurons_in(mlps_of: Subject, directions_in: str, coder: Crosscoder) -> list[Neurons]:
    """The MLPs of one model, reached by the features' directions in one."""
    at, decoder, bias = coder.positions(directions_in), coder.decoder.detach(), coder.decoder_bias.detach()
    return [
        contributions(
            mlp.unit.to(decoder.dtype), decoder[:, at[mlp.unit.input_site]], bias[at[mlp.unit.input_site]], mlp.name
        )
        for mlp in bound_mlps(mlps_of, coder)
    ]


def ways(base: Subject, tuned: Subject, coder: Crosscoder) -> dict[str, list[Neurons]]:
    """The four ways in which features can reach neurons."""
    return {
        "base": neurons_in(base, base.name, coder),
        "weights": neurons_in(tuned, base.name, coder),
        "directions": neurons_in(base, tuned.name, coder),
        "tuned": neurons_in(tuned, tuned.name, coder),
    }


@dataclass(frozen=True, eq=False)
class Table:
    """Sums over the tokens of each text, MLPs summed; sparse: an entry is a pair that is active together in a text."""

    i: Int[Tensor, " pair"]
    j: Int[Tensor, " pair"]
    entry_text: Int[Tensor, " entry"]
    entry_pair: Int[Tensor, " entry"]
    """Ascending."""
    values: Mapping[str, Float64[Tensor, " entry"]]
    """By metric and way: `directed base`, `mass tuned`."""

    def per_token(self, name: str, tokens: Float64[Tensor, " text"]) -> Float64[Tensor, " pair"]:
        """The mean over the texts to which `tokens` gives as many tokens as they have, and 0 to others."""
        counted = self.values[name] * (tokens[self.entry_text] > 0)
        return torch.zeros(len(self.i), dtype=torch.float64).index_add_(0, self.entry_pair, counted) / tokens.sum()

    def of_texts(self, name: str, start: int, stop: int, texts: int) -> Float64[Tensor, "text pair"]:
        """The pairs from `start` to `stop`, text by text."""
        ends = torch.searchsorted(self.entry_pair, torch.tensor([start, stop]))
        entries = slice(int(ends[0]), int(ends[1]))
        dense = torch.zeros(texts, stop - start, dtype=torch.float64)
        where = (self.entry_text[entries], self.entry_pair[entries] - start)
        return dense.index_put_(where, self.values[name][entries])


def measured(codes: Codes, texts: Texts, units: Mapping[str, Sequence[Neurons]]) -> Table:
    """Of every text; `units` by way."""
    plain = all(isinstance(unit, PlainNeurons) for its in units.values() for unit in its)
    starts = [0, *torch.bincount(texts.text).cumsum(0).tolist()]
    keys, text, values = [], [], []  # type: tuple[list[Tensor], list[Tensor], list[dict[str, Tensor]]]
    with progress("interactions of both models", len(starts) - 1, "texts") as bar:
        for number in range(len(starts) - 1):
            its = codes.rows(starts[number], starts[number + 1])
            pairs = CoActive.of(its)
            found = {
                f"directed {way}": torch.stack([sums.total for sums in directed(its, to, pairs)]).sum(0)
                for way, to in units.items()
            }
            for way in ("base", "tuned") if plain else ():
                sums = [found_mass.pairs.total for found_mass in mass(its, units[way], pairs)]
                found[f"mass {way}"] = torch.stack(sums).sum(0)
            keys.append(pairs.i * codes.pattern.n_features + pairs.j)
            text.append(torch.full((len(pairs),), number))
            values.append(found)
            bar(1)
    every, pair = torch.cat(keys).unique(return_inverse=True)
    order = pair.argsort(stable=True)
    n_features = codes.pattern.n_features
    return Table(
        every // n_features,
        every % n_features,
        torch.cat(text)[order],
        pair[order],
        {name: torch.cat([its[name] for its in values])[order] for name in values[0]},
    )


@dataclass(frozen=True, eq=False)
class Totals:
    """Per token, of groups of pairs: how much they interact, and by how much that differs between two ways."""

    interaction: list[Drawn]
    """The mean of the two ways."""
    change: list[Drawn]


def totals(
    table: Table,
    names: tuple[str, str],
    group: Int[Tensor, " pair"],
    groups: int,
    texts: Texts,
    weights: Float64[Tensor, "draw text"],
) -> Totals:
    """Over the reported texts. A pair's change counts in the direction that it has in the other half of the texts, and
    against the total if it goes the other way: absolute values would add noise up, in every resample more.
    """
    reported, draws = texts.reported, len(weights)
    tokens = texts.tokens[reported]
    direction = torch.sub(*(table.per_token(name, texts.tokens * ~reported) for name in reversed(names))).sign()
    each = torch.cat([torch.ones(1, len(tokens), dtype=torch.float64), weights])
    counts = each @ tokens
    sums = torch.zeros(2, groups, draws + 1, dtype=torch.float64)
    for start in range(0, len(table.i), PAIRS_AT_ONCE):
        stop = min(start + PAIRS_AT_ONCE, len(table.i))
        first, second = (each @ table.of_texts(name, start, stop, texts.count)[reported] for name in names)
        sums[0].index_add_(0, group[start:stop], ((first + second) / 2).T)
        sums[1].index_add_(0, group[start:stop], ((second - first) * direction[start:stop]).T)
    sums = sums / counts
    interaction, change = ([Drawn(float(row[0]), row[1:]) for row in its] for its in sums)
    return Totals(interaction, change)


def pair_at_tokens(codes: Codes, units: Sequence[Neurons], i: int, j: int) -> Float64[Tensor, " token"]:
    """I[i→j] at each token, MLPs summed; 0 where one of the two is not active."""
    found = torch.zeros(codes.pattern.n_rows, dtype=torch.float64)
    for chunk in chunks(codes, most_neurons(units)):
        on = chunk.strengths > 0
        first, second = ((chunk.features == feature) & on for feature in (i, j))
        both = (first[:, :, None] & second[:, None]).double()
        for unit in units:
            found.index_add_(0, chunk.tokens, (directed_at(chunk, unit).double() * both).sum((1, 2)))
    return found
