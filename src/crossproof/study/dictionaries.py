"""Crosscoders as their runs describe them: studies compare those that were trained alike but for their seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from crossproof import runs
from crossproof.binding.config import PenalisedTrainConfig, PenaltyConfig
from crossproof.crosscoder.evaluate import Evaluation
from crossproof.errors import BadFile

PLAIN = "plain"


class CoderRecord(BaseModel):
    """A dictionary that was compared."""

    model_config = ConfigDict(extra="forbid")
    coder: str
    penalty: str
    """`plain`, or what its penalty was."""
    otherwise: str = ""
    """In what else its training differs from that of others here, but for the seed."""
    seed: int | None
    unexplained: float | None

    @property
    def group(self) -> str:
        """Dictionaries trained alike, but for their seeds."""
        return ", ".join(filter(None, (self.penalty, self.otherwise)))

    @property
    def baseline(self) -> str:
        """The group without a penalty that is trained like this one."""
        return ", ".join(filter(None, (PLAIN, self.otherwise)))


ANYHOW = ("subject", "seed", "out", "data", "device", "track", "eval_texts", "penalty")
"""In these settings dictionaries trained alike may differ; the penalty has a name of its own."""


def described(names: Sequence[str]) -> list[CoderRecord]:
    """How each crosscoder was trained, as its run says; one without its run is like no other."""
    trained = [_trained(Path(name)) for name in names]
    others = [{key: str(value) for key, value in its.items() if key not in ANYHOW} for its in trained]
    known = [its for its in others if its]
    differ = sorted(key for key in {key for its in known for key in its} if len({its.get(key) for its in known}) > 1)
    records = []
    for name, its, rest in zip(names, trained, others, strict=True):
        what = [f"{key} {rest[key]}" for key in differ if key in rest] if its else [name]
        record = CoderRecord(
            coder=name, penalty=_penalty(its.get("penalty", {})), seed=its.get("seed"), unexplained=None
        )
        unexplained = _unexplained(Path(name))
        records.append(record.model_copy(update={"otherwise": ", ".join(what), "unexplained": unexplained}))
    return records


def _trained(folder: Path) -> dict[str, Any]:
    """The settings of the run that trained a crosscoder; none if there is no such run."""
    try:
        run = runs.read(folder)
    except BadFile:
        return {}
    # a setting that the run's version did not know yet had what is now its default
    usual = PenalisedTrainConfig(subject="", out=folder).model_dump(mode="json")
    return usual | run.config if run.kind == "train" else {}


def _unexplained(folder: Path) -> float | None:
    try:
        return runs.read_results(folder, Evaluation).mean_unexplained
    except BadFile:
        return None


def _penalty(config: Mapping[str, Any]) -> str:
    if config.get("weight", 0) == 0:
        return PLAIN
    usual = PenaltyConfig().model_dump(mode="json")
    named = {key: value for key, value in config.items() if value != usual.get(key)}
    shown = {key: " ".join(value) if isinstance(value, list) else value for key, value in named.items()}
    return "penalty " + ", ".join(f"{key} {value}" for key, value in shown.items())
