"""What is known of each token at each position: what it says to the logits, how loudly a query hears it, and how wrong
both may be because a dictionary does not reproduce embeddings exactly."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball, concatenate, exact
from crossproof.proof.arithmetic.spectral import norm_bound
from crossproof.proof.arithmetic.tally import count, part
from crossproof.proof.statement import Weights, Witness


@dataclass(frozen=True)
class Errors:
    """How far the truth may be from what the tables say."""

    radius: Ball
    """[position, token], of the point in the stream."""
    saying: Ball
    skipping: Ball
    """[logit, logit]: by how much an error of one moves the difference of two logits, through attention or past it."""
    score: Ball
    """[query, position, token], of positions before the last: what the key's error adds to a score."""
    own_score: Ball
    """[query]"""
    keys: Ball
    """[position, token, width]: the query's error adds its radius times the distance from any common centre."""


@dataclass(frozen=True)
class Tables:
    scores: Ball
    """[query, position, token], of the positions before the last."""
    own_score: Ball
    """[query], of the last position."""
    says: Ball
    """[position, token, logit], where attention looks there alone."""
    skip: Ball
    """[query, logit], what the last position says through the stream."""
    errors: Errors | None
    """None where the points are the embeddings themselves."""

    @property
    def context(self) -> int:
        return self.says.shape[0]

    @property
    def vocabulary(self) -> int:
        return self.says.shape[1]


def tables(weights: Weights, witness: Witness) -> Tables:
    """Through the witness's dictionary if it has one, else of the embeddings as they are."""
    embedding = weights["W_E"]
    context, vocabulary, width = embedding.shape
    points = decoded(embedding, witness) if "dictionary" in witness else embedding
    with part("tables"):
        M = (
            weights["attn.W_Q"]
            @ weights["attn.W_K"].mT
            / exact(torch.tensor(width, device=embedding.mid.device)).sqrt()
        )
        values = weights["attn.W_V"] @ weights["attn.W_O"] @ weights["W_U"]
        rows = points.reshape(context * vocabulary, width)
        last = points[-1]
        queries = last @ M
        before = rows[: (context - 1) * vocabulary]
        scores = queries @ before.mT
        own_score = (queries * last).sum(1)
        # any shift gives the same attention; this one keeps exponentials in range
        count(scores.mid.numel())
        shift = Ball(scores.mid.amax(1))
        scores, own_score = scores - shift[:, None], own_score - shift
        says = (rows @ values).reshape(context, vocabulary, -1)
        skip = last @ weights["W_U"]
    errors = None
    if points is not embedding:
        with part("errors"):
            radius = norm(embedding - points, 2).upper()
            keys = (rows @ M.mT).reshape(context, vocabulary, width)
            stretch = norm(queries, 1) + radius[-1] * norm_bound(M, witness["eigenvectors"])
            score, own = stretch[:, None, None] * radius[:-1], stretch * radius[-1]
            errors = Errors(radius, distances(values), distances(weights["W_U"]), score, own, keys)
    scores = scores.reshape(vocabulary, context - 1, vocabulary)
    return Tables(scores, own_score, says, skip, errors)


def decoded(embedding: Ball, witness: Witness) -> Ball:
    """Σ codes × features + bias, for every token at every position."""
    context, vocabulary, width = embedding.shape
    support, codes = witness["support"], exact(witness["codes"])
    features = exact(witness["dictionary"])
    if features.shape[1:] != (width,) or support.shape[:2] != (context, vocabulary) or support.shape != codes.shape:
        raise MismatchError(
            f"dictionary {tuple(features.shape)}, support {tuple(support.shape)} and codes {tuple(codes.shape)} do not "
            f"fit the embedding {tuple(embedding.shape)}: make the witness anew for this model"
        )
    if ((support < 0) | (support >= len(features))).any():
        raise MismatchError(f"support: names a feature outside the dictionary's {len(features)}")
    with part("dictionary"):
        sums = codes[..., None, :] @ features[support]
        return sums.reshape(context, vocabulary, width) + exact(witness["bias"])


def norm(vectors: Ball, dim: int) -> Ball:
    return (vectors * vectors).sum(dim).sqrt()


def distances(columns: Ball) -> Ball:
    """Between every two columns, each pair once, by explicit differences."""
    number = columns.shape[1]
    one, other = torch.triu_indices(number, number, 1)
    apart = norm(columns[:, one] - columns[:, other], 0)
    place = torch.zeros(number, number, dtype=torch.long)
    place[one, other] = place[other, one] = torch.arange(1, len(one) + 1)
    return concatenate([Ball(torch.zeros_like(apart.mid[:1])), apart])[place]
