"""Models of windows: what they compute, how they are stored, and that they are subjects like any other."""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_safetensors, write_safetensors
from crossproof.subject.doctor import examine
from crossproof.subject.subject import Subject
from crossproof.subject.zoo.window_model import WindowConfig, WindowModel, load, save
from crossproof.subject.zoo.windows import Characters, alphabet
from crossproof.units import MLP, Attention, Norm, Unembedding

KINDS = tuple(product(("attention", "sum"), (0, 1, 2), (False, True)))


def a_model(mixing: str, mlps: int, norm: bool, seed: int = 0, vocabulary: int = 56) -> WindowModel:
    config = WindowConfig.model_validate(
        {"vocabulary": vocabulary, "context": 4, "width": 6, "neurons": 5, "mixing": mixing, "mlps": mlps, "norm": norm}
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = WindowModel(config, Characters(alphabet()) if vocabulary == 56 else None)
        for parameter in model.parameters():  # fresh biases are zeros, and most mistakes would not show
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def slow_logits(weights: dict[str, Tensor], ids: list[int], config: WindowConfig) -> Tensor:
    """The definition, one position after the other."""

    def read(x: Tensor) -> Tensor:
        if not config.norm:
            return x
        mean = sum(x.tolist()) / len(x)
        variance = sum((each - mean) ** 2 for each in x.tolist()) / len(x)
        return (x - mean) / math.sqrt(variance + 1e-5)

    vectors = [weights["W_E"][position][id_] for position, id_ in enumerate(ids)]
    x = vectors[-1]
    if config.mixing == "sum":
        for vector in vectors[:-1]:
            x = x + vector
    else:
        query = read(vectors[-1]) @ weights["attn.W_Q"]
        scores = [float(query @ (read(vector) @ weights["attn.W_K"])) / math.sqrt(config.width) for vector in vectors]
        total = sum(map(math.exp, scores))
        for vector, score in zip(vectors, scores, strict=True):
            x = x + math.exp(score) / total * (read(vector) @ weights["attn.W_V"] @ weights["attn.W_O"])
    for layer in range(config.mlps):
        W_in, b_in, W_out, b_out = (weights[f"mlps.{layer}.{part}"] for part in ("W_in", "b_in", "W_out", "b_out"))
        x = x + (read(x) @ W_in + b_in).clamp(min=0) @ W_out + b_out
    return x @ weights["W_U"]


@pytest.mark.parametrize(("mixing", "mlps", "norm"), KINDS)
def test_the_last_position_is_what_the_definition_says_with_and_without_hooks(
    mixing: str, mlps: int, norm: bool
) -> None:
    model = a_model(mixing, mlps, norm).double()
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    ids = torch.randint(0, 56, (5, 4), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        slow = torch.stack([slow_logits(weights, row, model.config) for row in ids.tolist()])
        torch.testing.assert_close(model.last_logits(ids), slow, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model(ids)[:, -1], slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("mixing", "mlps", "norm"), KINDS)
def test_no_position_sees_a_later_one(mixing: str, mlps: int, norm: bool) -> None:
    model = a_model(mixing, mlps, norm).double()
    ids = torch.tensor([[3, 1, 4, 1], [3, 1, 4, 55]])
    with torch.no_grad():
        one, other = model(ids)
        torch.testing.assert_close(one[:3], other[:3])
        torch.testing.assert_close(model(ids[:, :2])[0], one[:2])
        assert not torch.allclose(one[3], other[3])


@given(st.sampled_from(KINDS), st.integers(0, 10**6), st.sampled_from((0.0, 1e-6, 1.0, 1e3)))
@settings(max_examples=40, deadline=None)
def test_both_ways_agree_for_any_weights(kind: tuple[str, int, bool], seed: int, scale: float) -> None:
    model = a_model(*kind, seed=seed, vocabulary=3).double()
    for parameter in model.parameters():
        parameter.data *= scale
    ids = torch.randint(0, 3, (6, 4), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(model.last_logits(ids), model(ids)[:, -1], rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize(("mixing", "mlps", "norm"), KINDS)
def test_a_folder_is_a_subject_that_the_doctor_finds_well(mixing: str, mlps: int, norm: bool, tmp_path: Path) -> None:
    save(a_model(mixing, mlps, norm), tmp_path)
    subject = Subject.load(str(tmp_path))
    assert (subject.context, subject.n_layers, subject.d_model) == (4, max(1, mlps), 6)
    checks = examine(subject)
    assert [check for check in checks if not check.passed] == []
    attention = mixing == "attention"
    norms: list[type] = [Norm] if norm else []
    assert [type(unit) for unit in subject.units] == [
        *([*norms, Attention] if attention else []),
        *[*norms, MLP] * mlps,
        Unembedding,
    ]


def test_weights_have_the_names_that_proofs_use() -> None:
    attention = ["attn.W_K", "attn.W_O", "attn.W_Q", "attn.W_V"]
    blocks = [f"mlps.{layer}.{part}" for layer in (0, 1) for part in ("W_in", "W_out", "b_in", "b_out")]
    assert sorted(a_model("attention", 0, True).state_dict()) == ["W_E", "W_U", *attention]
    assert sorted(a_model("sum", 2, True).state_dict()) == ["W_E", "W_U", *blocks]


@pytest.mark.parametrize(("mixing", "mlps", "norm"), KINDS)
def test_what_is_saved_is_loaded_to_the_bit(mixing: str, mlps: int, norm: bool, tmp_path: Path) -> None:
    model = a_model(mixing, mlps, norm)
    save(model, tmp_path)
    loaded = load(tmp_path)
    assert loaded.config == model.config
    assert loaded.tokenizer is not None
    assert loaded.tokenizer.characters == alphabet()
    assert not loaded.training
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def broken(weights: dict[str, Tensor], how: str) -> dict[str, Tensor]:
    bias = weights["mlps.0.b_in"].clone()
    bias[2] = float("nan" if how == "nan" else "inf")
    return {
        "missing": {name: value for name, value in weights.items() if name != "mlps.0.b_in"},
        "unknown": weights | {"attn.b_Q": torch.zeros(6)},
        "shape": weights | {"mlps.0.b_in": torch.zeros(7)},
        "nan": weights | {"mlps.0.b_in": bias},
        "inf": weights | {"mlps.0.b_in": bias},
        "dtype": weights | {"mlps.0.b_in": weights["mlps.0.b_in"].double()},
    }[how]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", r"lacks the weight mlps\.0\.b_in"),
        ("unknown", r"holds attn\.b_Q"),
        ("shape", r"mlps\.0\.b_in has the shape \[7\].* \[5\]"),
        ("nan", r"mlps\.0\.b_in is not finite at \[2\]"),
        ("inf", r"mlps\.0\.b_in is not finite at \[2\]"),
        ("dtype", r"mlps\.0\.b_in is stored as torch\.float64"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(how: str, said: str, tmp_path: Path) -> None:
    save(a_model("attention", 1, False), tmp_path)
    file = tmp_path / "model.safetensors"
    write_safetensors(file, broken(read_safetensors(file), how))
    with pytest.raises(BadFile, match=said):
        Subject.load(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"mixing": "product"}, "mixing"), ({"mlps": 3}, "mlps"), ({"heads": 2}, "heads"), ({"context": 0}, "context")],
)
def test_a_config_that_cannot_be_is_refused_by_name(change: dict[str, object], said: str, tmp_path: Path) -> None:
    save(a_model("attention", 1, False), tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(BadFile, match=f"config.json: {said}"):
        Subject.load(str(tmp_path))


@pytest.mark.parametrize("characters", [["a"], ["a"] * 56, [*map(str, range(56))], {"a": 1}])
def test_a_vocabulary_that_does_not_fit_is_refused(characters: object, tmp_path: Path) -> None:
    save(a_model("sum", 1, False), tmp_path)
    (tmp_path / "vocabulary.json").write_text(json.dumps(characters))
    with pytest.raises(BadFile, match="56 different characters"):
        load(tmp_path)


def test_texts_are_read_as_their_first_windows_scored_where_the_model_was_trained(tmp_path: Path) -> None:
    save(a_model("sum", 1, False), tmp_path)
    subject = Subject.load(str(tmp_path))
    tokens = subject.tokens(["Once upon", "Once"])
    assert [subject.tokenizer.decode(row) for row in tokens.ids.tolist()] == ["Once", "Once"]
    assert tokens.keep.tolist() == [[False, False, False, True]] * 2
    assert tokens.targets[0].tolist() == [-100] * 3 + subject.tokenizer.encode(" ")
    assert tokens.targets[1].tolist() == [-100] * 4
    with pytest.raises(CrossproofError, match="'One' has 3 characters: the model reads windows of 4"):
        subject.tokens(["Once upon", "One"])
    with pytest.raises(CrossproofError, match="no 'é'"):
        subject.tokens(["café au lait"])
    with pytest.raises(CrossproofError, match="exactly 4"):
        subject.tokens(["Once upon"], context=3)


def test_numbers_are_no_text() -> None:
    with pytest.raises(CrossproofError, match="source"):
        a_model("sum", 0, False, vocabulary=3).read_windows(["0123"])
