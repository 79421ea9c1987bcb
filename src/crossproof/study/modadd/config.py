"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Count, Positive, Strict


class ModaddConfig(Strict):
    """Ask what features are in a network that adds two numbers modulo p."""

    out: Path
    subject: str = "modadd"
    """The network: a zoo name of one that adds."""
    weights: Annotated[tuple[Positive, ...], Field(min_length=1)] = (10.0, 30.0)
    """Of the penalty, and of its control of the same magnitude. Claims are made of the first."""
    seeds: Count = 5
    """How many crosscoders of each kind: with 5 or more, intervals are about others trained alike too."""
    features: Count = 256
    """Size of the dictionaries."""
    k: Count = 16
    """Active features per token, mean over all positions."""
    steps: Count = 2000
    """Optimiser steps of each training."""
    batch_tokens: Count = 512
    """Tokens per step."""
    pairs: Annotated[int, Field(ge=2)] | None = None
    """How many held-out pairs to measure on. Default: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the bootstrap and the shuffles."""
