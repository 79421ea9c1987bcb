"""A name becomes a model, or an error that says what was tried; a folder never asks the network."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from crossproof.errors import BadFile, CrossproofError
from crossproof.subject import zoo
from crossproof.subject.subject import Subject
from tests.subject.tiny import WIDTH, folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise OSError("the test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
def test_a_folder_is_loaded_without_a_network_and_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    made = str(folder("gpt2"))
    capfd.readouterr()  # what making it printed
    model = Subject.load(made, dtype=torch.float64)
    assert (model.n_layers, model.d_model, model.dtype) == (4, WIDTH, torch.float64)
    assert capfd.readouterr() == ("", "")
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.usefixtures("no_network")
def test_a_name_that_is_nothing_says_what_was_tried() -> None:
    with pytest.raises(CrossproofError, match=r"no member of the zoo \(nearest: tinytales.*no folder.*not be reached"):
        Subject.load("tinytale")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"has no config\.json"):
        Subject.load(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    with pytest.raises(BadFile, match=r"cannot be loaded as a Hugging Face model"):
        Subject.load(str(tmp_path))


def test_a_truncated_model_is_named(tmp_path: Path) -> None:
    shutil.copytree(folder("gpt2"), tmp_path / "gpt2")
    weights = tmp_path / "gpt2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(BadFile, match=str(tmp_path)):
        Subject.load(str(tmp_path / "gpt2"))


def test_a_missing_weight_is_an_error_and_not_a_random_weight(tmp_path: Path) -> None:
    shutil.copytree(folder("llama"), tmp_path / "llama")
    weights = load_file(tmp_path / "llama" / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "llama" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadFile, match=r"lacks 1 of its model's weights.*layers\.1\.mlp\.up_proj"):
        Subject.load(str(tmp_path / "llama"))


def test_a_member_of_the_zoo_brings_its_texts() -> None:
    planted = Subject.load("planted", dtype=torch.float64)
    assert planted.dtype == torch.float64
    assert planted.name in zoo.names()
    assert planted.texts(3).ids.shape[0] == 3
    assert planted.units
    assert planted.source("train").tokens(0, 1).n_kept
    assert planted.loss(planted.texts(3)) > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"n_embd": 48}, "RuntimeError"),
        ({"vocab_size": 60}, "RuntimeError"),
        ({"activation_function": "mish2"}, "mish2"),
        ({"n_embd": "wide"}, "cannot be loaded"),
        ({"n_layer": 3}, r"no place for, the first of them (transformer\.)?h\.3\."),
    ],
)
def test_an_edited_config_is_a_bad_file(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    path = tmp_path / "gpt2"
    shutil.copytree(folder("gpt2"), path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BadFile, match=complaint):
        Subject.load(str(path))


def test_masks_that_old_files_keep_among_the_weights_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "neo"
    shutil.copytree(folder("neo"), path)
    tensors = load_file(path / "model.safetensors")
    tensors["transformer.h.0.attn.attention.bias"] = torch.ones(1, 1, 8, 8)
    tensors["transformer.h.0.attn.attention.masked_bias"] = torch.tensor(-1e9)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    old, new = (Subject.load(str(where)) for where in (path, folder("neo")))
    tokens = new.tokens(["w1 w2 w3"])
    assert torch.equal(old.logits(tokens), new.logits(tokens))


def test_a_device_that_is_not_there_is_named() -> None:
    with pytest.raises(CrossproofError, match="no device 'cuda:77'"):
        Subject.load("planted", device="cuda:77")


def test_planted_in_float64_is_not_rounded_to_float32() -> None:
    from crossproof.subject.zoo.planted import build_planted

    exact = build_planted(dtype=torch.float64).state_dict()
    loaded = Subject.load("planted", dtype=torch.float64).model.state_dict()
    assert loaded.keys() == exact.keys()
    assert all(torch.equal(loaded[name], exact[name]) for name in exact)
    assert any(not torch.equal(weight, weight.float().double()) for weight in exact.values())


@pytest.mark.parametrize(("member", "begins"), [("modadd", False), ("tinytales-pythia", True), ("tinytales", True)])
def test_texts_begin_with_the_special_token_of_a_tokenizer_that_has_one(member: str, begins: bool) -> None:
    assert Subject.load(str(zoo.folder(member))).prepend_bos is begins
    assert Subject.load(member).prepend_bos is begins
    assert Subject.load(member, prepend_bos=not begins).prepend_bos is not begins
