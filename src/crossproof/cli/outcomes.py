"""What commands found, as data for `--json` and as tables to look at."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.errors import BadFile
from crossproof.files import read_json
from crossproof.findings import FINDINGS

if TYPE_CHECKING:
    from pydantic import BaseModel

    from crossproof.binding.measure_span import SpanStudy
    from crossproof.crosscoder.evaluate import Evaluation
    from crossproof.findings import Claim, Summary, SummaryRow
    from crossproof.interaction.result_view import Summary as InteractionSummary
    from crossproof.records import AttentionRecord
    from crossproof.study.ground_truth.results import GroundTruthStudy
    from crossproof.study.planted_units.results import PlantedUnitsStudy
    from crossproof.study.ranking.results import RankingStudy
    from crossproof.study.unit_ranking.results import UnitRanking
    from crossproof.study.units.results import UnitsStudy


@dataclass(frozen=True)
class Outcome:
    """What a command found: data for `--json`, lines or tables to print, and the exit status."""

    data: Any
    shown: tuple[Any, ...]
    status: int = 0


def of_run(folder: Path) -> Outcome:
    """What the run in a folder found."""
    from importlib import import_module

    from crossproof import runs

    kinds: dict[str, tuple[str, str, Callable[[Any], Outcome]]] = {
        "train": ("crosscoder.evaluate", "Evaluation", partial(evaluation, folder)),
        "interactions": ("interaction.result_view", "Summary", interactions),
        "attention": ("records", "AttentionRecord", partial(attention, folder=folder)),
        "span": ("binding.measure_span", "SpanStudy", span),
        "units": ("study.units.results", "UnitsStudy", units),
        "ground-truth": ("study.ground_truth.results", "GroundTruthStudy", ground_truth),
        "planted-units": ("study.planted_units.results", "PlantedUnitsStudy", planted_units),
        "ranking": ("study.ranking.results", "RankingStudy", ranking),
        "unit-ranking": ("study.unit_ranking.results", "UnitRanking", unit_ranking),
        "paper": ("findings", "Summary", partial(claims, page=folder / "report.html")),
    }
    from crossproof.cli.studies import CONFIGURED

    kind = runs.read(folder).kind
    if (folder / FINDINGS).exists() or (kind in CONFIGURED and kind not in kinds):
        return findings(folder)
    if kind not in kinds:
        raise BadFile(f"{folder} holds a run of the kind {kind!r}, which this version cannot show")
    module, name, shown = kinds[kind]
    return shown(runs.read_results(folder, getattr(import_module(f"crossproof.{module}"), name)))


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


def interactions(found: InteractionSummary) -> Outcome:
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
        "strongest pairs in MLPs (strength and score over the number of neurons)": pairs,
        "account: what simple interpretations leave out, as lengths in the residual stream, per token": account,
        "strongest pairs in all units, in the account's measure": everywhere,
    }
    tables = [table(title, rows) for title, rows in named.items() if rows]
    return Outcome(found.model_dump(mode="json"), (summary, *tables))


def span(found: SpanStudy) -> Outcome:
    share = text("{:.0%}", found.together_share)
    between = (
        f" ({found.together_share_low:.0%}–{found.together_share_high:.0%})"
        if found.together_share_low is not None
        else ""
    )
    summary = (
        f"{found.subject}: {found.input_site} → {found.output_site}\n"
        f"{found.tokens} tokens with {found.features:.1f} active features on average, {found.estimated} of them "
        f"estimated · {found.pairs:,} pairs\nall features together move the output by {found.change:.3g}; the pairs' "
        f"part of that, summed as vectors, is as long as {share}{between} of it"
    )
    pairs = [
        {"pair": f"{pair.i} × {pair.j}", "strength": pair.strength, "tokens": pair.count, "score": pair.score}
        for pair in found.strongest
    ]
    shown = [table("strongest pairs", pairs)] if pairs else []
    return Outcome(found.model_dump(mode="json"), (summary, *shown))


def units(found: UnitsStudy) -> Outcome:
    from crossproof.study.units.results import notes, tables

    return _study(found, tables(found), notes(found))


def planted_units(found: PlantedUnitsStudy) -> Outcome:
    from crossproof.study.planted_units.results import tables

    return _study(found, tables(found))


def ground_truth(found: GroundTruthStudy) -> Outcome:
    from crossproof.study.ground_truth.results import tables, verdicts

    return _study(found, tables(found), *verdicts(found))


def ranking(found: RankingStudy) -> Outcome:
    from crossproof.study.ranking.results import summary, tables

    return _study(found, tables(found), summary(found))


def attention(found: AttentionRecord, folder: Path | None) -> Outcome:
    from rich.markup import escape

    from crossproof.report.attention_words import summary, tables

    def plain(row: dict[str, Any]) -> dict[str, Any]:
        """Words of the text are no markup."""
        return {column: escape(value) if isinstance(value, str) else value for column, value in row.items()}

    shown = [table(title, [plain(row) for row in rows]) for title, rows in tables(found).items()]
    page = () if folder is None else (escape(f"page: {folder / 'attention.html'}"),)
    return Outcome(found.model_dump(mode="json"), (escape(summary(found)), *shown, *page))


def unit_ranking(found: UnitRanking) -> Outcome:
    from crossproof.study.unit_ranking.results import summary, tables

    return _study(found, tables(found), summary(found))


def _study(found: BaseModel, tables: dict[str, list[dict[str, Any]]], *after: str) -> Outcome:
    """All tables of a study, and what is said after them."""
    return Outcome(found.model_dump(mode="json"), (*(table(title, rows) for title, rows in tables.items()), *after))


def findings(folder: Path) -> Outcome:
    """What a study of the paper's claims wrote: its results as data, what it says of them to look at."""
    from rich.markup import escape

    from crossproof import runs
    from crossproof.report.studies import read_studies
    from crossproof.report.words import cells

    said = read_studies([folder])[0].findings
    shown: list[Any] = [f"[bold]{escape(said.title)}[/]", escape(said.question), "", escape(said.answer), ""]
    if said.claims:
        shown.append(_claims(said.claims))
    for its in said.tables:
        columns = [cells(column) for column in zip(*its.rows, strict=True)]
        rows = [dict(zip(its.columns, map(escape, row), strict=True)) for row in zip(*columns, strict=True)]
        if rows:
            shown.append(table(escape(its.title), rows))
    return Outcome(read_json(folder / runs.RESULTS), (*shown, *map(escape, said.notes)))


def claims(found: Summary, page: Path) -> Outcome:
    """What all studies together claim, and where their report is."""
    return Outcome(found.model_dump(mode="json"), (_claims(found.claims), f"report: {page}"))


def _claims(of: Iterable[Claim | SummaryRow]) -> Any:
    from rich.markup import escape

    from crossproof.report.words import interval

    rows = [
        {"claim": escape(its.claim), "paper": escape(its.paper), "ours": interval(its), "verdict": its.verdict}
        for its in of
    ]
    return table("claims", rows, wrap=True)


def finite(number: float) -> float | None:
    """JSON has no word for what is not a number."""
    return number if math.isfinite(number) else None


def text(form: str, number: float | None) -> str:
    return "–" if number is None else form.format(number)


def table(title: str, rows: list[dict[str, Any]], wrap: bool = False) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(rows[0]):
        table.add_column(column.replace("_", " "), justify="right" if i and not wrap else "left", no_wrap=not wrap)
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
