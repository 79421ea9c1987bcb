"""What lies beside the weights of a member: its recipe and its report, and the table that the reports make.

`python -m crossproof.subject.zoo.records` prints the table of docs/zoo.md.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from crossproof.errors import BadFile
from crossproof.subject.zoo import folder, names
from crossproof.subject.zoo.recipes import RECIPES, Recipe

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


def read_report(path: Path) -> Report:
    try:
        return Report.model_validate_json((path / "report.json").read_text())
    except (OSError, ValueError) as error:
        raise BadFile(f"{path / 'report.json'} is not the report of a zoo member: {error}") from error


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows() -> list[dict[str, Cell]]:
    """One row per member; what does not apply to one is None. `success` is the lowest of a member's rates."""
    trained = [_row(RECIPES[name], read_report(folder(name))) for name in names() if name in RECIPES]
    constructed = [name for name in names() if name not in RECIPES]
    return trained + [dict.fromkeys(trained[0]) | {"name": name, "class": "constructed"} for name in constructed]


def markdown() -> str:
    """The tables of the docs: what the members are, their losses beside those of counting, and what they can do."""
    trained = [row for row in rows() if row["loss"] is not None]
    sizes = ("name", "class", "size", "parameters", "megabytes", "trained_tokens", "minutes", "sha256")
    losses = ("name", "loss", "unigram", "bigram", "trigram")
    can: list[dict[str, Cell]] = [
        {"name": name, "ability": what, "measured": f"{value:.4f}" if "loss" in what else f"{value:.1%}"}
        for name in RECIPES
        for what, value in read_report(folder(name)).abilities.items()
    ]
    tables = ((trained, sizes), (trained, losses), (can, tuple(can[0])))
    return "\n\n".join(_markdown(table, columns) for table, columns in tables)


def _row(recipe: Recipe, report: Report) -> dict[str, Cell]:
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
        "loss": float(f"{report.loss:.4g}"),
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
    print(markdown())
