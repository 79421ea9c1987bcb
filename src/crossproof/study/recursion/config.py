"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Strict


class RecursionConfig(Strict):
    """Bound a model's loss from what crosscoders say of it, the paper's way and better ones."""

    subject: str
    """The model: a zoo name, a local folder or a hub id. Its MLPs must be plain ones."""
    coders: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=2)] = 8
    """Held-out texts to bound the loss on; each takes some seconds with each crosscoder."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the bootstrap."""
