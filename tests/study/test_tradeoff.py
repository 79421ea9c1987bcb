"""The trade-off: what is swept, what is measured of a dictionary, and one tiny sweep."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from crossproof import runs
from crossproof.binding.bound import bound_mlps
from crossproof.binding.interactions import interactions
from crossproof.crosscoder.evaluate import evaluate
from crossproof.errors import CrossproofError
from crossproof.files import read_json, write_json
from crossproof.interaction.controls import Control
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.study.fidelity.measure import fidelity, losses
from crossproof.study.tradeoff.config import SETTINGS, TradeoffConfig
from crossproof.study.tradeoff.measure import load, measure, save
from crossproof.study.tradeoff.measures import MEASURES
from crossproof.study.tradeoff.results import TradeoffStudy
from crossproof.study.tradeoff.settings import setting_of
from crossproof.study.tradeoff.study import run
from tests.binding import coders
from tests.subject import tiny

# -- what is swept -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_known_again_by_its_penalty(name: str) -> None:
    assert setting_of(SETTINGS[name].penalty.model_copy(update={"weight": 3.0})) == name
    assert setting_of(SETTINGS[name].penalty) == "plain"
    assert all(SETTINGS[control].control for control in SETTINGS[name].against)


def test_another_penalty_has_the_name_of_its_difference() -> None:
    penalty: Any = SETTINGS["paper"].penalty.model_copy(update={"weight": 3.0, "neurons": 0.5})
    assert setting_of(penalty) == "scaling paper, neurons 0.5"


# -- what is measured --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["neo", "llama"])
def test_what_is_measured_is_what_other_parts_of_the_library_say_of_the_same_texts(family: str, tmp_path: Path) -> None:
    subject, tokens = tiny.subject(family, torch.float32), tiny.some_tokens(family, torch.float32)
    coder = coders.on(subject, "blocks.*.hook_resid_pre", coders.MLP_INPUTS, features=12)
    with torch.no_grad():
        coder.b_enc[3] -= 1e6
    save(measure(subject, coder, tokens, seed=0), tmp_path / "found")
    found = load(tmp_path / "found")
    assert found is not None
    its = {name: of.of(found, torch.ones(1, len(tokens), dtype=torch.float64)) for name, of in MEASURES.items()}
    for name, number in its.items():
        assert number.value == pytest.approx(float(number.draws[0]), nan_ok=True), name
    score, interacting = evaluate(subject, coder, tokens), interactions(subject, coder, tokens, "directed", ())
    expected = {
        "unexplained": score.mean_unexplained,
        "unexplained_mlp": sum(s.unexplained or 0 for s in score.sites if "ln2" in s.site) / subject.n_layers,
        "l0": score.l0,
        "dead": score.dead,
        "share": interacting.dominant_share,
        "pairwise": interacting.mean_pairwise,
        "pairwise_alive": interacting.mean_pairwise_alive,
    }
    rows = subject.harvest(tokens, coder.sites)
    with torch.no_grad():
        expected["reconstruction"] = float((coder.scaled(rows) - coder.scaled(coder(rows))).square().sum()) / len(rows)
        mlps, codes = bound_mlps(subject, coder), coder.encode(rows)
        at = [coder.decoder[:, mlp.site] for mlp in mlps]
        penalty = InteractionPenalty([mlp.unit for mlp in mlps], scaling="paper").eval()
        expected["others"] = float(penalty(codes, at))
        expected["total"] = float(Control("l1_contributions", [mlp.unit for mlp in mlps])(codes, at))
    ablated, weights = losses(subject, coder, tokens, ["keep 1"], "true", 0), torch.ones(1, len(tokens)).double()
    for name, scheme in (("fidelity", "all"), ("fidelity_largest", "keep 1")):
        of_mlps = [fidelity(ablated, mlp.name, scheme, weights).value for mlp in mlps]
        expected[name] = sum(of_mlps) / len(of_mlps)
    assert score.dead > 0
    for name, value in expected.items():
        assert its[name].value == pytest.approx(value, rel=1e-4, nan_ok=True), name


def test_each_text_has_sums_of_its_own_and_nothing_is_measured_twice(tmp_path: Path) -> None:
    subject, tokens = tiny.subject("neo", torch.float32), tiny.some_tokens("neo", torch.float32)
    coder = coders.on(subject, features=12)
    whole, part = measure(subject, coder, tokens, seed=0), measure(subject, coder, tokens[slice(1, 2)], seed=0)
    for name in ("tokens", "active", "error", "share", "touched", "total", "others", "score", "clean", "targets"):
        torch.testing.assert_close(getattr(whole, name)[1:2], getattr(part, name), msg=name)
    assert load(tmp_path / "nothing") is None


# -- a sweep -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], TradeoffStudy]:
    """One penalty that llama cannot have, one that it can, at one weight, and none."""
    folder = tmp_path_factory.mktemp("tradeoff")
    (folder / "texts.txt").write_text("\n".join(f"w{n % 50} w{n * 7 % 50} w{n * 3 % 50} w5" for n in range(60)))
    options: dict[str, Any] = {
        "subjects": (str(tiny.folder("llama")),),
        "settings": ("relative", "mass"),
        "weights": (5.0,),
    }
    options |= {"seeds": 1, "features": (12,), "steps": 2, "k": 3, "batch_tokens": 16, "buffer_tokens": 64, "texts": 3}
    options |= {"sites": (coders.MLP_INPUTS,), "data": folder / "texts.txt", "out": folder / "run"}
    return options, run(TradeoffConfig(**options))


def test_a_sweep_trains_what_can_be_trained_and_says_what_cannot(swept: tuple[dict[str, Any], TradeoffStudy]) -> None:
    options, found = swept
    assert [its.name for its in found.dictionaries] == ["llama-plain-f12-s0", "llama-relative-w5-f12-s0"]
    assert found.left_out == ["mass on llama: form: mass is for plain MLPs; gated ones have dominant"]
    assert [(point.setting, point.weight, point.seeds) for point in found.points] == [
        ("plain", 0.0, [0]),
        ("relative", 5.0, [0]),
    ]
    folders = options["out"] / "crosscoders"
    assert sorted(its.name for its in folders.iterdir()) == [its.name for its in found.dictionaries]
    assert not any((its / "checkpoint").exists() for its in folders.iterdir())
    assert runs.read(folders / "llama-relative-w5-f12-s0").config["penalty"]["weight"] == 5.0


def test_a_killed_sweep_goes_on_and_trains_and_measures_nothing_twice(
    swept: tuple[dict[str, Any], TradeoffStudy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, found = swept
    broken = tmp_path / "run"
    shutil.copytree(options["out"], broken)
    for name in ("results.json", "findings.json"):
        (broken / name).unlink()
    run_file = read_json(broken / "run.json")
    write_json(broken / "run.json", run_file | {"finished": False})
    for name in ("measure", "train"):
        monkeypatch.setattr(f"crossproof.study.tradeoff.study.{name}", None)
    again = run(TradeoffConfig(**options | {"out": broken}))
    moved = [its.model_copy(update={"folder": str(broken / "crosscoders" / its.name)}) for its in found.dictionaries]
    assert again == found.model_copy(update={"dictionaries": moved})


def test_crosscoders_that_are_there_are_measured_and_not_trained(
    swept: tuple[dict[str, Any], TradeoffStudy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, found = swept
    monkeypatch.setattr("crossproof.study.tradeoff.study.train", None)
    before = tuple(its.folder for its in found.dictionaries)
    again = run(TradeoffConfig(**options | {"out": tmp_path / "again", "coders": before}))
    assert again == found
    alone = run(TradeoffConfig(**options | {"out": tmp_path / "alone", "coders": before, "settings": ()}))
    assert alone.points == found.points


def test_what_cannot_be_compared_is_refused_before_anything_is_written(
    swept: tuple[dict[str, Any], TradeoffStudy], tmp_path: Path
) -> None:
    options, found = swept
    plain, penalised = (its.folder for its in found.dictionaries)
    out = tmp_path / "run"

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(CrossproofError, match=match):
            run(TradeoffConfig(**options | {"out": out} | changes))
        assert not out.exists()

    refused("settings: no 'relatve'; did you mean relative", settings=("relatve",))
    refused(r"weights: 3\.0 is there twice", weights=(3.0, 3.0))
    refused("subjects: llama is there twice", subjects=("a/llama", "b/llama"))
    refused("texts: 1 held out for .*; two are the least", data=_few(tmp_path))
    refused("nothing to train .* but dictionaries without a penalty .*gated ones have dominant", settings=("mass",))
    refused("no dictionary of .*12 features that was trained without", settings=(), coders=(penalised,))
    refused("no dictionary of .* that was trained without a penalty", settings=(), coders=())
    refused(r"differ in more than penalty, .*\(steps: 3 in .*, 2 in", steps=3, coders=(plain,))
    refused("is a run of `tradeoff`; give folders", coders=(str(options["out"]),))
    refused(
        "none of the subjects .*neo; name it too", subjects=(str(tiny.folder("neo")),), coders=(plain,), settings=()
    )
    refused("no MLP of .* reads one of", sites=("blocks.*.hook_resid_pre",))


def _few(folder: Path) -> Path:
    (folder / "few.txt").write_text("\n".join(f"w{n} w{n + 1}" for n in range(20)))
    return folder / "few.txt"
