"""The checker's bounds of groups of windows."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor

from crossproof.proof.arithmetic.ball import exact
from crossproof.proof.certificate import WITNESS
from crossproof.proof.groups.find import anchored_dictionary, find
from crossproof.proof.groups.verify import verify
from tests.checker.made import Case, certify_groups, check, checked, weights
from tests.checker.tampering import Change, fields, operations, sizes_of_claims, tensor, tensors, with_entry

CASE = Case("groups", attention=True, mlps=0, context=3)
KINDS = ("embeddings", "dictionary", "escalated")


def model(seed: int = 0) -> dict[str, Tensor]:
    """Quiet enough for a dictionary that is wrong to prove something."""
    state = {name: 0.3 * value for name, value in weights(CASE, seed).items()}
    between = torch.randn(5, 6, generator=torch.Generator().manual_seed(seed)) * 0.3
    state["W_E"] = between + 0.2 * state["W_E"][:, :1] + 0.01 * state["W_E"]
    return state


def witness(state: dict[str, Tensor], kind: str) -> dict[str, Tensor]:
    found = find(state, anchored_dictionary(state["W_E"]) if kind != "embeddings" else {}, bands=3, rounds=1)
    return found | ({"escalated": torch.tensor([0, 7, 20])} if kind == "escalated" else {})


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    state = model()
    certify_groups(tmp_path / "groups", state, witness(state, request.param))
    return tmp_path / "groups"


def derived(state: dict[str, Tensor], its: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray, int]:
    check.operations.clear()
    with np.errstate(all="ignore"):
        named = check.Model.of({name: value.numpy() for name, value in state.items()}, norm=False)
        return check.groups(named, check.Witness({name: value.numpy() for name, value in its.items()}))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_bounds_and_operations_as_the_prover_s_and_none_false(kind: str, tmp_path: Path) -> None:
    for seed in range(2):
        state = model(seed)
        its = witness(state, kind)
        counted = certify_groups(tmp_path / str(seed), state, its)
        accepted, said = checked(tmp_path / str(seed))
        assert accepted, said
        assert "all sequences of tokens" in said
        bounds, sizes, right = derived(state, its)
        assert dict(check.operations) == counted
        proved = verify({name: exact(value) for name, value in state.items()}, its)
        np.testing.assert_array_equal(sizes, proved.size.numpy())
        assert abs(bounds @ sizes / sizes.sum() - proved.proved.loss) < 1e-9
        assert right == proved.proved.right
        losses, best = truth(state)
        assert bounds @ sizes / sizes.sum() >= losses.mean() - 1e-12
        assert right <= best.sum()


def truth(state: dict[str, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    w = {name: value.double() for name, value in state.items()}
    context, vocabulary, width = w["W_E"].shape
    windows = torch.tensor(list(itertools.product(range(vocabulary), repeat=context)))
    x = torch.stack([w["W_E"][position, tokens] for position, tokens in enumerate(windows.T)], 1)
    scores = torch.einsum("wd,wpd->wp", x[:, -1] @ w["attn.W_Q"], x @ w["attn.W_K"]) / width**0.5
    mean = torch.einsum("wp,wpd->wd", scores.softmax(1), x)
    logits = (x[:, -1] + mean @ w["attn.W_V"] @ w["attn.W_O"]) @ w["W_U"]
    target = windows.amax(1)
    losses = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    return losses.numpy(), (logits.argmax(1) == target).numpy()


def test_whatever_the_witness_says_no_bound_is_false() -> None:
    for seed in range(6):
        state = model(seed)
        generator = torch.Generator().manual_seed(seed)
        its = witness(state, KINDS[seed % 3])
        for name, value in its.items():
            if value.is_floating_point():
                its[name] = value + torch.randn(value.shape, generator=generator, dtype=value.dtype) * (
                    0.1 if seed % 2 else 0.01
                )
            elif name == "bands":
                its[name] = torch.randint(-2, 3, value.shape, generator=generator)
        bounds, sizes, right = derived(state, its)
        losses, best = truth(state)
        assert sizes.sum() == len(losses)
        assert bounds @ sizes / sizes.sum() >= losses.mean() - 1e-12
        assert right <= best.sum()


def test_what_is_tampered_with_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    its = load_file(folder / WITNESS)
    changes: list[Change] = [*sizes_of_claims(folder), *operations(folder)]
    if "dictionary" not in its:
        changes += fields(folder)
    changes += [change for change in tensors(folder, WITNESS) if "escalated" not in change.what]
    changes.append(tensor("no such group", WITNESS, "escalated", "escalated", lambda x: np.array([10**6])))
    changes.append(tensor("a negative group", WITNESS, "escalated", "escalated", lambda x: np.array([-1])))
    if "support" in its:
        for wrong in (-1, 10**6):
            changes.append(
                tensor("support", WITNESS, "support", "support", lambda x, wrong=wrong: with_entry(x, wrong))
            )
        for value in (np.nan, np.inf):
            changes.append(tensor("codes", WITNESS, "codes", "codes", lambda x, value=value: with_entry(x, value)))
        for value in (0.0, 1e300):
            changes.append(tensor("no basis", WITNESS, "eigenvectors", "loss", lambda x, value=value: x * value))
    refused = 0
    for change in changes:
        into = tmp_path / "it"
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(folder, into)
        change.alter(into)
        accepted, said = checked(into)
        assert not accepted, f"{change.what}: {said}"
        assert change.culprit in said, f"{change.what}: {said}"
        assert "nothing can be derived" not in said, f"{change.what}: {said}"
        refused += 1
    assert refused >= 50
