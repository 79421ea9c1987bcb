"""The planted model as a module: an embedding, two residual ReLU blocks without norms, an unembedding, and hooks.

Hooks carry TransformerLens names, so `run_with_cache` and `run_with_hooks` work as on any of its models. There is no
attention: a position's logits depend on its own token alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from crossproof.subject.zoo.planted_build import Plan, Weights
from crossproof.subject.zoo.planted_truth import GroundTruth

if TYPE_CHECKING:
    from crossproof.units import MLP, Unembedding


@dataclass(frozen=True)
class PlantedConfig:
    """The part of a TransformerLens config that makes sense here."""

    model_name: str
    n_layers: int
    d_model: int
    d_mlp: tuple[int, ...]
    """Blocks have as many neurons as their gadgets need."""
    d_vocab: int
    d_vocab_out: int
    act_fn: str = "relu"
    attn_only: bool = False
    normalization_type: None = None


class PlantedMLP(nn.Module):
    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.W_in = nn.Parameter(weights.W_in.to(dtype, copy=True))
        self.b_in = nn.Parameter(weights.b_in.to(dtype, copy=True))
        self.W_out = nn.Parameter(weights.W_out.to(dtype, copy=True))
        self.b_out = nn.Parameter(weights.b_out.to(dtype, copy=True))
        self.hook_pre = HookPoint()
        self.hook_post = HookPoint()

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        pre = self.hook_pre(x @ self.W_in + self.b_in)
        return cast(Tensor, self.hook_post(pre.relu()) @ self.W_out + self.b_out)


class PlantedBlock(nn.Module):
    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        super().__init__()
        self.mlp = PlantedMLP(weights, dtype)
        self.hook_resid_pre = HookPoint()
        self.hook_mlp_in = HookPoint()
        """What W_in multiplies: writing here reaches the MLP and not the skip path."""
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        x = self.hook_resid_pre(x)
        return cast(Tensor, self.hook_resid_post(x + self.hook_mlp_out(self.mlp(self.hook_mlp_in(x)))))


class PlantedModel(HookedRootModule):  # type: ignore[misc]  # transformer_lens is not typed
    """Tokens in, logits over outcomes out. `truth` says what is planted, `codes` how strongly per token id."""

    def __init__(self, plan: Plan, dtype: torch.dtype) -> None:
        super().__init__()
        self.truth: GroundTruth = plan.truth
        self.cfg = PlantedConfig(
            model_name="planted",
            n_layers=len(plan.blocks),
            d_model=plan.truth.d_model,
            d_mlp=tuple(len(weights.b_in) for weights in plan.blocks),
            d_vocab=plan.truth.vocabulary,
            d_vocab_out=len(plan.truth.outcomes),
        )
        self.W_E = nn.Parameter(plan.W_E.to(dtype, copy=True))
        self.hook_embed = HookPoint()
        self.blocks = nn.ModuleList(PlantedBlock(weights, dtype) for weights in plan.blocks)
        self.W_U = nn.Parameter(plan.W_U.to(dtype, copy=True))
        self.b_U = nn.Parameter(plan.b_U.to(dtype, copy=True))
        self.codes: Tensor
        self.targets: Tensor
        self._decoders: Tensor
        self._biases: Tensor
        self.register_buffer("codes", plan.codes.to(dtype, copy=True), persistent=False)
        self.register_buffer("targets", plan.targets.clone(), persistent=False)
        decoders = torch.stack([plan.truth.directions(site) for site in plan.truth.sites])
        biases = torch.stack([plan.truth.bias(site) for site in plan.truth.sites])
        self.register_buffer("_decoders", decoders.to(dtype), persistent=False)
        self.register_buffer("_biases", biases.to(dtype), persistent=False)
        self.setup()

    def forward(self, ids: Int[Tensor, "text pos"]) -> Float[Tensor, "text pos outcome"]:
        x = self.hook_embed(self.W_E[ids])
        for block in self.blocks:
            x = block(x)
        return cast(Tensor, x @ self.W_U + self.b_U)

    def directions(self, site: str) -> Float[Tensor, "feature d_model"]:
        """The true decoder at a site, in the model's dtype and on its device."""
        return self._decoders[self.truth.site_index(site)]

    def decoder_bias(self, site: str) -> Float[Tensor, " d_model"]:
        return self._biases[self.truth.site_index(site)]

    def units(self) -> list[MLP | Unembedding]:
        """The blocks' weights in the convention of `units.py`."""
        from crossproof.units import LOGITS, MLP, Unembedding

        mlps = [
            MLP(
                layer=layer,
                input_site=f"blocks.{layer}.hook_mlp_in",
                output_site=f"blocks.{layer}.hook_mlp_out",
                W_in=block.mlp.W_in.detach(),
                b_in=block.mlp.b_in.detach(),
                activation="relu",
                W_out=block.mlp.W_out.detach(),
                b_out=block.mlp.b_out.detach(),
            )
            for layer, block in enumerate(cast("list[PlantedBlock]", self.blocks))
        ]
        last = f"blocks.{len(mlps) - 1}.hook_resid_post"
        return [*mlps, Unembedding(input_site=last, output_site=LOGITS, W_U=self.W_U.detach(), b_U=self.b_U.detach())]
