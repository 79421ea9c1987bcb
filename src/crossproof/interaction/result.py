"""All that was measured about a dictionary's interactions: ranked tables, sparse matrices, something to look at, files.

    found = measure(codes, units)           # on tensors; crossproof.interactions(subject, coder, tokens) on models
    found.pairs.head()                      # ranked: i, j, unit, neuron, strength, frequency, score, …
    found.matrix("directed", unit="blocks.1.mlp")
    found.save("folder"); Interactions.load("folder")

What the columns mean is in docs/interactions.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, UnsupportedModel, nearest
from crossproof.interaction import frames, probabilistic, result_files, result_view, weights
from crossproof.interaction.account import Account
from crossproof.interaction.coactive import CoActive, PairSums
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons
from crossproof.interaction.cooccurrence import cooccurrence
from crossproof.interaction.gated import cross
from crossproof.interaction.neurons import dominance
from crossproof.interaction.pairs import MassSums, directed, mass, ratio, strongest_neurons
from crossproof.interaction.weights import Score

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("directed", "mass", "cross", "ratio", "chance", "correlation")
LOOKED_AT = 1_000
"""For how many of the first rows of the ranking the neuron that carries most is looked for."""

Carriers = tuple[Int[Tensor, " row"], Float64[Tensor, " row"]]
"""The neuron that carries most of a row's pair in its unit, and the share that it carries; −1 where there is none."""


@dataclass(eq=False, repr=False)
class Interactions:
    """Made by `measure`, or on a model by `crossproof.interactions`; read from its folder by `load`."""

    about: str
    """What was measured, for people."""
    unit_names: tuple[str, ...]
    coactive: CoActive
    sums: dict[str, list[PairSums]]
    """Of directed, mass, cross and ratio, what was measured: a table for each MLP."""
    columns: dict[str, Tensor]
    """What is known of each pair of `coactive` whatever the MLP: co-occurrence against chance, correlation, …"""
    units: pd.DataFrame
    neurons: pd.DataFrame
    features: pd.DataFrame
    find_carriers: Callable[[Tensor, Tensor, Tensor], Carriers]
    """From i, j and unit of the first rows."""
    account: Account | None = None
    """All units in one measure, attention and norms among them; none where only neurons were given."""
    token_scores: Float64[Tensor, "token unit"] | None = None
    """What the pairs of each token have in each MLP: directed, and cross where it is gated; not kept in files."""
    measured_on: tuple[Codes, Sequence[Neurons]] | None = None
    """Codes and neurons, for what is only made when it is asked for; not kept in files."""
    reader: Callable[[str], pd.DataFrame] | None = None
    """How to measure a text's tokens; not kept in files, which hold no model."""

    # -- tables ----------------------------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> pd.DataFrame:
        """Every ordered pair that is active together in every MLP, by score: hundreds of bytes a row."""
        return self.ranked()

    def ranked(self, top: int | None = None, look_at_neurons: bool = True) -> pd.DataFrame:
        """The first rows of `pairs`, without making the others. Not to look at neurons saves a pass over the tokens."""
        order = self._order[:top]
        neuron, share = self.carriers if look_at_neurons else (order[:0], order[:0].double())
        return frames.pairs(
            i=self.coactive.i[order // self._n_units],
            j=self.coactive.j[order // self._n_units],
            unit=order % self._n_units,
            names=self.unit_names,
            neuron=neuron[:top],
            share=share[:top],
            sums={metric: self._rows(metric, order) for metric in self.sums},
            columns={name: column[order // self._n_units] for name, column in self.columns.items()},
        )

    def potential(self, top: int = 100, by: Score = "exact") -> pd.DataFrame:
        """Pairs that never fire together, by what they would do if they did: leads for adversarial inputs."""
        codes, units = self._evidence()
        coactive = CoActive.of(codes)
        return frames.potential(weights.potential(units, weights.typical_strengths(codes), coactive, by, top))

    def independence(self, bins: int = 256, shuffles: int = 5, seed: int = 0) -> pd.DataFrame:
        """For each neuron, how far its pre-activation is from what independent features would give, in bits."""
        codes, units = self._evidence()
        return frames.independence(
            {unit.name: probabilistic.independence_kl(codes, unit, bins, shuffles, seed) for unit in units}
        )

    def tokens(self, text: str) -> pd.DataFrame:
        """Interaction at each token of a text: the score, by unit too, and the strongest pair."""
        if self.reader is None:
            raise CrossproofError(
                "these interactions have no model to read a text with: they came from a file or from bare codes. "
                "Call crossproof.token_interactions(subject, coder, text)"
            )
        return self.reader(text)

    @property
    def dominant_share(self) -> float:
        """The mean over the MLPs in which any feature contributes."""
        return float(self.units["dominant_share"].mean())

    @property
    def mean_pairwise(self) -> float:
        """The published *mean pairwise interaction*: over all features × features entries, MLPs summed."""
        return float(self.units["mean_pairwise"].sum())

    @property
    def mean_pairwise_alive(self) -> float:
        """The same over the ordered pairs of features that fire at all."""
        return float(self.units["mean_pairwise_alive"].sum(skipna=False))

    @property
    def alive(self) -> int:
        """How many features fire at all."""
        return int((self.coactive.firing > 0).sum())

    # -- matrices --------------------------------------------------------------------------------------------------

    def matrix(self, metric: str = "directed", unit: str | None = None, per: str = "token") -> Tensor:
        """A sparse features × features matrix of means per `token`, or per token where both are active `together`.

        Without a unit, all MLPs together: the sum of directed and mass, the mean of the ratio. What does not depend on
        the unit (expected, correlation, hadamard, …) is as it is in `pairs`.
        """
        _check_names("metric", [metric], [*self.sums, *self.columns])
        _check_names("per", [per], ["token", "together"])
        where, shape = torch.stack([self.coactive.i, self.coactive.j]), (self.coactive.n_features,) * 2
        if metric in self.columns:
            values = self.columns[metric]
            return torch.sparse_coo_tensor(where, values, shape, is_coalesced=True, check_invariants=False)
        sums = self.sums[metric]
        if unit is not None:
            _check_names("unit", [unit], self.unit_names)
            sums = [sums[self.unit_names.index(unit)]]
        values = torch.stack([its.mean if per == "token" else its.mean_together for its in sums]).sum(0)
        if metric == "ratio":
            values = values / len(sums)
        return torch.sparse_coo_tensor(where, values, shape, is_coalesced=True, check_invariants=False)

    # -- to look at, and on disk -----------------------------------------------------------------------------------

    def summary(self, top: int = 20) -> result_view.Summary:
        return result_view.summary(self, top)

    def __repr__(self) -> str:
        return result_view.text(self)

    def _repr_html_(self) -> str:
        return result_view.html(self)

    def save(self, folder: str | Path) -> None:
        """Write tables (parquet), sums (safetensors) and a description with their hashes, all or nothing."""
        result_files.save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Interactions:
        """Read what `save` wrote, or the folder of a run that measured interactions."""
        return cls(**result_files.load(Path(folder)))

    def _evidence(self) -> tuple[Codes, Sequence[Neurons]]:
        if self.measured_on is None:
            raise CrossproofError(
                "these interactions came from a file, which holds neither codes nor weights: measure again with "
                "crossproof.interactions(subject, coder, tokens)"
            )
        return self.measured_on

    # -- the ranking -----------------------------------------------------------------------------------------------

    @property
    def _n_units(self) -> int:
        return len(self.unit_names)

    @cached_property
    def _order(self) -> Int[Tensor, " row"]:
        """pair · units + unit, the largest score first; of equal ones the lowest pair, then the first unit."""
        # by the score that is shown: two totals may differ by rounding where their means do not
        return _by_pair([its.mean for its in self.sums["directed"]]).argsort(descending=True, stable=True)

    @cached_property
    def carriers(self) -> Carriers:
        """Of the first rows of the ranking. Finding them is one more pass over the tokens."""
        order = self._order[:LOOKED_AT]
        pair, unit = order // self._n_units, order % self._n_units
        return self.find_carriers(self.coactive.i[pair], self.coactive.j[pair], unit)

    def _rows(self, metric: str, order: Int[Tensor, " row"]) -> PairSums:
        sums = self.sums[metric]
        total, squares = _by_pair([its.total for its in sums])[order], _by_pair([its.squares for its in sums])[order]
        return PairSums(total, squares, self.coactive.count[order // self._n_units], self.coactive.n_tokens)


def measure(
    codes: Codes, units: Sequence[Neurons], metrics: Sequence[str] | None = None, about: str = "a dictionary"
) -> Interactions:
    """Everything about the pairs of features that are active together on these tokens, in these MLPs.

    `metrics`: of METRICS; directed is always there for the ranking, and cross where any MLP is gated.
    By default all that the MLPs have: mass is for plain ones only, cross for gated ones.
    """
    chosen = choose_metrics(units, metrics)
    names = [unit.name for unit in units]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CrossproofError(f"units: several are called {', '.join(map(repr, twice))}; give each a name of its own")
    if codes.pattern.n_rows == 0:
        raise CrossproofError("no tokens: nothing to measure interactions on")
    coactive, dominated = CoActive.of(codes), dominance(codes, units)
    measured: dict[str, Any] = {"directed": directed(codes, units, coactive)}
    bias: list[PairSums] | None = None
    if "mass" in chosen:
        both: list[MassSums] = mass(codes, units, coactive)
        measured["mass"], bias = [its.pairs for its in both], [its.bias for its in both]
    scores = [its.score for its in dominated]
    gated = [number for number, unit in enumerate(units) if isinstance(unit, GatedNeurons)]
    crossed = cross(codes, [units[number] for number in gated], coactive) if "cross" in chosen else []
    if "cross" in chosen:  # a plain MLP multiplies nothing
        none = torch.zeros_like(measured["directed"][0].total)
        measured["cross"] = [PairSums(none, none, coactive.count, coactive.n_tokens) for _ in units]
        for number, its in zip(gated, crossed, strict=True):
            measured["cross"][number] = its.cross
            scores[number] = scores[number] + its.score * len(units[number].loudness)
    if "ratio" in chosen:
        measured["ratio"] = ratio(codes, units, coactive)

    def carriers(i: Tensor, j: Tensor, unit: Tensor) -> Carriers:
        device = codes.values.device
        found = strongest_neurons(codes, units, i.to(device), j.to(device))
        row = torch.arange(len(i))
        neuron, share = torch.stack([its.neuron for its in found]), torch.stack([its.share for its in found])
        return neuron.cpu()[unit, row], share.cpu()[unit, row]

    return Interactions(
        about=about,
        unit_names=tuple(unit.name for unit in units),
        coactive=_on_cpu(coactive),
        sums={metric: [_on_cpu(its) for its in sums] for metric, sums in measured.items()},
        columns={name: column.cpu() for name, column in _columns(codes, coactive, chosen).items()},
        units=frames.units(units, dominated, measured["directed"], coactive),
        neurons=frames.neurons(units, dominated),
        features=frames.features(codes, measured["directed"], bias, [its.own for its in crossed], coactive),
        find_carriers=carriers,
        token_scores=torch.stack(scores, dim=1).cpu(),
        measured_on=(codes, units),
    )


def _columns(codes: Codes, coactive: CoActive, chosen: Sequence[str]) -> dict[str, Tensor]:
    columns: dict[str, Tensor] = {}
    if "chance" in chosen:
        found = cooccurrence(codes)
        where = found.positions(coactive.i, coactive.j)
        columns = {"expected": found.expected[where], "z": found.z[where], "marked": found.marked[where]}
    if "correlation" in chosen:
        columns["correlation"] = probabilistic.gaussian_correlation(codes)[coactive.i, coactive.j]
    return columns


def choose_metrics(units: Sequence[Neurons], metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics to measure; one that does not exist is refused with the nearest names."""
    if not units:
        raise CrossproofError("no MLPs: nothing to measure interactions in")
    plain = all(isinstance(unit, PlainNeurons) for unit in units)
    if metrics is None:
        return tuple(metric for metric in METRICS if metric != ("cross" if plain else "mass"))
    metrics = [metrics] if isinstance(metrics, str) else metrics
    _check_names("metric", metrics, METRICS)
    if plain and "cross" in metrics:
        raise UnsupportedModel("metric 'cross': it is of gated MLPs, and these are plain; use directed, mass or ratio")
    return tuple(metric for metric in METRICS if metric in {"directed", *([] if plain else ["cross"]), *metrics})


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            close = nearest(str(name), known)
            meant = f"did you mean {close}?" if close else f"there are {', '.join(known)}"
            raise CrossproofError(f"no {what} {name!r} here; {meant}")


def _by_pair(values: Sequence[Tensor]) -> Tensor:
    """A vector over pairs for each unit → one vector, the units of a pair side by side."""
    return torch.stack(list(values), dim=1).flatten()


def _on_cpu(tables: Any) -> Any:
    """A dataclass of tensors, where tables are made of it."""
    fields = tables.__dataclass_fields__
    values = {name: getattr(tables, name) for name in fields}
    return type(tables)(**{name: v.cpu() if isinstance(v, Tensor) else v for name, v in values.items()})
