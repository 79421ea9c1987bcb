"""A run that measures interactions: its settings, its folder, its tables.

run.json  interactions/{interactions.json, sums.safetensors, *.parquet}  results.json
"""

from __future__ import annotations

from pathlib import Path

from crossproof import runs
from crossproof.binding.bound import neurons_of
from crossproof.binding.interactions import choose_kinds, interactions
from crossproof.crosscoder.config import Count, Strict
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.result import choose_metrics
from crossproof.interaction.result_files import IN_RUN
from crossproof.interaction.result_view import Summary
from crossproof.subject.subject import Subject

KIND = "interactions"


class MeasureConfig(Strict):
    """What to measure, on what."""

    subject: str
    coder: str
    texts: Count = 100
    metrics: tuple[str, ...] = ()
    """None: all that the MLPs have."""
    include: tuple[str, ...] | None = None
    """Which kinds of units to account for beside the MLPs. None: those whose inputs the crosscoder has."""
    data: Path | None = None
    device: str = "cpu"


def measure(config: MeasureConfig, out: Path | None = None) -> Summary:
    """Measure on held-out texts; into a run folder if one is given, in place of a run with the same settings."""
    clock = runs.Clock()
    if out is not None:
        runs.resumable(out, KIND, config, may_differ=("device",))
    subject = Subject.load(config.subject, device=config.device)
    coder = Crosscoder.from_pretrained(config.coder, device=config.device)
    choose_metrics(neurons_of(subject, coder), config.metrics or None)  # before anything is written
    choose_kinds(subject, coder, config.include)
    tokens = subject.held_out(config.texts, config.data)
    run = None if out is None else runs.begin(out, KIND, config)
    found = interactions(subject, coder, tokens, config.metrics or None, config.include)
    summary = found.summary()
    if out is not None and run is not None:
        found.save(out / IN_RUN)
        runs.finish(out, run, summary, clock.seconds())
    return summary
