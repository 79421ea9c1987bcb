"""Rung U, the end of the ladder: one number for each feature.

What is left over of a neuron is no more than either mass (L1), and the norm of a sum is no more than the sum of norms:

    ‖d‖ ≤ min(Σ_i α_i ‖P⁺(i)‖, Σ_i α_i ‖P⁻(i)‖),   P± of feature i: relu(±p_i), or the sum of its parts' (`parts.py`)

So a window costs its logits and two look-ups a feature, and nothing is known of which neurons features meet at.
"""

from __future__ import annotations

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import part
from crossproof.proof.network import Network
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.rungs.parts import DICTIONARY
from crossproof.proof.rungs.windows import Windows, bound_margins, combined, lifted
from crossproof.proof.statement import Bounds, Items, Witness


def verify(network: Network, items: Items, witness: Witness) -> Bounds:
    items.find()
    layers = Layers.of(network, items, witness, uses=DICTIONARY)
    between = [layers.between(index) for index in range(len(layers.mlps))]
    with part("features"):
        loud = [[_norms(side) for side in (layer.positive, layer.negative)] for layer in layers.mlps]

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            in_stream, at_neurons = layers.heard.strengths(chunk.contexts)
            logits = layers.additive(chunk, in_stream, at_neurons)
            codes = layers.heard.codes[chunk.contexts]
            sizes = []
            for norms in loud:
                positive, negative = (combined(side, codes, at_neurons)[:, 0] for side in norms)
                sizes.append(positive.minimum(negative).upper())
        return lifted(chunk, logits, sizes, between)

    return bound_margins(items, margins)


def _norms(table: Ball) -> Ball:
    """[feature, 1]"""
    return (table * table).sum(1).sqrt()[:, None]
