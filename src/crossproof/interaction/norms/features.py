"""A dictionary as a norm sees it.

At a norm's input x = b + Σ_i f_i d_i, its output is bias + gain ∘ c(x) / σ, with c the centring of a LayerNorm (nothing
in an RMSNorm) and σ² = mean square of c(x) + ε. c is linear, so the output is shared out among the features and the
background b: feature i has the share f_i (gain ∘ c_i) / σ with c_i = c(d_i). They meet in σ and nowhere else.

Where σ is 0 (a norm without ε of an input that is nothing once centred) the output is defined as the norm's bias: 1/σ
is taken to be 0, and no feature has a share.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.interaction.contributions import check_dictionary
from crossproof.interaction.norms.reach import Listener, heard_at_once
from crossproof.units import Norm


@dataclass(frozen=True, eq=False)
class NormFeatures:
    """The features of a dictionary at a norm's input. Made by `norm_features`."""

    name: str
    norm: Norm
    directions: Float[Tensor, "feature d_model"]
    """c_i: centred in a LayerNorm, as they are in an RMSNorm."""
    background: Float[Tensor, " d_model"]
    """What the dictionary's bias is, centred likewise."""
    reach: Float[Tensor, " feature"]
    """How loudly gain ∘ c_i is heard by what comes after."""
    background_reach: Float[Tensor, ""]

    @property
    def n_features(self) -> int:
        return self.directions.shape[0]

    @property
    def width(self) -> int:
        return self.directions.shape[1]

    @cached_property
    def squared(self) -> Float[Tensor, " feature"]:
        """‖c_i‖²."""
        return self.directions.square().sum(1)

    def gram(self, features: Int[Tensor, " some"]) -> Float[Tensor, "some some"]:
        """c_i · c_j of these features: with squares and the background, all that σ is made of."""
        rows = self.directions[features]
        return rows @ rows.T

    def output(
        self, centred: Float[Tensor, "*batch d_model"], inverse_scale: Float[Tensor, "*#batch one"]
    ) -> Float[Tensor, "*batch d_model"]:
        return centred * inverse_scale * self.norm.gain + self.norm.bias


@torch.no_grad()
def norm_features(
    norm: Norm,
    directions: Float[Tensor, "..."],
    bias: Float[Tensor, "..."] | None = None,
    name: str = "",
    heard: Listener | None = None,
) -> NormFeatures:
    """A dictionary's directions and bias at a norm's input, in raw units, heard by what comes after the norm.

    Without `heard`, reach is measured in the norm's own output: ‖gain ∘ c_i‖₂. `reach.py` has other listeners.
    """
    check_dictionary(directions, bias, norm.gain, f"the length of {name or 'the norm'}'s gain")
    bias = directions.new_zeros(len(norm.gain)) if bias is None else bias
    with_background = torch.cat([directions, bias[None]])
    if norm.kind == "layer":
        with_background = with_background - with_background.mean(1, keepdim=True)
    reach = (heard or heard_at_once)(norm.gain * with_background)
    return NormFeatures(
        name or norm.output_site, norm, with_background[:-1], with_background[-1], reach[:-1], reach[-1]
    )
