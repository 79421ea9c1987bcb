"""Make members of the zoo: train, measure, and only then put them in their place.

    python -m crossproof.subject.zoo.build NAME|all [--out DIR] [--check]

`--check` builds into a temporary folder and says whether the weights are, to the bit, those that are shipped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from pydantic import BaseModel, ConfigDict

from ...errors import BadFile, CrossproofError, nearest
from . import MODELS, load_folder, without_bars
from .baselines import NGrams
from .measure import abilities, source_loss
from .recipes import RECIPES, Recipe
from .sources import open_source, open_tokenizer
from .train import Trained, reproducibly, train

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = "model.safetensors"
COUNTED_TEXTS = 20_000
"""Training texts that the n-grams count: about as many as a story model sees."""
VALIDATION_TEXTS = 2_000


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=2) + "\n")


class Made(Record):
    """`recipe.json`: the recipe, and the weights that it gave where the member was made."""

    recipe: Recipe
    started_from_sha256: str | None
    weights_sha256: str


class Report(Record):
    """`report.json`: what came out. Losses are in nats a token, over the validation split."""

    name: str
    weights_sha256: str
    parameters: int
    bytes: int
    trained_tokens: int
    train_seconds: float
    validation_texts: int
    loss: float
    ngram_losses: dict[str, float]
    abilities: dict[str, float]
    versions: dict[str, str]
    hardware: str


def build(name: str, out: Path = MODELS) -> Report:
    """Train member `name` into `out/name`. What was there stays until the new member is complete, and if one fails."""
    recipe = _recipe(name)
    start_folder = _start_folder(recipe, out)
    start = load_folder(start_folder) if start_folder else None
    trained = train(recipe, start)
    with _replacing(out / name) as folder:
        _save_model(trained.model, recipe, folder)
        weights = folder / WEIGHTS
        report = _measure(recipe, trained, weights)
        report.save(folder / "report.json")
        Made(
            recipe=recipe,
            started_from_sha256=sha256(start_folder / WEIGHTS) if start_folder else None,
            weights_sha256=report.weights_sha256,
        ).save(folder / "recipe.json")
    return report


def build_all(out: Path = MODELS) -> list[Report]:
    """Every trained member, those first that others start from."""
    return [build(name, out) for name in RECIPES]


def read_report(folder: Path) -> Report:
    try:
        return Report.model_validate_json((folder / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise BadFile(f"{folder / 'report.json'} is not the report of a zoo member: {error}") from error


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise CrossproofError(
            f"nothing trains {name!r}; nearest: {nearest(name, RECIPES) or 'none'}. There are {', '.join(RECIPES)}."
        )
    return RECIPES[name]


def _start_folder(recipe: Recipe, out: Path) -> Path | None:
    """The member to start from: the one just built beside this one, if there is one, and else the shipped one."""
    if recipe.start_from is None:
        return None
    beside = out / recipe.start_from
    return beside if (beside / WEIGHTS).is_file() else MODELS / recipe.start_from


def _save_model(model: PreTrainedModel, recipe: Recipe, folder: Path) -> None:
    with without_bars():
        model.save_pretrained(folder)
    (folder / WEIGHTS).chmod(0o644)  # safetensors lets nobody but the owner read
    open_tokenizer(recipe.data).save_pretrained(folder)
    # The name that every transformers we allow knows; those from 5 on write one of their own.
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(named, indent=2) + "\n")


def _measure(recipe: Recipe, trained: Trained, weights: Path) -> Report:
    from importlib.metadata import version

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
            versions={"python": platform.python_version()} | {of: version(of) for of in ("torch", "transformers")},
            hardware=f"{_processor()}, {recipe.threads} threads",
        )


def _processor() -> str:
    """What the weights depend on besides the versions: the processor and the instructions that torch uses on it."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` when all has gone well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made = fresh / "new"
        made.mkdir()
        yield made
        if folder.exists():
            os.rename(folder, fresh / "old")
        os.rename(made, folder)
    finally:
        shutil.rmtree(fresh)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("name", choices=[*RECIPES, "all"])
    parser.add_argument("--out", type=Path, default=MODELS, help="the folder of the members (default: the package's)")
    parser.add_argument(
        "--check", action="store_true", help="compare a fresh build with what is in --out, and keep neither"
    )
    given = parser.parse_args(arguments)
    wanted = list(RECIPES) if given.name == "all" else [given.name]
    same = True
    with tempfile.TemporaryDirectory() as temporary:
        for name in wanted:
            report = build(name, Path(temporary) if given.check else given.out)
            print(report.model_dump_json(indent=2))
            if given.check:
                shipped = sha256(given.out / name / WEIGHTS)
                same &= report.weights_sha256 == shipped
                verdict = "identical to" if report.weights_sha256 == shipped else "NOT identical to"
                print(f"{name}: {report.weights_sha256[:12]} is {verdict} the one in {given.out}, {shipped[:12]}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
