"""Interactions as a person sees them: a summary, a few lines of text, a piece of a web page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from crossproof.interaction.result import Interactions

KIND_NAMES = {"mlp": "MLPs", "attention": "attention", "norm": "norms"}
IN_TEXT, IN_HTML = 5, 20
"""Pairs shown."""


class UnitSummary(BaseModel):
    """One MLP's row of the table. A number that is not defined there is None."""

    model_config = ConfigDict(extra="forbid")
    unit: str
    neurons: int
    dominant_share: float | None
    counted: int
    left_out: int
    mean_pairwise: float
    mean_pairwise_alive: float | None
    token_score: float


class PairSummary(BaseModel):
    """One row of the ranking."""

    model_config = ConfigDict(extra="forbid")
    i: int
    j: int
    unit: str
    neuron: int | None
    neuron_share: float | None
    strength: float
    strength_se: float | None
    frequency: float
    score: float
    score_se: float | None
    count: int
    mass: float | None = None
    cross: float | None = None
    ratio: float | None = None
    expected: float | None = None
    z: float | None = None
    marked: int | None = None
    correlation: float | None = None
    hadamard: float | None = None


class AccountRow(BaseModel):
    """How far one unit's interactions may move the residual stream, per token."""

    model_config = ConfigDict(extra="forbid")
    unit: str
    kind: str
    per_token: float
    per_token_se: float | None
    written: float
    relative: float | None


class EverywherePair(BaseModel):
    """A pair's interactions in all units together, per token."""

    model_config = ConfigDict(extra="forbid")
    i: int
    j: int
    total: float
    mlp: float
    attention: float | None = None
    norm: float | None = None
    unit: str
    unit_share: float


class Summary(BaseModel):
    """`results.json` of a run that measured interactions."""

    model_config = ConfigDict(extra="forbid")
    about: str
    tokens: int
    features: int
    alive: int
    pairs: int
    """Ordered pairs of features that are active together on some token."""
    above_chance: float | None
    below_chance: float | None
    """The share of them that are so more, or less, often than by chance."""
    dominant_share: float | None
    mean_pairwise: float
    mean_pairwise_alive: float | None
    units: list[UnitSummary]
    strongest: list[PairSummary]
    account: list[AccountRow] = []
    """All units in one currency; none where nothing but MLPs was measured."""
    everywhere: list[EverywherePair] = []
    """The strongest pairs in all units together."""


def summary(found: Interactions, top: int) -> Summary:
    return Summary(
        about=found.about,
        tokens=found.coactive.n_tokens,
        features=found.coactive.n_features,
        alive=found.alive,
        pairs=len(found.coactive),
        above_chance=_marked(found, 1),
        below_chance=_marked(found, -1),
        dominant_share=_defined(found.dominant_share),
        mean_pairwise=found.mean_pairwise,
        mean_pairwise_alive=_defined(found.mean_pairwise_alive),
        units=[UnitSummary(**row) for row in _records(found.units)],
        strongest=[PairSummary(**row) for row in _records(found.ranked(top))],
        account=[] if found.account is None else [AccountRow(**row) for row in _records(found.account.units)],
        everywhere=[]
        if found.account is None or not top
        else [EverywherePair(**row) for row in _records(found.account.pairs(top))],
    )


def text(found: Interactions) -> str:
    lines = [f"Interactions of {found.about}", *(f"  {line}" for line in _facts(found))]
    if found.account is not None:
        of_kind = found.account.units.groupby("kind").per_token.sum()
        sums = ", ".join(
            f"{name} {three_digits(of_kind[kind])}" for kind, name in KIND_NAMES.items() if kind in of_kind
        )
        lines.append(f"  account, per token: {sums}")
    lines.append("  strongest pairs, by score = strength × frequency:")
    shown = list(found.ranked(IN_TEXT, look_at_neurons=False).itertuples())
    width = max((len(f"{pair.i} → {pair.j}") for pair in shown), default=0)
    lines += [
        f"    {f'{pair.i} → {pair.j}':<{width}}  {pair.unit}  {pair.score:.3g} = {pair.strength:.3g} × "
        f"{pair.frequency:.1%}"
        for pair in shown
    ]
    return "\n".join(
        [
            *lines,
            "  .pairs .units .neurons .features .account .matrix() .potential() .independence() .tokens(text) .save()",
        ]
    )


def html(found: Interactions) -> str:
    """Needs nothing but itself. It takes its colours from the page around it, light or dark."""
    shown = summary(found, IN_HTML).strongest
    largest = max((pair.score for pair in shown), default=0) or 1.0
    units = [
        (
            row.unit,
            f"{row.neurons:,}",
            _number(row.dominant_share),
            _number(row.mean_pairwise),
            _number(row.token_score),
        )
        for row in summary(found, 0).units
    ]
    pairs: list[tuple[str, ...]] = [
        (
            str(pair.i),
            str(pair.j),
            pair.unit,
            "–" if pair.neuron is None else f"{pair.neuron} ({pair.neuron_share:.0%})",
            _number(pair.strength),
            f"{pair.frequency:.1%}",
            _number(pair.score),
        )
        for pair in shown
    ]
    account = _account(found)
    facts = "".join(f"<div>{escape(line)}</div>" for line in _facts(found))
    bars = [100 * pair.score / largest for pair in shown]
    return (
        f"<div class='crossproof-interactions'>{_STYLE}<div><b>Interactions of {escape(found.about)}</b></div>{facts}"
        + account
        + _table(("MLP", "neurons", "dominant share", "mean pairwise", "score per token"), units)
        + "<div>strongest pairs, by score = strength × frequency</div>"
        + _table(("i", "j", "MLP", "neuron (its share)", "strength", "frequency", "score", ""), pairs, bars)
        + "</div>"
    )


_STYLE = """<style>
.crossproof-interactions { color: inherit; line-height: 1.5; overflow-x: auto }
.crossproof-interactions table {
  color: inherit; font-size: inherit; border-collapse: collapse; margin: .5em 0 1em; background: none }
.crossproof-interactions th, .crossproof-interactions td {
  color: inherit; background: none; border: 0; border-bottom: 1px solid rgba(128, 128, 128, .35);
  padding: .15em .8em .15em 0; text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.crossproof-interactions th { font-weight: 600 }
.crossproof-interactions .bar { height: .7em; border-radius: 2px; background: #4a90d9 }
</style>"""


def _account(found: Interactions) -> str:
    rows = summary(found, 0).account
    if not rows:
        return ""
    largest = max((row.per_token for row in rows), default=0) or 1.0
    cells = [
        (
            row.unit,
            row.kind,
            _number(row.per_token),
            _number(row.per_token_se),
            _number(row.written),
            _number(row.relative),
        )
        for row in rows
    ]
    heads = ("unit", "kind", "per token", "± (standard error)", "it writes", "relative", "")
    title = "account: what simple interpretations leave out, as lengths in the residual stream; compare like with like"
    return f"<div>{title}</div>" + _table(heads, cells, [100 * row.per_token / largest for row in rows])


def _facts(found: Interactions) -> list[str]:
    coactive = found.coactive
    above, below = _marked(found, 1), _marked(found, -1)
    against_chance = "" if above is None else f" · {above:.0%} of them more often than by chance, {below:.0%} less"
    return [
        f"{coactive.n_tokens:,} tokens · {found.alive:,} of {coactive.n_features:,} features alive · "
        f"{len(coactive):,} ordered pairs active together{against_chance} · MLPs: {len(found.unit_names)}",
        f"dominant share {_number(found.dominant_share)} · mean pairwise interaction {_number(found.mean_pairwise)} "
        f"({_number(found.mean_pairwise_alive)} over pairs of living features)",
    ]


def _marked(found: Interactions, sign: int) -> float | None:
    """The share of pairs that are marked so against chance."""
    marked = found.columns.get("marked")
    return None if marked is None or len(marked) == 0 else float((marked == sign).double().mean())


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]], bars: list[float] | None = None) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = []
    for index, row in enumerate(rows):
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        if bars is not None:
            cells += f"<td style='width: 8em'><div class='bar' style='width: {bars[index]:.1f}%'></div></td>"
        body.append(f"<tr>{cells}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _records(frame: Any) -> list[dict[str, Any]]:
    """Rows, with None for what is missing or not a number."""
    return [{name: _defined(value) for name, value in row.items()} for row in frame.to_dict("records")]


def _defined(value: Any) -> Any:
    import pandas as pd

    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else three_digits(value)


def three_digits(value: float) -> str:
    """Three digits that count, zeros among them, and no power of ten below a million."""
    return f"{value:,.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:#.3g}".removesuffix(".")
