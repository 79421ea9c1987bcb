"""What is true of the planted model, as data: its features, what fires with what, its neurons and its pairs.

Nothing here is measured. `planted_gadgets.py` writes the tables down, `planted_build.py` turns them into weights, and
the tests check the one against the other by brute force.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.errors import UnknownSite

Kind = Literal[
    "conjunction", "triple", "minimum", "splitting", "exclusive or", "inhibition", "damping", "sum", "offset", "private"
]
PairKind = Kind | Literal["companions"]

SIGNS: dict[Kind, int] = {
    "conjunction": +1,
    "triple": +1,
    "minimum": +1,
    "splitting": +1,
    "exclusive or": -1,
    "inhibition": -1,
    "damping": -1,
    "sum": 0,
    "offset": 0,
    "private": 0,
}
"""What a kind of gadget does to a pair it reads: more than the two alone (+1), less (-1), or exactly both (0)."""

_ALIASES = {
    "hook_embed": "blocks.0.hook_resid_pre",
    "blocks.0.hook_mlp_in": "blocks.0.hook_resid_pre",
    "blocks.1.hook_resid_pre": "blocks.0.hook_resid_post",
    "blocks.1.hook_mlp_in": "blocks.0.hook_resid_post",
}
"""With neither attention nor norms, several hooks see the same vector: the name its decoder is kept under."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Neuron(_Data):
    """relu(bias + Σ reads[feature] · strength), added `writes` times to the gadget's output."""

    reads: dict[str, float]
    bias: float
    writes: float


class Gadget(_Data):
    """A few neurons that compute one output from one, two or three features, and write it to one direction."""

    name: str
    kind: Kind
    block: int
    neurons: tuple[Neuron, ...]
    writes: str
    """The direction it writes to: one of its own, named as the gadget is, or (private) that of the feature it reads."""

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for neuron in self.neurons for name in neuron.reads))

    @property
    def affine(self) -> bool:
        """Affine wherever strengths can be, so its output needs no feature: it belongs to those of what it reads."""
        return SIGNS[self.kind] == 0


class Cluster(_Data):
    """Features drawn together, independently of all others: exactly one pattern, or nothing with what is left."""

    members: tuple[str, ...]
    patterns: tuple[tuple[tuple[str, ...], float], ...]
    """Which members fire, and how probable that is."""
    equal_strengths: bool = False

    def probability(self, *names: str) -> float:
        """That all of these members fire."""
        return math.fsum(p for active, p in self.patterns if set(names) <= set(active))


class Feature(_Data):
    """A true feature: a member of a token's embedding, or the output of a gadget that is not affine."""

    name: str
    gadget: str | None
    """The gadget whose output it is; None for a feature of the embedding."""
    block: int | None
    """The block that writes it first; None for a feature of the embedding."""
    probability: float | None
    """Declared probability of firing; None for outputs, where it follows from what they read."""
    frequency: float
    """The share of the vocabulary in which it fires."""
    directions: dict[str, tuple[float, ...]]
    """What one unit of strength adds to the activation at each site: all zeros before the block that writes it."""


class Pair(_Data):
    """Two features that share neurons of one gadget, or that fire together and share none (companions)."""

    i: int
    j: int
    names: tuple[str, str]
    kind: PairKind
    gadget: str | None
    block: int | None
    """The block whose MLP reads both; None for companions."""
    neurons: tuple[int, ...]
    """The neurons of that block to which both contribute."""
    interacts: bool
    sign: int
    """Of the second difference along the gadget's output: +1 synergy, -1 antagonism, 0 none."""
    requires: tuple[str, ...]
    """What else must be active for the two to interact at a token."""
    seen_together: bool
    together: float
    """The share of the vocabulary in which both fire."""

    @property
    def potential(self) -> bool:
        """Interacts, but no token ever shows it."""
        return self.interacts and not self.seen_together


class GroundTruth(_Data):
    """Everything known about a planted model. Serialise with `model_dump_json`; per-token codes are on the model."""

    version: Literal[1] = 1
    seed: int
    d_model: int
    vocabulary: int
    weakest: float
    strongest: float
    """A feature of the embedding that fires has a strength drawn evenly between these two."""
    sites: tuple[str, ...]
    """Sites with a true decoder; `directions` also takes the other names of the residual stream."""
    decoder_bias: dict[str, tuple[float, ...]]
    features: tuple[Feature, ...]
    clusters: tuple[Cluster, ...]
    gadgets: tuple[Gadget, ...]
    pairs: tuple[Pair, ...]
    outcomes: tuple[str, ...]
    """What the logits are about, in their order."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    def index(self, name: str) -> int:
        return self.names.index(name)

    def site_index(self, site: str) -> int:
        """Where in `sites` a hook's decoder is kept, under whichever of its names."""
        kept = _ALIASES.get(site, site)
        if kept not in self.sites:
            known = (*self.sites, *_ALIASES)
            raise UnknownSite(f"no true decoder at {site!r}; there is one at {', '.join(known)}")
        return self.sites.index(kept)

    def directions(self, site: str) -> Float[Tensor, "feature d_model"]:
        """The true decoder d_i^v at a site, float64."""
        site = self.sites[self.site_index(site)]
        return torch.tensor([feature.directions[site] for feature in self.features], dtype=torch.float64)

    def bias(self, site: str) -> Float[Tensor, " d_model"]:
        """The true decoder bias b^v at a site, float64: what the activation is where no feature fires."""
        return torch.tensor(self.decoder_bias[self.sites[self.site_index(site)]], dtype=torch.float64)

    def interacting(self, block: int) -> set[tuple[int, int]]:
        """The pairs, lower index first, that interact in one block's MLP. All other pairs do not."""
        return {(pair.i, pair.j) for pair in self.pairs if pair.interacts and pair.block == block}

    def end_to_end(self) -> set[tuple[int, int]]:
        """The pairs of embedding features whose joint removal from a token can matter more, or less, than the sum.

        An output stands here for the features it was computed from. Where a later gadget interacts, so does all that
        it reads on one side with all on the other.
        """
        roots = {feature.name: {feature.name} for feature in self.features}
        for gadget in self.gadgets:
            if not gadget.affine:
                roots[gadget.name] = set().union(*(roots[name] for name in gadget.reads))
        found = set()
        for pair in self.pairs:
            if pair.interacts:
                left, right = (roots[name] for name in pair.names)
                couples = ((self.index(a), self.index(b)) for a in left for b in right if a != b)
                found |= {(min(i, j), max(i, j)) for i, j in couples}
        return found
