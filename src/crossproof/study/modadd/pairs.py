"""The pairs (a, b) that a network adds modulo p: all of them, those it is trained on, those that are held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import isqrt

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens

Pairs = Int[Tensor, " pair"]
"""Which pairs: a · p + b."""
PAIRS_PER_PASS = 1024
"""Texts are short."""


@dataclass(frozen=True, eq=False)
class PairGrid:
    modulus: int
    tokens: Tokens
    """Every pair, in order of a, then b. Kept is the position that says the answer, and no other."""
    train: Int[Tensor, " train"]
    held_out: Int[Tensor, " held"]
    """Neither the pair is a training pair nor its mirror image (b, a), which a network may treat as the same."""

    @classmethod
    def of(cls, subject: Subject) -> PairGrid:
        """From the splits `all`, `train` and `validation` of the subject's texts; refused where these are no sums."""
        every = _all_of(subject, "all")
        modulus = isqrt(len(every))
        number = torch.arange(len(every))
        answers = every.targets != NO_TARGET
        if modulus**2 != len(every) or modulus < 3 or not _same(every.ids[:, :2], number, modulus):
            raise _no_sums(
                subject, "its split `all` is not every pair in the order of a, then b, as its first two tokens"
            )
        if bool((answers.sum(1) != 1).any()) or not torch.equal(
            every.targets[answers], (number // modulus + number % modulus) % modulus
        ):
            raise _no_sums(subject, "what its texts have to say is not, once in each, a + b modulo p")
        train, rest = (_pairs(_all_of(subject, split), modulus) for split in ("train", "validation"))
        mirrored = train % modulus * modulus + train // modulus
        held_out = rest[~torch.isin(rest, torch.cat([train, mirrored]))]
        if len(held_out) < 2:
            raise _no_sums(subject, "fewer than two validation pairs are unlike every training pair")
        return cls(modulus, Tokens(every.ids, answers, every.targets), train, held_out)

    def these(self, pairs: Pairs) -> Tokens:
        return Tokens(self.tokens.ids[pairs], self.tokens.keep[pairs], self.tokens.targets[pairs])

    def everywhere(self, pairs: Pairs) -> Tokens:
        """With all positions kept, as crosscoders are trained on them."""
        its = self.these(pairs)
        return Tokens(its.ids, torch.ones_like(its.keep), its.targets)

    @cached_property
    def coordinates(self) -> Int[Tensor, "direction pair"]:
        """a, b, a + b and a − b modulo p of every pair: what a wave may run along."""
        pair = torch.arange(self.modulus**2)
        a, b = pair // self.modulus, pair % self.modulus
        return torch.stack([a, b, (a + b) % self.modulus, (a - b) % self.modulus])

    def unordered(self, pairs: Pairs) -> Pairs:
        """Numbers the pairs from 0 so that a pair and its mirror image share one: what is resampled together."""
        a, b = pairs // self.modulus, pairs % self.modulus
        return (torch.minimum(a, b) * self.modulus + torch.maximum(a, b)).unique(return_inverse=True)[1]


def _all_of(subject: Subject, split: str) -> Tokens:
    try:
        source = subject.source(split)
    except CrossproofError as error:
        raise _no_sums(subject, str(error)) from error
    if not source.texts_in_all:
        raise _no_sums(subject, f"its split `{split}` has no end")
    return source.tokens(0, source.texts_in_all)


def _pairs(tokens: Tokens, modulus: int) -> Pairs:
    return tokens.ids[:, 0] * modulus + tokens.ids[:, 1]


def _same(ids: Tensor, number: Tensor, modulus: int) -> bool:
    return torch.equal(ids, torch.stack([number // modulus, number % modulus], 1))


def _no_sums(subject: Subject, why: str) -> UnsupportedModel:
    return UnsupportedModel(
        f"{subject.name} does not add two numbers modulo p, as this study needs ({why}). Take the zoo's `modadd`, or "
        "wrap a model with the splits `all`, `train` and `validation` of texts such as `a b =`"
    )
