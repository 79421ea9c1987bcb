"""One file with everything in it: text, styles, data, plotly. It asks the network for nothing, and may not."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crossproof.errors import CrossproofError

HERE = Path(__file__).parent
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def need_plotly() -> None:
    """Refuse to start what would end without its page."""
    if find_spec("plotly") is None:
        raise CrossproofError("the page is drawn by plotly, which is missing: pip install 'crossproof[page]'")


def page(title: str, body: str, data: dict[str, Any], *parts: str) -> str:
    """A whole page. `body` is HTML, escaped where it must be. `parts` are files beside this one: styles that come after
    those of all pages, and scripts, which read `data`.
    """
    need_plotly()
    from plotly.offline import get_plotlyjs

    # inside a script element only < could end it
    embedded = json.dumps(data, allow_nan=False, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    scripts = (
        f'<script type="application/json" id="data">{embedded}</script>',
        f"<script>{get_plotlyjs()}</script>",
        f"<script>{_texts(*(part for part in parts if part.endswith('.js')))}</script>",
    )
    return still_page(title, body, *(part for part in parts if part.endswith(".css")), after="\n".join(scripts))


def still_page(title: str, body: str, *styles: str, after: str = "") -> str:
    """One that needs no scripts."""
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">',
            f"<title>{escape(title)}</title>",
            f"<style>{_texts('page.css', *styles)}</style></head>",
            f"<body><main>{body}</main>",
            after,
            "</body></html>\n",
        )
    )


def _texts(*names: str) -> str:
    return "".join((HERE / name).read_text() for name in names)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers_from: int = 1) -> str:
    """Columns from `numbers_from` on are set to the right."""

    def cell(tag: str, column: int, text: str) -> str:
        side = ' class="number"' if column >= numbers_from else ""
        return f"<{tag}{side}>{escape(text)}</{tag}>"

    def row(tag: str, texts: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, column, text) for column, text in enumerate(texts))}</tr>"

    body = "".join(row("td", texts) for texts in rows)
    return f'<div class="wide"><table><thead>{row("th", head)}</thead><tbody>{body}</tbody></table></div>'


def rounded(values: Any) -> Any:
    """Nested lists of numbers to four digits, which is more than a picture shows; None where there is none."""
    if isinstance(values, list):
        return [rounded(value) for value in values]
    return float(f"{values:.4g}") if values is not None and math.isfinite(values) else None
