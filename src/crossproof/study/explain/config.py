"""The settings of the study of explanations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from crossproof.crosscoder.config import Count, Strict
from crossproof.study.language_model import LanguageModelConfig


class ExplainConfig(Strict):
    """Explain the features of crosscoders, and score what is said of them on other texts."""

    subject: str
    """The model: a zoo name, a local folder or a hub id."""
    coders: tuple[str, ...]
    """Crosscoders: folders of the runs that trained them, or of the crosscoders themselves."""
    out: Path
    texts: Annotated[int, Field(ge=4)] = 200
    """Half of them explain, the other half scores."""
    parts: Count = 4
    """An explanation has at most so many parts; any may be true, and each is a label or two that are true together."""
    examples: Count = 12
    """How many features of each dictionary are shown, evenly by rank of frequency."""
    data: Path | None = None
    """Texts, a .txt or .jsonl file. Zoo models bring their own, with the labels of their grammar."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the halves, the controls and the bootstrap."""
    language_model: LanguageModelConfig = LanguageModelConfig()
    """Asked too if it has an endpoint."""
    asked: Count = 50
    """About how many features of each dictionary a language model is asked, evenly by rank of frequency."""
    judged: Annotated[int, Field(ge=2)] = 10
    """From how many examples it explains a feature, and how many others it judges."""
