"""The loss from the last site, where logits z are linear: known up to a distance, or logit by logit (L10).

Let the true point be the centre plus e, ‖e‖ ≤ ε, and U_v the unembedding of token v.

**By differences.** logit_v − logit_y moves by e·(U_v − U_y) ≤ ε ‖U_v − U_y‖, so the loss is at most
log Σ_v exp(z_v − z_y + ε ‖U_v − U_y‖): each logit at its worst by itself.

**By the spread.** With p the prediction at the centre and c = Σ p_v U_v, the loss is
CE + e·(c − U_y) + log E_p exp(X), X_v = e·(U_v − c). E X = 0 and X ≤ εR, R = max ‖U_v − c‖, so E exp(X) ≤
1 + E X² ψ(εR), ψ(t) = (e^t − t − 1)/t² being increasing, and E X² ≤ ε² λ_max(Cov_p U). Together
CE + ε ‖c − U_y‖ + log(1 + ε² λ_max ψ(εR)): nearly right for small ε. λ_max is taken to be no more than the trace
Σ p_v ‖U_v − c‖², or than σ(U − mean)² max_v p_v, the covariance being U'(diag p − pp')U.

**By boxes.** log Σ_v exp(z_v − z_y + up_v) if logit_v − logit_y is at most up_v above that of the centre.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, concatenate, exact
from crossproof.proof.rungs.loss import loss_of_margins, of_target
from crossproof.proof.units.around import Around, distance, smallest, stretch, where
from crossproof.units import Unembedding


class BoundedLoss:
    def __init__(self, unit: Unembedding) -> None:
        self.W, self.b = exact(unit.W_U), exact(unit.b_U)
        self.U = self.W.mT

    @cached_property
    def _spread(self) -> Ball:
        """σ(U − mean)²."""
        mean = self.U.sum(0) / float(len(self.U))
        norm = stretch(self.U - mean)
        return norm * norm

    def around(self, x: Around, target: Int[Tensor, " row"]) -> tuple[Ball, Bool[Tensor, " row"]]:
        """The smaller of the two bounds of each row's loss, and whether its prediction is certainly right."""
        logits = x.centre @ self.W + self.b
        margins = logits - of_target(logits, target)
        apart = self._between(target)
        by_differences, right = loss_of_margins(
            Ball(margins.upper().mid) + x.radius._each(lambda r: r[:, None]) * apart, target
        )
        return smallest(by_differences, self.by_spread(x, logits, margins, target)), right

    def by_spread(self, x: Around, logits: Ball, margins: Ball, target: Tensor) -> Ball:
        total = logits.logsumexp(1)
        p = (logits - total._each(lambda its: its[:, None])).exp()
        mean = p @ self.U
        size = (self.U * self.U).sum(1) + (mean * mean).sum(1)._each(lambda its: its[:, None])
        away = (size - (mean @ self.W) * 2.0).upper().relu()
        furthest = away.amax(1).sqrt().upper()
        variance = smallest((p * away).sum(1), p.upper().amax(1) * self._spread)
        radius = x.radius
        tilt = distance(mean, self.U[target])
        more = (radius * radius * variance * _psi((radius * furthest).upper()) + 1.0).log()
        return (margins.logsumexp(1) + radius * tilt + more).upper()

    def in_box(self, centre: Ball, up: Ball, target: Tensor) -> tuple[Ball, Tensor]:
        """`up`, [row, token]: how far logit_v − logit_target may be above that of the centre."""
        logits = centre @ self.W + self.b
        return loss_of_margins(logits - of_target(logits, target) + up, target)

    def _between(self, target: Tensor) -> Ball:
        """‖U_v − U_target‖, [row, token]: by explicit differences, once for each token that is a target."""
        tokens, which = target.unique(return_inverse=True)
        each = concatenate([distance(self.U, self.U[y : y + 1])[None] for y in tokens.tolist()])
        return each[which]


def _psi(t: Ball) -> Ball:
    """(e^t − t − 1)/t² of exact numbers t ≥ 0, from above: it is at most e^t/2, which is close to it for small t."""
    grown = t.exp()
    plain = ((grown - t - 1.0) / (t * t)).upper()
    return smallest((grown * 0.5).upper(), where(t.mid > 1e-3, plain, Ball(torch.full_like(t.mid, torch.inf))))
