"""The training penalty on norms: what a dictionary pays for features that change each other's scale.

    penalty = NormPenalty(norms)                                             # the norms of the model
    loss = reconstruction + weight * penalty(features, directions, biases)   # both at each norm's input

A norm's output is linear in the features but for its scale σ, the root of the mean square of its centred input (bias
and features) + ε. Removing feature i from the input changes what every other feature j is heard as, gain ∘ f_j c_j / σ,
by f_j reach_j |1/σ − 1/σ_{∖i}|, with c_j its centred direction and reach_j = ‖gain ∘ c_j‖. Of each token is penalised
the sum over all ordered pairs i ≠ j: what `interaction/norms` measures, in the norm's own output.

Since no more than the scale comes between the two, the sum over pairs is a product of two sums, and a token costs no
more than its features' directions. Directions and biases are in the model's raw units; the biases belong to σ.

Two scalings, as for MLPs (`interaction/penalty.py`):

- `paper`: the mean over norms and tokens of what is penalised.
- `relative`: for each norm what is penalised over Σ_j f_j reach_j / σ, both pooled over tokens; then the mean over
  norms. The denominator is a constant to the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.codes import Codes, as_codes, decode, products_at
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import check_directions
from crossproof.interaction.penalty import Scaling, only_active
from crossproof.units import Norm

CANCELS = 0.01
"""Where less than this of σ² is left without a feature, the closed form has lost too many digits."""


class NormPenalty(nn.Module):
    """How much the features of a dictionary change each other's scale in these norms, as one number with gradients.

    Calling it gives the number, unweighted. It draws nothing and has no state.
    """

    def __init__(self, norms: Sequence[Norm], scaling: Scaling | str = "relative") -> None:
        super().__init__()
        if not norms:
            raise CrossproofError("norms: there is no norm to penalise; give at least one")
        if scaling not in get_args(Scaling):
            raise CrossproofError(f"scaling: no {scaling!r}; there are {', '.join(get_args(Scaling))}")
        self.scaling = scaling
        self.layers = nn.ModuleList(_Layer(norm) for norm in norms)

    def extra_repr(self) -> str:
        return f"{len(self.layers)} norms, {self.scaling} scaling"

    def forward(
        self,
        features: Codes | Float[Tensor, "..."],
        directions: Sequence[Float[Tensor, "..."]],
        biases: Sequence[Float[Tensor, "..."]],
    ) -> Float[Tensor, ""]:
        """The penalty of a batch: sparse codes or anybody's [token, feature] matrix, and for each norm its input.

        `directions` are [feature, d_model] for each norm, in their order; `biases`, [d_model] for each, are what the
        dictionary writes at each norm's input where no feature is active.
        """
        codes = as_codes(features).active()
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        _check(codes, directions, biases, layers)
        with torch.autocast(codes.values.device.type, enabled=False):
            like = layers[0].gain  # of the dtype in which all is computed
            codes, directions = only_active(Codes(codes.pattern, codes.values.to(like)), directions)
            values = [
                self._of_layer(layer, codes, at.to(like), bias.to(like))
                for layer, at, bias in zip(layers, directions, biases, strict=True)
            ]
            return torch.stack(values).mean()

    def _of_layer(
        self, layer: _Layer, codes: Codes, directions: Float[Tensor, "feature d_model"], bias: Float[Tensor, " d_model"]
    ) -> Float[Tensor, ""]:
        pattern, strengths = codes.pattern, codes.values
        directions, bias = layer.centred(directions), layer.centred(bias)
        x = decode(codes, directions, bias)
        squared = x.square().mean(1) + layer.eps
        change = _change(codes, directions, x, squared, layer.eps)
        heard = strengths * (layer.gain * directions).norm(dim=1).index_select(0, pattern.features)
        of_token = strengths.new_zeros(pattern.n_rows).index_add(0, pattern.rows, heard)
        penalised = (change * (of_token.index_select(0, pattern.rows) - heard)).sum()
        penalised = penalised + penalised.detach().neg().clamp(min=0)  # not below 0 by rounding
        if self.scaling == "paper":
            return penalised / max(1, pattern.n_rows)
        total = (of_token * _inverse_root(squared)).detach().sum()
        return penalised / torch.where(total == 0, 1.0, total)


class _Layer(nn.Module):
    """One norm, less the bias of its output."""

    gain: Tensor

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.kind, self.eps = norm.kind, norm.eps
        self.register_buffer("gain", norm.gain.detach(), persistent=False)  # not in the state: it is the model's

    def centred(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x


def _change(
    codes: Codes,
    directions: Float[Tensor, "feature d_model"],
    x: Float[Tensor, "token d_model"],
    squared: Float[Tensor, " token"],
    eps: float,
) -> Float[Tensor, " entry"]:
    """|1/σ − 1/σ_{∖i}| for the feature i of each entry at its token."""
    pattern, strengths = codes.pattern, codes.values
    own = directions.square().sum(1).index_select(0, pattern.features)
    along = products_at(x, directions, pattern)
    taken = strengths * (2 * along - strengths * own) / x.shape[1]
    squared = squared.index_select(0, pattern.rows)
    left = squared - taken
    with torch.no_grad():
        near = (left < CANCELS * squared).nonzero()[:, 0]
        removed = strengths[near, None] * directions[pattern.features[near]]
        anew = (x[pattern.rows[near]] - removed).square().mean(1) + eps
        digits = torch.zeros_like(left).index_copy_(0, near, anew - left[near])
    left = left + digits  # the slope of the closed form is right where its value is not
    nothing = (squared <= 0) | (left <= 0)
    every, without = (torch.where(nothing, 1.0, its).sqrt() for its in (squared, left))
    # factor by factor, as the product of the three may be too large or too small for a float
    change = taken.abs() / (every + without) / every / without
    return torch.where(nothing, _inverse_root(torch.maximum(squared, left)), change)


def _inverse_root(squared: Float[Tensor, "*any"]) -> Float[Tensor, "*any"]:
    """1/σ, and 0 where σ is 0: a norm without ε of an input that is nothing gives its bias, and no feature a share."""
    return torch.where(squared > 0, torch.where(squared > 0, squared, 1.0).rsqrt(), 0.0)


def _check(codes: Codes, directions: Sequence[Tensor], biases: Sequence[Tensor], layers: Sequence[_Layer]) -> None:
    check_directions(codes, directions, [len(layer.gain) for layer in layers], "norm", "gain's only")
    if len(biases) != len(layers):
        raise MismatchError(f"biases: {len(biases)} for {len(layers)} norms; expected one for each, in their order")
    for number, (bias, layer) in enumerate(zip(biases, layers, strict=True)):
        if bias.shape != layer.gain.shape:
            raise MismatchError(f"biases[{number}]: expected the shape ({len(layer.gain)},), not {tuple(bias.shape)}")
