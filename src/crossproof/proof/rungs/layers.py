"""A model's MLPs as an explanation of its stream has them: what every feature does by itself, tabled.

Neuron by neuron relu(Σp) = Σ relu(p) − δ with δ = min(P⁺, P⁻) (L1). The witness may take a part of δ that can be
foretold: with any table t [feature, neuron] and T its sum over the features of a window

    relu(Σp) = Σ (relu(p) − t) − d,    d = δ − T = min(Σ (relu(p) − t), Σ (relu(−p) − t)),

which is the same look-ups and sums. `positive` and `negative` are the two tables. A feature's *answer*, positive
times W_out, is part of what it says to everything after the MLP; d is what no feature says by itself. Of d a rung
reads out what it likes and bounds the rest by its norm; `between` says what a unit of norm can do to the difference
of two logits, directly and through later MLPs:

    |Σ_n d_n g_n| ≤ ‖d/s‖ ‖s g‖ with any scales s > 0 of the witness (the tables are divided by s, W_out is multiplied),
    a later neuron's pre-activation moves by at most ‖d/s‖ ‖s K_n‖, K = W_out W_in', and its output no further.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.explanation import Heard, explain, heard
from crossproof.proof.network import Network
from crossproof.proof.rungs.parts import DICTIONARY, masses_of
from crossproof.proof.rungs.windows import Windows, combined
from crossproof.proof.statement import Items, Witness

BENT = (*DICTIONARY, "offset", "scale")
"""What features of the first MLP are made of (`parts.py`), and `offset_L` [feature, neuron] and `scale_L` [neuron] of
MLP L."""


@dataclass(frozen=True)
class Layer:
    """One MLP. All tables are in the unit that `scale` gives each neuron."""

    positive: Ball
    """[feature, neuron]: the positive part of what it says to the neuron, less the offset."""
    negative: Ball
    to_logits: Ball
    """[neuron, token]."""
    onward: tuple[Ball, ...]
    """To each later MLP, [neuron, neuron]."""
    scale: Ball | None
    """What is multiplied into W_out, and so into `to_logits` and `onward`."""
    one_sided: bool
    """Whether d is never negative: without an offset."""


@dataclass(frozen=True)
class Layers:
    heard: Heard
    mlps: tuple[Layer, ...]
    direct: Ball
    """[feature, token]: what it says to the logits in the stream."""
    alone: Ball | None
    """[feature, token]: what its answers say to them; None if that is in `direct`, as both have the same strength."""

    @classmethod
    def of(cls, network: Network, items: Items, witness: Witness, uses: tuple[str, ...] = ()) -> Layers:
        """With what of the witness a rung `uses`: DICTIONARY, or BENT if it knows d itself."""
        if network.n_mlps == 0:
            raise UnsupportedModel("the model has no MLP in which features could meet: take `brute` or `groups`")
        said = heard(network, explain(network, items, witness))
        taken = {name: value for name, value in witness.items() if name.rsplit("_", 1)[0] in uses}
        with part("features"):
            mlps: list[Layer] = []
            tables, alone = list(said.tables), None
            for index in range(network.n_mlps):
                layer = _layer(network, index, tables[index], taken)
                mlps.append(layer)
                for later, W in enumerate(layer.onward, index + 1):
                    tables[later] = tables[later] + layer.positive @ W
                answers = layer.positive @ layer.to_logits
                alone = answers if alone is None else alone + answers
            assert alone is not None
            if network.norm:
                return cls(said, tuple(mlps), said.direct, alone)
            return cls(said, tuple(mlps), said.direct + alone, None)

    def additive(self, chunk: Windows, in_stream: Ball | None, at_neurons: Ball | None) -> Ball:
        """[context, token]: the logits that features say by themselves, the centre of all bounds."""
        codes = self.heard.codes[chunk.contexts]
        logits = combined(self.direct, codes, in_stream)
        return logits if self.alone is None else logits + combined(self.alone, codes, at_neurons)

    def left(self, index: int, chunk: Windows, at_neurons: Ball | None) -> Ball:
        """[context, neuron]: d of an MLP, if those before it were as their features say."""
        codes, layer = self.heard.codes[chunk.contexts], self.mlps[index]
        positive, negative = (combined(table, codes, at_neurons) for table in (layer.positive, layer.negative))
        return positive.minimum(negative)

    def between(self, index: int) -> Ball:
        """[target, token]: how much logit_token − logit_target can rise for each unit of the norm of d at an MLP."""
        with part("features"):
            size = _apart(self.mlps[index].to_logits, self.mlps[index].one_sided)
            reach: list[Ball] = []
            for later, W in enumerate(self.mlps[index].onward, index + 1):
                moved = (W * W).sum(0).sqrt()
                for earlier, through in zip(range(index + 1, later), reach, strict=True):
                    moved = moved + (through[None] @ self.mlps[earlier].onward[later - earlier - 1].abs())[0]
                scale = self.mlps[later].scale
                # what goes on from there is in the unit of its neurons
                moved = moved if scale is None else moved / scale
                reach.append(moved)
                by_token = self.mlps[later].to_logits.mT
                size = size + ((by_token[:, None] - by_token[None]).abs() * moved).sum(2)
            return size.upper()


def _layer(network: Network, index: int, table: Ball, witness: Witness) -> Layer:
    W_in, _, W_out, _ = network.mlp(index)
    positive, negative = masses_of(table, W_in, witness if index == 0 else {})
    offset, scales = witness.get(f"offset_{index}"), witness.get(f"scale_{index}")
    scale = None
    if offset is not None:
        positive, negative = positive - exact(offset), negative - exact(offset)
    if scales is not None:
        _check_positive(f"scale_{index}", scales)
        scale = exact(scales)
        positive, negative, W_out = positive / scale, negative / scale, W_out * scale[:, None]
    onward = tuple(W_out @ network.mlp(later)[0] for later in range(index + 1, network.n_mlps))
    return Layer(positive, negative, W_out @ network["W_U"], onward, scale, offset is None)


def _apart(to_logits: Ball, one_sided: bool) -> Ball:
    """[target, token]: ‖to_logits_target − to_logits_token‖, of its positive part if d has one sign.

    By explicit differences.
    """
    by_token = to_logits.mT
    louder = by_token[:, None] - by_token[None]
    if one_sided:
        louder = louder.relu()
    return (louder * louder).sum(2).sqrt()


def _check_positive(name: str, scale: Tensor) -> None:
    count(scale.numel())
    if not scale.is_meta and not bool((scale > 0).all()):
        raise MismatchError(f"{name}: the witness gives a neuron a scale that is not positive")
