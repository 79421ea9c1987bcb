"""From a name to a model under TransformerLens names: a member of the zoo, a folder, or a model of the hub."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from ..errors import BadFile, CrossproofError, nearest


def load_model(name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Any:
    """A model with `run_with_cache` and `run_with_hooks`. A folder is never looked up on the network."""
    from . import zoo

    if name in zoo.names():
        return _in_dtype(zoo.load_model(name, device), dtype)
    if Path(name).is_dir():
        return _load_folder(Path(name), device, dtype)
    why = _hub_trouble(name)
    try:
        with _offline() if why else nullcontext():
            return _boot(name, device, dtype)
    except (OSError, ValueError) as error:
        close = nearest(name, zoo.names())
        raise CrossproofError(
            f"{name!r} is no member of the zoo (nearest: {close or ', '.join(zoo.names())}) and no folder, and "
            f"{why or f'it could not be loaded from the Hugging Face hub: {_first_line(error)}'}"
        ) from error


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


def _load_folder(folder: Path, device: str, dtype: torch.dtype) -> Any:
    if not (folder / "config.json").is_file():
        raise BadFile(f"{folder} has no config.json: it is not a folder written by `save_pretrained`")
    with _offline():
        try:
            return _boot(str(folder), device, dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise BadFile(f"{folder} cannot be loaded as a Hugging Face model: {_first_line(error)}") from error


def _boot(name: str, device: str, dtype: torch.dtype) -> Any:
    from transformer_lens.model_bridge import TransformerBridge

    with _without_bars():
        return TransformerBridge.boot_transformers(name, device=device, dtype=dtype, model_class=_CompleteModel)


class _CompleteModel:
    """Loads a causal language model as transformers does, except that a weight the file lacks is an error.

    transformers fills such a weight with random numbers and mentions it in a warning.
    """

    @staticmethod
    def from_pretrained(name: str, **settings: Any) -> Any:
        from transformers import AutoModelForCausalLM

        loaded: Any = AutoModelForCausalLM.from_pretrained(name, output_loading_info=True, **settings)
        model, report = loaded
        if report["missing_keys"]:
            missing = sorted(report["missing_keys"])
            raise BadFile(f"{name} lacks {len(missing)} of its model's weights, the first of them {missing[0]}")
        return model


def _in_dtype(model: Any, dtype: torch.dtype) -> Any:
    if all(parameter.dtype == dtype for parameter in model.parameters()):
        return model
    # TransformerBridge announces every move on stdout unless told not to, a keyword that plain modules do not know.
    return model.to(dtype, print_details=False) if hasattr(model, "original_model") else model.to(dtype)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _without_bars() -> Iterator[None]:
    """Hide the bars of transformers, which are drawn even for a megabyte and where no terminal is."""
    from transformers.utils import logging as untyped

    logging: Any = untyped
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _offline() -> Iterator[None]:
    """No request leaves the machine: the hub's client reads the constant, other libraries the variable."""
    from huggingface_hub import constants

    before, variable = constants.HF_HUB_OFFLINE, os.environ.get("HF_HUB_OFFLINE")
    constants.HF_HUB_OFFLINE = True
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
        if variable is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = variable
