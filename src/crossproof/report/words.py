"""Numbers and claims as a reader sees them, the same in HTML and in Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from crossproof.findings import Cell, Claim, SummaryRow, Verdict

VERDICTS: tuple[Verdict, ...] = ("holds", "does not hold", "cannot tell")
NONE = "–"


def number(value: int | float) -> str:
    """Three digits that count, zeros among them; whole numbers whole, and no power of ten below a million."""
    if value == 0:
        return "0"
    if isinstance(value, int) or 999.5 <= abs(value) < 999_999.5:
        return f"{value:,.0f}"
    return f"{value:#.3g}".removesuffix(".")


def cells(column: Sequence[Cell]) -> list[str]:
    """Those of a column: whole numbers are whole only where all of its numbers are."""
    whole = all(float(value).is_integer() for value in column if not isinstance(value, str | None))
    return [
        NONE if value is None else value if isinstance(value, str) else number(int(value) if whole else value)
        for value in column
    ]


def numeric(column: Sequence[Cell]) -> bool:
    """Whether it is a column of numbers, some of which may be missing."""
    known = [value for value in column if value is not None]
    return bool(known) and not any(isinstance(value, str) for value in known)


def interval(claim: Claim | SummaryRow) -> str:
    """Ours, as `0.931 [0.902, 0.954]`."""
    if claim.ours is None:
        return NONE
    ends = "" if claim.low is None or claim.high is None else f" [{number(claim.low)}, {number(claim.high)}]"
    return number(claim.ours) + ends


def sentence(text: str) -> str:
    """From its capital to its full stop. What begins with a Greek letter keeps it."""
    first = text[:1].upper() if text[:1].isascii() else text[:1]
    return first + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def tally(claims: Iterable[Claim]) -> str:
    """`3 claims: 1 holds, 2 cannot tell`, in the words of the verdicts."""
    count = Counter(claim.verdict for claim in claims)
    parts = [f"{count[verdict]} {_verb(verdict, count[verdict])}" for verdict in VERDICTS if count[verdict]]
    total = count.total()
    return f"{total or 'No'} claim{'s' * (total != 1)}" + (f": {', '.join(parts)}" if parts else "")


def _verb(verdict: Verdict, count: int) -> str:
    many = {"holds": "hold", "does not hold": "do not hold", "cannot tell": "cannot be told"}
    return verdict if count == 1 and verdict != "cannot tell" else many[verdict]
