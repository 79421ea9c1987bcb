"""How far corrections of neurons move what is read from them (L4), from best to worst.

Neuron n is off by δ_n and speaks W_n, a row of W. It is known that 0 ≤ δ ≤ c (`one_sided`), or |δ| ≤ c.

**Logit differences.** With W in logits, Σ_n δ_n (W_ny − W_nv) lies in [−Σ c_n (W_ny − W_nv)⁻, Σ c_n (W_ny − W_nv)⁺]:
the exact range if δ may be anything in the box. That is what subtracting δ adds to logit_v − logit_y.
**Logits.** The same for each logit by itself, after the mean of the unembedding over tokens was taken out (no loss
sees it); a difference of two ranges is wider than the range of the difference.
**Gram.** ‖Σ δ_n W_n‖² = Σ_nm δ_n δ_m W_n·W_m ≤ Σ_nm c_n c_m (W_n·W_m)⁺, since 0 ≤ δ_n δ_m ≤ c_n c_m; |W_n·W_m| where δ
has any sign.
**Spectral.** ‖δ W‖ ≤ σ(W) ‖c‖.
**Sum of norms** (the paper). ‖Σ δ_n W_n‖ ≤ Σ c_n ‖W_n‖.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.units.around import length, smallest, stretch


class Readout:
    """How far corrections c, [row, neuron], move Σ δ_n W_n: bounds of its norm, [row], exact numbers."""

    def __init__(self, W: Ball) -> None:
        """W: [neuron, width]."""
        self.W = W

    @cached_property
    def spectral_norm(self) -> Ball:
        return stretch(self.W)

    @cached_property
    def loudness(self) -> Ball:
        return length(self.W)

    @cached_property
    def _grams(self) -> tuple[Ball, Ball]:
        """What corrections of one sign, and of any sign, are weighed with."""
        gram = self.W @ self.W.mT
        return gram.upper().relu(), gram.abs().upper()

    def gram(self, c: Ball, one_sided: bool) -> Ball:
        weights = self._grams[0 if one_sided else 1]
        return ((c @ weights) * c).sum(-1).sqrt().upper()

    def spectral(self, c: Ball) -> Ball:
        return (length(c) * self.spectral_norm).upper()

    def sum_of_norms(self, c: Ball) -> Ball:
        return (c * self.loudness).sum(-1).upper()

    def best(self, c: Ball, one_sided: bool) -> Ball:
        """Of the norms. The sum of norms is never better than the Gram matrix."""
        return smallest(self.gram(c, one_sided), self.spectral(c))


def in_logit_differences(c: Ball, to_logits: Ball, target: Int[Tensor, " row"], one_sided: bool = True) -> Ball:
    """How far subtracting δ may raise logit_v − logit_target, [row, token]: upper ends."""
    found = []
    for y in target.unique().tolist():
        its = target == y
        apart = to_logits[:, y : y + 1] - to_logits
        found.append((its, c[its] @ (apart.upper().relu() if one_sided else apart.abs().upper())))
    mid = torch.empty(len(target), to_logits.shape[1], dtype=torch.float64)
    for its, raised in found:
        mid[its] = raised.upper().mid
    return Ball(mid)


def in_logits(c: Ball, to_logits: Ball, one_sided: bool = True) -> tuple[Ball, Ball]:
    """How far subtracting δ may lower and raise each logit, both ≥ 0, [row, token]; `to_logits` is centred here."""
    mean = to_logits.sum(1) / float(to_logits.shape[1])
    centred = to_logits - mean.reshape(-1, 1)
    if not one_sided:
        both = (c @ centred.abs().upper()).upper()
        return both, both
    return (c @ centred.upper().relu()).upper(), (c @ (-centred).upper().relu()).upper()
