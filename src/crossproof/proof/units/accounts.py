"""What features make of a neuron, one by one, and how far that may be from what the neuron does.

A neuron hears z = β + Σ_i p_i, p_i from feature i and β from no feature. An account says φ(z) = known + r from what
each feature does alone, with a bound for r.

**dominant** (the paper). known = φ(β + p_j), p_j the largest in magnitude. |r| ≤ Lip(φ) Σ_{i≠j} |p_i|: φ moves by no
more than its Lipschitz constant times what is left out.

**masses** (L1). ReLU: known = P⁺ and r = −min(P⁺, P⁻) exactly, P± being the positive and the negative part of all that
is heard, β among it: relu(P⁺ − P⁻) = P⁺ − min(P⁺, P⁻).

**pairs** (L2). ReLU: known = P⁺ and 0 ≤ −r ≤ Σ_ij min(p_i, n_j) over the positive p_i and the negative −n_j, β among
them. Say P⁺ ≤ P⁻. Then Σ_j min(p_i, n_j) ≥ min(p_i, P⁻) = p_i for each i, and these add up to P⁺.

**pairs, smooth** (L5). known = φ(β) + Σ_i [φ(β + p_i) − φ(β)], |r| ≤ Σ_{i<j} min(c |p_i p_j|, o min(|p_i|, |p_j|)),
with |φ''| ≤ c, and o by how much φ' swings. For the mixed difference at any point x,
D = φ(x+a+b) − φ(x+a) − φ(x+b) + φ(x) = ∫∫ φ'' over a rectangle of area |ab| = b (φ'(ξ) − φ'(ξ')); and taking features
in one by one, r is the sum over j of the mixed differences of S_{j−1} = Σ_{i<j} p_i with p_j at β. Splitting S_{j−1}
again gives pairs.

**masses, smooth**. The same without splitting: |r| ≤ Σ_j f(|S_{j−1}|, |p_j|), f(a, b) = min(c a b, o a, o b), the
largest p first. Never more than by pairs, whose sum of f(|p_i|, |p_j|) is no less, f being concave in a and 0 at 0. Or,
where that is smaller, known = P⁺ and |r| ≤ min(P⁺, P⁻) + g, φ being within g of ReLU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from crossproof.proof.arithmetic.ball import Ball, concatenate
from crossproof.proof.arithmetic.tally import count
from crossproof.proof.units.around import smallest
from crossproof.proof.units.smooth import activated, curvature, lipschitz
from crossproof.units import ACTIVATIONS

Kind = Literal["dominant", "masses", "pairs", "exact"]


@dataclass(frozen=True)
class Account:
    """φ(z) = known + r."""

    known: Ball
    """[row, neuron]"""
    missed: Ball
    """[row, neuron], exact: |r| is at most that."""
    one_sided: bool
    """Whether r ≤ 0 besides."""


def dominant(p: Ball, beta: Ball, activation: str) -> Account:
    """p: [row, feature, neuron]. Whichever feature is taken for the largest, the bound is true of it."""
    if p.shape[1] == 0:
        return exactly(p, beta, activation)
    size = p.abs()
    which = size.mid.max(1, keepdim=True).indices
    own = torch.zeros_like(size.mid, dtype=torch.bool).scatter(1, which, True)
    alone = p.gather(1, which)._each(lambda x: x.squeeze(1))
    left = size.only(~own).sum(1)
    count(p.mid.numel())  # comparisons
    return Account(activated(alone + beta, activation), (left * lipschitz(activation)).upper(), one_sided=False)


def masses(p: Ball, beta: Ball, activation: str) -> Account:
    if activation == "relu":
        positive, negative = _sides(p, beta)
        return Account(positive, positive.minimum(negative).upper().relu(), one_sided=True)
    if p.shape[1] == 0:
        return exactly(p, beta, activation)
    p = _sorted(p)
    c, o = curvature(activation)
    so_far = p[:, 0]
    missed = Ball(torch.zeros_like(so_far.mid))
    for j in range(1, p.shape[1]):
        its = p[:, j]
        before, size = so_far.abs().upper(), its.abs().upper()
        missed = missed + (before * size * c).minimum(before.minimum(size) * o)
        so_far = so_far + its
    positive, negative = _sides(p, beta)
    as_relu = (positive.minimum(negative) + ACTIVATIONS[activation].relu_gap).upper()
    missed = missed.upper()
    count(missed.mid.numel())
    better, additive = as_relu.mid < missed.mid, _additive(p, beta, activation)
    known = Ball(torch.where(better, positive.mid, additive.mid), torch.where(better, positive.radius, additive.radius))
    return Account(known, smallest(missed, as_relu), one_sided=False)


def pairs(p: Ball, beta: Ball, activation: str) -> Account:
    features = p.shape[1]
    missed = Ball(torch.zeros_like(_rows(p, beta).mid))
    if activation == "relu":
        every = concatenate([p, _rows(p, beta)[:, None]], 1)
        plus, minus = every.upper().relu(), (-every).upper().relu()
        for j in range(1, features + 1):
            for one, other in ((plus, minus), (minus, plus)):
                missed = missed + one[:, :j].minimum(other[:, j : j + 1]).sum(1)
        return Account(_sides(p, beta)[0], missed.upper(), one_sided=True)
    c, o = curvature(activation)
    size = p.abs().upper()
    for j in range(1, features):
        one, other = size[:, :j], size[:, j : j + 1]
        missed = missed + (one * other * c).minimum(one.minimum(other) * o).sum(1)
    return Account(_additive(p, beta, activation), missed.upper(), one_sided=False)


def exactly(p: Ball, beta: Ball, activation: str) -> Account:
    """Nothing is missed: the neurons are run, on all that they hear. The control of the others."""
    known = activated(p.sum(1) + beta, activation)
    return Account(known, Ball(torch.zeros_like(known.mid)), one_sided=True)


ACCOUNTS: dict[Kind, Callable[[Ball, Ball, str], Account]] = {
    "dominant": dominant,
    "masses": masses,
    "pairs": pairs,
    "exact": exactly,
}


def _rows(p: Ball, beta: Ball) -> Ball:
    return beta.expand(p.shape[0], p.shape[2])


def _sides(p: Ball, beta: Ball) -> tuple[Ball, Ball]:
    """P⁺ and P⁻."""
    return p.relu().sum(1) + beta.relu(), (-p).relu().sum(1) + (-beta).relu()


def _additive(p: Ball, beta: Ball, activation: str) -> Ball:
    """φ(β) + Σ_i [φ(β + p_i) − φ(β)]: two tables' rows added, if p is a strength times a table of one strength."""
    background = activated(beta, activation)
    return background + (activated(p + beta, activation) - background).sum(1)


def _sorted(p: Ball) -> Ball:
    """The largest first."""
    count(p.mid.numel() * math.ceil(math.log2(max(2, p.shape[1]))))
    return p.gather(1, p.mid.abs().argsort(1, descending=True))
