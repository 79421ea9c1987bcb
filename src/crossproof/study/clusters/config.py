"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Strict


class ClustersConfig(Strict):
    """Cluster features by how they interact, and find out whether the clusters mean something."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coders: tuple[str, ...]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    """The run folder."""
    texts: Annotated[int, Field(ge=4)] = 200
    """Held-out texts: one half to make clusters, the other to judge them."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the algorithms, the random matrix, the exchanged members and the bootstrap."""
