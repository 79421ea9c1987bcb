"""A user's own texts as a token source: a list, a text file or a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from crossproof.errors import BadFile, CrossproofError
from crossproof.subject.tokens import Tokens

SEPARATOR = "<|endoftext|>"
SPLITS = ("train", "validation")
_JSON_LINES = (".jsonl", ".ndjson")
_FORMATS = (".txt", *_JSON_LINES)
_HELD_OUT = 20
"""One text in this many is for validation and never for training."""


class TextSource:
    """Texts one after the other, and from the beginning again after the last; every 20th is held out for validation.

    A text that is there more than once counts once, so that no text is in both splits.
    """

    texts_in_all: int | None

    def __init__(self, texts: Sequence[str], tokenize: Callable[[Sequence[str]], Tokens], split: str = "train") -> None:
        if split not in SPLITS:
            raise CrossproofError(f"no split {split!r}: texts have the splits {', '.join(SPLITS)}")
        texts = list(dict.fromkeys(texts))
        if len(texts) < 2:
            raise CrossproofError(
                f"{len(texts)} different texts cannot be split into training and validation; give at least two"
            )
        stride = min(_HELD_OUT, len(texts))
        held_out = split == "validation"
        self._texts = [text for index, text in enumerate(texts) if (index % stride == stride - 1) == held_out]
        self._tokenize = tokenize
        self.texts_in_all = len(self._texts)

    def tokens(self, start: int, count: int) -> Tokens:
        return self._tokenize([self._texts[index % len(self._texts)] for index in range(start, start + count)])


def read_texts(path: Path) -> list[str]:
    """The texts of a file: the `text` field of JSON lines, or text divided by `<|endoftext|>` or else by lines."""
    suffix = path.suffix.lower()
    if suffix not in _FORMATS:
        raise BadFile(
            f"{path} is of no known format: texts are read from .txt (divided by {SEPARATOR} or "
            f'else by lines) and from .jsonl or .ndjson (objects with a string field "text")'
        )
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadFile(f"{path} cannot be read as text: {error}") from error
    if suffix in _JSON_LINES:
        texts = [_text_field(path, number, line) for number, line in _numbered(content)]
    else:
        texts = content.split(SEPARATOR if SEPARATOR in content else "\n")
    texts = [text.strip() for text in texts if text.strip()]
    if not texts:
        raise BadFile(f"{path} has no texts")
    return texts


def _numbered(content: str) -> list[tuple[int, str]]:
    return [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]


def _text_field(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadFile(f"{path}, line {number}: not JSON ({error})") from error
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise BadFile(f'{path}, line {number}: expected an object with a string field "text"')
    return str(row["text"])
