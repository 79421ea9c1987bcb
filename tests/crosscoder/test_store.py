"""Files of crosscoders: what is saved is what is read, and anything else is refused by name."""

from __future__ import annotations

import copy
import json
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crossproof.crosscoder.initialise import estimate_scales
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError, NonFinite
from tests.crosscoder import toys

ACTIVATIONS = ["relu", "topk", "batchtopk", "jumprelu"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    toys.crosscoder().save_pretrained(tmp_path / "coder")
    return tmp_path / "coder"


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_saved_crosscoder_reads_raw_activations_whatever_the_scales_were(tmp_path: Path, activation: str) -> None:
    a = toys.sparse_data(40, norms=(4.0, 40.0, 1.0))
    coder = toys.crosscoder(activation)
    coder.scale.copy_(estimate_scales(a))
    coder.save_pretrained(tmp_path / "coder")
    again = Crosscoder.from_pretrained(tmp_path / "coder")
    torch.testing.assert_close(again(a), coder(a), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(again.decoder, coder.decoder)
    # the scale reaches the file, and folding twice is folding once
    assert again.config.site_scales == pytest.approx(coder.scale.tolist())
    again.save_pretrained(tmp_path / "twice")
    twice = Crosscoder.from_pretrained(tmp_path / "twice")
    assert torch.equal(twice.W_enc, again.W_enc)
    assert twice.config == again.config


def test_a_crosscoder_is_two_files(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == ["config.json", "model.safetensors"]


def test_a_truncated_file_is_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(BadFile, match=r"model\.safetensors is not a complete safetensors file"):
        Crosscoder.from_pretrained(saved)


def test_an_edited_weight_is_noticed(saved: Path) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadFile, match="sha256 differs"):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("k", 4000, r"config\.json: .*cannot keep 4000 of 24 features"),
        ("features", 25, r"W_enc has shape \(24, 24\) where .* make it \(25, 24\)"),
        ("activation", "gelu", r"config\.json: activation"),
        ("format_version", 99, r"format_version 99; this version of crossproof reads 1"),
        ("site_scale", [1, 1, 1], r"site_scale: Extra inputs"),
        ("width", -1, r"config\.json: width"),
        ("library", "another", "does not describe a crossproof crosscoder"),
    ],
)
def test_an_edited_field_is_named(saved: Path, field: str, value: object, message: str) -> None:
    record = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(record | {field: value}))
    with pytest.raises(BadFile, match=message):
        Crosscoder.from_pretrained(saved)


def test_a_missing_field_is_named(saved: Path) -> None:
    record = json.loads((saved / "config.json").read_text())
    del record["sites"]
    (saved / "config.json").write_text(json.dumps(record))
    with pytest.raises(BadFile, match="sites: Field required"):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize("change", ["drop", "add", "nan"])
def test_missing_foreign_and_non_finite_tensors_are_named(saved: Path, change: str) -> None:
    tensors = load_file(saved / "model.safetensors")
    if change == "drop":
        del tensors["b_dec"]
    elif change == "add":
        tensors["W_skip"] = torch.zeros(1)
    else:
        tensors["b_enc"][3] = torch.nan
    save_file(tensors, saved / "model.safetensors")
    message = {"drop": "b_dec is missing", "add": "unexpected tensors W_skip", "nan": "b_enc holds values that are not"}
    with pytest.raises(BadFile, match=message[change]):
        Crosscoder.from_pretrained(saved)


@pytest.mark.parametrize("broken", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_what_is_not_finite_is_neither_read_nor_written(tmp_path: Path, activation: str, broken: float) -> None:
    coder = toys.crosscoder(activation)
    coder.save_pretrained(tmp_path / "coder")
    path = tmp_path / "coder" / "model.safetensors"
    whole = load_file(path)
    assert set(whole) >= {"W_enc", "b_enc", "W_dec", "b_dec"}
    for name, tensor in whole.items():
        edited = whole | {name: tensor.clone()}
        edited[name].view(-1)[-1] = 1.0 if name == "threshold" else 0.0
        edited[name].view(-1)[0] = broken
        save_file(edited, path)
        with pytest.raises(BadFile, match=rf"model\.safetensors: {name} holds values that are not finite"):
            Crosscoder.from_pretrained(tmp_path / "coder")
        bad = copy.deepcopy(coder)
        bad.state_dict()[name].copy_(edited[name])
        with pytest.raises(NonFinite, match=f"{name} of this crosscoder holds values that are not finite"):
            bad.save_pretrained(tmp_path / "bad")
        assert not (tmp_path / "bad").exists()


def test_a_threshold_that_was_never_set_is_kept_and_says_so_when_it_is_asked_for(tmp_path: Path) -> None:
    coder = toys.crosscoder("batchtopk")
    assert coder.threshold is not None
    coder.threshold.fill_(torch.nan)
    coder.save_pretrained(tmp_path / "coder")
    again = Crosscoder.from_pretrained(tmp_path / "coder")
    with pytest.raises(CrossproofError, match="no inference threshold"):
        again.encode(toys.sparse_data(4))


def test_a_full_disk_leaves_the_old_crosscoder(saved: Path) -> None:
    before = Crosscoder.from_pretrained(saved)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limit[1]))
    try:
        with pytest.raises(OSError, match=r"model\.safetensors could not be written"):
            toys.crosscoder(seed=1).save_pretrained(saved)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert torch.equal(Crosscoder.from_pretrained(saved).W_enc, before.W_enc)
    assert sorted(path.name for path in saved.parent.iterdir()) == ["coder"]


def test_an_edit_that_would_still_load_is_noticed(saved: Path) -> None:
    record = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(record | {"k": 5}))
    with pytest.raises(BadFile, match="sha256 differs"):
        Crosscoder.from_pretrained(saved)


def test_a_run_that_has_no_crosscoder_yet_says_so(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(BadFile, match="a run that has no crosscoder yet"):
        Crosscoder.load(tmp_path)


def test_a_kill_between_the_two_renames_loses_nothing(saved: Path) -> None:
    saved.rename(saved.with_name(".coder.old"))  # what a process that died there leaves behind
    assert Crosscoder.from_pretrained(saved).config.features == 24


def test_a_name_that_is_nowhere_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CrossproofError, match="neither a folder here nor a repository"):
        Crosscoder.from_pretrained("nobody/has-this-crosscoder")
