"""Explanations of features in labels: on which tokens one is active, and the search for the labels that say so best.

An explanation is a few parts, any of which may be true of a token; a part is a label or two that are true together. The
search is greedy by information gain, in bits over all the tokens that it sees. Each label has to be paid for with the
bits that it takes to say which one it is, so what is found by chance is not worth its name: without that price the best
of half a million pairs of labels would always look good.

A search sees some texts; an explanation is worth what it says of others (`score.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.progress import progress
from crossproof.study.token_labels import TokenLabels

FEATURES_AT_ONCE = 128
HEADS = 3
"""How many of the best single labels are tried together with every other."""


@dataclass(frozen=True)
class Explanation:
    """What is said of a feature: it is active where all the labels of any part are true. Without parts, nowhere."""

    parts: tuple[tuple[str, ...], ...]

    def predict(self, labels: TokenLabels) -> Bool[Tensor, " token"]:
        """On which tokens the feature should be active."""
        said = torch.zeros(len(labels.values), dtype=torch.bool)
        for part in self.parts:
            said |= torch.stack([labels.column(name) for name in part]).all(0)
        return said

    def __str__(self) -> str:
        return ", or ".join(map(_said, self.parts)) or "nothing was found"


def explanations_of(codes: Codes, labels: TokenLabels, most_parts: int) -> list[Explanation]:
    """The best explanation of each feature on these tokens."""
    if codes.pattern.n_rows != len(labels.values):
        raise MismatchError(f"codes of {codes.pattern.n_rows} tokens, labels of {len(labels.values)}")
    search = _Search(labels, most_parts)
    features = codes.pattern.n_features
    found: list[Explanation] = []
    with progress("explaining", features, "features") as bar:
        for start in range(0, features, FEATURES_AT_ONCE):
            stop = min(start + FEATURES_AT_ONCE, features)
            found += search.explain(active_on(codes, start, stop))
            bar(stop - start)
    return found


def active_on(codes: Codes, start: int, stop: int) -> Bool[Tensor, "feature token"]:
    """Whether some features, one after the other, are active on each token."""
    order, starts = codes.pattern.by_feature
    some = order[int(starts[start]) : int(starts[stop])].cpu()
    on = codes.values.cpu()[some] > 0
    active = torch.zeros(stop - start, codes.pattern.n_rows, dtype=torch.bool)
    active[codes.pattern.features.cpu()[some][on] - start, codes.pattern.rows.cpu()[some][on]] = True
    return active


class _Search:
    """What does not depend on the features: labels as numbers, how many tokens each has, and each two together."""

    def __init__(self, labels: TokenLabels, most_parts: int) -> None:
        # whole numbers are exact in float32 up to 16 million tokens
        self.labels, self.most_parts = labels.values.float().contiguous(), most_parts
        self.columns = labels.values.T.contiguous()
        self.names = labels.names
        self.together = (self.labels.T @ self.labels).double()
        self.price = log2(max(len(labels.names), 2))

    def explain(self, active: Bool[Tensor, "feature token"]) -> list[Explanation]:
        if not self.names:
            return [Explanation(())] * len(active)
        covered = torch.zeros_like(active)
        worth = torch.zeros(len(active), dtype=torch.float64)
        spent = torch.zeros_like(worth)
        parts: list[list[tuple[str, ...]]] = [[] for _ in active]
        for _ in range(self.most_parts):
            gain, first, second = self._best_part(active, covered, spent)
            better = gain > worth
            if not better.any():
                break
            named = self.columns[first] & self.columns[second] & better[:, None]
            covered |= named
            worth = torch.where(better, gain, worth)
            spent += torch.where(better, self.price * (1 + (first != second).double()), 0)
            for feature in better.nonzero().squeeze(1).tolist():
                pair = sorted({int(first[feature]), int(second[feature])})
                parts[feature].append(tuple(self.names[label] for label in pair))
        return [Explanation(tuple(its)) for its in parts]

    def _best_part(
        self,
        active: Bool[Tensor, "feature token"],
        covered: Bool[Tensor, "feature token"],
        spent: Float64[Tensor, " feature"],
    ) -> tuple[Float64[Tensor, " feature"], Int[Tensor, " feature"], Int[Tensor, " feature"]]:
        """What an explanation is worth with the best part added to what it covers: bits gained less bits spent."""
        tokens, positives = active.shape[1], active.sum(1).double()[:, None]
        hits, named = (active & covered).sum(1).double()[:, None], covered.sum(1).double()[:, None]
        uncovered = active & ~covered
        first_gain = information_gain(
            hits + self._count(uncovered),
            named + self.together.diagonal() - self._count(covered),
            positives,
            tokens,
        )
        best, label = (first_gain - self.price).max(1)
        chosen = best - spent, label, label
        heads = first_gain.sort(dim=1, descending=True, stable=True).indices[:, :HEADS]
        for head in heads.T:
            with_head = self.columns[head]
            gain = information_gain(
                hits + self._count(uncovered & with_head),
                named + self.together[head] - self._count(covered & with_head),
                positives,
                tokens,
            )
            best, label = (gain - 2 * self.price).max(1)
            better = best - spent > chosen[0]
            options = zip((best - spent, head, label), chosen, strict=True)
            chosen = tuple(torch.where(better, new, old) for new, old in options)  # type: ignore[assignment]
        return chosen

    def _count(self, where: Bool[Tensor, "feature token"]) -> Float64[Tensor, "feature label"]:
        """How many of each feature's tokens have each label."""
        starts = torch.zeros(len(where) + 1, dtype=torch.long)
        torch.cumsum(where.sum(1), 0, out=starts[1:])
        tokens = where.nonzero()[:, 1]
        counts = F.embedding_bag(tokens, self.labels, starts, mode="sum", include_last_offset=True)
        return counts.double()


def information_gain(
    hits: Float[Tensor, "*#any"], named: Float[Tensor, "*#any"], positives: Float[Tensor, "*#any"], tokens: int
) -> Float64[Tensor, "*#any"]:
    """Bits that naming some tokens saves when it is told which of all are active; 0 where fewer of the named are
    active than of the others, since an explanation says where a feature is active.
    """
    saved = _bits(positives, tokens) - _bits(hits, named) - _bits(positives - hits, tokens - named)
    return torch.where(hits * tokens > positives * named, saved, 0)


def _bits(ones: Float[Tensor, "*#any"], of: Float[Tensor, "*#any"] | int) -> Float64[Tensor, "*#any"]:
    """What it takes to say which of so many are ones, at their own rate."""
    of = torch.as_tensor(of, dtype=torch.float64)
    return (torch.xlogy(of, of) - torch.xlogy(ones, ones) - torch.xlogy(of - ones, of - ones)) / torch.log(
        torch.tensor(2.0, dtype=torch.float64)
    )


def _said(part: tuple[str, ...]) -> str:
    """`names inside speech`: a thing, then where it stands."""
    things = [name for name in part if not name.startswith("tokens ")] or ["tokens"]
    where = [name.removeprefix("tokens ") for name in part if name.startswith("tokens ")]
    return " ".join([" that are ".join(things), " and ".join(where)]).strip()
