"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from crossproof.crosscoder.config import Strict

Residual = Literal["true", "reconstructed"]
RESIDUALS: tuple[Residual, ...] = ("true", "reconstructed")


class FidelityConfig(Strict):
    """Compare how much of a model's MLPs dictionaries keep, neuron by neuron."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coders: tuple[str, ...]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    texts: Annotated[int, Field(ge=2)] = 200
    """Held-out texts to measure on."""
    schemes: tuple[str, ...] = ("drop random", "drop second", "drop largest", "keep 1", "keep 2", "keep 4", "keep 8")
    """What each neuron hears; `all`, `none` and `keep 1` are always among them."""
    residuals: Annotated[tuple[Residual, ...], Field(min_length=1)] = RESIDUALS
    """The residual stream beside the MLP; claims are judged with the first."""
    data: Path | None = None
    """Where the texts come from, a .txt or .jsonl file. Zoo models bring their own."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws what `drop random` drops, and the bootstrap."""
