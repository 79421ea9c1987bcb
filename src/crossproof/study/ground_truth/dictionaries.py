"""Dictionaries of the planted model: the true one, and ones learned from its activations and matched to it.

A learned feature stands for a true one when both its decoder (over all sites) and its strengths (over tokens) are alike
to it: cosine and correlation of at least MATCHED, one to one, chosen to make the sum of cosine × correlation largest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.crosscoder.config import CrosscoderConfig, FitConfig, Site
from crossproof.crosscoder.fit import fit
from crossproof.crosscoder.initialise import initialise
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.store import IN_RUN
from crossproof.interaction.contributions import PlainNeurons, Table, contributions
from crossproof.study.ground_truth.results import Learned
from crossproof.subject.tokens import Tokens
from crossproof.subject.zoo.planted import POSITIONS, planted_source
from crossproof.subject.zoo.planted_model import PlantedModel
from crossproof.units import MLP

MATCHED = 0.8
INDISTINCT = ("halves.a", "halves.b")
"""They always fire together with equal strengths: no learned dictionary can tell them from one feature."""
ROUNDING = 1e-12
"""True contributions below this share of the largest are rounding of a zero (directions are orthogonal, not axes)."""


@dataclass(frozen=True, eq=False)
class PlantedDictionary:
    """A dictionary at the input of each block's MLP, and which true feature each of its features stands for."""

    codes: Codes
    directions: tuple[Float[Tensor, "feature d_model"], ...]
    biases: tuple[Float[Tensor, " d_model"], ...]
    stands_for: Int[Tensor, " feature"]
    """Index of the true feature; −1 for none."""
    exact: bool
    """Whether contributions that are zero but for rounding are to be zero."""

    def neurons(self, model: PlantedModel, block: int) -> tuple[MLP, PlainNeurons]:
        unit = model.units()[block]
        assert isinstance(unit, MLP)
        neurons = contributions(unit, self.directions[block], self.biases[block], f"block {block}")
        assert isinstance(neurons, PlainNeurons)
        if not self.exact:
            return unit, neurons
        A = neurons.pre.A
        A = A.masked_fill(A.abs() < ROUNDING * A.abs().max(), 0)
        return unit, replace(neurons, pre=Table(A, neurons.pre.beta))

    def scored(self, block: int) -> Int[Tensor, " feature"]:
        """Features that fire, are read by a block, and of which the truth is known."""
        fires, read = self.codes.firing_counts() > 0, self.directions[block].norm(dim=1) > 0
        return (fires & read & (self.stands_for >= 0)).nonzero().squeeze(1)


def tokens_of(model: PlantedModel, split: str, start: int, count: int) -> Int[Tensor, " token"]:
    """The ids of the tokens of some texts."""
    tokens: Tokens = planted_source(split, model.truth.seed).tokens(start, count)
    return tokens.ids.flatten()


def true_dictionary(model: PlantedModel, ids: Int[Tensor, " token"]) -> PlantedDictionary:
    sites = input_sites(model)
    return PlantedDictionary(
        codes=Codes.from_dense(model.codes[ids]),
        directions=tuple(model.directions(site) for site in sites),
        biases=tuple(model.decoder_bias(site) for site in sites),
        stands_for=torch.arange(model.codes.shape[1]),
        exact=True,
    )


def train_dictionary(model: PlantedModel, shape: CrosscoderConfig, loop: FitConfig, out: Path) -> Crosscoder:
    """A crosscoder over the inputs of both MLPs, saved in the run folder `out`; training that was stopped goes on."""
    table = activations(model).float()
    coder = Crosscoder(shape)
    generator = torch.Generator().manual_seed(loop.seed)
    ids = tokens_of(model, "train", 0, 600)
    initialise(coder, table[ids], "tied", 0.5, generator)
    fit(coder, _Batches(model, table, loop), loop, out)
    coder.save_pretrained(out / IN_RUN)
    return coder


def learned_shape(model: PlantedModel, features: int, k: int) -> CrosscoderConfig:
    sites = tuple(Site(subject="planted", hook=site) for site in input_sites(model))
    return CrosscoderConfig(sites=sites, width=model.truth.d_model, features=features, k=k)


@torch.no_grad()
def matched(
    model: PlantedModel, coder: Crosscoder, ids: Int[Tensor, " token"], seed: int
) -> tuple[PlantedDictionary, Learned]:
    """A learned dictionary, with the true features that its features stand for on these tokens."""
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    x = activations(model).float()[ids]
    codes = coder.encode(x)
    errors = (x - coder.decode(codes)).square().sum((0, 2)) / (x - x.mean(0)).square().sum((0, 2))
    codes = Codes(codes.pattern, codes.values.double())
    directions, sites = coder.decoder.double(), input_sites(model)
    truth = torch.stack([model.directions(site) for site in sites], 1).double()
    there = ((model.codes[ids] > 0).any(0) & (truth.flatten(1).norm(dim=1) > 0)).tolist()
    known = [f for f, name in enumerate(model.truth.names) if there[f] and name not in INDISTINCT]
    cosine = _unit(truth.flatten(1)[known]) @ _unit(directions.flatten(1)).T
    strengths, found = model.codes[ids][:, known].double(), codes.dense()
    correlation = _unit((strengths - strengths.mean(0)).T) @ _unit((found - found.mean(0)).T).T
    rows, columns = linear_sum_assignment((-cosine.clamp(min=0) * correlation.clamp(min=0)).numpy())
    cosine, correlation = cosine[rows, columns], correlation[rows, columns]
    by_cosine, by_correlation = cosine >= MATCHED, correlation >= MATCHED
    stands_for = torch.full((len(directions),), -1)
    both = by_cosine & by_correlation
    stands_for[torch.from_numpy(columns)[both]] = torch.tensor(known)[torch.from_numpy(rows)[both]]
    recovery = Learned(
        seed=seed,
        features=len(directions),
        alive=int((codes.firing_counts() > 0).sum()),
        l0=float(codes.l0),
        unexplained=float(errors.mean()),
        true_features=len(known),
        by_cosine=int(by_cosine.sum()),
        by_correlation=int(by_correlation.sum()),
        by_both=int(both.sum()),
    )
    biases = tuple(coder.decoder_bias.double().unbind())
    return PlantedDictionary(codes, tuple(directions.unbind(1)), biases, stands_for, exact=False), recovery


def input_sites(model: PlantedModel) -> list[str]:
    return [f"blocks.{block}.hook_mlp_in" for block in range(model.cfg.n_layers)]


@torch.no_grad()
def activations(model: PlantedModel) -> Float[Tensor, "vocabulary site d_model"]:
    """At both MLPs' inputs, of every token there is: the model has no attention."""
    _, cache = model.run_with_cache(torch.arange(model.cfg.d_vocab)[:, None])
    return torch.stack([cache[site][:, 0] for site in input_sites(model)], dim=1)


class _Batches(Iterator[Tensor]):
    """Activations of fresh texts, other ones for every seed."""

    def __init__(self, model: PlantedModel, table: Tensor, loop: FitConfig) -> None:
        self.table, self.loop, self.step = table, loop, 0
        self.source = planted_source("train", model.truth.seed)

    def __next__(self) -> Float[Tensor, "row site d_model"]:
        texts = self.loop.batch_tokens // POSITIONS
        start = (self.loop.seed * self.loop.steps + self.step) * texts
        self.step += 1
        return self.table[self.source.tokens(start, texts).ids.flatten()]

    def state(self) -> dict[str, int]:
        return {"step": self.step}

    def restore(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
