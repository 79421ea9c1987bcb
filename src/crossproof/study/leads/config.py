"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Count, Strict


class LeadsConfig(Strict):
    """Bring features together that never met, and look whether the model fails more than on matched inputs."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coders: Annotated[tuple[str, ...], Field(min_length=1)]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=4)] = 600
    """Held-out texts: one half says which pairs never meet, inputs are made of the texts of the other half."""
    pairs: Count = 100
    """Leads: the pairs with the largest potential, no feature in two of them."""
    tries: Annotated[int, Field(ge=16)] = 256
    """Inputs made for each lead, and as many for each pair it is compared with."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the halves, the inputs and the bootstrap."""
