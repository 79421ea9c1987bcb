"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Positive, Strict


class InformationConfig(Strict):
    """Count the bits per token of encoded texts, against what they explain and what they certify."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coders: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=4)] = 200
    """Held-out texts: on one half codes are made for features and strengths, the other half is encoded with them."""
    noise: Annotated[tuple[Positive, ...], Field(min_length=1)] = (0.3, 0.1, 0.03, 0.01)
    """How coarsely strengths are rounded: by about how much of its error each crosscoder's error grows. Claims are made
    of the second, or of the only one."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the halves and the bootstrap."""
