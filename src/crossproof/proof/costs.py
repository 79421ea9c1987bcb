"""What a certificate in a dictionary's directions pays for: which pairs of them, and which neurons.

    truth  →  no part meets another at a neuron that is not read out (the centre)  →  the bound of `masses`

The last step is shared out. To windows by the slope of their bounds in the size ‖d‖ of what is left over, times it; to
neurons by d_n²/‖d‖; and at a neuron to pairs. What is left over there is the smaller mass, d_n = min(P⁺, P⁻), and each
part i on that side is taken off by the parts j of the other side, in proportion to what they say:

    cost_ij = Σ_windows slope × Σ_n d_n²/‖d‖ × m_in/d_n × M_jn/Σ_j M_jn

So a pair that costs much is one that would have to be told apart, or be one feature, to prove more. Midpoints in plain
float64: nothing here is proved, so nothing is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Integer
from torch import Tensor
from torch.nn import functional as F

from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.progress import progress
from crossproof.proof.network import Network
from crossproof.proof.prove import Proof
from crossproof.proof.rungs.layers import BENT, Layers
from crossproof.proof.rungs.masses import read_out
from crossproof.proof.rungs.parts import DICTIONARY
from crossproof.proof.rungs.windows import windows
from crossproof.proof.statement import Items, Witness
from crossproof.proof.waterfall import slopes

MOST = 4_000
"""Pairs are told apart in all windows that cost something, or in so many that are drawn."""
AT_ONCE = 32
"""Windows, each with a table [part, part]; for what rests are made of, features."""
_TINY = 1e-300


@dataclass(frozen=True, eq=False)
class Costs:
    """In nats, as means over the data."""

    centre: float
    bound: float
    pairs: Float64[Tensor, "smaller larger"]
    """Of each pair of directions, the one whose mass is left over first; all of it is bound − centre. The last one is
    what the dictionary leaves: the error atoms of all features, and the neurons' biases."""
    neurons: Float64[Tensor, " neuron"]
    """The same shared out to neurons."""
    drawn: int | None
    """How many windows pairs were told apart in, drawn in proportion to what they cost; None if that was all of them.
    What neurons cost, and all together, is of all windows."""

    @property
    def directions(self) -> Float64[Tensor, " direction"]:
        """What each costs: half of every pair that it is in."""
        return (self.pairs.sum(0) + self.pairs.sum(1)) / 2

    @property
    def left(self) -> float:
        """What pairs cost in which something is not of the dictionary."""
        return float(self.pairs[-1].sum() + self.pairs[:-1, -1].sum())

    def top(self, pairs: int, known: bool = False) -> list[tuple[int, int, float]]:
        """Those that cost most, and what they cost whichever of them is the smaller; none that costs nothing. `known`:
        of two directions alone."""
        table = self.pairs[:-1, :-1] if known else self.pairs
        worst = (table.triu() + table.tril(-1).mT).flatten().topk(min(pairs, table.numel()))
        each = zip(worst.indices.tolist(), worst.values.tolist(), strict=True)
        return [(*divmod(index, len(table)), cost) for index, cost in each if cost > 0]


def costs(network: Network, items: Items, proof: Proof, seed: int = 0) -> Costs:
    """Of a proof by the rung `masses` in the directions of a dictionary."""
    _check(network, proof)
    layers = Layers.of(network, items, proof.witness, uses=BENT)
    paid, neurons, centre = _paid(layers, items, proof.witness)
    share = max(proof.proved.loss - centre, 0.0) / max(float(paid.sum()), _TINY)
    weight, drawn = _weights(paid * share, seed)
    pairs = _pairs(network, layers, proof.witness, weight)
    return Costs(centre, proof.proved.loss, pairs, neurons * share, drawn)


def _check(network: Network, proof: Proof) -> None:
    if network.n_mlps != 1:
        raise UnsupportedModel(f"costs are of models with one MLP, and this one has {network.n_mlps}")
    bent = any(name.rsplit("_", 1)[0] in set(BENT) - set(DICTIONARY) for name in proof.witness)
    if proof.how.rung != "masses" or DICTIONARY[0] not in proof.witness or bent:
        raise MismatchError(
            f"{proof.how}: costs are of proofs by masses in the directions of a dictionary, without offsets and scales"
        )


def _paid(
    layers: Layers, items: Items, witness: Witness
) -> tuple[Float64[Tensor, " context"], Float64[Tensor, " neuron"], float]:
    """The slope times the size of each window, the same shared out to neurons, and the loss with no size at all."""
    to_logits, between, read = layers.mlps[0].to_logits, layers.between(0).mid, witness["read"].long()
    neurons, centre, paid = torch.zeros(len(to_logits), dtype=torch.float64), 0.0, []
    with progress("what windows cost", len(items.contexts), "windows") as bar:
        for chunk in windows(items):
            in_stream, at_neurons = layers.heard.strengths(chunk.contexts)
            balls = layers.additive(chunk, in_stream, at_neurons), layers.left(0, chunk, at_neurons)
            logits, left = (ball.mid for ball in read_out(*balls, to_logits, read[chunk.contexts]))
            size, its = left.norm(dim=1), logits[chunk.of_item]
            slope = slopes(its, size[chunk.of_item], between[chunk.target], chunk.target)
            count = items.count[items.of_contexts(chunk.contexts.start, chunk.contexts.stop)].double() / items.windows
            cost = size * torch.zeros_like(size).index_add_(0, chunk.of_item, slope * count)
            neurons += cost @ (left / size[:, None].clamp(min=_TINY)).square()
            centre += float(F.cross_entropy(its, chunk.target, reduction="none") @ count)
            paid.append(cost)
            bar(len(size))
    return torch.cat(paid), neurons, centre


def _weights(paid: Float64[Tensor, " context"], seed: int) -> tuple[Float64[Tensor, " context"], int | None]:
    """What each window stands for, and how many were drawn. Drawn by what they cost, all stand for the same."""
    if int((paid > 0).sum()) <= MOST:
        return paid, None
    drawn = torch.multinomial(paid, MOST, replacement=True, generator=torch.Generator().manual_seed(seed))
    return torch.bincount(drawn, minlength=len(paid)) * (paid.sum() / MOST), MOST


def _pairs(
    network: Network, layers: Layers, witness: Witness, weight: Float64[Tensor, " context"]
) -> Float64[Tensor, "smaller larger"]:
    parts, read = _Parts.of(network, layers, witness), witness["read"].long()
    several = len(parts.said) + 1
    pairs = torch.zeros(several * several, dtype=torch.float64)
    chosen = weight.nonzero()[:, 0]
    with progress("what pairs cost", len(chosen), "windows") as bar:
        for some in chosen.split(AT_ONCE):
            who, said = parts.at(layers, some)
            cost = weight[some, None, None] * _shares(said, read[some])
            pairs.index_add_(0, (who[:, :, None] * several + who[:, None]).flatten(), cost.flatten())
            bar(len(some))
    return pairs.unflatten(0, (several, several))


@dataclass(frozen=True)
class _Parts:
    """What features say to neurons, taken apart as in `rungs/parts.py`."""

    said: Float64[Tensor, "direction neuron"]
    active: Integer[Tensor, "feature slot"]
    strength: Float64[Tensor, "feature slot"]
    rest: Float64[Tensor, "feature neuron"]

    @classmethod
    def of(cls, network: Network, layers: Layers, witness: Witness) -> _Parts:
        directions, active, strength = (witness[name] for name in DICTIONARY)
        said = directions.double() @ network.mlp(0)[0].mid
        active, strength = active.long(), strength.double()
        both = zip(active.split(AT_ONCE), strength.split(AT_ONCE), strict=True)
        known = [(said[where] * much[:, :, None]).sum(1) for where, much in both]
        return cls(said, active, strength, layers.heard.tables[0].mid - torch.cat(known))

    def at(
        self, layers: Layers, contexts: Integer[Tensor, " context"]
    ) -> tuple[Integer[Tensor, "context part"], Float64[Tensor, "context part neuron"]]:
        """Which directions the parts are in, and what they say to each neuron."""
        codes, strengths = layers.heard.codes[contexts], layers.heard.strengths(contexts)[1]
        who = F.pad(self.active[codes], (0, 1), value=len(self.said))
        along = self.said[self.active[codes]] * self.strength[codes][..., None]
        said = torch.cat([along, self.rest[codes][:, :, None]], 2)
        if strengths is not None:
            said = said * strengths.mid[:, :, None, None]
        return who.flatten(1), said.flatten(1, 2)


def _shares(
    said: Float64[Tensor, "context part neuron"], read: Integer[Tensor, "context read"]
) -> Float64[Tensor, "context smaller larger"]:
    """Of all that is left over in a window: Σ_n d_n²/‖d‖² × m_in/d_n × M_jn/Σ_j M_jn."""
    positive, negative = said.relu().sum(1), (-said).relu().sum(1)
    left, most = torch.minimum(positive, negative).scatter(1, read, 0.0), torch.maximum(positive, negative)
    size = left.norm(dim=1, keepdim=True).clamp(min=_TINY)
    turned = said * torch.where(positive <= negative, 1.0, -1.0)[:, None]
    smaller, larger = turned.relu() / size[:, None], (-turned).relu() / most.clamp(min=_TINY)[:, None]
    return (smaller * (left / size)[:, None]) @ larger.mT
