"""Pairwise interaction through a norm's scale, exact, accumulated over tokens (MATHS §4, Norms).

I[i→j] is what removing feature i from the norm's input does to j's share of its output, as loudly as that is heard:

    I[i→j] = f_j reach_j |1/σ_N − 1/σ_{N∖i}|

No more than the scale comes between the two, so at a token I is an outer product, less its diagonal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive, PairSums, Summing
from crossproof.interaction.contributions import Chunk, chunks
from crossproof.interaction.norms.features import NormFeatures
from crossproof.interaction.norms.scale import check, scale_at
from crossproof.interaction.tokens import AtTokens, strongest_in
from crossproof.progress import progress


@dataclass(frozen=True, eq=False)
class NormSums:
    """What one norm does."""

    pairs: PairSums
    """I[i→j]."""
    background: PairSums
    """What removing a feature does to the background's share; its axis is that of features."""
    score: Float64[Tensor, " token"]
    """Σ_ij I[i→j] at each token, without the background."""


@torch.no_grad()
def norm_pairs(codes: Codes, norms: Sequence[NormFeatures], pairs: CoActive) -> list[NormSums]:
    """Of each of these norms, in one pass over the tokens; `pairs` is CoActive.of(codes)."""
    for norm in norms:
        check(codes, norm)
    pairs.check(codes)
    device = codes.values.device
    of_pairs = [Summing(len(pairs), device) for _ in norms]
    of_background = [Summing(pairs.n_features, device) for _ in norms]
    score = torch.zeros(len(norms), pairs.n_tokens, dtype=torch.float64, device=device)
    with progress("norm pairs", pairs.n_tokens, "tokens") as bar:
        for chunk in chunks(codes, _widest(norms)):
            positions = pairs.in_chunk(chunk)
            for norm, to_pairs, to_background, its in zip(norms, of_pairs, of_background, score, strict=True):
                between, with_background = _at(chunk, norm)
                to_pairs.add(positions, between)
                to_background.add(chunk.features, with_background)
                its[chunk.tokens] = between.double().sum((1, 2))
            bar(len(chunk.tokens))
    return [
        NormSums(a.result(pairs.count, pairs.n_tokens), b.result(pairs.firing, pairs.n_tokens), its)
        for a, b, its in zip(of_pairs, of_background, score, strict=True)
    ]


@torch.no_grad()
def norm_tokens(codes: Codes, norms: Sequence[NormFeatures]) -> AtTokens:
    """Σ_ij I[i→j] of each norm at each token, and the strongest pair: `unit` says in which norm. For looking at a text.

    In the order of the codes; the lowest i, j and norm of several.
    """
    for norm in norms:
        check(codes, norm)
    return strongest_in(codes, norms, _widest(norms), lambda chunk, norm: _at(chunk, norm)[0])


def _at(chunk: Chunk, norm: NormFeatures) -> tuple[Float[Tensor, "token slot slot"], Float[Tensor, "token slot"]]:
    """I[i→j] of the slots of each token, and what removing each does to the background's share."""
    change = scale_at(chunk, norm).change
    shares = chunk.strengths.to(norm.reach) * norm.reach[chunk.features]
    between = change[:, :, None] * shares[:, None]
    between.diagonal(dim1=1, dim2=2).zero_()
    return between, change * norm.background_reach


def _widest(norms: Sequence[NormFeatures]) -> int:
    return max((norm.width for norm in norms), default=1)
