"""Training and building models of windows: the same bits every time, certified when asked to be, complete folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from crossproof.errors import CrossproofError, NonFinite
from crossproof.proof.training.build import build, target_entropy
from crossproof.proof.training.objective import certificate, logit_bounds
from crossproof.proof.training.train import measure, objective, train
from crossproof.subject.subject import Subject
from crossproof.subject.zoo.build import rebuild
from crossproof.subject.zoo.records import WindowMade, read_window_report, sha256
from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES, MaxData, TextData, WindowConfig, WindowRecipe
from crossproof.subject.zoo.windows import max_windows, open_windows

TEXT = WindowConfig(vocabulary=56, context=4, width=8, neurons=16, mixing="attention", mlps=1, norm=False)
MAXIMA = WindowConfig(vocabulary=4, context=3, width=8, neurons=1, mixing="attention", mlps=0, norm=False)


def text_recipe(certificate: float = 0.0, steps: int = 20) -> WindowRecipe:
    return WindowRecipe(
        name="tiny", model=TEXT, data=TextData(characters=2_000), certificate=certificate, steps=steps, batch=64
    )


def max_recipe(steps: int) -> WindowRecipe:
    return WindowRecipe(
        name="tiny", model=MAXIMA, data=MaxData(), shared_embedding=True, steps=steps, batch=64, lr=0.02
    )


@pytest.fixture
def tiny_in_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WINDOW_RECIPES, "tiny", text_recipe(0.3))


@pytest.mark.parametrize("recipe", [text_recipe(), text_recipe(0.8), max_recipe(20)])
def test_a_recipe_gives_the_same_bits_each_time_and_another_seed_others(recipe: WindowRecipe) -> None:
    one, again, other = (train(each).model for each in (recipe, recipe, recipe.model_copy(update={"seed": 1})))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in one.state_dict().items())
    assert not torch.equal(one.W_U, other.W_U)


def test_training_leaves_torch_as_it_was() -> None:
    before, state = torch.get_num_threads(), torch.random.get_rng_state()
    train(text_recipe())
    assert torch.get_num_threads() == before
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_certified_training_closes_most_of_the_gap_between_certificate_and_loss() -> None:
    gaps = []
    for weight in (0.0, 0.8):
        trained = train(text_recipe(weight, steps=200))
        measured = measure(trained.model, trained.windows)
        assert measured.loss < float(target_entropy(trained.windows))
        gaps.append(measured.certificate - measured.loss)
    assert gaps[1] < 0.2 * gaps[0]


def test_the_objective_mixes_loss_and_certificate_by_the_weight() -> None:
    model, windows = train(text_recipe(steps=1)).model, open_windows(text_recipe())
    ids, targets = windows.at(torch.arange(50))
    with torch.no_grad():
        loss = functional.cross_entropy(model.last_logits(ids), targets)
        bound = certificate(logit_bounds(model, ids), targets).mean()
        for weight in (0.0, 0.25, 1.0):
            expected = (1 - weight) * loss + weight * bound
            torch.testing.assert_close(objective(model, ids, targets, weight), expected)


def test_what_is_measured_is_the_mean_over_all_windows() -> None:
    trained = train(text_recipe(0.3))
    windows, model = trained.windows, trained.model
    ids, targets = windows.at(torch.arange(windows.n))
    with torch.no_grad():
        logits = model.last_logits(ids)
        bound = certificate(logit_bounds(model, ids), targets).mean()
    measured = measure(model, windows)
    assert measured.loss == pytest.approx(float(functional.cross_entropy(logits, targets)), rel=1e-4)
    assert measured.accuracy == pytest.approx(float((logits.argmax(1) == targets).double().mean()), abs=1e-9)
    assert measured.certificate == pytest.approx(float(bound), rel=1e-4)
    assert model.W_E.dtype == torch.float32


def test_a_shared_embedding_is_kept_as_sums_of_tokens_and_positions() -> None:
    W_E = train(max_recipe(100)).model.state_dict()["W_E"]
    differences = W_E - W_E[:1]
    torch.testing.assert_close(differences, differences[:, :1].expand_as(W_E), atol=1e-5, rtol=0)
    assert differences[1:].abs().max() > 0.01


def test_maxima_are_learned() -> None:
    trained = train(max_recipe(1500))
    assert measure(trained.model, max_windows(3, 4)).accuracy == 1.0


def test_a_loss_that_is_not_finite_stops_training() -> None:
    with pytest.raises(NonFinite, match=r"tiny: the loss is .* at step 100; a lower `lr`"):
        train(text_recipe(steps=101).model_copy(update={"lr": 1e30}))


def test_the_entropy_of_targets_is_that_of_their_shares() -> None:
    # The largest of two bits is 1 in three cases of four.
    assert float(target_entropy(max_windows(2, 2))) == pytest.approx(0.5623351446)


@pytest.mark.usefixtures("tiny_in_the_zoo")
def test_a_built_member_is_a_complete_folder_and_a_subject_with_its_texts(tmp_path: Path) -> None:
    build("tiny", tmp_path)
    folder = tmp_path / "tiny"
    report = read_window_report(folder)
    made = WindowMade.model_validate_json((folder / "recipe.json").read_text())
    assert made.recipe == WINDOW_RECIPES["tiny"]
    assert made.weights_sha256 == report.weights_sha256 == sha256(folder / "model.safetensors")
    assert (report.windows, report.contexts <= report.items) == (1_996, True)
    assert len(json.loads((folder / "vocabulary.json").read_text())) == 56
    subject = Subject.load(str(folder))
    assert subject.loss(subject.texts(1_996, "train")) == pytest.approx(report.loss, rel=1e-4)
    assert subject.loss(subject.texts(1_996)) == pytest.approx(report.validation_loss, rel=1e-4)


@pytest.mark.usefixtures("tiny_in_the_zoo")
def test_rebuilding_says_whether_the_bits_are_the_same_and_a_check_keeps_nothing(tmp_path: Path) -> None:
    assert [verdict["same"] for verdict in rebuild(["tiny"], tmp_path, build=build)] == [False]
    weights = tmp_path / "tiny" / "model.safetensors"
    assert [verdict["same"] for verdict in rebuild(["tiny"], tmp_path, check=True, build=build)] == [True]
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    kept = sha256(weights)
    assert [verdict["same"] for verdict in rebuild(["tiny"], tmp_path, check=True, build=build)] == [False]
    assert sha256(weights) == kept


def test_the_zoo_alone_says_who_makes_models_of_windows(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"crossproof\.proof\.training\.build"):
        rebuild(["maxof4"], tmp_path)


def test_a_name_that_nothing_trains_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="nearest: talesproof"):
        rebuild(["maxof4", "talesprof"], tmp_path, build=build)
    assert not list(tmp_path.iterdir())
