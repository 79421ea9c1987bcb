"""Training on what the rung `masses` proves: a model and the offsets of its corrections, together.

The features are the tokens at a few neighbouring positions, as they are in the proof, so that what is trained down is
the very bound that is proved later, with its r corrections read out and the norm of the rest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn
from torch.nn import functional

from crossproof.proof.explanation import conjunctions, explain
from crossproof.proof.network import Network
from crossproof.proof.rungs.offsets import Maps, Offsets, bounds
from crossproof.proof.statement import Items
from crossproof.subject.zoo.window_model import WindowModel
from crossproof.subject.zoo.windows import Windows


class MassesObjective(nn.Module):
    """For models that sum their positions, without norms: the bounds of items, with offsets of their own."""

    def __init__(self, model: WindowModel, windows: Windows, joined: int, read: int) -> None:
        super().__init__()
        self.read, self.items = read, Items.of(windows)
        network = Network.of(model.state_dict())
        explanation = explain(network, self.items, conjunctions(network, self.items, joined))
        self.codes = explanation.codes
        features = torch.arange(len(explanation.atoms))[:, None]
        self.members = features if explanation.members is None else explanation.members
        config = model.config
        self.ends = self.items.count.cumsum(0)
        self.own = Offsets(len(self.members), config.neurons, config.mlps)

    def forward(self, model: WindowModel, batch: int, weight: float) -> Float[Tensor, ""]:
        """The mean of (1 − weight) · loss + weight · bound, on random windows."""
        chosen = torch.searchsorted(self.ends, torch.randint(self.items.windows, (batch,)), right=True)
        ids, target = self.items.contexts[self.items.context[chosen]].long(), self.items.target[chosen]
        loss = functional.cross_entropy(model.last_logits(ids), target)
        return loss if weight == 0 else (1 - weight) * loss + weight * self.bounds(model, chosen).mean()

    def bounds(self, model: WindowModel, chosen: Integer[Tensor, " item"]) -> Float[Tensor, " item"]:
        codes = self.codes[self.items.context[chosen]]
        members = self.members[codes]
        atoms = model.W_E.flatten(0, 1)
        features = (atoms[members.clamp(min=0)] * (members >= 0)[..., None]).sum(2)
        W_U = model.W_U - model.W_U.mean(1, keepdim=True)
        stream, parts = features.sum(1), list[Tensor]()
        for mlp in model.mlps:
            # biases, and what those before wrote by theirs, are said by the last family
            said: Tensor = mlp.b_in
            for before in model.mlps[: len(parts)]:
                said = said + before.b_out @ mlp.W_in
            its = features @ mlp.W_in
            parts.append(torch.cat([its[:, :-1], its[:, -1:] + said], 1))
            stream = stream + mlp.b_out
        maps = Maps([mlp.W_in for mlp in model.mlps], [mlp.W_out for mlp in model.mlps], W_U)
        return bounds(
            parts,
            stream @ W_U,
            maps,
            [offset[codes] for offset in self.own.offsets],
            [log.exp() for log in self.own.log_scales],
            self.read,
            self.items.target[chosen],
        )
