"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Count, Strict


class OnTextConfig(Strict):
    """Show the pairs of features that interact most in MLPs on texts, word by word."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coder: str
    """The crosscoder: the folder of the run that trained it, or its own."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=2)] = 100
    """Held-out texts: pairs are chosen on one half and shown on the other."""
    pairs: Count = 10
    """How many, no feature in two of them."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the halves."""
