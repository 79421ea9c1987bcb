"""What commands found, as data for `--json` and as tables to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossproof.crosscoder.evaluate import Evaluation
    from crossproof.interaction.result_view import Summary
    from crossproof.records import AttentionRecord
    from crossproof.study.ground_truth.results import GroundTruthStudy
    from crossproof.study.ranking.results import RankingStudy


@dataclass(frozen=True)
class Outcome:
    """What a command found: data for `--json`, lines or tables to print, and the exit status."""

    data: Any
    shown: tuple[Any, ...]
    status: int = 0


def evaluation(folder: Path, results: Evaluation) -> Outcome:
    summary = (
        f"mean unexplained {text('{:.2%}', results.mean_unexplained)} · {results.l0:.1f} active features per token · "
        f"{results.dead:.2%} dead\nmodel's loss {results.loss:.4f} on {results.tokens:,} tokens of "
        f"{results.texts} held-out texts"
    )
    # what fits a terminal of 80 columns; the rest is in results.json
    rows = [
        {
            "site": site.site,
            "unexpl.": text("{:.2%}", site.unexplained),
            "cosine": text("{:.3f}", site.cosine),
            "spliced": text("{:.3f}", site.loss_spliced),
            "mean": text("{:.3f}", site.loss_mean),
            "recov.": text("{:.1%}", site.loss_recovered),
        }
        for site in results.sites
    ]
    return Outcome(results.model_dump(mode="json"), (table(str(folder), rows), summary))


def interactions(found: Summary) -> Outcome:
    above, below = (text("{:.0%}", share) for share in (found.above_chance, found.below_chance))
    chance = "" if found.above_chance is None else f" · {above} of them more often than by chance, {below} less"
    summary = (
        f"{found.about}\n{found.tokens:,} tokens · {found.alive:,} of {found.features:,} features alive · "
        f"{found.pairs:,} ordered pairs active together{chance}\n"
        f"dominant share {text('{:.3f}', found.dominant_share)} · mean pairwise interaction "
        f"{found.mean_pairwise:.3g} ({text('{:.3g}', found.mean_pairwise_alive)} over pairs of living features)"
    )
    units = [
        {
            "MLP": unit.unit,
            "neurons": unit.neurons,
            "dominant share": unit.dominant_share,
            "mean pairwise": unit.mean_pairwise,
            "score per token": unit.token_score,
        }
        for unit in found.units
    ]
    pairs = [
        {
            "pair": f"{pair.i} → {pair.j}",
            "MLP": pair.unit,
            "neuron": pair.neuron,
            "its share": text("{:.0%}", pair.neuron_share),
            "strength": pair.strength,
            "frequency": f"{pair.frequency:.1%}",
            "score": pair.score,
        }
        for pair in found.strongest
    ]
    account = [
        {
            "unit": row.unit,
            "kind": row.kind,
            "per token": row.per_token,
            "±": row.per_token_se,
            "share": text("{:.0%}", row.share),
            "writes": row.written,
            "relative": row.relative,
        }
        for row in found.account
    ]
    everywhere = [
        {
            "pair": f"{pair.i} → {pair.j}",
            "all units": pair.total,
            "MLPs": pair.mlp,
            "attention": pair.attention,
            "norms": pair.norm,
            "most in": pair.unit,
        }
        for pair in found.everywhere
    ]
    named: dict[str, list[dict[str, Any]]] = {
        "MLPs": units,
        "strongest pairs in MLPs": pairs,
        "how far interactions may move the residual stream": account,
        "strongest pairs in all units, per token": everywhere,
    }
    tables = [table(title, rows) for title, rows in named.items() if rows]
    return Outcome(found.model_dump(mode="json"), (summary, *tables))


def ground_truth(found: GroundTruthStudy) -> Outcome:
    from crossproof.study.ground_truth.results import tables, verdicts

    shown = [table(title, rows) for title, rows in tables(found).items()]
    return Outcome(found.model_dump(mode="json"), (*shown, *verdicts(found)))


def ranking(found: RankingStudy) -> Outcome:
    from crossproof.study.ranking.results import summary, tables

    shown = [table(title, rows) for title, rows in tables(found).items()]
    return Outcome(found.model_dump(mode="json"), (*shown, summary(found)))


def attention(found: AttentionRecord, folder: Path | None) -> Outcome:
    from rich.markup import escape

    from crossproof.report.attention_words import summary, tables

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        """Words of the text are no markup."""
        return {column: escape(value) if isinstance(value, str) else value for column, value in row.items()}

    shown = [table(title, [plain(row) for row in rows]) for title, rows in tables(found).items()]
    page = () if folder is None else (escape(f"page: {folder / 'attention.html'}"),)
    return Outcome(found.model_dump(mode="json"), (escape(summary(found)), *shown, *page))


def finite(number: float) -> float | None:
    """JSON has no word for what is not a number."""
    return number if math.isfinite(number) else None


def text(form: str, number: float | None) -> str:
    return "–" if number is None else form.format(number)


def table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(rows[0]):
        table.add_column(column.replace("_", " "), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        from crossproof.interaction.result_view import three_digits

        return three_digits(value)
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
