from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from crossproof.errors import BadFile, CrossproofError, MismatchError, UnsupportedModel
from crossproof.files import write_safetensors
from crossproof.proof.certificate import CERTIFICATE, rounded_up
from crossproof.proof.certify import certify
from crossproof.proof.check import check
from crossproof.proof.config import CertifyConfig
from crossproof.proof.provable import Provable
from crossproof.proof.prove import How, Truth, check_every_item, prove
from crossproof.subject.zoo.window_model import WEIGHTS, WindowModel, save
from crossproof.subject.zoo.window_recipes import WindowConfig
from crossproof.subject.zoo.windows import Characters
from tests.proof.test_dictionary import coder_of

TEXT = "abba cab. a cab bac, abc. baba bac cab a bab. "


def model_in(folder: Path, **changes: object) -> Path:
    config = WindowConfig.model_validate(
        {"vocabulary": 6, "context": 3, "width": 8, "neurons": 10, "mixing": "sum", "mlps": 1, "norm": False} | changes
    )
    torch.manual_seed(0)
    folder.mkdir()
    save(WindowModel(config, Characters("abc .,")), folder)
    return folder


@pytest.fixture
def subject(tmp_path: Path) -> Path:
    return model_in(tmp_path / "model")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT * 3)
    return tmp_path / "text.txt"


def config(subject: Path, text: Path, **changes: object) -> CertifyConfig:
    settings = {"subject": str(subject), "data": text, "out": subject.parent / "certificate"}
    return CertifyConfig.model_validate(settings | changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"rung": "brute"},
        {"rung": "masses", "read": 2, "offsets": 3},
        {"rung": "pairs", "joined": 2},
        {"rung": "vectors"},
    ],
)
def test_what_is_certified_is_accepted_by_the_checker_and_not_below_the_truth(
    subject: Path, text: Path, changes: dict[str, object]
) -> None:
    made = certify(config(subject, text, **changes))
    folder = subject.parent / "certificate"
    assert made.statement.loss >= made.measured["loss"] - 1e-9
    assert made.statement.windows == 3 * len(TEXT) - 3
    accepted, said = check(folder)
    assert accepted, said
    assert str(made.statement.loss) in said


def test_a_lower_bound_than_was_proved_is_refused(subject: Path, text: Path) -> None:
    certify(config(subject, text))
    place = subject.parent / "certificate" / CERTIFICATE
    record = json.loads(place.read_text())
    record["statement"]["loss"] -= 1e-6
    place.write_text(json.dumps(record))
    accepted, said = check(place.parent)
    assert not accepted
    assert "loss" in said


def test_a_bound_is_rounded_up_by_one_to_two_units() -> None:
    for bound in (1.0, 0.1234567891, 0.0, 3.9999999999):
        assert 1e-9 <= rounded_up(bound) - bound <= 2.001e-9


def test_weights_that_are_not_finite_are_named(subject: Path, text: Path) -> None:
    model = WindowModel(WindowConfig.model_validate_json((subject / "config.json").read_text()), None)
    state = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state["mlps.0.W_out"][1, 2] = torch.inf
    write_safetensors(subject / WEIGHTS, state)
    with pytest.raises(BadFile, match=r"mlps\.0\.W_out is not finite"):
        certify(config(subject, text))


def test_text_that_the_model_cannot_read_and_too_little_of_it_are_refused(subject: Path, tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("abcd")
    with pytest.raises(BadFile, match=r"other\.txt.*'d'"):
        certify(config(subject, tmp_path / "other.txt"))
    (tmp_path / "short.txt").write_text("abc")
    with pytest.raises(CrossproofError, match="no window"):
        certify(config(subject, tmp_path / "short.txt"))
    with pytest.raises(BadFile, match="nowhere"):
        certify(config(subject, tmp_path / "nowhere.txt"))


def test_models_that_read_no_windows_are_refused_by_name(text: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"tinytales is no model that reads windows.*talesproof"):
        certify(CertifyConfig(subject="tinytales", data=text, out=text.parent / "out"))
    with pytest.raises(UnsupportedModel, match="groups"):
        certify(CertifyConfig(subject="maxof4", data=text, out=text.parent / "out"))


def test_a_dictionary_that_leaves_something_over_needs_error_atoms(subject: Path, text: Path, tmp_path: Path) -> None:
    coder = coder_of(tmp_path / "coder", ("blocks.0.hook_mlp_in",), 8, str(subject))
    plain = {"subject": str(subject), "data": text, "rung": "masses", "read": 2, "out": tmp_path / "out"}
    with pytest.raises(MismatchError, match=r"coder does not reproduce .* left over, most of '.' at .*--error-atoms"):
        certify(CertifyConfig.model_validate(plain | {"coder": coder}))
    assert not (tmp_path / "out").exists()
    made = certify(CertifyConfig.model_validate(plain | {"coder": coder, "error_atoms": True}))
    assert made.measured["unexplained"] > 1e-3
    assert made.made["dictionary"] == "coder"
    accepted, said = check(tmp_path / "out")
    assert accepted, said
    assert "unexplained" not in certify(CertifyConfig.model_validate(plain | {"out": tmp_path / "none"})).measured
    with pytest.raises(CrossproofError, match="--error-atoms: they are of a coder"):
        certify(CertifyConfig.model_validate(plain | {"error_atoms": True}))
    with pytest.raises(CrossproofError, match="pairs knows no dictionary"):  # before anything is looked at
        certify(CertifyConfig.model_validate(plain | {"coder": coder, "rung": "pairs"}))
    with pytest.raises(CrossproofError, match="--coder: the rung groups"):
        certify(CertifyConfig(subject="maxof4", rung="groups", coder=coder, out=tmp_path / "groups"))


def test_a_bound_below_the_truth_is_a_bug_and_never_written(subject: Path, text: Path) -> None:
    of = Provable.open(str(subject), text)
    proof, truth = prove(of.network, of.items, How("pairs")), Truth.of(of.network, of.items)
    proof.bounds.loss.mid[3] = truth.bounds.loss.mid[3] - 1e-3
    with pytest.raises(CrossproofError, match="item 3"):
        check_every_item(proof, truth)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="nothere is no folder"):
        check(tmp_path / "nothere")
