"""One head on one text: its numbers are those of the layer, and what is not asked for is where interaction is most."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from crossproof.binding.attention_view import AttentionView, attention_view
from crossproof.binding.bound_units import bound_attention
from crossproof.binding.encoding import encode
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.split import coefficients, four_parts
from crossproof.subject.subject import Subject
from tests.binding import coders
from tests.subject import tiny

TEXT = "w3 w10 w17 w24 w31 w38 w10"
INPUTS = "blocks.*.ln1.hook_normalized"
FAMILIES = ("gpt2", "neox", "llama", "mistral")


@cache
def crosscoder(family: str) -> Crosscoder:
    return coders.on(tiny.subject(family), INPUTS)


def view(family: str = "gpt2", text: str = TEXT, **asked: Any) -> AttentionView:
    return attention_view(tiny.subject(family), crosscoder(family), text, **asked)


def layer_of(family: str, layer: int) -> tuple[Subject, Heads, Passage, Tensor]:
    """The layer's heads in float64, the text, and what the model itself has at the layer's input."""
    subject, coder = tiny.subject(family), crosscoder(family)
    tokens = subject.tokens([TEXT])
    (bound,) = (its for its in bound_attention(subject, coder) if its.unit.layer == layer)
    site = bound.unit.input_site
    directions, bias = coder.decoder.detach()[:, bound.site].double(), coder.decoder_bias.detach()[bound.site].double()
    heads = heads_of(bound.unit.to(torch.float64), directions, bias)
    passage = next(encode(subject, coder, tokens, [site]).passages())
    return subject, heads, passage, subject.cache(tokens, [site])[site].double()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_numbers_are_those_of_the_layer(family: str) -> None:
    found = view(family, layer=1, head=2, query=5, key=4)
    subject, heads, passage, own = layer_of(family, 1)
    x = heads.input(passage, 0)
    pattern, models = heads.attention.pattern(x[None])[0, 2], heads.attention.pattern(own)[0, 2]
    torch.testing.assert_close(found.arrays["pattern"], pattern.float())
    torch.testing.assert_close(found.arrays["model_pattern"], models.float())
    record = found.record
    variation = (pattern - models).abs().sum(1) / 2
    assert record.unfaithfulness == pytest.approx(float(variation[1:].mean()), rel=1e-4)
    assert record.unfaithfulness_at_query == pytest.approx(float(variation[5]), rel=1e-4)
    assert (record.attention, record.model_attention) == pytest.approx((float(pattern[5, 4]), float(models[5, 4])))
    scores = heads.attention.scores(x[None])[0, 2]
    torch.testing.assert_close(found.arrays["parts"].sum(0), scores.float(), rtol=1e-4, atol=1e-4)
    assert record.score == pytest.approx(float(scores[5, 4]), rel=1e-5)
    terms = coefficients(heads, passage, 0, 5, 4)
    for name in ("pairs", "on_background", "of_background", "background"):
        expected = getattr(terms, name)[2].float()
        torch.testing.assert_close(found.arrays[name], expected, rtol=1e-4, atol=1e-5)
    assert record.query_features == tuple(terms.query_features.tolist())
    assert record.key_features == tuple(terms.key_features.tolist())
    assert record.words == tuple(subject.tokenizer.decode([n]) for n in subject.tokens([TEXT]).ids[0].tolist())
    assert record.described == (False,) + (True,) * 7
    assert (record.chosen, record.window) == ((), heads.attention.window)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_split_is_around_the_mean_input_of_the_texts_that_are_given(family: str) -> None:
    subject, heads, passage, _ = layer_of(family, 1)
    others = tiny.some_tokens(family)
    f = encode(subject, crosscoder(family), others).codes.dense().double()
    mean = heads.bias + f.mean(0) @ heads.directions
    expected = four_parts(heads, passage, 0, mean)
    found = view(family, layer=1, head=0, mean_over=others)
    torch.testing.assert_close(found.arrays["parts"], expected.parts[:, 0].float(), rtol=1e-4, atol=1e-5)
    for n, part in enumerate(found.record.parts):
        its = expected.accounts_for[n, 0]
        assert part.accounts_for == pytest.approx(float(its[1:].mean()), rel=1e-3, abs=1e-6)
        assert part.at_query == pytest.approx(float(its[found.record.query]), rel=1e-3, abs=1e-6)
    own = encode(subject, crosscoder(family), subject.tokens([TEXT])).codes.dense().double()
    expected = four_parts(heads, passage, 0, heads.bias + own.mean(0) @ heads.directions)
    alone = view(family, layer=1, head=0)  # toys bring no texts
    torch.testing.assert_close(alone.arrays["parts"], expected.parts[:, 0].float(), rtol=1e-4, atol=1e-5)
    assert alone.record.mean_over == "this text"


def interactions(heads: Heads, passage: Passage) -> Tensor:
    """Σ_ij I[i→j](t) by its definition, [pos, head]."""
    f, x, unit = passage.codes.dense().double(), heads.input(passage, 0), heads.attention
    pattern, group = unit.pattern(x[None])[0], len(unit.W_Q) // len(unit.W_K)
    total = torch.zeros(len(x), heads.n_heads, dtype=torch.float64)
    for h in range(heads.n_heads):
        y = (x @ unit.W_V[h // group] + unit.b_V[h // group]) @ unit.W_O[h]
        for i in range(heads.n_features):
            q = heads.rotated(f[:, i, None] * heads.queries[h, i])
            for j in range(heads.n_features):
                c = q @ heads.rotated(f[:, j, None] * heads.keys[h, j]).T
                for t, A in enumerate(pattern[h]):
                    reach = (A @ (y - A @ y).square().sum(1)).sqrt()
                    total[t, h] += (A @ (c[t] - A @ c[t]).square()).sqrt() * reach
    total[passage.given] = 0
    return total


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_is_not_asked_for_is_where_interaction_is_largest(family: str) -> None:
    by_layer = {}
    for layer in (0, 1):
        _, heads, passage, _ = layer_of(family, layer)
        by_layer[layer] = interactions(heads, passage)
        free = view(family, layer=layer).record
        position, head = divmod(int(by_layer[layer].argmax()), heads.n_heads)
        assert (free.query, free.head, free.layer) == (position, head, layer)
        assert free.chosen == ("head", "query", "key")
        assert view(family, layer=layer, head=1).record.query == int(by_layer[layer][:, 1].argmax())
        assert view(family, layer=layer, query=3).record.head == int(by_layer[layer][3].argmax())
        expected = by_layer[layer][1:].mean(0).tolist()
        assert free.interaction_by_head == (pytest.approx(expected, rel=1e-3),)
        x, unit = heads.input(passage, 0), heads.attention
        sums = [coefficients(heads, passage, 0, position, s).pairs[head].sum() for s in range(len(x))]
        together, A = torch.stack(sums), unit.pattern(x[None])[0, head, position]
        moved = A * (together - A @ together).abs()
        moved[passage.codes.dense().sum(1) == 0] = -1  # a key without features has nothing to show
        assert free.key == int(moved.argmax())


def test_the_layer_too_is_where_interaction_is_largest() -> None:
    every = [interactions(*layer_of("llama", layer)[1:3]) for layer in (0, 1)]
    most = torch.stack(every, dim=1)  # as the first of equals: position, layer, head
    found = view("llama").record
    place = (found.query, found.layer, found.head)
    assert place == tuple(int(n) for n in torch.unravel_index(most.argmax(), most.shape))
    means = most[1:].mean(0).tolist()
    assert [list(row) for row in found.interaction_by_head] == [pytest.approx(row, rel=1e-3) for row in means]
    assert found.layers == (0, 1)


def test_a_key_is_chosen_among_those_with_features() -> None:
    for query in range(1, 8):
        for layer in range(4):
            found = view(layer=layer, query=query).record
            assert found.key > 0
            assert found.key_features
    silent = copy.deepcopy(crosscoder("gpt2"))
    with torch.no_grad():
        silent.b_enc -= 1e6
    nothing = attention_view(tiny.subject("gpt2"), silent, TEXT).record
    assert (nothing.key, nothing.key_features) == (nothing.query, ())
    assert nothing.described[nothing.key]


def test_a_text_longer_than_the_context_is_counted() -> None:
    context = tiny.subject("gpt2").context
    assert context is not None
    words = TEXT.split()
    long = " ".join(words[n % len(words)] for n in range(context + 5))
    for text, tokens, read in ((TEXT, 7, 7), (long, context + 5, context - 1)):
        found = view(text=text, layer=0).record
        assert (found.tokens, found.tokens_read, len(found.words)) == (tokens, read, read + 1)


def test_words_that_the_tokenizer_does_not_have_are_counted() -> None:
    found = view(text="w3 nobody w10 knows these", layer=0).record
    assert (found.tokens_read, found.tokens_unknown) == (5, 3)
    assert view(layer=0).record.tokens_unknown == 0


def test_a_word_means_the_position_where_it_stands() -> None:
    found = view(layer=0, head=0, query="w31", key=" w17 ").record
    assert (found.query, found.key) == (5, 3)
    assert view(layer=0, head=0, query="5", key="3").record == found
    assert view(layer=0, head=0, query=5, key="<bos>").record.key == 0


def test_a_key_without_features_has_background_terms_alone() -> None:
    found = view(layer=0, head=0, query=5, key=0)
    assert found.record.key_features == ()
    assert found.arrays["pairs"].shape == (len(found.record.query_features), 0)
    terms = found.arrays["on_background"].sum() + found.arrays["background"]
    assert float(terms) == pytest.approx(found.record.score, rel=1e-4)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"layer": 9}, "layer: .* has no attention layer 9; this crosscoder has the inputs of 0, 1, 2, 3"),
        ({"head": 3}, "head: there is no head 3; the heads are 0 to 2"),
        ({"head": -1}, "head: there is no head -1"),
        ({"query": "w49"}, r"query: no token 'w49' in this text.* it has 0 <bos>, 1 w3, 2 w10"),
        ({"query": "w10"}, "query: 'w10' stands at the positions 2, 7; give one of these numbers"),
        ({"query": 8}, "query: there is no position 8; this text has 0 to 7"),
        ({"query": -1}, "query: there is no position -1"),
        ({"query": 0}, r"does not describe position 0 \(<bos>\).* are 1 w3, 2 w10"),
        ({"query": 3, "key": 4}, r"key: the query at 3 \(w17\) does not see position 4 \(w24\); it sees 0 to 3"),
    ],
)
def test_what_is_not_there_is_refused_by_name(asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(MismatchError, match=complaint):
        view(**asked)


def test_a_window_is_named() -> None:
    window = view("mistral").record.window
    assert window is not None
    with pytest.raises(MismatchError, match=f"it sees {8 - window} to 7"):
        view("mistral", query=7, key=0)


def test_a_crosscoder_without_an_attention_input_is_refused_by_its_sites() -> None:
    subject = tiny.subject("gpt2")
    with pytest.raises(MismatchError, match=r"has the sites blocks.0.ln2.*they read blocks.0.ln1.hook_normalized"):
        attention_view(subject, coders.on(subject, coders.MLP_INPUTS), TEXT)
    some = coders.on(subject, "blocks.2.ln1.hook_normalized")
    assert attention_view(subject, some, TEXT).record.layer == 2
    with pytest.raises(MismatchError, match=r"attention layer 1, blocks.1.ln1.hook_normalized; it has those of 2"):
        attention_view(subject, some, TEXT, layer=1)


def test_a_text_of_no_words_is_refused_and_one_of_a_word_is_not() -> None:
    for text in ("", " ", "\n\t "):
        with pytest.raises(CrossproofError, match="text is empty"):
            view(text=text)
    assert view(text="w3").record.query == 1
