from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.proof.check import check
from crossproof.study.ladder.config import LadderConfig
from crossproof.study.ladder.results import LadderStudy
from crossproof.study.ladder.study import run
from crossproof.subject.zoo.window_model import WindowModel, save
from crossproof.subject.zoo.window_recipes import WindowConfig
from crossproof.subject.zoo.windows import Characters, alphabet


def model_in(folder: Path, **changes: object) -> Path:
    config = WindowConfig.model_validate(
        {"vocabulary": 56, "context": 3, "width": 8, "neurons": 10, "mixing": "sum", "mlps": 1, "norm": False} | changes
    )
    torch.manual_seed(0)
    folder.mkdir()
    save(WindowModel(config, Characters(alphabet())), folder)
    return folder


def climb(tmp_path: Path, *subjects: Path, **changes: object) -> LadderStudy:
    settings = {
        "subjects": [str(subject) for subject in subjects],
        "out": tmp_path / "ladder",
        "characters": 400,
        "read": [0, 2],
        "offsets": 2,
        "additive_steps": 5,
    }
    return run(LadderConfig.model_validate(settings | changes))


def test_every_rung_is_above_the_truth_and_the_best_certificate_is_accepted(tmp_path: Path) -> None:
    found = climb(tmp_path, model_in(tmp_path / "sums"), model_in(tmp_path / "looks", mixing="attention", norm=True))
    assert next(figure.id for figure in found.findings().figures) == "members"
    for its in found.subjects:
        assert {row.rung for row in its.proved} >= {"brute", "masses", "pairs"}
        assert all(row.loss is not None and row.loss >= its.truth - 1e-9 for row in its.proved)
        assert its.checked.accepted, its.checked.said
        assert check(tmp_path / "ladder" / "certificates" / Path(its.subject).name)[0]
        cheap = [row for row in its.proved if row.total <= 0.25 * its.cached]
        if cheap:
            assert its.certified.loss == min(row.loss for row in cheap if row.loss is not None)
        else:
            assert its.certified.total == min(row.total for row in its.proved)
        assert its.waterfall is not None


def test_findings_say_what_was_proved_and_a_refused_certificate_proves_nothing(tmp_path: Path) -> None:
    found = climb(tmp_path, model_in(tmp_path / "model"))
    said = found.findings()
    written = json.loads((tmp_path / "ladder" / "findings.json").read_text())
    assert written["answer"] == said.answer
    (its,) = found.subjects
    assert its.certified.name in said.answer
    refused = its.model_copy(update={"checked": its.checked.model_copy(update={"accepted": False})})
    verdicts = {claim.verdict for claim in LadderStudy(subjects=[refused]).findings().claims}
    assert verdicts == {"does not hold"}


def test_a_vacuous_bound_is_said_to_be_vacuous(tmp_path: Path) -> None:
    found = climb(tmp_path, model_in(tmp_path / "model"))
    (its,) = found.subjects
    vacuous = its.model_copy(update={"lines": its.lines.model_copy(update={"uniform": 0.01})})
    said = LadderStudy(subjects=[vacuous]).findings()
    assert "vacuous" in said.answer
    assert said.claims[0].verdict == "does not hold"


def test_subjects_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = model_in(tmp_path / "model")
    with pytest.raises(CrossproofError, match="twice"):
        climb(tmp_path, model, model)
    with pytest.raises(UnsupportedModel, match="reads windows"):
        climb(tmp_path, Path("tinytales"))
    assert not (tmp_path / "ladder").exists()
