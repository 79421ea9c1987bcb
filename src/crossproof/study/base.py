"""What all studies share: results that say what they mean, and the run folder they are written to.

run.json  results.json  findings.json
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from crossproof import runs
from crossproof.errors import BadFile
from crossproof.files import read_json, write_json
from crossproof.findings import FINDINGS, Findings


class StudyResults(BaseModel):
    """`results.json` of a study: numbers, from which everything that is said of them follows."""

    model_config = ConfigDict(extra="forbid")

    @abstractmethod
    def findings(self) -> Findings:
        """Claims, figures, tables and words."""


Results = TypeVar("Results", bound=StudyResults)


def once(
    folder: Path, kind: str, config: BaseModel, results: type[Results], prepare: Callable[[], Callable[[], Results]]
) -> Results:
    """As `runs.once`; what the results mean is written before the run counts as finished."""

    def prepared() -> Callable[[], Results]:
        work = prepare()

        def working() -> Results:
            found = work()
            write_json(folder / FINDINGS, found.findings().model_dump(mode="json"))
            return found

        return working

    # a study may be one of many that a command does; it says how to do it alone
    found = runs.once(folder, kind, config, results, prepared, runs.command_of(kind, config))
    said, place = found.findings().model_dump(mode="json"), folder / FINDINGS
    if not _holds(place, said):
        write_json(place, said)
    return found


def _holds(place: Path, said: dict[str, Any]) -> bool:
    """Whether a finished run's words are still there; they follow from its results, and lost ones are written again."""
    try:
        return bool(read_json(place) == said)
    except BadFile:
        return False
