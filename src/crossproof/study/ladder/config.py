"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Strict


class LadderConfig(Strict):
    """Prove a bound by every rung, from brute force to the most compact, and check the best certificate."""

    subjects: Annotated[tuple[str, ...], Field(min_length=1)] = ("talesproof-c0.8",)
    """Models that read windows: zoo names, or folders of such."""
    out: Path
    """The run folder; the best certificate of each model is below it."""
    coders: tuple[str, ...] = ()
    """Crosscoders of these models, in whose directions features are written for one more rung: folders of the runs that
    trained them, or of the crosscoders themselves."""
    characters: Annotated[int, Field(ge=2)] | None = None
    """Prove it of the first so many characters only. Default: all that the model was trained on."""
    read: tuple[Annotated[int, Field(ge=0)], ...] = (0, 8, 32)
    """masses: how many neurons' corrections are read out."""
    offsets: Annotated[int, Field(ge=0)] = 1500
    """masses: steps of the search for offsets; 0 leaves them out."""
    most: Annotated[float, Field(gt=0)] = 0.25
    """The certificate is made by the rung with the lowest bound that takes at most this part of brute force, or, if
    none of these says more than that all tokens are as likely, by the one that takes least of those that do."""
    vectors: bool = True
    """Also by logits for each pair of features, which takes most of the time."""
    additive_steps: Annotated[int, Field(ge=0)] = 300
    """Steps of the search for the best additive predictor, which certificates cannot beat by features alone."""
