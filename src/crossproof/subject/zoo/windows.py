"""The data of models of windows: every window there is with what comes after it, and how often each pair does.

A proof is of a finite set of windows, and cheapest if each is looked at once: `contexts` are the different windows in
the order of their tokens, and an item is one of them with one target. The data is computed when it is asked for, never
stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.subject.text import TAG, Stories, vocabulary
from crossproof.subject.tokens import NO_TARGET, Tokens
from crossproof.subject.zoo.sources import STORY_SEED
from crossproof.subject.zoo.window_recipes import TextData, WindowRecipe

BETWEEN_STORIES = "\n\n"
_STRIDE = 2_654_435_761
"""A prime larger than any data: its multiples visit all windows, neighbours in the text far from each other."""


@dataclass(frozen=True)
class Windows:
    """Item i is the window `contexts[item_context[i]]`, followed by `item_target[i]`, `item_count[i]` times.

    Contexts are in the order of their tokens, items in that of their contexts, then of their targets. Tokens are
    bytes; make them `long()` before indexing with them, torch takes a byte for a mask.
    """

    stream: UInt8[Tensor, " character"] | None
    """What the windows are cut from; None if they are all there can be."""
    context: int
    contexts: UInt8[Tensor, "context pos"]
    item_context: Int[Tensor, " item"]
    item_target: UInt8[Tensor, " item"]
    item_count: Int[Tensor, " item"]

    @property
    def n(self) -> int:
        """How many windows there are, each as often as it occurs."""
        return len(self.item_count) if self.stream is None else len(self.stream) - self.context

    def at(self, index: Int[Tensor, " window"]) -> tuple[Int[Tensor, "window pos"], Int[Tensor, " window"]]:
        """Windows by their place in the data, from 0 to n − 1, and what follows each; as indices."""
        if self.stream is None:
            return self.contexts[self.item_context[index].long()].long(), self.item_target[index].long()
        cut = self.stream[index[:, None] + torch.arange(self.context + 1)].long()
        return cut[:, :-1], cut[:, -1]


def open_windows(recipe: WindowRecipe, split: str = "train") -> Windows:
    """The data of a recipe. That of maxima has one split, which is all of it, under every name."""
    _check_split(split)
    if isinstance(recipe.data, TextData):
        return text_windows(recipe.data.characters, recipe.model.context, split)
    return max_windows(recipe.model.context, recipe.model.vocabulary)


@cache
def text_windows(characters: int = TextData().characters, context: int = 8, split: str = "train") -> Windows:
    """Every window of the first characters of the stories, in the alphabet of `alphabet()`."""
    _check_split(split)
    if characters <= context:
        raise CrossproofError(f"{characters} characters hold no window of {context} and a character after it")
    stream = torch.tensor(Characters(alphabet()).encode(_stories(characters, split)), dtype=torch.uint8)
    return cut_windows(stream, context)


def cut_windows(stream: UInt8[Tensor, " character"], context: int) -> Windows:
    """Every window of a stream that has a token after it."""
    rows = np.lib.stride_tricks.sliding_window_view(stream.numpy(), context + 1)
    rows = rows[np.lexsort(rows.T[::-1])]
    differs = rows[1:] != rows[:-1]
    first_of_item = np.flatnonzero(np.r_[True, differs.any(1)])
    new_context = np.r_[True, differs[:, :-1].any(1)][first_of_item]
    items = rows[first_of_item]
    return Windows(
        stream=stream,
        context=context,
        contexts=torch.from_numpy(items[new_context, :-1].copy()),
        item_context=torch.from_numpy(new_context.cumsum().astype(np.int32) - 1),
        item_target=torch.from_numpy(items[:, -1].copy()),
        item_count=torch.from_numpy(np.diff(np.r_[first_of_item, len(rows)]).astype(np.int64)),
    )


@cache
def max_windows(context: int = 4, vocabulary: int = 32) -> Windows:
    """Every sequence of `context` numbers below `vocabulary`, followed by its largest."""
    number = torch.arange(vocabulary**context, dtype=torch.int32)
    digits = [number // vocabulary**place % vocabulary for place in reversed(range(context))]
    contexts = torch.stack([digit.to(torch.uint8) for digit in digits], 1)
    return Windows(
        stream=None,
        context=context,
        contexts=contexts,
        item_context=number,
        item_target=contexts.amax(1),
        item_count=torch.ones(len(number), dtype=torch.int64),
    )


@cache
def alphabet() -> tuple[str, ...]:
    """Every character that a story can hold."""
    return tuple(sorted(set("".join(piece for piece in vocabulary()[2:] if piece != TAG))))


class Characters:
    """Text as its characters' places in a list. There are no special tokens: a window is full."""

    bos_token_id = eos_token_id = None

    def __init__(self, characters: Sequence[str]) -> None:
        self.characters = tuple(characters)
        self._ids = {character: id_ for id_, character in enumerate(characters)}

    def __len__(self) -> int:
        return len(self.characters)

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise CrossproofError(
                f"the model has no {error.args[0]!r}; its characters are {''.join(self.characters)!r}"
            ) from None

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(self.characters[id_] for id_ in ids)

    def get_vocab(self) -> dict[str, int]:
        return dict(self._ids)


class WindowSource:
    """Windows as texts, each kept and scored at its last position alone, in an order that mixes them."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows
        self.texts_in_all: int | None = windows.n

    def tokens(self, start: int, count: int) -> Tokens:
        ids, targets = self.windows.at(torch.arange(start, start + count) * _STRIDE % self.windows.n)
        return last_scored(ids, targets)


def last_scored(ids: Int[Tensor, "window pos"], targets: Int[Tensor, " window"]) -> Tokens:
    """Windows as a model reads them: only the last position counts."""
    keep = torch.zeros_like(ids, dtype=torch.bool)
    keep[:, -1] = True
    everywhere = torch.full_like(ids, NO_TARGET)
    everywhere[:, -1] = targets
    return Tokens(ids, keep, everywhere)


def first_windows(texts: Sequence[str], tokenizer: Characters, context: int, asked: int | None) -> Tokens:
    """The first window of each text, with the character after it where the text goes on."""
    if asked not in (None, context):
        raise CrossproofError(f"the model reads windows of exactly {context} characters, not of {asked}")
    rows = [tokenizer.encode(text[: context + 1]) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < context:
            raise CrossproofError(
                f"{text!r} has {len(row)} characters: the model reads windows of {context} and says what follows them"
            )
    ids = torch.tensor([row[:context] for row in rows])
    return last_scored(ids, torch.tensor([row[context] if len(row) > context else NO_TARGET for row in rows]))


def _stories(characters: int, split: str) -> str:
    told: list[str] = []
    length = 0
    for story in Stories(STORY_SEED[split]).stream():
        told.append(story.text)
        length += len(story.text) + len(BETWEEN_STORIES)
        if length - len(BETWEEN_STORIES) >= characters:
            break
    return BETWEEN_STORIES.join(told)[:characters]


def _check_split(split: str) -> None:
    if split not in STORY_SEED:
        raise CrossproofError(f"no split {split!r}: windows have the splits {', '.join(STORY_SEED)}")
