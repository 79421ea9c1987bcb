"""Training with a penalty, from the config to the run folder, on the planted model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import get_args

import pytest

import crossproof as xp
from crossproof.binding.config import PenalisedTrainConfig, PenaltyConfig
from crossproof.binding.train import train
from crossproof.cli import main
from crossproof.crosscoder.buffer import ActivationStream
from crossproof.crosscoder.config import TrainConfig
from crossproof.crosscoder.train import train as train_without_penalties
from crossproof.errors import CrossproofError, MismatchError
from crossproof.files import read_json, read_jsonl, write_json
from crossproof.interaction.controls import ControlName
from crossproof.interaction.penalty import Form, Scaling

SITES = ("blocks.0.hook_mlp_in", "blocks.1.hook_mlp_in", "blocks.1.hook_resid_post")
OPTIONS = {"features": 48, "k": 4, "steps": 24, "batch_tokens": 64, "buffer_tokens": 1000, "harvest_texts": 8}
OPTIONS |= {"eval_texts": 4, "checkpoint_every": 8, "log_every": 8}
FILES = ("crosscoder/model.safetensors", "checkpoint/state.safetensors", "metrics.jsonl", "results.json")


def settings(out: Path, **changes: object) -> dict[str, object]:
    return {"subject": "planted", "out": out, "sites": SITES} | OPTIONS | changes


def config(out: Path, penalty: dict[str, object] | None = None, **changes: object) -> PenalisedTrainConfig:
    return PenalisedTrainConfig.model_validate(settings(out, **changes) | {"penalty": penalty or {}})


def assert_same_bits(first: Path, second: Path) -> None:
    for file in FILES:
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


def stop_before_batch(count: int, config: PenalisedTrainConfig | TrainConfig) -> None:
    """Training that ends as an interrupted one does."""
    given, following = 0, ActivationStream.__next__

    def until(stream: ActivationStream) -> object:
        nonlocal given
        if given == count:
            raise KeyboardInterrupt
        given += 1
        return following(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActivationStream, "__next__", until)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def test_the_config_knows_every_form_scaling_and_control() -> None:
    def options(field: str) -> set[str]:
        return set(get_args(PenaltyConfig.model_fields[field].annotation))

    assert options("form") == {"output", *get_args(Form)}
    assert options("scaling") == set(get_args(Scaling))
    assert options("control") == {"none", "output", *get_args(ControlName)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"weight": -1},
        {"neurons": 0},
        {"neurons": 1.5},
        {"q": 0},
        {"form": "mass", "q": 2},
        {"wieght": 1},
        {"form": "output", "scaling": "paper"},
        {"form": "output", "neurons": 0.5},
        {"form": "output", "control": "l1_features"},
        {"form": "dominant", "control": "output"},
        {"form": "output", "control": "output", "q": 2},
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(reversed(wrong))):
        PenaltyConfig.model_validate(wrong)


def test_without_a_weight_training_has_the_bits_it_had_before_there_was_a_penalty(tmp_path: Path) -> None:
    before = train_without_penalties(TrainConfig.model_validate(settings(tmp_path / "before")))
    assert train(config(tmp_path / "now", {"form": "mass"})) == before
    assert xp.train(TrainConfig.model_validate(settings(tmp_path / "plain"))) == before
    for name in ("now", "plain"):
        assert_same_bits(tmp_path / "before", tmp_path / name)
    assert "penalty" not in read_jsonl(tmp_path / "now" / "metrics.jsonl")[-1]


def test_run_folders_from_before_there_was_a_penalty_are_read_and_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(config(tmp_path / "whole"))
    stop_before_batch(18, config(tmp_path / "old"))
    for name in ("whole", "old"):
        run = read_json(tmp_path / name / "run.json")
        assert run["config"].pop("penalty")["weight"] == 0
        write_json(tmp_path / name / "run.json", run)
    assert train(config(tmp_path / "old")) == whole
    assert_same_bits(tmp_path / "whole", tmp_path / "old")
    assert main(["show", str(tmp_path / "whole"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == whole.model_dump(mode="json")
    with pytest.raises(MismatchError, match=r"penalty\.weight was 0\.0, now 2\.0"):
        train(config(tmp_path / "whole", {"weight": 2}))


@pytest.mark.parametrize("control", ["none", "l1_features"])
def test_an_interrupted_run_on_a_part_of_the_neurons_ends_with_the_same_bits(tmp_path: Path, control: str) -> None:
    penalty = {"weight": 20.0, "neurons": 0.3, "control": control}
    whole = train(config(tmp_path / "whole", penalty))
    stop_before_batch(19, config(tmp_path / "broken", penalty))
    shutil.copytree(tmp_path / "broken", tmp_path / "other")
    assert train(config(tmp_path / "broken", penalty)) == whole
    assert_same_bits(tmp_path / "whole", tmp_path / "broken")
    with pytest.raises(MismatchError, match=r"penalty\.weight was 20\.0, now 0\.0"):
        xp.train(TrainConfig.model_validate(settings(tmp_path / "other")))
    with pytest.raises(MismatchError, match=r"penalty\.neurons was 0\.3, now 0\.5"):
        train(config(tmp_path / "other", penalty | {"neurons": 0.5}))


def test_the_penalty_lowers_what_it_penalises(tmp_path: Path) -> None:
    """In the relative scaling, its column over its weight is what is not dominant."""
    shares = []
    for weight in (1e-6, 300.0):
        train(config(tmp_path / str(weight), {"weight": weight}, steps=60, lr=5e-3))
        shares.append(read_jsonl(tmp_path / str(weight) / "metrics.jsonl")[-1]["penalty"] / weight)
    assert shares[1] < 0.5 * shares[0]


def test_a_crosscoder_that_feeds_no_mlp_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"no MLP of planted reads one of them: they read blocks\.0\.hook_mlp_in"):
        train(config(tmp_path / "run", {"weight": 1}, sites=SITES[2:]))
    assert not (tmp_path / "run").exists()
    assert train(config(tmp_path / "run", {"weight": 1}, sites=SITES[1:])).tokens > 0


def test_run_folders_from_before_there_was_a_choice_of_units_are_resumed(tmp_path: Path) -> None:
    penalty = {"weight": 20.0, "neurons": 0.3}
    whole = train(config(tmp_path / "whole", penalty))
    stop_before_batch(18, config(tmp_path / "old", penalty))
    run = read_json(tmp_path / "old" / "run.json")
    assert run["config"]["penalty"].pop("on") == ["mlp"]
    write_json(tmp_path / "old" / "run.json", run)
    state = read_json(tmp_path / "old" / "checkpoint" / "state.json")
    assert state["settings"].pop("penalty.on") is None
    write_json(tmp_path / "old" / "checkpoint" / "state.json", state)
    assert train(config(tmp_path / "old", penalty)) == whole
    assert_same_bits(tmp_path / "whole", tmp_path / "old")


@pytest.mark.parametrize(("kind", "what"), [("attention", "attention layer"), ("norm", "norm")])
def test_a_kind_of_unit_that_a_model_does_not_have_is_refused_before_anything_is_written(
    tmp_path: Path, kind: str, what: str
) -> None:
    with pytest.raises(CrossproofError, match=rf"penalty\.on.*no {what} of planted.*it has no {what}"):
        train(config(tmp_path / "run", {"weight": 1, "on": ["mlp", kind]}))
    assert not (tmp_path / "run").exists()


def test_options_of_the_command_line_reach_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    options = [f"--{name.replace('_', '-')}={value}" for name, value in OPTIONS.items()]
    penalty = ["--penalty.weight", "7.5", "--penalty.form", "mass", "--penalty.scaling", "paper"]
    command = ["train", "--subject", "planted", "--out", str(out), "--sites", *SITES, *options, *penalty, "--json"]
    assert main(command) == 0
    results = json.loads(capsys.readouterr().out)
    given = read_json(out / "run.json")["config"]["penalty"]
    assert given == PenaltyConfig(weight=7.5, form="mass", scaling="paper").model_dump(mode="json")
    assert all(line["penalty"] > 0 for line in read_jsonl(out / "metrics.jsonl"))
    assert main(["show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == results
