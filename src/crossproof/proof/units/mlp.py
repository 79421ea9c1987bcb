"""An MLP whose input a dictionary reconstructs: what it writes at the decoded point, and around it.

At the decoded point each neuron is what the features make of it one by one (`accounts.py`), give or take what they
miss, and what neurons miss moves the output by at most what `readout.py` says. Around that point, a vector of norm ε at
the input moves pre-activations by a vector of norm σ(W_in) ε at most, activations by Lip(φ) times that, and the output
by σ(W_out) times that.
"""

from __future__ import annotations

from functools import cached_property

from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, concatenate, exact
from crossproof.proof.units.accounts import ACCOUNTS, Account, Kind
from crossproof.proof.units.around import Around, stretch
from crossproof.proof.units.readout import Readout
from crossproof.proof.units.smooth import activated, lipschitz
from crossproof.units import MLP, GatedMLP

CHUNK = 2**21
"""Contributions held at a time."""


class BoundedMLP:
    """`directions` [feature, d_model] and `bias` [d_model] are the dictionary's at its input; none reach it if None."""

    def __init__(self, unit: MLP | GatedMLP, directions: Ball | None = None, bias: Ball | None = None) -> None:
        if isinstance(unit, GatedMLP):
            raise UnsupportedModel(
                f"{unit.output_site or 'this MLP'} is gated, φ(g) h: no rung bounds products of two neurons yet, whose "
                "slope has no Lipschitz constant. Take a model with plain MLPs, such as tinytales, or stop the proof "
                "at a site before it"
            )
        self.W_in, self.b_in, self.b_out = exact(unit.W_in), exact(unit.b_in), exact(unit.b_out)
        self.activation, self.lipschitz = unit.activation, lipschitz(unit.activation)
        self.readout = Readout(exact(unit.W_out))
        self._dictionary = None if directions is None or bias is None else (directions, bias)

    @cached_property
    def table(self) -> tuple[Ball, Ball]:
        """What each feature adds to each neuron at strength 1, and what is there without any."""
        assert self._dictionary is not None
        directions, bias = self._dictionary
        return directions @ self.W_in, bias.reshape(1, -1) @ self.W_in + self.b_in

    @cached_property
    def growth(self) -> Ball:
        """By what factor a distance grows, at most."""
        return (stretch(self.W_in) * self.lipschitz * self.readout.spectral_norm).upper()

    def decoded(
        self, features: Int[Tensor, "row slot"], strengths: Float[Tensor, "row slot"], kind: Kind, by_norms: bool
    ) -> Around:
        """What it writes where these features are active, strengths of 0 being nothing; with the paper's sum of norms,
        or the best of the norms."""
        found = []
        for account in self.accounts(features, strengths, kind):
            missed = (
                self.readout.sum_of_norms(account.missed)
                if by_norms
                else self.readout.best(account.missed, account.one_sided)
            )
            found.append(Around.of(account.known @ self.readout.W + self.b_out, missed))
        return Around(concatenate([its.centre for its in found]), concatenate([its.radius for its in found]))

    def accounts(self, features: Tensor, strengths: Tensor, kind: Kind) -> list[Account]:
        """Of some rows at a time."""
        A, beta = self.table
        rows = max(1, CHUNK // max(1, features.shape[1] * A.shape[1]))
        return [
            ACCOUNTS[kind](A[its] * exact(f)[:, :, None], beta, self.activation)
            for its, f in zip(features.split(rows), strengths.split(rows), strict=True)
        ]

    def run(self, x: Ball) -> Ball:
        """What it writes, at points that no dictionary describes."""
        return activated(x @ self.W_in + self.b_in, self.activation) @ self.readout.W + self.b_out

    def carry(self, radius: Ball) -> Ball:
        """How far its output moves where its input does by so much."""
        return (radius * self.growth).upper()
