"""The state of a training run on disk: one folder per checkpoint, replaced whole, never half-written.

`checkpoint/state.safetensors` holds tensors (weights, optimiser moments, counters, the state of loss terms, random
state) and `checkpoint/state.json` the numbers (step, data position, optimiser steps). Both are written beside the
previous checkpoint and swapped in by renaming, so a kill or a full disk leaves the previous one intact.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from crossproof.crosscoder.config import FitConfig
from crossproof.errors import BadFile, MismatchError
from crossproof.files import read_safetensors, recover_folder, replace_folder, write_safetensors

if TYPE_CHECKING:
    from crossproof.crosscoder.step import Training

FOLDER = "checkpoint"
_MOMENTS = ("exp_avg", "exp_avg_sq")


class State(BaseModel):
    """`state.json`."""

    model_config = ConfigDict(extra="forbid")
    step: int
    settings: dict[str, Any]
    """What the weights depend on: a resumed run must have the same."""
    optimiser_steps: list[float]
    data_position: dict[str, int] | None


def exists(out: Path) -> bool:
    """Whether there is one, after finishing a replacement that was interrupted."""
    return recover_folder(out / FOLDER)


def _settings(training: Training) -> dict[str, Any]:
    fit = training.config.model_dump(mode="json", include=set(FitConfig.model_fields))
    shape = training.coder.config.model_dump(mode="json").items()
    names = {"terms": [term.name for term in training.terms]}
    of_terms = {
        f"{term.name}.{key}": value for term in training.terms for key, value in getattr(term, "settings", {}).items()
    }
    return fit | {f"crosscoder.{key}": value for key, value in shape} | names | of_terms


def _terms(training: Training) -> dict[str, torch.nn.Module]:
    """Those that have a state, by their prefix in the file."""
    return {f"term.{term.name}.": term for term in training.terms if isinstance(term, torch.nn.Module)}


def write(out: Path, training: Training, data_position: dict[str, int] | None) -> None:
    tensors: dict[str, Tensor] = {f"coder.{name}": value for name, value in training.coder.state_dict().items()}
    steps = []
    for name, parameter in training.coder.named_parameters():
        state = training.optimiser.state[parameter]
        # A parameter that never had a gradient (b_dec of nothing) has no moments yet.
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = state.get(moment, torch.zeros_like(parameter))
        steps.append(float(state["step"]) if "step" in state else 0.0)
    tensors["tokens_since_fired"] = training.tokens_since_fired
    for prefix, term in _terms(training).items():
        tensors |= term.state_dict(prefix=prefix)
    tensors["random_state"] = torch.get_rng_state()
    if training.coder.b_enc.is_cuda:
        tensors["cuda_random_state"] = torch.cuda.get_rng_state(training.coder.b_enc.device)
    state_json = State(
        step=training.step, settings=_settings(training), optimiser_steps=steps, data_position=data_position
    )
    with replace_folder(out / FOLDER) as folder:
        write_safetensors(folder / "state.safetensors", tensors)
        (folder / "state.json").write_text(state_json.model_dump_json(indent=2))


def restore(out: Path, training: Training) -> dict[str, int] | None:
    """Put the training back where the checkpoint was written; returns the position in the data."""
    folder = out / FOLDER
    try:
        state = State.model_validate(json.loads((folder / "state.json").read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise BadFile(f"{folder / 'state.json'} cannot be read: {error}") from error
    settings = _settings(training)
    different = [
        f"{name} was {state.settings.get(name)!r}, now {value!r}"
        for name, value in settings.items()
        if state.settings.get(name) != value
    ]
    if different:
        raise MismatchError(
            f"{folder} was written with other settings ({'; '.join(different)}); give the same ones to resume it, or "
            "another folder"
        )
    tensors = read_safetensors(folder / "state.safetensors", str(training.coder.b_enc.device))
    own = training.coder.state_dict()
    names = {f"coder.{name}" for name in own} | {"tokens_since_fired", "random_state"}
    names |= {f"{moment}.{name}" for name, _ in training.coder.named_parameters() for moment in _MOMENTS}
    names |= {name for prefix, term in _terms(training).items() for name in term.state_dict(prefix=prefix)}
    if missing := sorted(names - set(tensors)):
        raise BadFile(f"{folder / 'state.safetensors'}: {', '.join(missing)} missing; it was edited")
    coder = {name: tensors[f"coder.{name}"] for name in own}
    for name, value in own.items():
        if coder[name].shape != value.shape:
            raise BadFile(f"{folder}: {name} is {tuple(coder[name].shape)} where it must be {tuple(value.shape)}")
    if len(state.optimiser_steps) != len(list(training.coder.parameters())):
        raise BadFile(f"{folder / 'state.json'}: optimiser_steps has {len(state.optimiser_steps)} entries")
    training.coder.load_state_dict(coder)
    for (name, parameter), steps in zip(training.coder.named_parameters(), state.optimiser_steps, strict=True):
        training.optimiser.state[parameter] = {
            "step": torch.tensor(steps, device=parameter.device),
            "exp_avg": tensors[f"exp_avg.{name}"],
            "exp_avg_sq": tensors[f"exp_avg_sq.{name}"],
        }
    for prefix, term in _terms(training).items():
        term.load_state_dict({name: tensors[prefix + name] for name in term.state_dict()})
    training.tokens_since_fired.copy_(tensors["tokens_since_fired"])
    torch.set_rng_state(tensors["random_state"].cpu())
    if "cuda_random_state" in tensors:
        torch.cuda.set_rng_state(tensors["cuda_random_state"].cpu(), training.coder.b_enc.device)
    training.step = state.step
    return state.data_position
