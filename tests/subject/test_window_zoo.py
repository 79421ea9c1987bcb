"""The shipped models of windows: each is what its recipe and its report say, and what proofs need."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from crossproof.errors import CrossproofError
from crossproof.subject import zoo
from crossproof.subject.subject import Subject
from crossproof.subject.zoo.records import (
    WindowMade,
    WindowReport,
    read_window_recipe,
    read_window_report,
    sha256,
    window_markdown,
)
from crossproof.subject.zoo.window_model import WindowModel
from crossproof.subject.zoo.window_recipes import CERTIFICATES, WINDOW_RECIPES
from crossproof.subject.zoo.windows import alphabet, max_windows

SHIPPED = tuple(name for name, recipe in WINDOW_RECIPES.items() if recipe.shipped)
FAMILIES = ("talesproof", "talesproof-ln", "talesproof-mlp", "talesproof-mlp2")
WINDOWS = 5_000


def report_of(family: str, certificate: float) -> WindowReport:
    return read_window_report(zoo.folder(f"{family}-c{certificate}" if certificate else family))


def test_there_is_a_member_of_every_family_for_every_weight_of_the_certificate() -> None:
    members = {f"{family}-c{weight}" if weight else family for family in FAMILIES for weight in CERTIFICATES}
    assert {"maxof4", *members} <= set(SHIPPED) < set(zoo.names())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_member_is_what_its_recipe_and_its_report_say(name: str) -> None:
    folder = zoo.folder(name)
    made = WindowMade.model_validate_json((folder / "recipe.json").read_text())
    report = read_window_report(folder)
    assert made.recipe == read_window_recipe(folder) == WINDOW_RECIPES[name]
    assert made.weights_sha256 == report.weights_sha256 == sha256(folder / "model.safetensors")
    model = zoo.load_model(name)
    assert isinstance(model, WindowModel)
    assert model.config == made.recipe.model
    assert sum(parameter.numel() for parameter in model.parameters()) == report.parameters
    assert (model.tokenizer is None) == (name == "maxof4")
    assert model.tokenizer is None or model.tokenizer.characters == alphabet()


@pytest.mark.parametrize("name", SHIPPED)
def test_the_recorded_losses_are_found_again(name: str) -> None:
    report, subject = read_window_report(zoo.folder(name)), Subject.load(name)
    assert subject.loss(subject.texts(WINDOWS, "train")) == pytest.approx(report.loss, abs=0.08)
    if report.validation_loss is not None:
        assert subject.loss(subject.texts(WINDOWS)) == pytest.approx(report.validation_loss, abs=0.08)


def test_the_largest_of_four_is_right_for_all_inputs() -> None:
    model, windows = zoo.load_model("maxof4"), max_windows()
    assert isinstance(model, WindowModel)
    loss = right = 0.0
    with torch.no_grad():
        for start in range(0, windows.n, 2**16):
            ids, targets = windows.at(torch.arange(start, start + 2**16))
            logits = model.last_logits(ids)
            loss += float(functional.cross_entropy(logits, targets, reduction="sum"))
            right += int((logits.argmax(1) == targets).sum())
    assert right == windows.n == 32**4
    assert loss / windows.n < 3e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_the_more_the_certificate_counts_the_closer_it_is(family: str) -> None:
    reports = [report_of(family, weight) for weight in CERTIFICATES]
    gaps = [report.certificate - report.loss for report in reports]
    assert gaps == sorted(gaps, reverse=True)
    assert all(0 <= gap < 0.3 * gaps[0] for gap in gaps[1:])
    assert all(report.loss < report.unigram_entropy - 1 for report in reports)


def test_the_largest_of_five_is_made_on_demand() -> None:
    assert not WINDOW_RECIPES["maxof5"].shipped
    if not zoo.is_there("maxof5"):
        with pytest.raises(CrossproofError, match="crossproof zoo maxof5"):
            Subject.load("maxof5")


def test_models_of_windows_are_none_of_hugging_face() -> None:
    with pytest.raises(CrossproofError, match="load_model"):
        zoo.load_hf("talesproof")


@pytest.mark.parametrize("name", ["maxof4", "talesproof"])
def test_an_unknown_split_is_told_the_known_ones(name: str) -> None:
    with pytest.raises(CrossproofError, match="train, validation"):
        zoo.source(name, "test")


def test_the_tables_in_the_docs_are_those_of_the_shipped_models() -> None:
    docs = Path(__file__).parents[2] / "docs" / "zoo.md"
    assert window_markdown() in docs.read_text()
