"""Ways to bound: what is taken at norms and MLPs, where the proof looks at the crosscoder, and where at the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crossproof.proof.units.accounts import Kind


@dataclass(frozen=True)
class Way:
    name: str
    about: str
    account: Kind
    """What features make of an MLP's neurons."""
    norms: Literal["lipschitz", "ball"]
    by_norms: bool = False
    """Whether what neurons miss is added up norm by norm, as in the paper, or read out as well as can be."""
    decoded: bool = True
    """Whether each site's decoded point is gone back to."""
    read: Literal["nowhere", "last", "everywhere"] = "nowhere"
    """At which sites the proof looks at what the model has there, which takes a forward pass."""


PAPER = Way("paper", "dominant features, sums of norms, Lipschitz constants", "dominant", "lipschitz", by_norms=True)
BALLS = Way("balls", "as the paper, with norms as balls and the best readout", "dominant", "ball")
MASSES = Way("masses", "masses instead of dominant features", "masses", "ball")
UNITS_RUN = Way("units run", "each unit run at the decoded point: no interaction", "exact", "ball")
MODEL_RUN = Way("model run", "the model run from the first decoded point on", "exact", "ball", decoded=False)
LAST_READ = Way("last site read", "the last site read: the crosscoder's error alone", "exact", "ball", read="last")
EACH_READ = Way(
    "each site read, paper", "each unit by itself", "dominant", "lipschitz", by_norms=True, read="everywhere"
)
EACH_READ_BETTER = Way("each site read, masses", "each unit by itself", "masses", "ball", read="everywhere")

WAYS = (PAPER, BALLS, MASSES, UNITS_RUN, MODEL_RUN, LAST_READ)
"""From the paper's to those that look at the model itself."""
EACH = (EACH_READ, EACH_READ_BETTER)
WITH_WATERFALL = (PAPER, BALLS, MASSES)
