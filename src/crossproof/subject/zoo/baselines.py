"""What counting can do: the losses of n-gram models, to set a trained model's loss beside.

A model that has learned no more than which words follow which does no better than the trigram. The probabilities are
interpolated with absolute discounting: every count gives up `DISCOUNT`, and what it gives up goes to the next shorter
context, in the end to every token alike.

    p(w | context) = max(count(context w) − D, 0) / count(context)
                   + D · kinds(context) / count(context) · p(w | shorter context)
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.subject.tokens import NO_TARGET, Tokens

DISCOUNT = 0.75
NAMES = ("unigram", "bigram", "trigram")


class NGrams:
    """Counts of the scored tokens after contexts of none, one and two tokens."""

    def __init__(self, grams: Int[Tensor, "gram 3"], vocabulary: int) -> None:
        """`grams` holds, for every scored position, the token before it, its own and the one to predict."""
        self.vocabulary = vocabulary
        self._orders = [
            _Counts(_key(grams[:, 2 - order : 2], vocabulary), grams[:, 2], vocabulary) for order in range(3)
        ]

    @classmethod
    def fit(cls, texts: Iterable[Tokens], vocabulary: int) -> NGrams:
        return cls(torch.cat([scored_grams(tokens) for tokens in texts]), vocabulary)

    def losses(self, texts: Iterable[Tokens]) -> dict[str, float]:
        """The mean loss of each order over the scored positions of `texts`."""
        grams = torch.cat([scored_grams(tokens) for tokens in texts])
        probability: Float[Tensor, " gram"] = torch.full((len(grams),), 1 / self.vocabulary, dtype=torch.float64)
        losses = {}
        for order, (name, counts) in enumerate(zip(NAMES, self._orders, strict=True)):
            context = _key(grams[:, 2 - order : 2], self.vocabulary)
            probability = counts.probability(context, grams[:, 2], shorter=probability)
            losses[name] = -probability.log().mean().item()
        return losses


def scored_grams(tokens: Tokens) -> Int[Tensor, "gram 3"]:
    """Two tokens of context and the target of every scored position; the first position stands in before itself."""
    before = torch.cat([tokens.ids[:, :1], tokens.ids[:, :-1]], 1)
    return torch.stack([before, tokens.ids, tokens.targets], -1)[tokens.targets != NO_TARGET]


class _Counts:
    """How often each token followed each context, for contexts of one length."""

    def __init__(self, context: Int[Tensor, " gram"], token: Int[Tensor, " gram"], vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._grams, self._times = torch.unique(context * vocabulary + token, return_counts=True)
        contexts = self._grams // vocabulary
        self._contexts, where = torch.unique(contexts, return_inverse=True)
        self._total = torch.zeros_like(self._contexts).index_add_(0, where, self._times)
        self._kinds = torch.bincount(where, minlength=len(self._contexts))

    def probability(
        self, context: Int[Tensor, " gram"], token: Int[Tensor, " gram"], shorter: Float[Tensor, " gram"]
    ) -> Float[Tensor, " gram"]:
        times = _look_up(self._grams, self._times, context * self._vocabulary + token).double()
        total = _look_up(self._contexts, self._total, context).double()
        kinds = _look_up(self._contexts, self._kinds, context).double()
        seen = ((times - DISCOUNT).clamp(min=0) + DISCOUNT * kinds * shorter) / total.clamp(min=1)
        return torch.where(total > 0, seen, shorter)


def _key(context: Int[Tensor, "gram length"], vocabulary: int) -> Int[Tensor, " gram"]:
    key = torch.zeros(len(context), dtype=torch.int64)
    for column in context.unbind(1):
        key = key * vocabulary + column
    return key


def _look_up(
    keys: Int[Tensor, " key"], values: Int[Tensor, " key"], wanted: Int[Tensor, " gram"]
) -> Int[Tensor, " gram"]:
    """The value of each wanted key, 0 for keys that are not there. `keys` is sorted."""
    place = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[place] == wanted, values[place], 0)
