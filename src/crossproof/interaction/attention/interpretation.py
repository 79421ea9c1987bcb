"""The dominant-q interpretation of a head: of each query and key only the q strongest feature pairs count.

A score is the sum of background terms (background × background, feature × background, background × feature) and of a
term c_ij for each feature i of the query and j of the key. The interpretation keeps the background and, at each query
t and key s, the q largest |c_ij(t, s)|, ties to the lowest i and then the lowest j. What it drops there, P of positive
and N of negative mass, changes the score by Δ = P − N (the actual one less the interpretation's): it lies in [−N, P].

How far that moves the pattern A_t, in total variation (half the L1 norm), is at most the smaller of two:

- tanh(η/2) with η = (max_s P + max_s N) / 2. Adding a constant to all scores of a query changes nothing, so take from
  Δ the middle of [−max N, max P]: what is left is at most η, and T9 holds for it. Each of the two maxima is at most
  max (P + N), hence η too: it is never more than T9 gives with the sum of the dropped magnitudes.
- Σ_s A_ts u_s / Z with u = max(e^N − 1, 1 − e^−P) and Z = Σ_s A_ts e^−P. The interpretation's pattern A' is A e^−Δ
  over its sum, which is at least Z. For any g, Σ_s (A' − A)_s g_s is Σ_s A_s (e^−Δ − 1)(g_s − ḡ) over that sum, with ḡ
  the mean of g under A; and |e^−Δ − 1| ≤ u. Take g = 1 on the keys that gain and 0 elsewhere: |g − ḡ| ≤ 1.

The output Σ_s A_ts y_s (values y as they are) moves by at most the total variation × the diameter of the visible y
(L8: what is gained and what is lost are two means of them, each as heavy), and by at most Σ_s A_ts u_s ‖y_s − ȳ‖ / Z,
which is the identity above with g = y.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.output import HELD, Reading, read
from crossproof.progress import progress


@dataclass(frozen=True, eq=False)
class HeadResidual:
    """What the dominant-q interpretation of each head misses in one text, and what that cannot exceed."""

    score: Float64[Tensor, "head pos key"]
    """|Δ|; 0 on keys that the query does not see."""
    score_certified: Float64[Tensor, "head pos key"]
    """P + N: the sum of the dropped magnitudes."""
    pattern: Float64[Tensor, "head pos"]
    """Total variation between the two patterns."""
    pattern_certified: Float64[Tensor, "head pos"]
    output: Float64[Tensor, "head pos"]
    """How far the head's output moves, values as they are."""
    output_certified: Float64[Tensor, "head pos"]
    kept: Float64[Tensor, "head pos"]
    """Σ|c| over the kept pairs, of all keys that the query sees."""
    mass: Float64[Tensor, "head pos"]
    """Σ|c| over all pairs."""

    @property
    def share(self) -> Float64[Tensor, " head"]:
        """How much of a head's |c| the kept pairs hold; not a number where there is none."""
        return self.kept.sum(1) / self.mass.sum(1)


@torch.no_grad()
def dominant_pairs(passage: Passage, layer_index: int, heads: Heads, q: int = 1, held: int = HELD) -> HeadResidual:
    """The residual of the dominant-q interpretation. `layer_index` is the layer's place in `passage.inputs`.

    In float64. Pairs of features are looked at a few queries and keys at a time, `held` of them or those of one query
    and one key.
    """
    if q < 1:
        raise CrossproofError(f"q: how many feature pairs a query and a key keep, at least 1, not {q}")
    if passage.positions == 0:
        raise MismatchError("passage: a text of no positions, in which there is nothing to interpret; leave it out")
    text = read(passage, layer_index, heads)
    positive, negative, kept, mass = (torch.zeros_like(text.pattern) for _ in range(4))
    with progress("dominant feature pairs", len(positive), "heads") as bar:
        for head in range(len(positive)):
            for t, s, c in _pairs(text, head, held):
                strongest = _largest(c, q)
                dropped, block = c.masked_fill(strongest, 0), (head, t[:, None], s)
                positive[block] = dropped.clamp(min=0).sum(-1)
                negative[block] = (-dropped).clamp(min=0).sum(-1)
                kept[block] = c.abs().masked_fill(~strongest, 0).sum(-1)
                mass[block] = c.abs().sum(-1)
            bar(1)
    hidden = ~text.heads.attention.mask(len(text.x))
    for table in (positive, negative, kept, mass):
        table.masked_fill_(hidden, 0)
    # from the largest score down: what rounding takes from differences of large scores would pass for a change
    scores = text.scores - text.scores.amax(-1, keepdim=True)
    pattern = scores.softmax(-1)
    change = (scores - (positive - negative)).softmax(-1) - pattern
    # W_O without a rotation of its outputs: it keeps all lengths, in d_head coordinates
    lengths = torch.linalg.qr(text.heads.attention.W_O.mT, mode="r").R
    values = text.values(text.x) @ lengths.mT
    # no smaller than rounding may have made them: they are multiplied by powers of e
    from_mean = _distances(pattern @ values, values) + 1e-15 * values.norm(dim=-1).amax(-1)[:, None, None]
    by_range = ((positive.amax(-1) + negative.amax(-1)) / 4).tanh()
    variation = torch.minimum(by_range, _moved(pattern, positive, negative, torch.ones_like(from_mean)))
    by_diameter = variation * _diameters(values, text.heads.attention.window)
    return HeadResidual(
        score=(positive - negative).abs(),
        score_certified=positive + negative,
        pattern=change.abs().sum(-1) / 2,
        pattern_certified=variation,
        output=(change @ values).norm(dim=-1),
        output_certified=torch.minimum(by_diameter, _moved(pattern, positive, negative, from_mean)),
        kept=kept.sum(-1),
        mass=mass.sum(-1),
    )


def _pairs(
    text: Reading, head: int, held: int
) -> Iterator[tuple[Int[Tensor, " query"], Int[Tensor, " key"], Float64[Tensor, "query key pair"]]]:
    """Some queries, some keys and all c_ij between them, in the order of i and then j; not of keys that none sees."""
    queries, keys = text.feature_queries(head), text.feature_keys(head)
    slots, positions = text.strengths.shape
    if not slots:
        return
    at_once = max(1, held // slots**2)
    width = min(positions, text.heads.attention.window or positions)
    height = max(1, at_once // width)
    for t in torch.arange(positions, device=keys.device).split(height):
        for s in torch.arange(max(0, int(t[0]) - width + 1), int(t[-1]) + 1, device=keys.device).split(at_once):
            yield t, s, torch.einsum("itd,jsd->tsij", queries[:, t], keys[:, s]).flatten(2)


def _largest(c: Float64[Tensor, "query key pair"], q: int) -> Bool[Tensor, "query key pair"]:
    """Which are the q largest in magnitude, ties to the first."""
    magnitude, strongest = c.abs(), torch.zeros_like(c, dtype=torch.bool)
    for _ in range(min(q, c.shape[2])):
        first = magnitude.argmax(-1, keepdim=True)  # of equals the first
        strongest.scatter_(-1, first, True)
        magnitude.scatter_(-1, first, -1.0)
    return strongest


def _moved(
    pattern: Float64[Tensor, "head pos key"],
    positive: Float64[Tensor, "head pos key"],
    negative: Float64[Tensor, "head pos key"],
    size: Float64[Tensor, "head pos key"],
) -> Float64[Tensor, "head pos"]:
    """Σ_s A_ts u_s size_s / Z; infinite where that is too large to be computed."""
    u = torch.maximum(negative.expm1(), -(-positive).expm1())
    bound = (pattern * u * size).sum(-1) / (pattern * (-positive).exp()).sum(-1)
    return bound.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _diameters(values: Float64[Tensor, "head pos d"], window: int | None) -> Float64[Tensor, "head pos"]:
    """The largest distance between two values that a query sees."""
    distances, positions = _distances(values, values), values.shape[1]
    width = min(positions, window or positions)
    found, widest = torch.zeros_like(distances[..., 0]), torch.zeros_like(distances[..., 0])
    for apart in range(1, width):
        # of the positions from a to a + apart: the two runs that are one shorter, and the two ends
        ends = distances.diagonal(apart, 1, 2)
        widest = torch.maximum(torch.maximum(widest[:, :-1], widest[:, 1:]), ends)
        found[:, apart] = widest[:, 0]
    found[:, width - 1 :] = widest
    return found


def _distances(a: Float64[Tensor, "head pos d"], b: Float64[Tensor, "head key d"]) -> Float64[Tensor, "head pos key"]:
    # the faster way, through products, loses half the digits
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
