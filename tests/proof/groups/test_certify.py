from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossproof.errors import CrossproofError
from crossproof.proof.groups import certify as module
from crossproof.proof.groups.certify import certify_all_sequences
from crossproof.subject.zoo.window_model import WindowModel, save
from crossproof.subject.zoo.window_recipes import WindowConfig
from tests.proof.groups.models import truth


def model_in(folder: Path, loud: float = 1.0) -> tuple[Path, float]:
    """A random one, and its true mean loss."""
    torch.manual_seed(0)
    its = {"vocabulary": 4, "context": 3, "width": 8, "neurons": 1, "mixing": "attention", "mlps": 0, "norm": False}
    model = WindowModel(WindowConfig.model_validate(its))
    model.W_U.data.mul_(loud)
    folder.mkdir()
    save(model, folder)
    return folder, float(truth(dict(model.state_dict()))[0].mean())


@pytest.mark.parametrize("loud", [1.0, 1000.0])  # of loud logits brute force knows the loss up to a larger radius
def test_the_rounding_of_brute_force_is_no_fault_of_the_bound(loud: float, tmp_path: Path) -> None:
    folder, loss = model_in(tmp_path / "model", loud)
    made = certify_all_sequences("model", folder, 16, 8)
    assert loss <= made.statement.loss < 3 * loss


def test_a_bound_below_a_windows_loss_is_a_bug_and_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = model_in(tmp_path / "model")
    honest = module.window_bounds
    monkeypatch.setattr(module, "window_bounds", lambda *given: honest(*given) - 1.0)
    with pytest.raises(CrossproofError, match="above its bound: this is a bug"):
        certify_all_sequences("model", folder, 16, 8)
