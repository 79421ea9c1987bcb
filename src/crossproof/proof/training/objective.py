"""A bound on the loss of each item that can be trained on: the certificate of exact mass, differentiable.

The model is explained by families of features, one vector each, that add up to the residual stream in front of the
first MLP. The additive explanation lets a neuron answer each family by itself. It overstates the neuron's output by

    δ = Σ relu(p_i) − relu(Σ p_i) = min(P⁺, P⁻),

with p_i what family i adds to the pre-activation (the bias belongs to the first family) and P⁺, P⁻ the sums of the
positive and of the negative ones. The certificate is the largest loss that any error 0 ≤ e ≤ δ of that sign could
cause, neuron by neuron and logit by logit. Where no neuron hears families of both signs, it is the loss itself.

Through a second block errors are carried as intervals over neurons: pre-activations move by what the first block's
errors send them, and outputs by no more than pre-activations do. Behind a norm, families count as they leave it: its
scale is known exactly in front of the first MLP, so its answer is linear in them; the bias is not scaled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import UnsupportedModel
from crossproof.subject.zoo.window_model import WindowMLP, WindowModel
from crossproof.subject.zoo.window_recipes import EPS


class Bounds(NamedTuple):
    """Logits of each item less their mean over the vocabulary: exact, and between what bounds they lie."""

    exact: Float[Tensor, "item vocab"]
    low: Float[Tensor, "item vocab"]
    high: Float[Tensor, "item vocab"]


class _Box(NamedTuple):
    """An error of a block's neurons, each between two numbers, and what it is multiplied by on its way out."""

    W_out: Float[Tensor, "neuron width"]
    low: Float[Tensor, "item neuron"]
    high: Float[Tensor, "item neuron"]

    def through(self, W: Float[Tensor, "width out"]) -> tuple[Float[Tensor, "item out"], Float[Tensor, "item out"]]:
        """Between what it moves the outputs of W."""
        K = self.W_out @ W
        up, down = K.relu(), (-K).relu()
        return self.low @ up - self.high @ down, self.high @ up - self.low @ down


def families(model: WindowModel, ids: Int[Tensor, "item pos"]) -> Float[Tensor, "item family width"]:
    """Vectors that add up to the residual stream after the mixing, the one that biases go with first.

    With attention: the last position's own vector, and what each position says through the head. With a sum: the last
    two positions together, and each of the others.
    """
    if model.config.mixing == "sum":
        x = model.embed(ids)
        return torch.cat([x[:, -2:].sum(1, keepdim=True), x[:, :-2]], 1)
    # There are far fewer vectors than windows hold: each is mapped once.
    position = torch.arange(ids.shape[1])
    seen = model.read(model.W_E)
    said = seen @ model.attn.W_V @ model.attn.W_O
    read, own = seen[position, ids], model.W_E[-1][ids[:, -1]]
    heard = model.attn.pattern(read[:, -1], read)[:, :, None] * said[position, ids]
    return torch.cat([own[:, None], heard], 1)


def logit_bounds(model: WindowModel, ids: Int[Tensor, "item pos"]) -> Bounds:
    if model.config.norm and model.config.mlps > 1:
        raise UnsupportedModel(
            "no certificate of this kind holds for two MLPs with norms: the second norm's scale is not known exactly; "
            "use one MLP or no norm"
        )
    parts = families(model, ids)
    mid = parts.sum(1)
    explained, boxes = mid, list[_Box]()
    for mlp in model.mlps:
        answers = _contributions(model, mlp, parts, explained).relu()
        mass = answers.sum(1)
        together = (model.read(explained) @ mlp.W_in + mlp.b_in).relu()
        low = -(mass - together).relu()  # never positive, also where rounding would make it so
        high = torch.zeros_like(low)
        for box in boxes:
            below, above = box.through(mlp.W_in)
            low, high = low + below, high + above
        boxes.append(_Box(mlp.W_out, low, high))
        explained = explained + mass @ mlp.W_out + mlp.b_out
        if mlp is not model.mlps[-1]:
            parts = _plus_bias(parts + answers @ mlp.W_out, mlp.b_out)
    W_U = model.W_U - model.W_U.mean(1, keepdim=True)
    exact = model.finish(mid)
    low = high = explained @ W_U
    for box in boxes:
        below, above = box.through(W_U)
        low, high = low + below, high + above
    return Bounds(exact - exact.mean(1, keepdim=True), low, high)


def certificate(bounds: Bounds, targets: Int[Tensor, " item"]) -> Float[Tensor, " item"]:
    """The loss of each item if its target has its lowest logit and all the others their highest."""
    target = targets[:, None]
    lowest = bounds.low.gather(1, target)
    return torch.logsumexp(bounds.high.scatter(1, target, lowest), 1) - lowest[:, 0]


def _contributions(
    model: WindowModel,
    mlp: WindowMLP,
    parts: Float[Tensor, "item family width"],
    mid: Float[Tensor, "item width"],
) -> Float[Tensor, "item family neuron"]:
    """What each family adds to the pre-activations."""
    if model.config.norm:
        scale = (mid.var(1, correction=0) + EPS).sqrt()
        parts = (parts - parts.mean(2, keepdim=True)) / scale[:, None, None]
    return _plus_bias(parts @ mlp.W_in, mlp.b_in)


def _plus_bias(
    parts: Float[Tensor, "item family size"], bias: Float[Tensor, " size"]
) -> Float[Tensor, "item family size"]:
    """In place: no copy of the largest tensors there are."""
    parts[:, 0] += bias
    return parts
