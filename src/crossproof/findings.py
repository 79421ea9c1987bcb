"""What a study says, as plain data: claims, figures, tables, texts. Studies write it beside their results
(`findings.json`), the command line prints it and `report` draws it. No import of torch here, and none of plotly.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FINDINGS = "findings.json"
Verdict = Literal["holds", "does not hold", "cannot tell"]
Cell = str | int | float | None


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Claim(_Record):
    """Something that can be right or wrong, beside what was measured here."""

    id: str
    """Short, the same for ever: `fidelity.largest`."""
    claim: str
    """One sentence: what is claimed."""
    paper: str
    """What the paper reports for it, in its own measure; or `–` where it reports nothing."""
    measure: str
    """What the number is: `Φ(only the largest) / Φ(all), worst block`."""
    ours: float | None
    low: float | None
    """The ends of the 95 % interval. None where there is none, and then nothing `holds`."""
    high: float | None
    verdict: Verdict
    why: str
    """The rule by which the verdict follows from the numbers."""


class Series(_Record):
    """Points that belong together: a line, a cloud or one bar of every group."""

    name: str
    x: tuple[float, ...] | tuple[str, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] | None = None
    high: tuple[float | None, ...] | None = None
    words: tuple[str, ...] | None = None
    """What is said of each point when it is pointed at."""

    @model_validator(mode="after")
    def _as_many(self) -> Series:
        for name in ("y", "low", "high", "words"):
            its = getattr(self, name)
            if its is not None and len(its) != len(self.x):
                raise ValueError(f"{name}: {len(its)} values for {len(self.x)} points")
        return self


class Grid(_Record):
    """A matrix to be drawn in colours."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    measure: str
    """What the colours are."""

    @model_validator(mode="after")
    def _as_many(self) -> Grid:
        _fits(self.values, len(self.rows), len(self.columns))
        return self


class Figure(_Record):
    id: str
    """Short, one of a kind in its study."""
    title: str
    """What can be seen in it, as a sentence."""
    kind: Literal["lines", "points", "bars", "grid"]
    x: str
    """Titles of the axes, with units."""
    y: str
    series: tuple[Series, ...] = ()
    grid: Grid | None = None
    log_x: bool = False
    log_y: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _one_kind(self) -> Figure:
        if (self.kind == "grid") != (self.grid is not None) or (self.kind == "grid" and self.series):
            raise ValueError("a figure of kind `grid` has a grid and no series, any other has series and no grid")
        return self


class Table(_Record):
    title: str
    columns: tuple[str, ...] = Field(min_length=1)
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @model_validator(mode="after")
    def _as_many(self) -> Table:
        _fits(self.rows, len(self.rows), len(self.columns))
        return self

    @property
    def by_column(self) -> tuple[tuple[Cell, ...], ...]:
        return tuple(tuple(row[column] for row in self.rows) for column in range(len(self.columns)))

    @classmethod
    def of(cls, title: str, rows: list[dict[str, Cell]], note: str = "") -> Table:
        """From rows that all have the same columns."""
        return cls(title=title, columns=tuple(rows[0]), rows=tuple(tuple(row.values()) for row in rows), note=note)


class Layer(_Record):
    """One number for each word of a text: how strong a feature is there, or how much interacts."""

    name: str
    values: tuple[float, ...]


class Passage(_Record):
    """A text word by word, with what was measured at each."""

    title: str
    words: tuple[str, ...]
    layers: tuple[Layer, ...]
    note: str = ""

    @model_validator(mode="after")
    def _as_many(self) -> Passage:
        for layer in self.layers:
            if len(layer.values) != len(self.words):
                raise ValueError(f"{layer.name}: {len(layer.values)} values for {len(self.words)} words")
        return self


class Findings(_Record):
    """`findings.json` of a study."""

    title: str
    question: str
    """What the study asks, in one or two sentences."""
    answer: str
    """What it found, in words that follow from the numbers: written by code, never by hand."""
    claims: tuple[Claim, ...] = ()
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    passages: tuple[Passage, ...] = ()
    notes: tuple[str, ...] = ()
    """What the numbers do not say by themselves: what was held out, what the intervals resample, limits."""


class SummaryRow(_Record):
    """A claim among those of many studies."""

    id: str
    paper: str
    ours: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    claim: str
    measure: str
    study: str
    """The name of the run folder."""


class Summary(_Record):
    """`results.json` of many studies together."""

    claims: tuple[SummaryRow, ...]


def _fits(values: tuple[tuple[Cell, ...], ...], rows: int, columns: int) -> None:
    if len(values) != rows:
        raise ValueError(f"{len(values)} rows of values for {rows} rows")
    for number, row in enumerate(values):
        if len(row) != columns:
            raise ValueError(f"row {number} has {len(row)} values for {columns} columns")
