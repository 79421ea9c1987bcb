"""Brute force: the model itself on every window. Exact but for rounding, and the most expensive."""

from __future__ import annotations

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.explanation import explain, heard
from crossproof.proof.network import Network, forward
from crossproof.proof.rungs.windows import Windows, bound_margins, combined, lifted
from crossproof.proof.statement import Bounds, Items, Witness


def cached(network: Network, items: Items, witness: Witness) -> Bounds:
    """The cleverest way we know: each different window once, from tables of what each feature of the explanation says
    to each neuron and each logit, and what each neuron says to those after it."""
    items.find()
    said = heard(network, explain(network, items, witness))
    with part("features"):
        outs = [network.mlp(mlp)[2] for mlp in range(network.n_mlps)]
        to_logits = [W_out @ network["W_U"] for W_out in outs]
        between = [[outs[before] @ network.mlp(mlp)[0] for before in range(mlp)] for mlp in range(network.n_mlps)]

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            codes = said.codes[chunk.contexts]
            in_stream, at_neurons = said.strengths(chunk.contexts)
            logits = combined(said.direct, codes, in_stream)
            hidden: list[Ball] = []
            for table, reads, speaks in zip(said.tables, between, to_logits, strict=True):
                pre = combined(table, codes, at_neurons)
                for before, W in zip(hidden, reads, strict=True):
                    pre = pre + before @ W
                hidden.append(pre.relu())
                logits = logits + hidden[-1] @ speaks
        return lifted(chunk, logits)

    return bound_margins(items, margins)


def naive(network: Network, items: Items, witness: Witness) -> Bounds:
    """The model as it is on each different window: at every step, the matrices times the vectors. No witness."""
    items.find()

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            tokens = items.contexts[chunk.contexts].long().unbind(1)
            logits = forward(network, [network["W_E"][position][its] for position, its in enumerate(tokens)])
        return lifted(chunk, logits)

    return bound_margins(items, margins)
