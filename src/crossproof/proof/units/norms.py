"""LayerNorm and RMSNorm, of a point that is known up to a distance.

Both are √d Px / √(‖Px‖² + d eps) times a gain, plus a bias, P taking the mean out (LayerNorm) or nothing (RMSNorm). So
they point along Px, lengthened by one more coordinate √(d eps) that does not move: x̃ = (Px, √(d eps)), of length
R = √(‖Px‖² + d eps), becomes √d x̃ / R.

**L7.** If x moves by no more than ε < R, the direction of x̃ turns by at most an angle θ with sin θ = ε/R = s: that is
the half-angle of the cone around a ball. Directions within θ of a unit vector u lie within sin θ of cos θ u. Taking the
last coordinate away brings nothing apart, so the image is in the ball around √(1 − s²) LN(x) of radius √d s. Seen from
LN(x) itself it is within the chord, √d 2 sin(θ/2). And from anywhere, whatever ε: all images are within √d of 0.

**The Lipschitz way.** ‖u/‖u‖ − v/‖v‖‖ ≤ 2‖u − v‖ / ‖u‖ always, so images are within 2√d ε/R of LN(x). It grows with ε
without end, and is what a recursion by Lipschitz constants would take.

**L6.** ReLU is homogeneous: relu(W LN(x) + b) = relu(√d W Px + R b) / R for a norm without gain, so at a decoded point
the features' contributions stay additive under a norm, and R² = Σ_ij α_i α_j G_ij + d eps is k² look-ups in the
Gram matrix of the directions PD.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.units.around import Around, where
from crossproof.units import Norm


class BoundedNorm:
    def __init__(self, unit: Norm) -> None:
        self.gain, self.bias = exact(unit.gain), exact(unit.bias)
        self.width, self._takes_mean = len(unit.gain), unit.kind == "layer"
        self.largest_gain = self.gain.abs().amax(0)
        self.floor = exact(torch.tensor(unit.eps, dtype=torch.float64)) * float(self.width)
        self.root = exact(torch.tensor(float(self.width))).sqrt()

    def centred(self, x: Ball) -> Ball:
        """Px."""
        if not self._takes_mean:
            return x
        mean = x.sum(-1) / float(self.width)
        return x - mean._each(lambda its: its[..., None])

    def scale(self, x: Ball) -> Ball:
        """R."""
        centred = self.centred(x)
        return ((centred * centred).sum(-1) + self.floor).sqrt()

    def scale_of_codes(self, gram: Ball, features: Int[Tensor, "row slot"], strengths: Ball) -> Ball:
        """R at points Σ_i α_i d_i, from the Gram matrix of the centred directions (L6): k² look-ups a row."""
        among = gram[features[:, :, None], features[:, None, :]]
        squares = ((among * strengths[:, None, :]).sum(2) * strengths).sum(1)
        return (squares + self.floor).sqrt()

    def __call__(self, x: Ball) -> Ball:
        return self._gained(self._unit(x))

    def around(self, x: Around) -> Around:
        """L7's ball, the smallest there is: about a point closer to 0."""
        s = self._sine(x).minimum(1.0)
        cosine = (1.0 - s * s).relu().sqrt()
        return self._spread(self._unit(x.centre) * cosine._each(lambda its: its[..., None]), s)

    def about(self, x: Around) -> Around:
        """The same about what it makes of the centre: the chord, 2 sin(θ/2) = s √(2 / (1 + cos θ))."""
        s = self._sine(x)
        inside = s.minimum(1.0)
        cosine = (1.0 - inside * inside).relu().sqrt().lower().relu()
        chord = (inside * (2.0 / (cosine + 1.0)).sqrt()).upper()
        return self._spread(self._unit(x.centre), where(s.mid < 1, chord, Ball(torch.full_like(s.mid, 2.0))))

    def lipschitz(self, x: Around) -> Around:
        return self._spread(self._unit(x.centre), (self._sine(x) * 2.0).upper())

    def _sine(self, x: Around) -> Ball:
        """ε/R, rounded up: larger than it is, it is the sine of a larger ball's angle."""
        return (x.radius / self.scale(x.centre)).upper()

    def _unit(self, x: Ball) -> Ball:
        centred, scale = self.centred(x), self.scale(x)
        return centred / scale._each(lambda its: its[..., None]) * self.root

    def _gained(self, unit: Ball) -> Ball:
        return unit * self.gain + self.bias

    def _spread(self, unit: Ball, radius: Ball) -> Around:
        """From directions to outputs; `radius` in multiples of √d."""
        grown = (radius * self.root * self.largest_gain).upper()
        return Around.of(self._gained(unit), grown)
