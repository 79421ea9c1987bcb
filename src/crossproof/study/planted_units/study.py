"""How well metrics find interactions that were planted in gated MLPs, attention layers and norms.

Each unit is made by hand: which features interact in it is known, and so is why the others do not (`gated.py`,
`attention.py`, `norms.py`). For every seed codes, strengths and loudness are drawn anew, and every metric scores all
pairs. What comes out, and its tables, is in `results.py`.

run.json  results.json
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from crossproof import runs
from crossproof.crosscoder.config import Count, Strict
from crossproof.progress import progress
from crossproof.study.ground_truth.study import one_thread
from crossproof.study.planted_units.attention import score_attention
from crossproof.study.planted_units.gated import score_gated
from crossproof.study.planted_units.norms import score_norm
from crossproof.study.planted_units.results import PlantedUnitsStudy, collected
from crossproof.study.planted_units.scenes import Scored

KIND = "planted-units"


class PlantedUnitsConfig(Strict):
    """Score metrics on planted units."""

    out: Path
    """The run folder."""
    seeds: Count = 5
    """How many times each unit is drawn."""
    tokens: Count = 4_000
    """Of the gated MLPs and the norms, each time."""
    reference_tokens: Count = 400
    """How many of them the Shapley-Taylor index is averaged over."""
    texts: Count = 40
    """Of the attention layers, 20 positions each."""
    reference_queries: Count = 60
    """How many of their queries the index is summed over, in each head."""


def run(config: PlantedUnitsConfig) -> PlantedUnitsStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def work() -> PlantedUnitsStudy:
        with one_thread():
            return study(config)

    return runs.once(config.out, KIND, config, PlantedUnitsStudy, lambda: work)


def study(config: PlantedUnitsConfig) -> PlantedUnitsStudy:
    tokens, few, texts, some = config.tokens, config.reference_tokens, config.texts, config.reference_queries
    scenes: tuple[Callable[[int], Scored], ...] = (
        lambda seed: score_gated("gated MLP, ReLU", "relu", tokens, few, seed),
        lambda seed: score_gated("gated MLP, SiLU", "silu", tokens, few, seed),
        lambda seed: score_attention("attention", False, texts, some, seed),
        lambda seed: score_attention("attention, rotary", True, texts, some, seed),
        lambda seed: score_norm("LayerNorm", "layer", tokens, seed),
        lambda seed: score_norm("RMSNorm", "rms", tokens, seed),
    )
    scored = []
    with progress("planted units", len(scenes) * config.seeds, "units") as bar:
        for scene in scenes:
            for seed in range(config.seeds):
                found = scene(seed)
                scored.append((found.scores(seed), found.of_kinds()))
                bar(1)
    return collected([row for rows, _ in scored for row in rows], [row for _, rows in scored for row in rows])
