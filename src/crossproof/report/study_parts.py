"""The pieces of a study in HTML: claims, figures, tables, passages. What scripts need of them is added to `data`."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from crossproof.findings import Figure, Passage, Table
from crossproof.report.studies import Study
from crossproof.report.words import cells, interval, numeric, sentence

WIDE_GRID, MANY_SERIES, MANY_GROUPS = 24, 8, 14
"""A figure with more columns, series or groups of bars takes the whole width."""
FEW_TABLES = 3
LONG_TEXT, LONG = 40, ' class="long"'
"""What is longer, and how a cell is marked whose text may be broken into lines."""


def prose(text: str) -> str:
    """Escaped, with what stands in `backticks` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def anchor(*names: str) -> str:
    """An id, and what a link to it says."""
    return "--".join(re.sub(r"[^\w.-]+", "-", name) for name in names)


def claim_rows(study: Study, in_summary: bool) -> str:
    """In the summary claims lead to their study and say why when asked; in the study they say it."""
    rows = []
    for claim in study.findings.claims:
        place, why = anchor(study.name, claim.id), prose(sentence(claim.why))
        link = f' href="#{place}"' if in_summary else f' id="{place}"'
        reason = f"<details><summary>why</summary>{why}</details>" if in_summary else f"<p>{why}</p>"
        cells = {
            "claim": f"<a{link}>{prose(claim.claim)}</a>{reason}",
            "paper": prose(claim.paper),
            "ours": f"{_together(interval(claim))}<small>{prose(claim.measure)}</small>",
            "verdict": f'<span class="verdict {claim.verdict.replace(" ", "-")}">{claim.verdict}</span>',
        }
        shown = "".join(f'<td role="cell" data-name="{name}">{html}</td>' for name, html in cells.items())
        rows.append(f'<tr role="row">{shown}</tr>')
    return "".join(rows)


def chart(study: Study, figure: Figure, data: dict[str, Any]) -> str:
    number = _added(data["figures"], {"file": f"{study.name}--{figure.id}", **figure.model_dump(mode="json")})
    wide = " across" if _wants_width(figure) else ""
    return (
        f'<figure class="chart{wide}" id="{anchor(study.name, figure.id)}">'
        f'<figcaption>{prose(figure.title)}</figcaption><div class="legend"></div>'
        f'<div class="plot" data-figure="{number}" role="img" aria-label="{escape(figure.title)}"></div>'
        f'<p class="note said" hidden></p>{_note(figure.note)}'
        f'<div class="source"><code tabindex="0">{escape(study.run.command)}</code><span>'
        f"<button data-copy>copy</button>{_downloads('figure', number)}</span></div></figure>"
    )


def _wants_width(figure: Figure) -> bool:
    if figure.grid is not None:
        return len(figure.grid.columns) > WIDE_GRID
    groups = {x for series in figure.series for x in series.x if isinstance(x, str)}
    return len(figure.series) > MANY_SERIES or len(groups) > MANY_GROUPS


def data_table(study: Study, number: int, its: Table, data: dict[str, Any]) -> str:
    """Numbers are set to the right; a click on a column's name sorts by it. Where tables are many, all are folded."""
    index = _added(data["tables"], {"file": f"{study.name}--table-{number + 1}", **its.model_dump(mode="json")})
    side = [' class="number"' if numeric(column) else "" for column in its.by_column]
    texts = zip(*map(cells, its.by_column), strict=True)
    head = "".join(
        f'<th scope="col"{its_side}><button data-sort="{column}">{prose(name)}</button></th>'
        for column, (name, its_side) in enumerate(zip(its.columns, side, strict=True))
    )
    rows = "".join(f"<tr>{''.join(map(_cell, row, side))}</tr>" for row in texts)
    empty = "" if its.rows else _note("No rows.")
    size = f"{len(its.rows)} row{'s' * (len(its.rows) != 1)}"
    unfolded = " open" if len(study.findings.tables) <= FEW_TABLES else ""
    return (
        f'<details class="data"{unfolded}><summary><h4>{prose(its.title)}</h4> <small>{size}</small></summary>'
        f'<div class="wide" tabindex="0" role="region" aria-label="{escape(its.title)}"><table data-table="{index}">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{empty}{_note(its.note)}"
        f'<div class="source">{_downloads("table", index)}</div></details>'
    )


def _cell(text: str, side: str) -> str:
    return f"<td{side or (LONG if len(text) > LONG_TEXT else '')}>{prose(text)}</td>"


def passage(its: Passage, data: dict[str, Any]) -> str:
    """Words stand as in the text where these begin with the spaces between them, else a space apart."""
    number = _added(data["passages"], {"layers": [layer.model_dump(mode="json") for layer in its.layers]})
    spaced = any(word[:1].isspace() and word.strip() for word in its.words)
    words = "".join(
        (" " if word[:1].isspace() or not spaced else "")
        + f'<span class="word">{escape(word.strip() or _blank(word))}</span>'
        + ("\n" if word.endswith("\n") else "")
        for word in its.words
    )
    return (
        f'<div class="passage" data-passage="{number}"><h4>{prose(its.title)}</h4><div class="layers"></div>'
        f'<p class="text" role="group" aria-label="{escape(its.title)}">{words}</p>'
        f'<p class="readout" aria-live="polite"></p>{_note(its.note)}</div>'
    )


def _together(estimate: str) -> str:
    """A line breaks before an interval, not in it."""
    value, bracket, ends = escape(estimate).partition(" [")
    return f"<b>{value}</b>" + (f' <span class="ends">[{ends}</span>' if bracket else "")


def _note(text: str) -> str:
    return f'<p class="note">{prose(text)}</p>' if text else ""


def _blank(word: str) -> str:
    """A word of spaces alone, as it can be seen."""
    return "".join({"\n": "⏎", "\t": "⇥"}.get(letter, "␣") for letter in word)


def _downloads(kind: str, number: int) -> str:
    return "".join(
        f'<button data-{kind}="{number}" data-as="{form}">{form.upper()}</button>' for form in ("csv", "json")
    )


def _added(those: list[dict[str, Any]], one: dict[str, Any]) -> int:
    those.append(one)
    return len(those) - 1
