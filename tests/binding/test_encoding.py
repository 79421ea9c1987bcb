"""Texts in the features of a crosscoder: all tokens at once, and text by text as attention reads them."""

from __future__ import annotations

import pytest
import torch

from crossproof.binding import encoding
from crossproof.binding.encoding import codes_of, encode
from crossproof.subject.tokens import Tokens
from tests.binding import coders
from tests.subject import tiny

ATTENTION_INPUTS = "blocks.*.ln1.hook_normalized"


def tokens_with_gaps() -> Tokens:
    """One text has no kept position, one a gap in its middle, one ends early."""
    tokens = tiny.some_tokens("gpt2")
    keep = tokens.keep.clone()
    keep[1] = False
    keep[0, 2:4] = False
    keep[2, -2:] = False
    return Tokens(tokens.ids, keep, tokens.targets)


@pytest.mark.parametrize("texts_per_pass", [1, 2, 64])
def test_passages_hold_every_code_once_and_the_models_values_elsewhere(
    texts_per_pass: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "TEXTS_PER_PASS", texts_per_pass)
    subject, tokens = tiny.subject("gpt2"), tokens_with_gaps()
    coder = coders.on(subject, ATTENTION_INPUTS)
    sites = coder.sites
    encoded = encode(subject, coder, tokens, sites)
    whole = codes_of(subject, coder, tokens)
    torch.testing.assert_close(encoded.codes.dense(), whole.dense())
    torch.testing.assert_close(whole.dense(), coder.encode(subject.harvest(tokens, sites)).dense())
    values, row = subject.cache(tokens, sites), 0
    passages, kept_texts = list(encoded.passages()), [t for t in range(len(tokens)) if tokens.keep[t].any()]
    assert len(passages) == len(kept_texts)
    for text, passage in zip(kept_texts, passages, strict=True):
        last = int(tokens.keep[text].nonzero().max())
        assert passage.positions == last + 1
        kept = tokens.keep[text, : last + 1]
        assert torch.equal(passage.described, kept)
        dense = passage.codes.dense()
        torch.testing.assert_close(dense[kept], whole.dense()[row : row + int(kept.sum())])
        assert not dense[~kept].any()
        for site, inputs in zip(sites, passage.inputs, strict=True):
            torch.testing.assert_close(inputs, values[site][text, : last + 1][~kept].float())
        row += int(kept.sum())
    assert row == tokens.n_kept
    assert torch.equal(encoded.text, tokens.keep.nonzero()[:, 0])


def test_sites_of_a_crosscoder_keep_their_order_whatever_the_order_of_computation() -> None:
    subject, tokens = tiny.subject("gpt2"), tokens_with_gaps()
    forth = subject.find_sites([ATTENTION_INPUTS])
    values = subject.cache(tokens, forth)
    torch.testing.assert_close(subject.kept(tokens, forth[::-1], values), subject.harvest(tokens, forth).flip(1))
    torch.testing.assert_close(subject.harvest(tokens, forth[::-1]), subject.harvest(tokens, forth).flip(1))
