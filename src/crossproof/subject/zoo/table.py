"""The members of the zoo as a table, from their reports: `python -m crossproof.subject.zoo.table`."""

from __future__ import annotations

from . import folder, load_hf
from .build import Report, read_report
from .recipes import RECIPES, Recipe

_HEADINGS = (
    "member", "class", "blocks × width", "parameters", "MB", "trained tokens", "minutes", "loss",
    "unigram", "bigram", "trigram", "sha256",
)  # fmt: skip


def table() -> str:
    """Markdown: one row per trained member, and below it what each was trained to do."""
    made = [(RECIPES[name], read_report(folder(name))) for name in RECIPES]
    lines = [
        _row(_HEADINGS),
        _row(["---"] * len(_HEADINGS)),
        *(_row(_cells(recipe, report)) for recipe, report in made),
    ]
    rates = [(report.name, what, value) for _, report in made for what, value in report.abilities.items()]
    lines += ["", _row(("member", "ability", "")), _row(["---"] * 3)]
    lines += [_row((name, what, f"{value:.3f}" if "loss" in what else f"{value:.2%}")) for name, what, value in rates]
    return "\n".join(lines)


def _cells(recipe: Recipe, report: Report) -> list[str]:
    config = load_hf(recipe.name).config
    return [
        f"`{recipe.name}`",
        str(config.architectures[0]),
        f"{config.num_hidden_layers} × {config.hidden_size}",
        f"{report.parameters:,}",
        f"{report.bytes / 1e6:.1f}",
        f"{report.trained_tokens / 1e6:.1f} M",
        f"{report.train_seconds / 60:.1f}",
        f"{report.loss:.4f}",
        *(f"{loss:.3f}" for loss in report.ngram_losses.values()),
        f"`{report.weights_sha256[:12]}`",
    ]


def _row(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(table())
