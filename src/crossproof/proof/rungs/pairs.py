"""Rungs PS and PSR: what two features do to each other at all neurons, tabled once for each pair that ever meets.

The correction of a neuron is at most the sum over pairs of features of opposite sign of the smaller of the two (L2):
δ ≤ Σ_ij c_ij, c_ij = min(α_i |a|, α_j |b|). So ‖δ‖ ≤ Σ_ij ‖c_ij‖, and what δ does to logit_v − logit_y is at most that
times ‖(to_logits_y − to_logits_v)⁺‖, as in `masses`. Where all strengths are one, ‖c_ij‖ is one number a pair (PS).
Where they are not (L3, PSR): for any set Q of neurons ‖c_ij‖² ≤ α_i² Σ_Q a² + α_j² Σ_not Q b². Both sums are tabled for
the sets Q_r = {r|a| < |b|}, and the witness says which r to use for each pair of each window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from jaxtyping import Integer
from torch import Tensor

from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.ball import Ball, concatenate
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.network import Network
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.rungs.windows import Windows, bound_margins, lifted, windows
from crossproof.proof.statement import Bounds, Items, Witness

PAIRS = 4096
"""Pairs that are tabled at a time."""
RATIOS = (0.1, 0.3, 1.0, 4.0)
"""Of strengths: the boundaries of the sets that are tabled."""


def verify(network: Network, items: Items, witness: Witness) -> Bounds:
    """With the witness's `pairs` [pair, 2], features that meet; `pair` [context, pair of families], which of them meet
    in each window; and, where there are strengths, `ratios` [r] and `ratio` [context, pair of families]."""
    if network.n_mlps != 1:
        raise UnsupportedModel(f"numbers for pairs are for models with one MLP, not {network.n_mlps}: take `vectors`")
    items.find()
    layer = Layers.of(network, items, witness)
    meet, which = witness["pairs"].long(), witness["pair"]
    check_pairs(layer.heard.codes, meet, which)
    with part("pairs"):
        sizes = tabled(layer, witness)
    between = layer.between(0)

    def margins(chunk: Windows) -> Ball:
        with part("windows"):
            strengths = layer.heard.strengths(chunk.contexts)
            logits = layer.additive(chunk, *strengths)
            total = sizes_of(layer, sizes, witness, chunk, strengths[1]).sum(1).upper()
        return lifted(chunk, logits, [total], [between])

    return bound_margins(items, margins)


def sizes_of(layer: Layers, sizes: tuple[Ball, ...], witness: Witness, chunk: Windows, at_neurons: Ball | None) -> Ball:
    """‖c‖ of each pair of each window, [context, pair of families], or what it cannot exceed."""
    its = witness["pair"][chunk.contexts].long()
    if at_neurons is None:
        return sizes[0][its]
    first, second = family_pairs(layer.heard.codes.shape[1])
    ratio, squares = witness["ratio"][chunk.contexts].long(), at_neurons * at_neurons
    return (squares[:, first] * sizes[0][its, ratio] + squares[:, second] * sizes[1][its, ratio]).sqrt()


def family_pairs(families: int) -> tuple[list[int], list[int]]:
    """The pairs of families, in lexical order."""
    first, second = zip(*combinations(range(families), 2), strict=True) if families > 1 else ((), ())
    return list(first), list(second)


def check_pairs(
    codes: Integer[Tensor, "context family"],
    meet: Integer[Tensor, "pair 2"],
    which: Integer[Tensor, "context family_pair"],
) -> None:
    """That in each window those features meet which the witness says: a comparison for each pair, of both at once."""
    with part("windows"):
        count(which.numel())
    if which.is_meta:
        return
    for column, (first, second) in enumerate(zip(*family_pairs(codes.shape[1]), strict=True)):
        its = meet[which[:, column].long()]
        if not (torch.equal(its[:, 0], codes[:, first]) and torch.equal(its[:, 1], codes[:, second])):
            raise MismatchError(f"pair: in some window features {first} and {second} are not the ones that it names")


def tabled(layer: Layers, witness: Witness) -> tuple[Ball, ...]:
    """(‖c‖ [pair],), or with ratios (Σ_Q a², Σ_not Q b²), each [pair, ratio]."""
    meet, ratios = witness["pairs"].long(), witness.get("ratios")
    positive, negative = sides(layer.heard.tables[0])
    if ratios is None:
        sizes = []
        for first, second in split(meet):
            c = conflict(positive, negative, first, second)
            sizes.append((c * c).sum(1).sqrt().upper())
        return (concatenate(sizes),)
    size = positive.maximum(negative)
    square = size * size
    below, above = [], []
    for first, second in split(meet):
        opposite = opposed(positive, negative, first, second)
        sums: list[list[Ball]] = [[], []]
        for ratio in ratios.unbind():
            inside = (size[first] * Ball(ratio.double())).mid < size[second].mid
            count(inside.numel())
            sums[0].append(square[first].only(opposite & inside).sum(1)[:, None])
            sums[1].append(square[second].only(opposite & ~inside).sum(1)[:, None])
        below.append(concatenate(sums[0], 1))
        above.append(concatenate(sums[1], 1))
    return concatenate(below), concatenate(above)


def split(meet: Integer[Tensor, "pair 2"]) -> Iterator[tuple[Tensor, Tensor]]:
    """First and second features of some pairs at a time."""
    for its in [meet] if meet.is_meta else meet.split(PAIRS):
        yield its[:, 0], its[:, 1]


def sides(table: Ball) -> tuple[Ball, Ball]:
    """Upper ends of what is said for and against each neuron, exact numbers: 0 where the sign is sure."""
    return table.upper().relu(), (-table).upper().relu()


def conflict(positive: Ball, negative: Ball, first: Tensor, second: Tensor) -> Ball:
    """c [pair, neuron]: the smaller of the two where signs are opposite, else 0."""
    return positive[first].minimum(negative[second]) + negative[first].minimum(positive[second])


def opposed(positive: Ball, negative: Ball, first: Tensor, second: Tensor) -> Tensor:
    """[pair, neuron]: whether signs may be opposite."""
    found = ((positive.mid > 0)[first] & (negative.mid > 0)[second]) | (
        (negative.mid > 0)[first] & (positive.mid > 0)[second]
    )
    count(found.numel())
    return found


def choose(network: Network, items: Items, witness: Witness, ratios: Sequence[float] = RATIOS) -> dict[str, Tensor]:
    """The pairs that meet and, where there are strengths, the best ratio for each pair of each window."""
    layer = Layers.of(network, items, witness)
    meet, which = meeting(layer.heard.codes)
    found: dict[str, Tensor] = {"pairs": meet, "pair": which}
    if layer.heard.strengths(slice(0, 0))[1] is None:
        return found
    steps = torch.tensor(ratios, dtype=torch.float32)
    below, above = tabled(layer, {"pairs": meet, "ratios": steps})
    first, second = family_pairs(layer.heard.codes.shape[1])
    best = []
    for chunk in windows(items):
        at_neurons = layer.heard.strengths(chunk.contexts)[1]
        assert at_neurons is not None
        squares, its = at_neurons.mid.square(), which[chunk.contexts].long()
        sizes = squares[:, first, None] * below.mid[its] + squares[:, second, None] * above.mid[its]
        best.append(sizes.argmin(2).to(torch.uint8))
    return found | {"ratios": steps, "ratio": torch.cat(best)}


def meeting(
    codes: Integer[Tensor, "context family"],
) -> tuple[Integer[Tensor, "pair 2"], Integer[Tensor, "context family_pair"]]:
    """The pairs of features that meet in some window, each once, and which of them meet in each window."""
    base, start = int(codes.max()) + 1, 0
    pairs, which = [codes.new_zeros(0, 2)], [codes.new_zeros(len(codes), 0)]
    for first, second in zip(*family_pairs(codes.shape[1]), strict=True):
        keys, its = torch.unique(codes[:, first] * base + codes[:, second], return_inverse=True)
        pairs.append(torch.stack([keys // base, keys % base], 1))
        which.append(its[:, None] + start)
        start += len(keys)
    return torch.cat(pairs).to(torch.int32), torch.cat(which, 1).to(torch.int32)
