"""Softmax attention of inputs that are known up to a distance, each position its own (L8), or exactly (L9).

At the decoded point scores and values are what they are there: scores are bilinear in what queries and keys hear, and
outputs are linear in what the keys say, so nothing has to be bounded (L9).

**L8.** Let input s be within ε_s of x_s, k_s its key and q_t a query, scores q_t·k_s. What a query shares with all keys
moves no pattern, so the keys may be centred: k̄_t = Σ A_ts k_s. Then the score of s moves, but for a common part, by at
most

    η_ts = ε_t ‖W_Q (k_s − k̄_t)‖ + ε_s ‖W_K q_t‖ + ε_t ε_s σ(W_Q W_Kᵀ).

Let y_ts = o_s − Σ_s A_ts o_s, o_s being what key s writes; Σ_s A_ts y_ts = 0, which is what the first bound needs and
why y is centred at this mean and at no other. The pattern A' ∝ A e^δ, |δ| ≤ η, writes Σ A_s (e^δ_s − 1) y_s over
Σ A_s e^δ_s, so it moves the output by no more than the smaller of

    Σ_s A_s (e^η_s − 1) ‖y_s‖ / Σ_s A_s e^−η_s     and     tanh(max_s η_s / 2) max_ss' ‖o_s − o_s'‖

(T9: half the L1 distance of A and A' is at most tanh(η/2)). And values that move by W_V W_O e_s add at most
σ(W_V W_O) Σ A'_s ε_s, largest for a pattern that gives e^η to the largest ε and e^−η to the others.

The Cauchy–Schwarz form of the first, with σ([√A_s y_s]), is not taken: it costs a spectral norm for every query.

Rotations keep lengths and differ from pair to pair; with them ‖W_Q (…)‖ ≤ σ(W_Q) ‖…‖ is taken, and for keys likewise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, concatenate, exact, gamma
from crossproof.proof.arithmetic.tally import count
from crossproof.proof.units.around import length, smallest, stretch
from crossproof.units import Attention, Rotary

_TURN = 1 + 2.0**-22
"""Cosines and sines, which the model has in float32, lengthen a vector by no more."""


class BoundedAttention:
    def __init__(self, unit: Attention) -> None:
        self.unit, self.heads = unit, [_Head.of(unit, head) for head in range(len(unit.W_Q))]
        self.b_O = exact(unit.b_O)

    def at(self, x: Ball) -> AttentionAt:
        """`x`: [pos, d_model], the inputs of one text, exact."""
        mask = self.unit.mask(len(x)).cpu()
        return AttentionAt.of([head.at(x, mask) for head in self.heads], self.b_O, mask)


@dataclass(frozen=True)
class AttentionAt:
    """Attention around the inputs of one text."""

    output: Ball
    """[pos, d_model], at these inputs."""
    pattern: Ball
    """[head, query, key]"""
    from_query: Ball
    """How far a score moves if the query's input does by one: [head, query, key]."""
    from_key: Ball
    """The same for the key's: [head, query]."""
    both: Ball
    """[head]"""
    apart: Ball
    """‖y‖: [head, query, key]."""
    diameter: Ball
    """Of what the keys of a query write: [head, query]."""
    stretch: Ball
    """σ(W_V W_O): [head]."""
    mask: Bool[Tensor, "query key"]

    @classmethod
    def of(cls, heads: list[_HeadAt], b_O: Ball, mask: Tensor) -> AttentionAt:
        output = heads[0].output
        for head in heads[1:]:
            output = output + head.output

        def together(name: str) -> Ball:
            return concatenate([getattr(head, name)._each(lambda x: x[None]) for head in heads])

        names = ("pattern", "from_query", "from_key", "both", "apart", "diameter", "stretch")
        return cls(output=output + b_O, mask=mask, **{name: together(name) for name in names})

    def carry(self, radius: Ball) -> Ball:
        """How far the outputs move, [case, pos], if the inputs do by no more than `radius`, [case, pos]."""
        eta = self.score_shift(radius)
        up, down = eta.exp(), (-eta).exp()
        low = (self.pattern * down).sum(-1)
        first = ((self.pattern * (up - 1.0) * self.apart).sum(-1) / low).upper()
        most = eta.amax(-1)
        turned = smallest(
            (1.0 - 2.0 / (most.exp() + 1.0)).upper(), (most * 0.5).upper(), Ball(torch.ones_like(most.mid))
        )
        moved = smallest(first, (turned * self.diameter).upper())
        written = self._heaviest(radius, self.pattern * up, self.pattern * down) * self.stretch[:, None]
        return (moved + written).sum(1).upper()

    def score_shift(self, radius: Ball) -> Ball:
        """η: how far scores move at most, but for what all of a query's move, [case, head, query, key]."""
        of_query, of_key = radius[:, None, :, None], radius[:, None, None, :]
        eta = of_query * self.from_query + of_key * self.from_key[:, :, None]
        return (eta + of_query * of_key * self.both[:, None, None]).upper().only(self.mask)

    def _heaviest(self, radius: Ball, up: Ball, down: Ball) -> Ball:
        """The largest mean of the radii of keys, [case, head, query], under a pattern between two weights of each.

        Some number of the largest radii has the upper weight, all others the lower: the best such number is among all.
        """
        largest = Ball(torch.where(self.mask, radius.mid[:, None, :], 0.0)).amax(-1)
        order = radius.mid.argsort(-1, descending=True)
        its = radius.gather(-1, order)[:, None, None, :]
        index = order[:, None, None, :].expand(up.shape)
        up, down = up.gather(-1, index), down.gather(-1, index)
        mean = (_running(up * its) + _rest(down * its)) / (_running(up) + _rest(down))
        return smallest(mean.upper().amax(-1), largest[:, None])


@dataclass(frozen=True)
class _HeadAt:
    output: Ball
    pattern: Ball
    from_query: Ball
    from_key: Ball
    both: Ball
    apart: Ball
    diameter: Ball
    stretch: Ball


@dataclass(frozen=True)
class _Head:
    """One head's weights, the scale in its queries."""

    W_Q: Ball
    b_Q: Ball
    W_K: Ball
    b_K: Ball
    W_V: Ball
    b_V: Ball
    W_O: Ball
    both: Ball
    stretch: Ball
    rotary: Rotary | None
    alone: tuple[Ball, Ball] | None
    """σ(W_Q) and σ(W_K), where rotations stand between the two."""

    @classmethod
    def of(cls, unit: Attention, head: int) -> _Head:
        kv = head // (len(unit.W_Q) // len(unit.W_K))
        W_Q, b_Q = exact(unit.W_Q[head]) * unit.scale, exact(unit.b_Q[head]) * unit.scale
        W_K, W_V, W_O = exact(unit.W_K[kv]), exact(unit.W_V[kv]), exact(unit.W_O[head])
        alone = None if unit.rotary is None else ((stretch(W_Q) * _TURN).upper(), (stretch(W_K) * _TURN).upper())
        both = stretch(W_Q @ W_K.mT) if alone is None else (alone[0] * alone[1]).upper()
        b_K, b_V = exact(unit.b_K[kv]), exact(unit.b_V[kv])
        return cls(W_Q, b_Q, W_K, b_K, W_V, b_V, W_O, both, stretch(W_V @ W_O), unit.rotary, alone)

    def at(self, x: Ball, mask: Tensor) -> _HeadAt:
        q, k = x @ self.W_Q + self.b_Q, x @ self.W_K + self.b_K
        if self.rotary is not None:
            q, k = _turned(q, self.rotary), _turned(k, self.rotary)
        scores = q @ k.mT
        shift = Ball(scores.mid.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True))
        weights = (scores - shift).exp().only(mask)
        pattern = weights / weights.sum(-1)[:, None]
        if self.alone is None:
            from_query, from_key = _from_mean(pattern, k @ self.W_Q.mT), length(q @ self.W_K.mT)
        else:
            from_query = (_from_mean(pattern, k) * self.alone[0]).upper()
            from_key = (length(q) * self.alone[1]).upper()
        written = (x @ self.W_V + self.b_V) @ self.W_O
        seen = mask[:, :, None] & mask[:, None, :]
        diameter = Ball(torch.where(seen, _between(written).mid, 0.0).amax((1, 2)))
        apart, from_query = _from_mean(pattern, written).only(mask), from_query.only(mask)
        output = pattern @ written
        return _HeadAt(output, pattern, from_query, from_key, self.both, apart, diameter, self.stretch)


def _running(x: Ball) -> Ball:
    """Sums of the first 1, 2, … along the last axis."""
    count(x.mid.numel())
    several = gamma(x.shape[-1] + 1)
    rad = several * x.mid.abs().cumsum(-1) + x.radius.cumsum(-1)
    return Ball(x.mid.cumsum(-1), rad * (1 + 2 * several)) + 0.0


def _rest(x: Ball) -> Ball:
    """Of what comes after the first 1, 2, …"""
    backwards = _running(x._each(lambda its: its.flip(-1)))
    return backwards._each(lambda its: torch.nn.functional.pad(its.flip(-1)[..., 1:], (0, 1)))


def _from_mean(pattern: Ball, rows: Ball) -> Ball:
    """‖row_s − Σ_s A_ts row_s‖, [query, key]."""
    mean = pattern @ rows
    return concatenate([length(rows - mean[t])[None] for t in range(len(mean))])


def _between(rows: Ball) -> Ball:
    return concatenate([length(rows - rows[s])[None] for s in range(len(rows))])


def _turned(x: Ball, rotary: Rotary) -> Ball:
    """Each position's rotation as a matrix, made of the model's own cosines and sines."""
    positions, width = x.shape
    one_by_one = torch.eye(width, dtype=torch.float64)[:, None].expand(-1, positions, -1)
    turns = rotary.at(one_by_one, torch.arange(positions)).transpose(0, 1).contiguous()
    return (x[:, None] @ Ball(turns))[:, 0]
