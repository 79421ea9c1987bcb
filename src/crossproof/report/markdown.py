"""The report in Markdown: for a repository's own pages, readable as it stands."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from crossproof.findings import Claim, Figure, Table
from crossproof.report.glossary import used
from crossproof.report.studies import Study, read_studies
from crossproof.report.words import cells, interval, numeric, sentence, tally

SPECIAL = re.compile(
    r"([\\*<~$]|(?<![^\W_])_|_(?![^\W_])"  # emphasis, HTML, mathematics
    r"|&(?=#?\w+;)|(?<=\])[(:\[]|!(?=\[)"  # entities, links
    r"|^[#>|]|^[+-](?=[\s+-]|$))"  # at the beginning: headings, quotes, lists, rules
)
"""What Markdown would read as more than a letter."""


LONG = 40
"""Of tables with more rows, a page to be read says where they are."""


def markdown(folders: Sequence[Path]) -> str:
    """The claims of all studies in one table; then each with answer, claims, tables and where figures come from."""
    studies = read_studies(folders)
    return "\n\n".join([*_summary(studies), *(part for study in studies for part in _study(study))]) + "\n"


def _summary(studies: Sequence[Study]) -> list[str]:
    claims = [claim for study in studies for claim in study.findings.claims]
    rows = [
        (study.name, said(claim.claim), said(claim.paper), interval(claim), claim.verdict)
        for study in studies
        for claim in study.findings.claims
    ]
    table = [_table(("study", "claim", "paper", "ours", "verdict"), rows)] if rows else []
    meanings = [f"### What the words mean\n\n{_list(map(_sentence, used(studies)))}"] if used(studies) else []
    return ["## Summary", f"{tally(claims)}. In brackets the 95 % interval.", *table, *meanings]


def _study(study: Study) -> list[str]:
    found = study.findings
    return [
        f"## {said(found.title)}",
        *map(said, (found.question, *re.split(r"\n\s*\n", found.answer))),
        *([f"### Claims\n\n{_list(map(_claim, found.claims))}"] if found.claims else []),
        *(_data(study, its) for its in found.tables),
        *([f"### Figures\n\n{_list(_figure(study, its) for its in found.figures)}"] if found.figures else []),
        *([f"### Notes\n\n{_list(map(said, found.notes))}"] if found.notes else []),
        f"Run: {_code(study.run.command)}, {study.run.seconds:,.0f} s on {said(study.run.hardware)}; what is said here "
        f"is in {_code(study.data_file)}.",
    ]


def _claim(claim: Claim) -> str:
    return (
        f"**{claim.verdict}**: {_sentence(claim.claim)} Ours: {interval(claim)} ({said(claim.measure)}); the paper: "
        f"{_sentence(claim.paper)} {_sentence(sentence(claim.why))}"
    )


def _figure(study: Study, its: Figure) -> str:
    """A page without pictures says where they come from."""
    note = f" {_sentence(its.note)}" if its.note else ""
    return (
        f"{_sentence(its.title)}{note} Made by {_code(study.run.command)}; data: figure {_code(its.id)} in "
        f"{_code(study.data_file)}."
    )


def _data(study: Study, its: Table) -> str:
    if len(its.rows) > LONG:
        return f"### {said(its.title)}\n\n{len(its.rows)} rows, in {_code(study.data_file)}."
    side = [numeric(column) for column in its.by_column]
    rows = list(zip(*([said(text) for text in cells(column)] for column in its.by_column), strict=True))
    note = f"\n\n{said(its.note)}" if its.note else ""
    return f"### {said(its.title)}\n\n" + (_table([*map(said, its.columns)], rows, side) if rows else "No rows.") + note


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool] = ()) -> str:
    rule = ["--:" if column < len(right) and right[column] else "---" for column in range(len(columns))]
    lines = ([text.replace("|", r"\|") for text in line] for line in (columns, rule, *rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _list(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def said(text: str) -> str:
    """On one line, with nothing that Markdown would take for its own, but code in `backticks`."""
    pieces = re.split(r"(`[^`]+`)", " ".join(text.split()))
    escaped = "".join(piece if number % 2 else SPECIAL.sub(r"\\\1", piece) for number, piece in enumerate(pieces))
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", escaped)  # or it begins a list


def _sentence(text: str) -> str:
    words = said(text)
    return words if words.endswith((".", "!", "?", "…")) else f"{words}."


def _code(text: str) -> str:
    """As code, whatever quotes are in it."""
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{text}{fence}" if len(fence) == 1 else f"{fence} {text} {fence}"
