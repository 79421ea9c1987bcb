"""What can be chosen of a proof. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro
from pydantic import Field

from crossproof.crosscoder.config import Count, Strict

Rung = Literal["brute", "masses", "pairs", "vectors", "uniform", "groups"]


class CertifyConfig(Strict):
    """Prove a bound on a model's loss on given data, and write it down as a certificate."""

    subject: Annotated[str, tyro.conf.Positional]
    """A model that reads windows: a zoo name (talesproof-c0.8, talesproof-mlp-c0.5, …) or the folder of one."""
    out: Path
    """The folder of the certificate."""
    rung: Rung = "pairs"
    """How: brute (every window, from tables), masses (at all neurons), pairs (a number each), vectors (logits each),
    uniform (a number for each feature), or groups (of all sequences there are, for models that find their largest
    token: maxof4)."""
    joined: Count = 1
    """How many neighbouring positions are read by one feature; models with attention need 1."""
    read: Annotated[int, Field(ge=0)] = 8
    """masses: how many neurons' corrections are read out for each window."""
    offsets: Annotated[int, Field(ge=0)] = 0
    """masses: steps of a search for offsets, which take from corrections what features foretell one by one; 0: none."""
    coder: Path | None = None
    """masses, uniform: a crosscoder of the model; what tokens say to the MLP is written in its decoder's directions,
    and its encoder is not used. Default: features are tokens at positions as they are."""
    error_atoms: bool = False
    """With a coder: what it leaves over of a token is a feature too. Without that it must leave nothing."""
    features: Count = 96
    """groups: size of the dictionary of embeddings that the proof looks through."""
    k: Count = 16
    """groups: how many of its features are active."""
    characters: Annotated[int, Field(ge=2)] | None = None
    """Prove it of the first so many characters only. Default: all."""
    data: Path | None = None
    """A text file to prove the bound on, in the model's characters. Default: what the model was trained on."""
