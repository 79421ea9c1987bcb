"""Make members of the zoo: train, measure, and only then put them in their place.

    crossproof zoo NAME... [--out DIR] [--check]

The name `all` stands for every trained member. Without `--out` the shipped ones are replaced; with `--check` nothing
is, and the command says whether the weights are the same to the bit.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from crossproof.errors import CrossproofError, nearest
from crossproof.files import replace_folder
from crossproof.subject.quiet import without_bars
from crossproof.subject.zoo import MODELS, folder, load_folder, names
from crossproof.subject.zoo.baselines import NGrams
from crossproof.subject.zoo.measure import abilities, source_loss
from crossproof.subject.zoo.recipes import RECIPES, Recipe
from crossproof.subject.zoo.records import WEIGHTS, Made, Report, WindowReport, sha256
from crossproof.subject.zoo.sources import open_source, open_tokenizer
from crossproof.subject.zoo.train import Trained, reproducibly, train
from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES

if TYPE_CHECKING:
    from transformers import PreTrainedModel

COUNTED_TEXTS = 20_000
"""Training texts that the n-grams count. The story models are trained on more: 28,800 or 38,400."""
VALIDATION_TEXTS = 2_000

Build = Callable[[str, Path, Path], Report | WindowReport]
"""Makes a member of this name in a folder, from members in another."""


def build(name: str, out: Path = MODELS, starts: Path | None = None) -> Report:
    """Train member `name` into `out/name`. What was there stays until the new member is complete, and if one fails.

    A member that starts from another takes that one from `starts`, or from `out`, or else the shipped one.
    """
    check_trained(name)
    if name not in RECIPES:
        raise CrossproofError(f"{name} is a model of windows: build of crossproof.proof.training.build makes it")
    recipe = RECIPES[name]
    start_folder = _start_folder(recipe, starts or out)
    start = load_folder(start_folder) if start_folder else None
    trained = train(recipe, start)
    with replace_folder(out / name) as fresh:
        _save_model(trained.model, recipe, fresh)
        report = _measure(recipe, trained, fresh / WEIGHTS)
        report.save(fresh / "report.json")
        Made(
            recipe=recipe,
            started_from_sha256=sha256(start_folder / WEIGHTS) if start_folder else None,
            weights_sha256=report.weights_sha256,
        ).save(fresh / "recipe.json")
    return report


def rebuild(
    names: Sequence[str], out: Path = MODELS, check: bool = False, build: Build = build
) -> list[dict[str, Any]]:
    """Build members, or all, and say of each whether its weights are, to the bit, those that `out` held before.

    With `check` the new ones are not kept. `build` makes one; the one here makes none that are for proofs.
    """
    wanted = [*RECIPES, *(name for name in WINDOW_RECIPES if WINDOW_RECIPES[name].shipped)] if "all" in names else names
    for name in wanted:
        check_trained(name)
    verdicts = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in wanted:
            held = out / name / WEIGHTS
            before = sha256(held) if held.is_file() else None
            report = build(name, Path(temporary) if check else out, out)
            verdicts.append(
                {
                    "name": name,
                    "loss": report.loss,
                    "seconds": report.train_seconds,
                    "sha256": report.weights_sha256[:12],
                    "before": before and before[:12],
                    "same": report.weights_sha256 == before,
                }
            )
    return verdicts


def check_trained(name: str) -> None:
    trained = (*RECIPES, *WINDOW_RECIPES)
    if name not in trained and name in names():
        raise CrossproofError(f"{name!r} is constructed, not trained. Trained are {', '.join(trained)}.")
    if name not in trained:
        raise CrossproofError(
            f"nothing trains {name!r}; nearest: {nearest(name, trained) or 'none'}. There are {', '.join(trained)}."
        )


def _start_folder(recipe: Recipe, out: Path) -> Path | None:
    """The member to start from: the one just built beside this one, if there is one, and else the shipped one."""
    if recipe.start_from is None:
        return None
    beside = out / recipe.start_from
    return beside if (beside / WEIGHTS).is_file() else folder(recipe.start_from)


def _save_model(model: PreTrainedModel, recipe: Recipe, folder: Path) -> None:
    with without_bars():
        model.save_pretrained(folder)
    (folder / WEIGHTS).chmod(0o644)  # safetensors lets nobody but the owner read
    open_tokenizer(recipe.data).save_pretrained(folder)
    # The name that every transformers we allow knows; those from 5 on write one of their own.
    settings = folder / "tokenizer_config.json"
    settled = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(settled, indent=2) + "\n")


def _measure(recipe: Recipe, trained: Trained, weights: Path) -> Report:
    fitted = open_source(recipe.data, "train")
    validation = open_source(recipe.data, "validation")
    texts = min(VALIDATION_TEXTS, validation.texts_in_all or VALIDATION_TEXTS)
    counted = min(COUNTED_TEXTS, fitted.texts_in_all or COUNTED_TEXTS)
    ngrams = NGrams.fit([fitted.tokens(0, counted)], trained.model.config.vocab_size)
    with reproducibly(recipe.seed, recipe.threads):
        return Report(
            name=recipe.name,
            weights_sha256=sha256(weights),
            parameters=sum(parameter.numel() for parameter in trained.model.parameters()),
            bytes=weights.stat().st_size,
            trained_tokens=trained.tokens,
            train_seconds=round(trained.seconds, 1),
            validation_texts=texts,
            loss=source_loss(trained.model, validation, texts),
            ngram_losses=ngrams.losses([validation.tokens(0, texts)]),
            abilities=abilities(trained.model, recipe, texts),
            versions=versions("transformers"),
            hardware=processor(),
        )


def versions(*packages: str) -> dict[str, str]:
    """Of Python, torch and these packages."""
    from importlib.metadata import version

    return {"python": platform.python_version()} | {of: version(of) for of in ("torch", *packages)}


def processor() -> str:
    """What the weights depend on besides the versions: the processor and the instructions that torch uses on it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
