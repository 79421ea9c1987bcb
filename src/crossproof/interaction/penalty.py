"""The training penalty: what a dictionary pays for features that interact. A `torch.nn.Module`, for any training loop.

    penalty = InteractionPenalty(units)                                # the MLPs of the model
    loss = reconstruction + weight * penalty(features, directions)     # directions: [feature, d_model] for each MLP

Directions are what the dictionary writes at each MLP's input, in the model's raw units. What is penalised is what an
interpretation (`form`) misses or may miss: Σ|p| − the q largest for `dominant`, min(P⁺, P⁻) for `mass`, |residual| for
`additive`.

Two scalings, and what is differentiated:

- `paper`: the mean over MLPs, tokens and neurons of weight_n times what is penalised.
- `relative`: for each MLP what is penalised over Σ weight_n |p_n|, both pooled over tokens and neurons; then the mean
  over MLPs. The denominator always comes from all neurons, and it is a constant to the gradient: a unit of measure, so
  that a weight means the same for any model. Were it differentiated, the penalty could be lowered by making it grow: a
  dictionary does so with one feature that is always on and takes over the bias (docs/penalty.md).

On a random part of the neurons, redrawn at each call, `paper` is unbiased in value and gradient. So is what `relative`
divides; its denominator is then a running mean over calls, begun on all neurons, which the draws together stand for.

In float32 the value of `dominant` and `mass` is a difference of two sums: its error is about 1e-7 of the larger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossproof.codes import Codes, Pattern, as_codes, decode
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.interaction.contributions import PlainNeurons, Table, check_directions
from crossproof.interaction.dominant_kernel import Size, cut, dominant_penalty
from crossproof.interaction.interpretations import Additive, generic_penalty
from crossproof.units import ACTIVATIONS, MLP, Activation, GatedMLP

Form = Literal["dominant", "mass", "additive"]
Scaling = Literal["paper", "relative"]
MOMENTUM = 0.98
"""Of the running mean of a denominator: it forgets in about fifty calls."""


class InteractionPenalty(nn.Module):
    """How much the features of a dictionary interact in these MLPs, as one number with gradients.

    Calling it gives the number, unweighted. `state_dict` holds what must survive a restart: the count of draws and
    the denominators. In evaluation mode it always looks at all neurons and changes nothing.
    """

    def __init__(
        self,
        units: Sequence[MLP | GatedMLP],
        form: Form | str = "dominant",
        q: int = 1,
        scaling: Scaling | str = "relative",
        weighted: bool = False,
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        """
        Args:
            units: The MLPs. Of a gated one, gate and value count as a layer each.
            form: Which interpretation's loss is penalised.
            q: How many of the largest contributions to each neuron go free (`dominant`).
            scaling: `paper` or `relative`, as above.
            weighted: Neurons count by how loudly they speak, ‖W_out[n]‖ over its mean, instead of equally.
            fraction: The part of the neurons, drawn anew at each call, that the penalty looks at.
            seed: Of those draws.
        """
        super().__init__()
        _check_settings(units, form, q, scaling, fraction)
        self.form, self.q, self.scaling, self.fraction, self.seed = form, q, scaling, fraction, seed
        self.widths = [unit.W_in.shape[0] for unit in units]
        self.layers = nn.ModuleList(
            _Layer(index, W, b, unit, weighted) for index, unit in enumerate(units) for W, b in _weights(unit)
        )
        self.draws: Tensor
        self.totals: Tensor
        self.register_buffer("draws", torch.zeros((), dtype=torch.long))
        # mean of weight |p| summed over features, of each layer; not a number until all neurons have been looked at
        self.register_buffer("totals", torch.full((len(self.layers),), torch.nan, dtype=torch.float64))

    def extra_repr(self) -> str:
        top = f", q={self.q}" if self.form == "dominant" else ""
        return f"{len(self.widths)} MLPs, {self.form}{top}, {self.scaling} scaling, {self.fraction:.3g} of the neurons"

    def forward(
        self,
        features: Codes | Float[Tensor, "..."],
        directions: Sequence[Float[Tensor, "..."]],
        biases: Sequence[Float[Tensor, "..."]] | None = None,
    ) -> Float[Tensor, ""]:
        """The penalty of a batch: sparse codes or anybody's [token, feature] matrix, and for each MLP its directions.

        `directions` are [feature, d_model] for each MLP, in their order. `biases`, [d_model] for each, are what the
        dictionary writes at each MLP's input where no feature is active, zero if not given; a bias is a player in
        `mass` and the background of `additive`.
        """
        codes = as_codes(features).active()
        self._check_inputs(codes, directions, biases)
        with torch.autocast(codes.values.device.type, enabled=False):
            return self._penalty(codes, directions, biases)

    def _penalty(
        self, codes: Codes, directions: Sequence[Tensor], biases: Sequence[Tensor] | None
    ) -> Float[Tensor, ""]:
        first = self.layers[0]
        assert isinstance(first, _Layer)
        like = first.W  # of the dtype in which all is computed
        codes, directions = only_active(Codes(codes.pattern, codes.values.to(like)), directions)
        batch = _Batch(codes)
        exact = self.fraction == 1 or not self.training
        generator = None if exact else generator_of(self.seed, int(self.draws))
        self.draws += 0 if exact else 1
        values = []
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, _Layer)
            at = directions[layer.unit].to(like)
            bias = at.new_zeros(at.shape[1]) if biases is None else biases[layer.unit].to(like)
            neurons, size = layer.neurons(), self._own_size(codes, layer.n_neurons)
            if generator is not None:
                if self.scaling == "relative" and bool(self.totals[number].isnan()):
                    self._look(number, codes, at, neurons)
                chosen = torch.randperm(layer.n_neurons, generator=generator)[: _count(self.fraction, layer.n_neurons)]
                neurons, size = layer.neurons(chosen), self._running_size(codes, len(chosen), number)
            values.append(self._value(neurons, batch, at, bias, size))
        return torch.stack(values).mean()

    def _value(
        self, neurons: _Neurons, batch: _Batch, directions: Tensor, bias: Tensor, size: Size
    ) -> Float[Tensor, ""]:
        codes = batch.codes
        if self.form == "dominant":
            pieces = batch.pieces(neurons.count)
            return dominant_penalty(codes, directions, neurons.W, neurons.weight, self.q, size, pieces)
        A, beta = directions @ neurons.W, bias @ neurons.W + neurons.b
        everything = _total(codes, A, neurons)
        by = size(everything.detach().double()).to(everything)
        if self.form == "mass":
            # min(P⁺, P⁻) = (Σ|p| + |β| − |z|) / 2: two sparse products and no loop over contributions
            z = decode(codes, A, None) + beta
            with_bias = everything + codes.pattern.n_rows * neurons.weighed(beta.abs()).sum()
            cancelled = (with_bias - neurons.weighed(z.abs()).sum()) / 2
            return (cancelled + cancelled.detach().neg().clamp(min=0)) / by  # not below 0 by rounding
        seen = PlainNeurons("", Table(A, beta), neurons.activation, neurons.loudness)
        return generic_penalty(Additive(), codes, seen, neurons.weight) * (codes.pattern.n_rows * neurons.count) / by

    def _own_size(self, codes: Codes, n_neurons: int) -> Size:
        """Of the very tokens and neurons that are penalised."""
        contributions = max(1, codes.pattern.n_rows * n_neurons)

        def size(total: Tensor) -> Tensor:
            if self.scaling == "paper":
                return torch.full_like(total, contributions)
            return torch.where(total == 0, torch.ones_like(total), total)

        return size

    @torch.no_grad()
    def _look(self, number: int, codes: Codes, directions: Tensor, neurons: _Neurons) -> None:
        """Begin a layer's running mean on all its neurons; a batch that does nothing there leaves it for the next."""
        everything = _total(codes, directions @ neurons.W, neurons).double()
        if bool(everything > 0):
            self.totals[number] = everything / (codes.pattern.n_rows * neurons.count)

    def _running_size(self, codes: Codes, n_neurons: int, number: int) -> Size:
        """The running mean of a layer's denominator, which it also updates."""
        own = self._own_size(codes, n_neurons)
        if self.scaling == "paper" or bool(self.totals[number].isnan()):
            return own
        contributions = codes.pattern.n_rows * n_neurons

        def size(total: Tensor) -> Tensor:
            mean = MOMENTUM * self.totals[number] + (1 - MOMENTUM) * total / max(1, contributions)
            # a batch without features says nothing of how much there usually is
            self.totals[number] = torch.where(total > 0, mean, self.totals[number])
            return self.totals[number] * max(1, contributions)

        return size

    def _check_inputs(self, codes: Codes, directions: Sequence[Tensor], biases: Sequence[Tensor] | None) -> None:
        check_directions(codes, directions, self.widths)
        if biases is not None and len(biases) != len(self.widths):
            raise MismatchError(
                f"biases: {len(biases)} for {len(self.widths)} MLPs; expected one for each, in their order"
            )
        for number, (bias, d_model) in enumerate(zip(biases or (), self.widths, strict=False)):
            if bias.shape != (d_model,):
                raise MismatchError(f"biases[{number}]: expected the shape ({d_model},), not {tuple(bias.shape)}")


class _Batch:
    """The codes of one call, cut into chunks once for all MLPs of a size."""

    def __init__(self, codes: Codes) -> None:
        self.codes = codes
        self.pieces = cache(partial(cut, codes))


@dataclass(frozen=True, eq=False)
class _Neurons:
    """The pre-activations x @ W + b that the penalty looks at in one call: a layer's, or some of them."""

    W: Float[Tensor, "d_model neuron"]
    b: Float[Tensor, " neuron"]
    loudness: Float[Tensor, " neuron"]
    weight: Float[Tensor, " neuron"] | None
    activation: Activation

    @property
    def count(self) -> int:
        return self.W.shape[1]

    def weighed(self, per_neuron: Float[Tensor, "*any neuron"]) -> Float[Tensor, "*any neuron"]:
        return per_neuron if self.weight is None else per_neuron * self.weight


class _Layer(nn.Module):
    """One layer of pre-activations: a plain MLP has one, a gated MLP its gate and its value."""

    W: Tensor
    b: Tensor
    loudness: Tensor
    weight: Tensor | None

    def __init__(self, unit: int, W: Tensor, b: Tensor, of: MLP | GatedMLP, weighted: bool) -> None:
        super().__init__()
        self.unit = unit
        self.activation = ACTIVATIONS[of.activation]
        loudness = of.W_out.detach().norm(dim=1)
        if weighted and not bool(loudness.any()):
            raise MismatchError(f"units[{unit}]: its W_out is zero, so no neuron has a weight; use weighted=False")
        # not in the state: they are the model's
        self.register_buffer("W", W.detach(), persistent=False)
        self.register_buffer("b", b.detach(), persistent=False)
        self.register_buffer("loudness", loudness, persistent=False)
        self.register_buffer("weight", loudness / loudness.mean() if weighted else None, persistent=False)

    @property
    def n_neurons(self) -> int:
        return self.W.shape[1]

    def neurons(self, chosen: Int[Tensor, " chosen"] | None = None) -> _Neurons:
        if chosen is None:
            return _Neurons(self.W, self.b, self.loudness, self.weight, self.activation)
        chosen = chosen.to(self.W.device)
        weight = None if self.weight is None else self.weight[chosen]
        return _Neurons(self.W.index_select(1, chosen), self.b[chosen], self.loudness[chosen], weight, self.activation)


def _weights(unit: MLP | GatedMLP) -> list[tuple[Tensor, Tensor]]:
    value = (unit.W_in, unit.b_in)
    return [value] if isinstance(unit, MLP) else [(unit.W_gate, unit.b_gate), value]


def generator_of(seed: int, draw: int) -> torch.Generator:
    """Of one call's draws: they depend on the seed and on how many calls there were, and on nothing else."""
    # torch keeps 32 bits of a seed, so the two are mixed first
    mixed = np.random.SeedSequence([seed, draw]).generate_state(1)[0]
    return torch.Generator().manual_seed(int(mixed))


def only_active(codes: Codes, directions: Sequence[Tensor]) -> tuple[Codes, Sequence[Tensor]]:
    """The same with features alone that are active in the batch: of a large dictionary, few are, and only they cost."""
    active, place = codes.pattern.features.unique(return_inverse=True)
    if not 0 < len(active) < codes.pattern.n_features:
        return codes, directions
    pattern = Pattern(place, codes.pattern.row_starts, len(active))
    return Codes(pattern, codes.values), [at.index_select(0, active) for at in directions]


def _total(codes: Codes, A: Float[Tensor, "feature neuron"], neurons: _Neurons) -> Float[Tensor, ""]:
    """Σ_t Σ_n weight_n Σ_i |p_ni|, from how strong each feature is in all and how far it reaches."""
    strength = codes.values.new_zeros(A.shape[0]).index_add(0, codes.pattern.features, codes.values)
    return strength @ neurons.weighed(A.abs()).sum(1)


def _count(fraction: float, neurons: int) -> int:
    return max(1, round(fraction * neurons))


def _check_settings(units: Sequence[MLP | GatedMLP], form: str, q: int, scaling: str, fraction: float) -> None:
    if not units:
        raise CrossproofError("units: there is no MLP to penalise; give at least one")
    for name, given, known in (("form", form, get_args(Form)), ("scaling", scaling, get_args(Scaling))):
        if given not in known:
            raise CrossproofError(f"{name}: no {given!r}; there are {', '.join(known)}")
    if q < 1:
        raise CrossproofError(f"q: {q} of the largest contributions cannot go free; give at least 1")
    if not 0 < fraction <= 1:
        raise CrossproofError(
            f"fraction: {fraction} is no part of the neurons; give a number in (0, 1], 1 for all of them"
        )
    if form != "dominant" and any(isinstance(unit, GatedMLP) for unit in units):
        raise UnsupportedModel(f"form: {form} is for plain MLPs; gated ones have dominant")
