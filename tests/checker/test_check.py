"""What the checker accepts: what the prover wrote, derived anew to the same numbers."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossproof.proof.network import Network
from crossproof.proof.prove import Proof
from crossproof.proof.statement import Items
from crossproof.subject.zoo.windows import cut_windows
from tests.checker.conftest import Made
from tests.checker.made import CASES, Case, bent, certify, check, checked, read_claim, stream, weights


def derived(folder: Path) -> tuple[np.ndarray, int, dict[str, int], Any]:
    """The checker's own bounds of items, number right and operations."""
    claim = read_claim(folder)
    files = {name: check.tensors((folder / name).read_bytes(), name) for name in claim["hashes"]}
    model = check.Model.of(files[check.WEIGHTS], claim["model"]["norm"])
    data = check.Data.of_stream(files[check.DATA], *model["W_E"].shape[:2])
    witness = check.Witness(files[check.WITNESS])
    check.operations.clear()
    with np.errstate(all="ignore"):
        bounds, right = check.losses(data, witness, check.RUNGS[claim["rung"]](model, data, witness))
    return bounds, right, dict(check.operations), data


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_rung_is_accepted_with_the_same_bounds_and_the_same_operations(case: Case, made: Made) -> None:
    agrees(*made(case))


@pytest.mark.parametrize("length", [5, 6, 500])
def test_as_few_or_as_many_windows_as_there_are(length: int, tmp_path: Path) -> None:
    for case in (Case("pairs", joined=2), Case("masses", read=1, attention=True)):
        agrees(tmp_path / case.name, certify(tmp_path / case.name, case, weights(case), stream(length)))


def agrees(folder: Path, proof: Proof) -> None:
    accepted, said = checked(folder)
    assert accepted, said
    bounds, right, operations, data = derived(folder)
    np.testing.assert_allclose(bounds, proof.bounds.loss.mid.numpy(), rtol=1e-11, atol=1e-11)
    assert abs(bounds @ data.times / data.windows - proof.proved.loss) < 1e-9
    assert right == proof.proved.right
    assert operations == proof.operations
    claim = read_claim(folder)
    assert f"at most {claim['statement']['loss']} on {data.windows} windows" in said
    assert f"on at least {right} of them" in said
    for number in [sum(operations.values()), *operations.values(), *claim["brute_force"].values()]:
        assert f" {number}" in said


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_bound_is_below_the_model_s_loss_nor_a_window_right_that_is_not(case: Case, made: Made) -> None:
    bounds, right, _, data = derived(made(case)[0])
    losses, best = truth(weights(case), data, case.norm)
    assert (bounds >= losses - 1e-12).all()
    assert right <= int((best * data.times).sum())


@pytest.mark.parametrize("mlps", [1, 2, 3])
def test_no_offset_and_no_scale_makes_a_bound_false(mlps: int) -> None:
    case, tokens = Case("masses", mlps=mlps, read=8), stream()
    for seed in range(12):
        state = weights(case, seed)
        # the first MLP speaks to the later ones alone
        state["W_U"][:3], state["mlps.0.W_out"][:, 3:] = 0, 0
        model = check.Model.of({name: value.numpy() for name, value in state.items()}, norm=False)
        data = check.Data.of_stream({"stream": tokens.numpy()}, 4, 5)
        read = np.tile(np.arange((6 + mlps) * (seed % 2)), (len(data.contexts), 1))
        tensors = {name: value.numpy() for name, value in bent(case, seed).items()} | {"read": read}
        if seed % 2:
            tensors = {name: value * (1e-6 if name[:5] == "scale" else 1) for name, value in tensors.items()}
        if seed % 3:
            tensors = {name: value for name, value in tensors.items() if name[:6] != "offset"}
        witness = check.Witness(tensors)
        bounds, _ = check.losses(data, witness, check.masses(model, data, witness))
        assert (bounds >= truth(state, data, False)[0] - 1e-12).all()


def truth(state: dict[str, torch.Tensor], data: Any, norm: bool) -> tuple[np.ndarray, np.ndarray]:
    """Each item's loss, and whether its largest logit is the target's."""
    logits = forward({name: value.double() for name, value in state.items()}, torch.tensor(data.contexts), norm)
    its, target = logits[torch.tensor(data.context)], torch.tensor(data.target)
    losses = torch.nn.functional.cross_entropy(its, target, reduction="none")
    return losses.numpy(), (its.argmax(1) == target).numpy()


def forward(w: dict[str, torch.Tensor], windows: torch.Tensor, norm: bool) -> torch.Tensor:
    """The model's logits, written down a third time."""

    def read(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.layer_norm(x, x.shape[-1:], eps=1e-5) if norm else x

    x = torch.stack([w["W_E"][position, its] for position, its in enumerate(windows.T)], 1)
    out = x.sum(1)
    if "attn.W_Q" in w:
        n = read(x)
        looks = (
            torch.einsum("wd,wpd->wp", n[:, -1] @ w["attn.W_Q"], n @ w["attn.W_K"]).div(x.shape[2] ** 0.5).softmax(1)
        )
        out = x[:, -1] + torch.einsum("wp,wpd->wd", looks, n @ w["attn.W_V"] @ w["attn.W_O"])
    for mlp in range(sum(name.endswith("W_in") for name in w)):
        W_in, b_in, W_out, b_out = (w[f"mlps.{mlp}.{name}"] for name in ("W_in", "b_in", "W_out", "b_out"))
        out = out + (read(out) @ W_in + b_in).relu() @ W_out + b_out
    return out @ w["W_U"]


def test_the_data_are_those_windows_in_that_order() -> None:
    tokens = stream(500, vocabulary=3)
    ours, its = check.Data.of_stream({"stream": tokens.numpy()}, 4, 3), Items.of(cut_windows(tokens, 4))
    assert ours.windows == its.windows
    for mine, other in ((ours.contexts, its.contexts), (ours.context, its.context), (ours.target, its.target)):
        np.testing.assert_array_equal(mine, other.numpy())
    np.testing.assert_array_equal(ours.times, its.count.numpy())
    rows = [tuple(row) for row in ours.contexts.tolist()]
    assert rows == sorted(set(rows))


def test_chunks_change_neither_bounds_nor_counts(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    for case in (Case("pairs", attention=True, norm=True), Case("vectors", mlps=3), Case("masses", read=3, joined=2)):
        folder, _ = made(case)
        bounds, right, operations, _ = derived(folder)
        with monkeypatch.context() as patch:
            patch.setattr(check, "PAIRS", 7)
            patch.setattr(check.losses, "__defaults__", (5,))
            some, right_, operations_, _ = derived(folder)
        np.testing.assert_allclose(some, bounds, rtol=1e-10)
        assert (right_, operations_) == (right, operations)


def test_a_vacuous_bound_is_said_to_be_vacuous_and_a_good_one_is_not(made: Made, tmp_path: Path) -> None:
    case = Case("pairs")
    silent = weights(case) | {"W_U": torch.zeros(6, 5)}
    certify(tmp_path / "silent", case, silent, stream())
    assert "WARNING: vacuous" in checked(made(case)[0])[1]
    # a model that says nothing has the loss of saying that all tokens are as likely, and no less
    assert "WARNING: vacuous" in checked(tmp_path / "silent")[1]
    tokens = torch.zeros(50, dtype=torch.uint8)
    sure = weights(case) | {"W_E": torch.ones(4, 5, 6), "W_U": torch.zeros(6, 5), "mlps.0.W_out": torch.zeros(7, 6)}
    sure["W_U"][:, 0] = 1
    sure["mlps.0.b_out"] = torch.zeros(6)
    certify(tmp_path / "sure", case, sure, tokens)
    accepted, said = checked(tmp_path / "sure")
    assert accepted
    assert "WARNING" not in said
    assert "on at least 46 of them" in said


def test_it_stands_alone(made: Made, tmp_path: Path) -> None:
    """One file, copied elsewhere, in an interpreter that cannot import anything of ours, torch or safetensors."""
    shutil.copytree(made(Case("masses", read=3, joined=2))[0], tmp_path / "it")
    alone = tmp_path / "alone" / "check.py"
    alone.parent.mkdir()
    shutil.copyfile(check.__file__, alone)
    barred = ("crossproof", "torch", "safetensors", "scipy", "pydantic")
    program = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({barred!r})); sys.argv[1:] = [{str(tmp_path / 'it')!r}]\n"
        f"runpy.run_path({str(alone)!r}, run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, cwd=alone.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == checked(tmp_path / "it")[1]
    (tmp_path / "it" / check.WITNESS).unlink()
    done = subprocess.run([sys.executable, "-I", alone, tmp_path / "it"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "REFUSED: witness.safetensors: cannot be read (FileNotFoundError)\n"


def test_it_imports_the_standard_library_numpy_and_flint_and_nothing_else() -> None:
    tree = ast.parse(Path(check.__file__).read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {re.split(r"\.", name)[0] for name in names} - set(sys.stdlib_module_names) == {"numpy", "flint"}


def test_the_cached_and_the_naive_program_agree_on_the_loss() -> None:
    for case in CASES:
        if case.rung == "brute":
            model = check.Model.of({name: value.numpy() for name, value in weights(case).items()}, case.norm)
            data = check.Data.of_stream({"stream": stream().numpy()}, case.context, 5)
            with np.errstate(all="ignore"):
                both = [
                    check.losses(data, witness, program(model, data, witness))[0]
                    for program, witness in (
                        (check.brute, check.conjunctions(data, 1)),
                        (check.naive, check.Witness({})),
                    )
                ]
            np.testing.assert_allclose(*both, rtol=1e-9)


def test_shapes_count_what_numbers_count() -> None:
    for case in CASES:
        network = Network.of(weights(case), case.norm)
        model = check.Model.of({name: ball.mid.float().numpy() for name, ball in network.weights.items()}, case.norm)
        data = check.Data.of_stream({"stream": stream().numpy()}, case.context, 5)
        counted = []
        for its in (model, model.shapes()):
            for program in (check.brute, check.naive):
                witness = check.Witness({})
                check.operations.clear()
                with np.errstate(all="ignore"):
                    check.losses(data, witness, program(its, data, witness))
                counted.append(dict(check.operations))
        assert counted[:2] == counted[2:]
