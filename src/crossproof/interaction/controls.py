"""Controls of the interaction penalty: generic regularisers of the same magnitude, which know nothing of interactions.

    control = Matched(InteractionPenalty(units), Control("l1_contributions", units))
    loss = reconstruction + weight * control(features, directions)

If what the derived penalty gains came from its size alone, a control would gain it too. Each has a closed form that
never loops over tokens × neurons × features: Σ_t Σ_n Σ_i |p| = Σ_i (Σ_t f_i) (Σ_n |A_in|), and so for squares.

- `reconstruction`: the loop's own reconstruction error once more.
- `l1_features`: Σ_i f_i ‖d_i‖ at an MLP's input, mean over tokens and MLPs. Not Σ_i f_i, which a dictionary lowers
  without changing anything, by writing longer directions at smaller strengths.
- `l1_table`: mean |A_in| over features, neurons and MLPs. It is what its name says, and open to the opposite dodge:
  shorter directions at greater strengths.
- `l1_contributions`, `l2_contributions`: Σ_i |p_ni| and Σ_i p_ni², mean over tokens, neurons and MLPs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.codes import Codes, as_codes
from crossproof.errors import CrossproofError
from crossproof.interaction.contributions import check_directions
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.units import MLP, GatedMLP

MATCHED_ON = 256
"""Batches from which a control's weight is found: the warm-up of a short run."""

ControlName = Literal["reconstruction", "l1_features", "l1_table", "l1_contributions", "l2_contributions"]


class Control(nn.Module):
    """One of the generic regularisers, with gradients to features and directions. Called as the penalty is."""

    def __init__(self, name: ControlName | str, units: Sequence[MLP | GatedMLP]) -> None:
        super().__init__()
        if name not in get_args(ControlName):
            raise CrossproofError(f"control: no {name!r}; there are {', '.join(get_args(ControlName))}")
        if not units:
            raise CrossproofError("units: there is no MLP to regularise; give at least one")
        self.name = name
        for number, unit in enumerate(units):
            self.register_buffer(f"W{number}", _weights(unit).detach(), persistent=False)

    def forward(
        self,
        features: Codes | Float[Tensor, "token feature"],
        directions: Sequence[Float[Tensor, "feature d_model"]],
        biases: Sequence[Float[Tensor, " d_model"]] | None = None,
        reconstruction: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        """`reconstruction` is the loop's own error, which only the control of that name needs; none needs `biases`."""
        if self.name == "reconstruction":
            if reconstruction is None:
                raise CrossproofError("reconstruction: this control is the reconstruction error, so it must be given")
            return reconstruction
        codes = as_codes(features)
        weights = [W for _, W in self.named_buffers(remove_duplicate=False)]
        check_directions(codes, directions, [W.shape[0] for W in weights])
        measure = _MEASURES[self.name]
        return torch.stack([measure(codes, d, W) for d, W in zip(directions, weights, strict=True)]).mean()


class Matched(nn.Module):
    """A control, weighted so that its mean over the first `MATCHED_ON` batches is that of the derived penalty there.

    Until then the weight follows the two means, later it is held: one that went on following would rise as its control
    falls, and the control would end up pushing everything to zero. No gradient flows through the weight. Called as the
    penalty is.
    """

    def __init__(self, penalty: InteractionPenalty, control: Control) -> None:
        super().__init__()
        self.penalty, self.control = penalty, control
        self.sums: Tensor
        self.batches: Tensor
        # (derived, control)
        self.register_buffer("sums", torch.zeros(2, dtype=torch.float64))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def forward(
        self,
        features: Codes | Float[Tensor, "token feature"],
        directions: Sequence[Float[Tensor, "feature d_model"]],
        biases: Sequence[Float[Tensor, " d_model"]] | None = None,
        reconstruction: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, ""]:
        codes = as_codes(features)
        control: Tensor = self.control(codes, directions, biases, reconstruction)
        if int(self.batches) < MATCHED_ON and self.training:
            with torch.no_grad():
                derived = self.penalty(codes, directions, biases)
            self.sums += torch.stack([derived.double(), control.detach().double()])
            self.batches += 1
        return self.weight.to(control) * control

    @property
    def weight(self) -> Float[Tensor, ""]:
        derived, control = self.sums.unbind()
        return torch.where(control == 0, torch.zeros_like(control), derived / control)


def _weights(unit: MLP | GatedMLP) -> Float[Tensor, "d_model pre_activation"]:
    """What all pre-activations of an MLP multiply: gate and value of a gated one side by side."""
    return unit.W_in if isinstance(unit, MLP) else torch.cat([unit.W_gate, unit.W_in], dim=1)


Measure = Callable[[Codes, Tensor, Tensor], Tensor]


def _l1_features(codes: Codes, d: Tensor, W: Tensor) -> Float[Tensor, ""]:
    return _mean_strength(codes, codes.values) @ d.norm(dim=1)


def _l1_table(codes: Codes, d: Tensor, W: Tensor) -> Float[Tensor, ""]:
    return (d @ W).abs().mean()


def _l1_contributions(codes: Codes, d: Tensor, W: Tensor) -> Float[Tensor, ""]:
    return _mean_strength(codes, codes.values) @ (d @ W).abs().mean(1)


def _l2_contributions(codes: Codes, d: Tensor, W: Tensor) -> Float[Tensor, ""]:
    return _mean_strength(codes, codes.values.square()) @ (d @ W).square().mean(1)


def _mean_strength(codes: Codes, values: Tensor) -> Float[Tensor, "feature"]:
    """The mean over tokens of what stands at each feature's entries."""
    pattern = codes.pattern
    return values.new_zeros(pattern.n_features).index_add(0, pattern.features, values) / max(1, pattern.n_rows)


_MEASURES: dict[str, Measure] = {
    "l1_features": _l1_features,
    "l1_table": _l1_table,
    "l1_contributions": _l1_contributions,
    "l2_contributions": _l2_contributions,
}
