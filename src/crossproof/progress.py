"""Progress bars with a rate and an estimate; silent when the output is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.progress import Progress

_shown: list[Progress] = []
"""The bars on the screen now: work inside other work adds a line to them."""


@runtime_checkable
class Advance(Protocol):
    """Tells the bar that `amount` more units are done; `note` replaces the text at its end."""

    def __call__(self, amount: int, note: str = "") -> None: ...


@contextmanager
def progress(what: str, total: int, unit: str, done: int = 0) -> Iterator[Advance]:
    """Show `what` advancing to `total` units (`tokens`, `steps`, …), with the rate and the time left, on stderr."""
    inner = bool(_shown)
    with nullcontext(_shown[-1]) if inner else _new_bars() as bars:
        task = bars.add_task(what, total=total, completed=done, note="", unit=unit)

        def advance(amount: int, note: str = "") -> None:
            bars.update(task, advance=amount)
            if note:
                bars.update(task, note=note)

        try:
            yield advance
        finally:
            if inner:
                bars.remove_task(task)


@contextmanager
def _new_bars() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:,.0f} {task.fields['unit']}/s" if task.speed else "")

    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=8),
        TextColumn("{task.percentage:>3.0f}%"),
        Rate(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    _shown.append(bars)
    try:
        with bars:
            yield bars
    finally:
        _shown.remove(bars)
