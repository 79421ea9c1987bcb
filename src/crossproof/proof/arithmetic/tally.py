"""Operations, counted while they are done, by the part of the proof that they belong to.

One operation is one addition, multiplication, division, comparison, exponential, logarithm or root of real numbers; a
product of an m × k by a k × n matrix is 2mnk of them, a sum or a maximum as many as it has terms. Looking a number up,
copying, negating and taking a magnitude are free, and so is the arithmetic of the radii, which a brute-force proof
would need as well: what is counted is the mathematics and not the rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Tally:
    """How many operations each part has taken."""

    parts: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    def add(self, part: str, operations: int) -> None:
        self.parts[part] = self.parts.get(part, 0) + operations


OTHER = "other"
_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)
_part: ContextVar[str] = ContextVar("part", default=OTHER)


@contextmanager
def tallied() -> Iterator[Tally]:
    """Counts what is done inside; a count inside another is its own and does not reach the outer one."""
    tally = Tally()
    token = _tally.set(tally)
    try:
        yield tally
    finally:
        _tally.reset(token)


@contextmanager
def part(name: str) -> Iterator[None]:
    """What is done inside belongs to this part."""
    token = _part.set(name)
    try:
        yield
    finally:
        _part.reset(token)


def count(operations: int) -> None:
    tally = _tally.get()
    if tally is not None:
        tally.add(_part.get(), operations)
