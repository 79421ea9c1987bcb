"""Make the members of the zoo that are models of windows: train, measure, and only then put them in their place.

`build` makes the others too, so that `crossproof zoo NAME...` has one function for all.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.files import replace_folder
from crossproof.proof.training.train import Trained, measure, train
from crossproof.subject.zoo import MODELS
from crossproof.subject.zoo import build as others
from crossproof.subject.zoo.records import WEIGHTS, Report, WindowMade, WindowReport, sha256
from crossproof.subject.zoo.train import reproducibly
from crossproof.subject.zoo.window_model import save
from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES, WindowRecipe
from crossproof.subject.zoo.windows import Windows, open_windows


def build(name: str, out: Path = MODELS, starts: Path | None = None) -> Report | WindowReport:
    """Train member `name` into `out/name`. What was there stays until the new member is complete, and if one fails."""
    if name not in WINDOW_RECIPES:
        return others.build(name, out, starts)
    recipe = WINDOW_RECIPES[name]
    trained = train(recipe)
    with replace_folder(out / name) as fresh:
        save(trained.model, fresh)
        report = _measure(recipe, trained, fresh / WEIGHTS)
        report.save(fresh / "report.json")
        WindowMade(recipe=recipe, weights_sha256=report.weights_sha256).save(fresh / "recipe.json")
    return report


def _measure(recipe: WindowRecipe, trained: Trained, weights: Path) -> WindowReport:
    windows, split_off = trained.windows, open_windows(recipe, "validation")
    with reproducibly(recipe.seed, recipe.threads):
        measured = measure(trained.model, windows)
        held_out = None if windows.stream is None else measure(trained.model, split_off).loss
    return WindowReport(
        name=recipe.name,
        weights_sha256=sha256(weights),
        parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
        bytes=weights.stat().st_size,
        train_seconds=round(trained.seconds, 1),
        windows=windows.n,
        contexts=len(windows.contexts),
        items=len(windows.item_count),
        loss=measured.loss,
        accuracy=measured.accuracy,
        certificate=measured.certificate,
        unigram_entropy=float(target_entropy(windows)),
        validation_loss=held_out,
        versions=others.versions("transformer-lens"),
        hardware=others.processor(),
    )


def target_entropy(windows: Windows) -> Float[Tensor, ""]:
    """The loss of the best guess that looks at no window."""
    share = torch.bincount(windows.item_target.long(), weights=windows.item_count.double()) / windows.n
    return torch.special.entr(share).sum()
