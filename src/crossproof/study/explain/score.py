"""What explanations are worth on texts that they were not made from: what is said of tokens beside what is so.

Everything follows from four counts by text and feature, so that texts can be resampled: how many tokens were judged, on
how many the feature is active, of how many that is said, and on how many it is both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.study.estimates import Drawn
from crossproof.study.explain.explanation import FEATURES_AT_ONCE, Explanation, active_on
from crossproof.study.token_labels import TokenLabels


@dataclass(frozen=True, eq=False)
class Tally:
    """Of each text and feature."""

    tokens: Float64[Tensor, "text feature"]
    active: Float64[Tensor, "text feature"]
    said: Float64[Tensor, "text feature"]
    hits: Float64[Tensor, "text feature"]

    def at(self, features: Int[Tensor, " some"] | Bool[Tensor, " feature"]) -> Tally:
        """Of some of the features."""
        return Tally(self.tokens[:, features], self.active[:, features], self.said[:, features], self.hits[:, features])

    def pooled(self) -> Tally:
        """Of all texts together."""
        counts = (self.tokens, self.active, self.said, self.hits)
        return Tally(*(its.sum(0, keepdim=True) for its in counts))

    def resampled(self, weights: Float64[Tensor, "draw text"]) -> Tally:
        """With each text as often as it is drawn: a row a draw instead of a text."""
        counts = (self.tokens, self.active, self.said, self.hits)
        return Tally(*(weights @ its for its in counts))

    # Of each row and feature; not a number where there is nothing to take a share of.

    @property
    def sensitivity(self) -> Float64[Tensor, "text feature"]:
        return self.hits / self.active

    @property
    def specificity(self) -> Float64[Tensor, "text feature"]:
        return (self.tokens - self.active - self.said + self.hits) / (self.tokens - self.active)

    @property
    def balanced(self) -> Float64[Tensor, "text feature"]:
        return (self.sensitivity + self.specificity) / 2

    @property
    def precision(self) -> Float64[Tensor, "text feature"]:
        return self.hits / self.said

    @property
    def scored(self) -> Bool[Tensor, " feature"]:
        """Features with tokens on which they are active and others on which they are not."""
        active, tokens = self.active.sum(0), self.tokens.sum(0)
        return (active > 0) & (active < tokens)


def tally(
    codes: Codes,
    labels: TokenLabels,
    explanations: Sequence[Explanation],
    text: Int[Tensor, " token"],
    texts: int,
) -> Tally:
    """Of every token; `text` says of which text it is, counted from 0."""
    features = codes.pattern.n_features
    active, said, hits = (torch.zeros(texts, features, dtype=torch.float64) for _ in range(3))
    for start in range(0, features, FEATURES_AT_ONCE):
        stop = min(start + FEATURES_AT_ONCE, features)
        is_so = active_on(codes, start, stop)
        is_said = torch.stack([its.predict(labels) for its in explanations[start:stop]])
        for counts, where in ((active, is_so), (said, is_said), (hits, is_so & is_said)):
            counts[:, start:stop] = _by_text(where, text, texts)
    tokens = torch.bincount(text, minlength=texts).double()[:, None].expand(texts, features)
    return Tally(tokens, active, said, hits)


MEASURES = ("sensitivity", "specificity", "balanced", "precision")


def measured(scored: Tally, learned: Tally | None, weights: Float64[Tensor, "draw text"]) -> dict[str, Drawn]:
    """Means over features of shares of tokens, and `information` where the rates were learned: the share of the bits
    to say where the features are active, which the explanations save with the rates that tokens had where these were
    made. It may be negative.
    """
    once, draws = scored.pooled(), scored.resampled(weights)
    found = {}
    for name in MEASURES:
        whole, drawn = getattr(once, name), getattr(draws, name)
        # a feature that is in none of the drawn texts keeps its score: the mean is always over the same features
        found[name] = Drawn(float(whole.nanmean()), torch.where(drawn.isnan(), whole, drawn).nanmean(1))
    if learned is not None:
        found["information"] = Drawn(float(_saved(once, learned)[0]), _saved(draws, learned))
    return found


def _saved(scored: Tally, learned: Tally) -> Float64[Tensor, " row"]:
    """All features' bits together: a mean over features would hang on the rarest."""
    past = learned.pooled()
    rate = (past.active + 0.5) / (past.tokens + 1)
    if_said = (past.hits + 0.5) / (past.said + 1)
    if_not = (past.active - past.hits + 0.5) / (past.tokens - past.said + 1)
    without = _bits(scored.active, scored.tokens, rate)
    given = _bits(scored.hits, scored.said, if_said)
    given += _bits(scored.active - scored.hits, scored.tokens - scored.said, if_not)
    return 1 - given.sum(1) / without.sum(1)


def _bits(ones: Tensor, of: Tensor, rate: Tensor) -> Tensor:
    return -(ones * rate.log2() + (of - ones) * (1 - rate).log2())


def _by_text(
    where: Bool[Tensor, "feature token"], text: Int[Tensor, " token"], texts: int
) -> Float[Tensor, "text feature"]:
    counts = torch.zeros(texts, len(where))
    return counts.index_add_(0, text, where.T.float())


def in_a_ring(features: Sequence[int], seed: int) -> dict[int, int]:
    """For each another of them, drawn; for a single one itself."""
    drawn = [features[i] for i in torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).tolist()]
    return dict(zip(drawn, [*drawn[1:], *drawn[:1]], strict=True))
