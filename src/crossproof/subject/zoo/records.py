"""What lies beside the weights of a member: its recipe and its report, and the table that the reports make.

`python -m crossproof.subject.zoo.records` prints the table of docs/zoo.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from crossproof.errors import BadFile
from crossproof.subject.zoo import folder, is_there, names
from crossproof.subject.zoo.recipes import RECIPES, Recipe
from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES, WindowRecipe

WEIGHTS = "model.safetensors"

Cell = str | int | float | None


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


class WindowMade(Record):
    """`recipe.json` of a model of windows."""

    recipe: WindowRecipe
    weights_sha256: str


class WindowReport(Record):
    """`report.json` of a model of windows. `loss`, `accuracy` and `certificate` are means over all windows of its data,
    in nats, the certificate being the bound that it was or might have been trained with."""

    name: str
    weights_sha256: str
    parameters: int
    bytes: int
    train_seconds: float
    windows: int
    contexts: int
    items: int
    loss: float
    accuracy: float
    certificate: float
    unigram_entropy: float
    validation_loss: float | None
    """None where the data is all there is."""
    versions: dict[str, str]
    hardware: str


AnyRecord = TypeVar("AnyRecord", bound=Record)


def read_report(path: Path) -> Report:
    return _read(path / "report.json", Report)


def read_window_report(path: Path) -> WindowReport:
    return _read(path / "report.json", WindowReport)


def read_window_recipe(path: Path) -> WindowRecipe:
    return _read(path / "recipe.json", WindowMade).recipe


def _read(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    try:
        return kind.model_validate_json(path.read_text())
    except (OSError, ValueError) as error:
        raise BadFile(f"{path} is not the {path.stem} of a zoo member: {error}") from error


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows() -> list[dict[str, Cell]]:
    """One row per member; what does not apply to one is None. `success` is the lowest of a member's rates."""
    return [_row(name) for name in names()]


def markdown() -> str:
    """The tables of the docs: what the members are, their losses beside those of counting, and what they can do."""
    trained = [_row(name) for name in RECIPES]
    sizes = ("name", "class", "size", "parameters", "megabytes", "trained_tokens", "minutes", "sha256")
    losses = ("name", "loss", "unigram", "bigram", "trigram")
    can: list[dict[str, Cell]] = [
        {"name": name, "ability": what, "measured": f"{value:.4f}" if "loss" in what else f"{value:.1%}"}
        for name in RECIPES
        for what, value in read_report(folder(name)).abilities.items()
    ]
    tables = ((trained, sizes), (trained, losses), (can, tuple(can[0])))
    return "\n\n".join(_markdown(table, columns) for table, columns in tables)


def window_markdown() -> str:
    """The tables of the models of windows: each with its loss and its certificate, and the data they are of."""
    reports = {name: read_window_report(folder(name)) for name, recipe in WINDOW_RECIPES.items() if recipe.shipped}
    members: list[dict[str, Cell]] = [
        {
            "name": name,
            "λ": WINDOW_RECIPES[name].certificate,
            "loss": _digits(report.loss),
            "certificate": _digits(report.certificate),
            "accuracy": f"{report.accuracy:.2%}",
            "validation_loss": report.validation_loss and _digits(report.validation_loss),
            "parameters": report.parameters,
            "minutes": round(report.train_seconds / 60, 1),
            "sha256": report.weights_sha256[:8],
        }
        for name, report in reports.items()
    ]
    data: dict[str, dict[str, Cell]] = {
        WINDOW_RECIPES[name].data.kind: {
            "data": WINDOW_RECIPES[name].data.kind,
            "windows": report.windows,
            "different": report.contexts,
            "with_their_targets": report.items,
            "unigram_entropy": round(report.unigram_entropy, 3),
            "log V": round(math.log(WINDOW_RECIPES[name].model.vocabulary), 3),
        }
        for name, report in reports.items()
    }
    tables = (members, list(data.values()))
    return "\n\n".join(_markdown(table, tuple(table[0])) for table in tables)


def _row(name: str) -> dict[str, Cell]:
    if name in RECIPES:
        return _EMPTY | _trained_row(RECIPES[name], read_report(folder(name)))
    if name not in WINDOW_RECIPES:
        return _EMPTY | {"name": name, "class": "constructed"}
    recipe = WINDOW_RECIPES[name]
    size = f"{max(1, recipe.model.mlps)} × {recipe.model.width}"
    if not is_there(name):
        return _EMPTY | {"name": name, "class": "window", "size": size}
    report = read_window_report(folder(name))
    return _EMPTY | {
        "name": name,
        "class": "window",
        "size": size,
        "parameters": report.parameters,
        "megabytes": round(report.bytes / 1e6, 2),
        "trained_tokens": recipe.steps * recipe.batch,
        "minutes": round(report.train_seconds / 60, 1),
        "loss": _digits(report.loss),
        "unigram": round(report.unigram_entropy, 3),
        "certificate": _digits(report.certificate),
        "sha256": report.weights_sha256[:8],
    }


_COLUMNS = (
    "name", "class", "size", "parameters", "megabytes", "trained_tokens", "minutes",
    "loss", "unigram", "bigram", "trigram", "success", "certificate", "sha256",
)  # fmt: skip
_EMPTY: dict[str, Cell] = dict.fromkeys(_COLUMNS)


def _digits(loss: float) -> float:
    return float(f"{loss:.4g}")


def _trained_row(recipe: Recipe, report: Report) -> dict[str, Cell]:
    config = json.loads((folder(recipe.name) / "config.json").read_text())
    gpt2 = recipe.model_type == "gpt2"
    blocks, width = config["n_layer" if gpt2 else "num_hidden_layers"], config["n_embd" if gpt2 else "hidden_size"]
    return {
        "name": recipe.name,
        "class": recipe.model_type,
        "size": f"{blocks} × {width}",
        "parameters": report.parameters,
        "megabytes": round(report.bytes / 1e6, 1),
        "trained_tokens": report.trained_tokens,
        "minutes": round(report.train_seconds / 60, 1),
        "loss": _digits(report.loss),
        **{order: round(loss, 3) for order, loss in report.ngram_losses.items()},
        "success": min((value for what, value in report.abilities.items() if "loss" not in what), default=None),
        "sha256": report.weights_sha256[:8],
    }


def _markdown(table: list[dict[str, Cell]], columns: tuple[str, ...]) -> str:
    def line(cells: list[str]) -> str:
        return f"| {' | '.join(cells)} |"

    head = [line([column.replace("_", " ") for column in columns]), line(["---"] * len(columns))]
    cells = [
        [f"{value:,}" if isinstance(value := row[column], int) else str(value) for column in columns] for row in table
    ]
    return "\n".join(head + [line(row) for row in cells])


if __name__ == "__main__":
    print(f"{markdown()}\n\n{window_markdown()}")
