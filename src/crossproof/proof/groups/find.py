"""Finds witnesses for `verify.py`. Nothing here is trusted, and nothing counted."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.config import CrosscoderConfig, FitConfig, Site
from crossproof.crosscoder.initialise import initialise
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training, default_terms
from crossproof.progress import progress
from crossproof.proof.arithmetic.ball import exact
from crossproof.proof.arithmetic.spectral import eigenvectors
from crossproof.proof.groups.grouping import blocks_by_largest
from crossproof.proof.groups.programme import exponents, gains
from crossproof.proof.groups.tables import tables
from crossproof.proof.groups.verify import Certified

State = Mapping[str, Tensor]
Embedding = Float[Tensor, "position token width"]


def find(state: State, dictionary: Mapping[str, Tensor], bands: int = 2, rounds: int = 8) -> dict[str, Tensor]:
    """A witness for this model, through a dictionary or, given none, through the embeddings themselves."""
    vocabulary = state["W_E"].shape[1]
    witness = {**dictionary, "bands": doubling_bands(vocabulary, bands), "escalated": torch.empty(0, dtype=torch.long)}
    if dictionary:
        witness["eigenvectors"] = eigenvectors(state["attn.W_Q"].double() @ state["attn.W_K"].double().T)
    witness["claims"] = find_claims(state, witness, rounds)
    return witness


def doubling_bands(vocabulary: int, number: int) -> Int[Tensor, "vocabulary vocabulary"]:
    """Below each largest token a band of one token, of two, of four and so on downwards; the last has all the rest."""
    token = torch.arange(vocabulary)
    below = (token[:, None] - token).clamp(min=1)
    return (number - 1 - below.log2().floor().long()).clamp(min=0)


def find_claims(state: State, witness: Mapping[str, Tensor], rounds: int) -> Float[Tensor, "largest last logit"]:
    """By running the verifier's own step, and keeping for each largest and last token what proved the least loss.

    One claim is for many groups. The first is what one token says at most, which no mean exceeds; the next to try is
    the mean of what was just proved of each, where a group counts by its size and by what the logit adds to its loss;
    at every third step the largest, which no group exceeds.
    """
    known = tables({name: exact(value) for name, value in state.items()}, witness)
    kept = torch.zeros((known.vocabulary,) * 3, dtype=torch.float64)
    for blocks in blocks_by_largest(witness["bands"], known.context):
        largest = blocks[0].largest
        others = (torch.arange(known.vocabulary) != largest).nonzero()[:, 0]
        gain, skip = gains(known, largest, others)
        tried = torch.zeros_like(kept[largest])
        tried[: largest + 1, others] = gain.upper().mid.amax((0, 1)) + skip.upper().mid
        least = torch.full((known.vocabulary,), torch.inf, dtype=torch.float64)
        for step in range(rounds):
            for block, exponent in zip(blocks, exponents(known, blocks, exact(tried)), strict=True):
                last, proved = block.last, exponent.upper().mid.clamp(max=1e6)
                sizes = block.sizes.reshape(len(last), -1, 1)
                loss = torch.logaddexp(proved.logsumexp(2, keepdim=True), torch.zeros(()))
                total = (loss * sizes).sum((1, 2))
                better = last[total < least[last]]
                kept[largest, better] = tried[better]
                least[last] = torch.minimum(least[last], total)
                weight = (proved - loss + sizes.log()).softmax(1)
                following = proved.amax(1) if step % 3 == 2 else (weight * proved).sum(1)
                tried[last[:, None], others] = following
    return kept


def worst_groups(certified: Certified, above: float) -> Int[Tensor, " group"]:
    """Groups whose bound is above this: running the model on a window costs the same wherever it is, and gains most in
    the group with the worst bound."""
    return (certified.bound > above).nonzero()[:, 0]


def learn_dictionary(
    embedding: Embedding, features: int, k: int, steps: int = 4000, seed: int = 0
) -> dict[str, Tensor]:
    """A TopK crosscoder of one site that reads every token at every position; codes by least squares afterwards."""
    rows = embedding.detach().float().reshape(-1, 1, embedding.shape[2])
    site = Site(subject="model", hook="embedding")
    coder = Crosscoder(CrosscoderConfig(sites=(site,), width=rows.shape[2], features=features, activation="topk", k=k))
    initialise(coder, rows, "tied", 1.0, torch.Generator().manual_seed(seed))
    config = FitConfig(steps=steps, batch_tokens=len(rows), lr=3e-3, seed=seed)
    training = Training(coder, default_terms(coder, config), config)
    with progress("dictionary", steps, "steps") as bar:
        for _ in range(steps):
            training.advance(rows)
            bar(1)
    with torch.no_grad():
        active = coder.encode(rows).dense()
        decoder, bias = coder.decoder[:, 0].double(), coder.decoder_bias[0].double()
        support = active.topk(k).indices.sort().values
        codes = torch.linalg.lstsq(decoder[support].mT, (rows[:, 0].double() - bias)[..., None]).solution[..., 0]
    shape = embedding.shape[:2]
    return {
        "dictionary": decoder,
        "bias": bias,
        "support": support.reshape(*shape, k),
        "codes": codes.reshape(*shape, k),
    }


def anchored_dictionary(embedding: Embedding) -> dict[str, Tensor]:
    """One feature for each token and one for each position: all of an embedding that is a sum of the two."""
    rows = embedding.detach().double()
    positions, tokens, _ = rows.shape
    bias = rows.mean((0, 1))
    support = torch.cartesian_prod(tokens + torch.arange(positions), torch.arange(tokens)).reshape(positions, tokens, 2)
    return {
        "dictionary": torch.cat([rows.mean(0) - bias, rows.mean(1) - bias]),
        "bias": bias,
        "support": support,
        "codes": torch.ones(support.shape, dtype=torch.float64),
    }
