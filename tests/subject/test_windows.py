"""The data of models of windows: all windows, each as often as it is there."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.errors import CrossproofError
from crossproof.subject.text import Stories
from crossproof.subject.zoo.windows import (
    Characters,
    Windows,
    WindowSource,
    alphabet,
    cut_windows,
    max_windows,
    text_windows,
)


def as_counter(windows: Windows) -> Counter[tuple[int, ...]]:
    contexts = windows.contexts[windows.item_context.long()].tolist()
    items = zip(contexts, windows.item_target.tolist(), windows.item_count.tolist(), strict=True)
    return Counter({(*context, target): count for context, target, count in items})


streams = st.integers(1, 5).flatmap(
    lambda context: st.tuples(
        st.just(context), st.lists(st.sampled_from((0, 1, 2, 255)), min_size=context + 1, max_size=60)
    )
)


@given(streams)
@settings(max_examples=100, deadline=None)
def test_items_are_the_windows_of_the_stream_each_once_with_its_count_in_order(given: tuple[int, list[int]]) -> None:
    context, stream = given
    windows = cut_windows(torch.tensor(stream, dtype=torch.uint8), context)
    slow = Counter(tuple(stream[start : start + context + 1]) for start in range(len(stream) - context))
    assert as_counter(windows) == slow
    assert len(windows.item_count) == len(slow)
    assert windows.n == len(stream) - context == int(windows.item_count.sum())
    contexts = [tuple(row) for row in windows.contexts.tolist()]
    assert contexts == sorted({window[:-1] for window in slow})
    items = list(zip(windows.item_context.tolist(), windows.item_target.tolist(), strict=True))
    assert all(one < other for one, other in pairwise(items))
    types = (windows.contexts.dtype, windows.item_context.dtype, windows.item_target.dtype, windows.item_count.dtype)
    assert types == (torch.uint8, torch.int32, torch.uint8, torch.int64)


@given(streams)
@settings(max_examples=50, deadline=None)
def test_a_source_gives_every_window_once_before_it_begins_again(given: tuple[int, list[int]]) -> None:
    context, stream = given
    windows = cut_windows(torch.tensor(stream, dtype=torch.uint8), context)
    source = WindowSource(windows)
    tokens = source.tokens(0, windows.n)
    seen = Counter(
        (*ids, targets[-1]) for ids, targets in zip(tokens.ids.tolist(), tokens.targets.tolist(), strict=True)
    )
    assert seen == as_counter(windows)
    assert torch.equal(source.tokens(windows.n, 1).ids, tokens.ids[:1])
    assert tokens.n_kept == tokens.n_scored == windows.n == source.texts_in_all
    assert tokens.keep[:, -1].all()


def test_text_windows_are_those_of_the_stories() -> None:
    windows = text_windows(characters=5_000)
    assert windows.stream is not None
    text = Characters(alphabet()).decode(windows.stream.tolist())
    assert len(text) == 5_000
    assert text.startswith(Stories(0)[0].text + "\n\n" + Stories(0)[1].text[:20])
    assert windows.context == windows.contexts.shape[1] == 8
    held_out = text_windows(characters=5_000, split="validation").stream
    assert held_out is not None
    assert Characters(alphabet()).decode(held_out.tolist()).startswith(Stories(1)[0].text)


def test_a_stream_has_exactly_as_many_characters_as_were_asked_for_also_where_a_story_ends() -> None:
    end = len(Stories(0)[0].text)
    for characters in range(end - 2, end + 5):
        stream = text_windows(characters).stream
        assert stream is not None
        assert len(stream) == characters


def test_every_character_of_any_story_is_in_the_alphabet() -> None:
    assert len(alphabet()) == 56
    assert list(alphabet()) == sorted(alphabet())
    assert {character for index in range(200) for character in Stories(7)[index].text} <= set(alphabet())


def test_max_windows_are_all_sequences_and_their_largest_number() -> None:
    windows = max_windows(context=3, vocabulary=4)
    assert as_counter(windows) == Counter((*row, max(row)) for row in product(range(4), repeat=3))
    assert [tuple(row) for row in windows.contexts.tolist()] == list(product(range(4), repeat=3))
    assert windows.n == 64
    assert max_windows().n == 32**4


@pytest.mark.parametrize("source", [lambda: text_windows(split="test"), lambda: text_windows(characters=8)])
def test_what_there_is_not_is_refused(source: object) -> None:
    with pytest.raises(CrossproofError, match=r"no split 'test'|no window of 8"):
        source()  # type: ignore[operator]


def test_characters_are_read_back() -> None:
    characters = Characters("abc")
    assert characters.decode(characters.encode("cabba")) == "cabba"
    assert characters.get_vocab() == {"a": 0, "b": 1, "c": 2}
    with pytest.raises(CrossproofError, match="no 'd'"):
        characters.encode("add")
