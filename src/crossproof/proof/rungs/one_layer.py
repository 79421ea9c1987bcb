"""A model with one MLP as an explanation of its stream has it: what every feature does by itself, tabled."""

from __future__ import annotations

from dataclasses import dataclass

from crossproof.errors import UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.explanation import Heard, explain, heard
from crossproof.proof.network import Network
from crossproof.proof.rungs.windows import combined
from crossproof.proof.statement import Items, Witness


@dataclass(frozen=True)
class OneLayer:
    heard: Heard
    positive: Ball
    """[feature, neuron]: the positive part of what it says to the neuron."""
    negative: Ball
    to_logits: Ball
    """[neuron, token]: what a neuron says to the logits."""
    direct: Ball
    """[feature, token]: what it says to the logits itself."""
    alone: Ball | None
    """[feature, token]: what it says through the MLP if nothing else is there; None if that is in `direct`, because
    both have the same strength."""

    @classmethod
    def of(cls, network: Network, items: Items, witness: Witness) -> OneLayer:
        if network.n_mlps != 1:
            raise UnsupportedModel(f"this rung is for models with one MLP, not {network.n_mlps}: take `pairs` for more")
        said = heard(network, explain(network, items, witness))
        with part("features"):
            to_logits = network.mlp(0)[2] @ network["W_U"]
            table = said.tables[0]
            positive = table.relu()
            alone = positive @ to_logits
            if network.norm:
                return cls(said, positive, (-table).relu(), to_logits, said.direct, alone)
            return cls(said, positive, (-table).relu(), to_logits, said.direct + alone, None)

    def additive(self, contexts: slice, in_stream: Ball | None, at_neurons: Ball | None) -> Ball:
        """[context, token]: the logits if no feature met another at any neuron, the centre of all bounds."""
        codes = self.heard.codes[contexts]
        logits = combined(self.direct, codes, in_stream)
        return logits if self.alone is None else logits + combined(self.alone, codes, at_neurons)

    def between_tokens(self) -> Ball:
        """[target, token]: ‖(to_logits_target − to_logits_token)⁺‖, by explicit differences."""
        by_token = self.to_logits.mT
        louder = (by_token[:, None] - by_token[None]).relu()
        return (louder * louder).sum(2).sqrt().upper()
