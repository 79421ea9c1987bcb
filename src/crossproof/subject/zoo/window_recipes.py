"""How each member that proofs are made of is trained: models of windows, small enough to prove something of.

What `recipes.py` is to the Hugging Face members. `crossproof.proof.training` trains by these, because the objective of
some of them is a bound; what is shipped is loaded and read here like any other member.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from crossproof.files import read_json

EPS = 1e-5
"""What the norms of models of windows add to the variance."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class WindowConfig(_Frozen):
    """The architecture of a `WindowModel`, and its `config.json`."""

    kind: Literal["window"] = "window"
    vocabulary: int = Field(ge=1, le=256)
    """How many tokens there are; data holds one in a byte."""
    context: int = Field(ge=1)
    width: int = Field(ge=1)
    neurons: int = Field(ge=1)
    mixing: Literal["attention", "sum"]
    """How the last position sees the others: through one head, or all at weight 1."""
    mlps: int = Field(ge=0, le=2)
    norm: bool
    """LayerNorm without gain and bias before the attention and before every MLP."""


CONFIG = "config.json"


def is_window_folder(folder: Path) -> bool:
    """Whether a `WindowModel` is what lies there."""
    path = folder / CONFIG
    config = read_json(path) if path.is_file() else None
    return isinstance(config, dict) and config.get("kind") == "window"


class TextData(_Frozen):
    """Every window of the first characters of the stories."""

    kind: Literal["text"] = "text"
    characters: int = 1_200_000


class MaxData(_Frozen):
    """Every sequence of numbers, followed by the largest."""

    kind: Literal["max"] = "max"


class WindowRecipe(_Frozen):
    """One row of the table below."""

    name: str
    model: WindowConfig
    data: Annotated[TextData | MaxData, Field(discriminator="kind")]
    certificate: float = 0.0
    """The weight of the certificate in the objective, once warmed up; the loss itself has the rest."""
    read: int | None = None
    """Train on what the rung `masses` proves with so many corrections read out, offsets and all; None: on masses with
    every correction taken at its worst."""
    joined: int = 1
    """How many neighbouring positions a feature of that proof reads."""
    shared_embedding: bool = False
    """Train a vector per token and one per position; their sums are what is kept."""
    steps: int
    batch: int = 512
    lr: float = 3e-3
    """Falls linearly to nothing."""
    clip: float = 1.0
    """The largest norm of the gradient."""
    seed: int = 0
    threads: int = 1
    shipped: bool = True
    """Whether the weights come with the package."""


CERTIFICATES = (0.0, 0.1, 0.3, 0.8)

_TALES = WindowConfig(vocabulary=56, context=8, width=64, neurons=128, mixing="attention", mlps=1, norm=False)
_FAMILIES: dict[str, dict[str, str | int | bool]] = {
    "talesproof": {},
    "talesproof-ln": {"norm": True},
    "talesproof-mlp": {"mixing": "sum"},
    "talesproof-mlp2": {"mixing": "sum", "mlps": 2},
}

_BY_READING = ("talesproof-mlp", "talesproof-mlp2")


def _talesproof(family: str, certificate: float, steps: int | None = None) -> WindowRecipe:
    return WindowRecipe(
        name=f"{family}-c{certificate}" if certificate else family,
        model=_TALES.model_copy(update=_FAMILIES[family]),
        data=TextData(),
        certificate=certificate,
        read=8 if family in _BY_READING else None,
        joined=2 if family in _BY_READING else 1,
        steps=steps or (5_000 if family in _BY_READING else 8_000),
    )


def _maximum(name: str, context: int, steps: int, shipped: bool) -> WindowRecipe:
    return WindowRecipe(
        name=name,
        model=WindowConfig(vocabulary=32, context=context, width=32, neurons=1, mixing="attention", mlps=0, norm=False),
        data=MaxData(),
        shared_embedding=True,
        steps=steps,
        batch=1024,
        shipped=shipped,
    )


WINDOW_RECIPES: dict[str, WindowRecipe] = {
    recipe.name: recipe
    for recipe in (
        _maximum("maxof4", context=4, steps=30_000, shipped=True),
        _maximum("maxof5", context=5, steps=30_000, shipped=False),
        *(_talesproof(family, certificate) for family, certificate in product(_FAMILIES, CERTIFICATES)),
        # the one that is proved most of: between the others in loss, and longest trained
        _talesproof("talesproof-mlp", 0.5, steps=8_000),
    )
}
