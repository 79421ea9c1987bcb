"""From a name to a model under TransformerLens names: a member of the zoo, a folder, or a model of the hub."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch

from crossproof.errors import BadFile, CrossproofError, nearest
from crossproof.subject.quiet import offline, without_bars
from crossproof.subject.tokens import TokenSource
from crossproof.subject.zoo.window_recipes import is_window_folder


def load_model(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A model with `run_with_cache` and `run_with_hooks`. A folder is never looked up on the network."""
    from crossproof.subject import zoo

    if name in zoo.names():
        return zoo.load_model(name, device, dtype)
    if Path(name).is_dir():
        return load_folder(Path(name), device, dtype)
    why = _hub_trouble(name)
    try:
        with offline() if why else nullcontext():
            return _boot(name, device, dtype)
    except (CrossproofError, MemoryError):
        raise
    except Exception as error:  # as in a folder
        close = nearest(name, zoo.names())
        raise CrossproofError(
            f"{name!r} is no member of the zoo (nearest: {close or ', '.join(zoo.names())}) and no folder, and "
            f"{why or f'it could not be loaded from the Hugging Face hub: {_in_short(error)}'}"
        ) from error


def load_texts(name: str) -> Callable[[str], TokenSource] | None:
    """The texts that a model brings, by split: those of the zoo, and those a model of windows was trained on."""
    from crossproof.subject import zoo

    if name in zoo.names():
        return partial(zoo.source, name)
    if is_window_folder(Path(name)) and (Path(name) / "recipe.json").is_file():
        from crossproof.subject.zoo.records import read_window_recipe
        from crossproof.subject.zoo.windows import WindowSource, open_windows

        recipe = read_window_recipe(Path(name))
        return lambda split: WindowSource(open_windows(recipe, split))
    return None


def _hub_trouble(name: str) -> str:
    """Why the hub cannot give this model, asked once: a download retries for half a minute before it says so.

    A model that the hub cannot give may still lie in the local cache.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(name, timeout=10)
    except (HfHubHTTPError, HFValidationError) as error:
        return f"the Hugging Face hub does not give it: {_first_line(error)}"
    except Exception as error:  # what a lost connection raises depends on the hub client's HTTP library
        return f"the Hugging Face hub could not be reached ({_first_line(error)})"
    return ""


def load_folder(folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """The model of a folder, under TransformerLens names and with its own weights: nothing is folded."""
    if is_window_folder(folder):
        from crossproof.subject.zoo.window_model import load

        return load(folder).to(device, dtype)
    if not (folder / "config.json").is_file():
        raise BadFile(f"{folder} has no config.json: it is not a folder written by `save_pretrained`")
    with offline():
        try:
            return _boot(str(folder), device, dtype)
        except (CrossproofError, MemoryError):
            raise
        except Exception as error:  # an edited config can fail anywhere in three libraries
            raise BadFile(f"{folder} cannot be loaded as a Hugging Face model: {_in_short(error)}") from error


def _boot(name: str, device: str, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    with without_bars():
        return TransformerBridge.boot_transformers(name, device=device, dtype=dtype, model_class=_CompleteModel)


_OLD_BUFFERS = (".attention.bias", ".attn.bias", ".masked_bias", ".inv_freq")
"""Causal masks and rotary tables, which transformers once saved among the weights and now computes. TinyStories
models, of the GPT-Neo class, have them."""


class _CompleteModel:
    """Loads a causal language model as transformers does, except that file and model must have the same weights.

    transformers fills a weight the file lacks with random numbers, drops one the model has no place for, and mentions
    both in a warning.
    """

    @staticmethod
    def from_pretrained(name: str, **settings: Any) -> Any:
        from transformers import AutoModelForCausalLM

        loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **settings)
        model, report = loaded
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise BadFile(f"{name} lacks {len(missing)} of its model's weights, the first of them {missing[0]}")
        unexpected = sorted(key for key in report["unexpected_keys"] if not key.endswith(_OLD_BUFFERS))
        if unexpected:
            raise BadFile(
                f"{name} holds {len(unexpected)} weights that its config.json has no place for, the first of them "
                f"{unexpected[0]}"
            )
        return model


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {_first_line(error)}" if str(error).strip() else type(error).__name__
