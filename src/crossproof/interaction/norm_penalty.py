"""The training penalty on norms: what a dictionary pays for features that change each other's scale.

    penalty = NormPenalty(norms)                                             # the norms of the model
    loss = reconstruction + weight * penalty(features, directions, biases)   # both at each norm's input

A norm's output is linear in the features but for its scale σ, the root of the mean square of its centred input (bias
and features) + ε. Removing feature i from the input changes what every other feature j is heard as, gain ∘ f_j c_j / σ,
by f_j reach_j |1/σ − 1/σ_{∖i}|, with c_j its centred direction and reach_j = ‖gain ∘ c_j‖. Of each token is penalised
the sum over all ordered pairs i ≠ j: what `interaction/norms` measures, in the norm's own output.

Since no more than the scale comes between the two, the sum over pairs is a product of two sums, and a token costs no
more than its features' directions: two sparse products forward and four back for each norm, and the rest a few numbers
for each entry. Directions and biases are in the model's raw units; the biases belong to σ.

Two scalings, as for MLPs (`interaction/penalty.py`):

- `paper`: the mean over norms and tokens of what is penalised.
- `relative`: for each norm what is penalised over Σ_j f_j reach_j / σ, both pooled over tokens; then the mean over
  norms. The denominator is a constant to the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossproof.codes import Codes, Pattern, as_codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import check_directions
from crossproof.interaction.norms.scale import CANCELS
from crossproof.interaction.penalty import Scaling, only_active
from crossproof.units import Norm


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
            codes = Codes(codes.pattern, codes.values.to(like))
            if codes.pattern.n_entries < codes.pattern.n_features:  # otherwise many are active, and finding them costs
                codes, directions = only_active(codes, directions)
            by_feature = _ByFeature.of(codes.pattern)
            parts = [
                _Parts.apply(codes.values, at.to(like), bias.to(like), codes.pattern, by_feature, layer)  # type: ignore[no-untyped-call]
                for layer, at, bias in zip(layers, directions, biases, strict=True)
            ]
            squared, taken, digits, heard = (torch.stack(its) for its in zip(*parts, strict=True))
            return self._penalty(codes.pattern, squared, taken, digits, heard).mean()

    def _penalty(
        self,
        pattern: Pattern,
        squared: Float[Tensor, "norm token"],
        taken: Float[Tensor, "norm entry"],
        digits: Float[Tensor, "norm entry"],
        heard: Float[Tensor, "norm entry"],
    ) -> Float[Tensor, " norm"]:
        # all norms' tokens in one row: torch adds to places along a single axis much faster than along one of two
        first = pattern.n_rows * torch.arange(len(squared), device=squared.device)
        rows = (first[:, None] + pattern.rows).flatten()
        change = _change(squared.flatten().index_select(0, rows).view_as(taken), taken, digits)
        of_token = torch.zeros_like(squared).flatten().index_add(0, rows, heard.flatten())
        # never below 0: a sum of what is not negative is rounded to no less than any of it
        penalised = (change * (of_token.index_select(0, rows).view_as(heard) - heard)).sum(1)
        if self.scaling == "paper":
            return penalised / max(1, pattern.n_rows)
        total = (of_token.view_as(squared) * _inverse_root(squared)).detach().sum(1)
        return penalised / torch.where(total == 0, 1.0, total)


class _Layer(nn.Module):
    """One norm, less the bias of its output."""

    gain: Tensor
    squares: Tensor
    """By what the square of a coordinate counts in ‖c‖², and in ‖gain ∘ c‖²."""

    def __init__(self, norm: Norm) -> None:
        super().__init__()
        self.kind, self.eps = norm.kind, norm.eps
        # half precision has too few digits for differences of squares
        gain = norm.gain.detach().to(torch.promote_types(norm.gain.dtype, torch.float32))
        # not in the state: they are the model's
        self.register_buffer("gain", gain, persistent=False)
        self.register_buffer("squares", torch.stack([torch.ones_like(gain), gain.square()]), persistent=False)

    def centred(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        return x - x.mean(-1, keepdim=True) if self.kind == "layer" else x


class _Parts(torch.autograd.Function):
    """What the penalty takes of a norm: σ² of each token, what each entry adds to it, and how loudly it is heard.

    Between them, without gradients, stand the digits that the closed form of what is left of σ² without an entry has
    lost. No tensor is as large as entries × d_model, neither here nor on the way back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        directions: Tensor,
        bias: Tensor,
        pattern: Pattern,
        by_feature: _ByFeature,
        layer: _Layer,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        directions = layer.centred(directions).contiguous()
        x = _sums(pattern, values, directions) + layer.centred(bias)
        squared = x.square().mean(1) + layer.eps
        along = _products(pattern, x, directions)
        own = torch.linalg.vector_norm(directions, dim=1).square()
        reach = torch.linalg.vector_norm(layer.gain * directions, dim=1)
        own_here, reach_here = (its.index_select(0, pattern.features) for its in (own, reach))
        taken = values * (2 * along - values * own_here) / x.shape[1]
        ctx.save_for_backward(values, directions, x, along, own_here, reach, reach_here)
        ctx.pattern, ctx.by_feature, ctx.layer = pattern, by_feature, layer
        digits = _digits(pattern, values, directions, x, squared, taken, layer.eps)
        ctx.mark_non_differentiable(digits)
        return squared, taken, digits, values * reach_here

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, of_squared: Tensor, of_taken: Tensor, _: Tensor, of_heard: Tensor
    ) -> tuple[Tensor | None, ...]:
        values, directions, x, along, own_here, reach, reach_here = ctx.saved_tensors
        pattern, by_feature, layer = ctx.pattern, ctx.by_feature, ctx.layer
        of_taken = of_taken / x.shape[1]
        of_along = 2 * values * of_taken
        to_x = _sums(pattern, of_along, directions).addcmul_(x, of_squared[:, None], value=2 / x.shape[1])
        to_values = _products(pattern, to_x, directions).addcmul_(along - values * own_here, of_taken, value=2)
        to_values.addcmul_(reach_here, of_heard)
        # of ½‖c‖² and of ½‖gain ∘ c‖², of which the root is heard; the root of nothing has no slope
        of_own, of_reach = (
            torch.zeros_like(reach).index_add_(0, pattern.features, its)
            for its in (values.square() * of_taken * -2, values * of_heard)
        )
        slopes = torch.stack([of_own, torch.where(reach > 0, of_reach / reach, 0.0)], 1)
        to_directions = by_feature.sums(values, to_x).add_(by_feature.sums(of_along, x))
        to_directions.addcmul_(directions, slopes @ layer.squares)
        # centring is its own transpose, and to_x is centred as x and the directions are
        return to_values, layer.centred(to_directions), to_x.sum(0), None, None, None


def _sums(
    pattern: Pattern, weights: Float[Tensor, " entry"], directions: Float[Tensor, "feature d_model"]
) -> Float[Tensor, "token d_model"]:
    """Over the entries of each token, by their weights."""
    return F.embedding_bag(
        pattern.features,
        directions,
        pattern.row_starts,
        per_sample_weights=weights,
        mode="sum",
        include_last_offset=True,
    )


class _ByFeature(NamedTuple):
    """The entries of a pattern in the order of their features, for all norms."""

    order: Int[Tensor, " entry"]
    rows: Int[Tensor, " entry"]
    starts: Int[Tensor, " features_and_one"]

    @classmethod
    def of(cls, pattern: Pattern) -> _ByFeature:
        order, starts = pattern.by_feature
        return cls(order, pattern.rows.index_select(0, order), starts)

    def sums(
        self, weights: Float[Tensor, " entry"], x: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "feature d_model"]:
        """Over the entries of each feature, by their weights: at this width in a third of MKL's time."""
        weights = weights.index_select(0, self.order)
        return F.embedding_bag(
            self.rows, x, self.starts, per_sample_weights=weights, mode="sum", include_last_offset=True
        )


def _products(
    pattern: Pattern, x: Float[Tensor, "token d_model"], directions: Float[Tensor, "feature d_model"]
) -> Float[Tensor, " entry"]:
    """Of the token and the direction of each entry."""
    nothing = x.new_zeros(pattern.n_entries)
    shape = (pattern.n_rows, pattern.n_features)
    there = torch.sparse_csr_tensor(pattern.row_starts, pattern.features, nothing, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(there, x, directions.T).values()


def _digits(
    pattern: Pattern,
    values: Float[Tensor, " entry"],
    directions: Float[Tensor, "feature d_model"],
    x: Float[Tensor, "token d_model"],
    squared: Float[Tensor, " token"],
    taken: Float[Tensor, " entry"],
    eps: float,
) -> Float[Tensor, " entry"]:
    """What the closed form of σ² without an entry lacks, where it has cancelled."""
    squared = squared.index_select(0, pattern.rows)
    left = squared - taken
    near = (left < CANCELS * squared).nonzero()[:, 0]
    removed = values[near, None] * directions[pattern.features[near]]
    anew = (x[pattern.rows[near]] - removed).square().mean(1) + eps
    return torch.zeros_like(left).index_copy_(0, near, anew - left[near])


def _change(
    squared: Float[Tensor, "norm entry"], taken: Float[Tensor, "norm entry"], digits: Float[Tensor, "norm entry"]
) -> Float[Tensor, "norm entry"]:
    """|1/σ − 1/σ_{∖i}| for the feature i of each entry at its token."""
    left = squared - taken + digits  # the slope of the closed form is right where its value is not
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
