"""The bound of every group of windows: the algorithm, and the code that is counted.

There are T positions, V tokens, width d. x[t, k] is token k's embedding at position t, W_E[t, k]; a window's last token
is q, its largest y. Everything is computed in numbers with radii, of which whatever bounds something takes the upper
end; an operation is one +, −, ×, ÷, comparison, exp, log or root. The witness: `bands` [V, V] and `escalated` [any]
(whole numbers), `claims` [V, V, V] as [y, q, v]; with a dictionary of n features, k active, also `dictionary` [n, d],
`bias` [d], `support` and `codes` [T, V, k], `eigenvectors` [d, d]. Without one p = x, and what is marked * is left out.

*dictionary*  * p[t, k] = Σ_i codes[t, k, i] dictionary[support[t, k, i]] + bias (the sum: 2k operations a number).
*tables*      M = W_Q W_Kᵀ ÷ √d.  values = (W_V W_O) W_U.  queries = p[T−1] M.
              scores[q, t, k] = queries[q]·p[t, k] for t < T−1, by a matrix product; own[q] = Σ queries[q] p[T−1, q],
              products and a sum; from both subtract shift[q], the largest midpoint among scores[q] (as many comparisons
              as scores).
              says[t, k] = p[t, k] values, t = T−1 too.  skip[q] = p[T−1, q] W_U.
*errors*    * ε[t, k] = upper end of ‖x − p‖ (differences, squares, sum, root).  keys = p Mᵀ, all positions.
              σ: images = M Q, most = the largest row sum of |imagesᵀ images|; g = QᵀQ, least = −(largest of
              (row sum of |g| − 2 × its diagonal)), at least 0 (one comparison); σ = upper end of √(most ÷ least).
              stretch[q] = ‖queries[q]‖ + ε[T−1, q] σ (norm: squares, sum, root); off[q, t, k] = stretch[q] ε[t, k] for
              t < T−1; own_off[q] = stretch[q] ε[T−1, q].
              saying[u, v] = ‖column u − column v‖ of values, skipping of W_U: differences, squares, sum, root, each of
              the V(V−1)/2 pairs once.

Then for every y, with the queries q ≤ y, tokens k ≤ y and logits v ≠ y alone. The tokens below y are in bands, band by
band in the order of the labels bands[y, k]; y itself is the last band. Let there be B.

*gains*       gain[t, k, v] = says[t, k, v] − says[t, k, y]  * + ε[t, k] saying[y, v], all t.
              apart[q, v] = skip[q, v] − skip[q, y]  * + ε[T−1, q] skipping[y, v].
              gain of a band: the largest among its tokens, t < T−1 (as many comparisons as tokens).
*attention* * centre = (Σ_t keys[t, y]) × (1/T as float64); far[t, k] = ‖keys[t, k] − centre‖ (* for all t; differences,
              squares, sum, root); η[q, t, k] = ε[T−1, q] far[t, k] + off[q, t, k] for t < T−1, own_η[q] =
              ε[T−1, q] far[T−1, q] + own_off[q]; subtract from and add to scores and own.
              Of each band the least of scores − η and the largest of scores + η; low and high [q, t, band] are their
              exps, own_low and own_high [q] those of own − own_η and own + own_η: four exps without a dictionary too.
*positions*   rate[q, v] = claims[y, q, v] − apart[q, v].  With D = gain[T−1, q, v] − rate[q, v]: own_h[q, v] =
              max(own_low D, own_high D).  With D = gain[t, band, v] − rate[q, v]:
              h[q, t, band, v] = max(low D, high D).
*groups*      A group is q and a band for every position before the last, where q = y or some band is the last one. In
              two blocks, q < y (none if y = 0), then q = y; in a block by q, then by bands with position T−2 fastest.
              H[group, v] = own_h + Σ_t h, beginning with own_h, position by position; partial sums are made for all
              B^t choices of bands at the first t positions, for t ≤ T−2, and at the last of them only for the groups
              there are.  most and least [group]: the same sums of own_high, high and of own_low, low.
              z[group, v] = claims[y, q, v] + max(H × (1 ÷ most), H × (1 ÷ least)): no window of the group has a
              logit_v − logit_y above it (L11).
*losses*      size of a group: the product of its bands' sizes, T−2 products.  odds = Σ_v exp z; the loss of each of its
              windows is at most the upper end of log(odds + 1), and all are right if the upper end of odds is below 1
              (a comparison).
*escalation*  A group whose number is in `escalated` is run instead, window by window, from the tables of the embeddings
              as they are (*tables* above once more if there is a dictionary, and exp of scores and own): see
              `brute.py`. Its loss is the upper end of (Σ upper ends of losses) ÷ number of windows.
*mean*        Σ over groups (loss × size), ÷ Vᵀ. The upper end is what is proved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.tally import Tally, count, part, tallied
from crossproof.proof.groups.brute import CachedModel, mean
from crossproof.proof.groups.grouping import blocks_by_largest, group_of_windows
from crossproof.proof.groups.programme import exponents
from crossproof.proof.groups.tables import tables
from crossproof.proof.statement import Proved, Weights, Witness


@dataclass(frozen=True)
class Certified:
    """What was proved, and from which groups; these are numbered as in `grouping.py`."""

    proved: Proved
    bound: Float[Tensor, " group"]
    """The loss of no window of the group exceeds it."""
    size: Int[Tensor, " group"]
    right: Int[Tensor, " group"]
    """How many of its windows are certainly predicted rightly."""


def verify(weights: Weights, witness: Witness) -> Certified:
    """Whatever the witness says, what is returned is true of all windows. Weights without numbers: only counts."""
    context, vocabulary, _ = weights["W_E"].shape
    claims = exact(witness["claims"])
    if witness["bands"].shape != (vocabulary,) * 2 or claims.shape != (vocabulary,) * 3:
        raise MismatchError(
            f"bands {tuple(witness['bands'].shape)} and claims {tuple(claims.shape)} are not of {vocabulary} tokens: "
            "make the witness anew for this model"
        )
    known = tables(weights, witness)
    escalated = set(witness["escalated"].tolist())
    model = None
    if escalated:
        model = CachedModel(known if known.errors is None else tables(weights, {}))
    means, bounds, rights, sizes = [], [], [], []
    for blocks in blocks_by_largest(witness["bands"], context):
        largest = blocks[0].largest
        for block, exponent in zip(blocks, exponents(known, blocks, claims[largest]), strict=True):
            size = block.sizes.to(exponent.mid.device)
            with part("losses"):
                count(len(size) * (context - 2))
                odds = exponent.exp().sum(2).reshape(len(size))
                bound = (odds + 1.0).log().upper().mid
                right = (odds.upper().mid < 1) * size
                count(len(size))
            loss = bound.clone()
            for group in sorted(escalated.intersection(range(block.first, block.first + len(size)))):
                assert model is not None
                with part("escalation"):
                    its, certain = model.losses(*block.windows(group))
                    its = its.upper()
                    at = group - block.first
                    loss[at] = (its.sum(0) / float(len(its))).upper().mid
                    bound[at], right[at] = its.mid.amax(), certain.sum()
            means.append(loss)
            bounds.append(bound)
            rights.append(right)
            sizes.append(size)
    size, right = torch.cat(sizes), torch.cat(rights)
    proved = Proved(mean(Ball(torch.cat(means)), vocabulary**context, size), 0 if right.is_meta else int(right.sum()))
    return Certified(proved, torch.cat(bounds), size, right)


def window_bounds(certified: Certified, bands: Int[Tensor, "vocabulary vocabulary"], context: int) -> Tensor:
    """What the loss of each window does not exceed, an axis for each position."""
    return certified.bound[group_of_windows(bands, context)]


def operations(weights: Weights, witness: Witness) -> Tally:
    """What verifying takes, by running it without numbers; but the whole numbers of a witness say which groups there
    are, and are needed for that."""
    shapes = {name: Ball.unknown(*ball.shape) for name, ball in weights.items()}
    with tallied() as tally:
        verify(shapes, {name: x.to("meta") if x.is_floating_point() else x for name, x in witness.items()})
    return tally
