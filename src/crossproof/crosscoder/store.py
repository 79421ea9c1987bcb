"""A crosscoder on disk: a folder with `config.json` and `model.safetensors`, scales folded in. Nothing else is read.

The hash of the weights stands in the config, so that a truncated, edited or mixed-up pair of files is noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors.torch import save_file

from crossproof.crosscoder.config import FORMAT_VERSION, CrosscoderConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_json, read_safetensors, recover_folder, replace_folder, write_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
IN_RUN = "crosscoder"
"""The folder of a training run that holds its crosscoder."""


def save(coder: Crosscoder, folder: Path) -> None:
    folded = coder.folded()
    tensors = {name: value.contiguous().cpu() for name, value in folded.state_dict().items() if name != "scale"}
    with replace_folder(folder) as new:
        save_file(tensors, new / WEIGHTS)
        record = {
            "library": "crossproof",
            **folded.config.model_dump(mode="json"),
            "weights_sha256": _hash(new / WEIGHTS),
        }
        write_json(new / CONFIG, record)


def load(name: str | Path, device: str = "cpu") -> Crosscoder:
    folder = Path(name)
    if recover_folder(folder / IN_RUN):
        folder = folder / IN_RUN
    elif not recover_folder(folder):
        folder = _download(str(name))
    record = read_json(folder / CONFIG)
    config = _config(record, folder / CONFIG)
    tensors = read_safetensors(folder / WEIGHTS, device)
    coder = Crosscoder(config).to(device)
    expected = {key: value for key, value in coder.state_dict().items() if key != "scale"}
    for key, value in expected.items():
        if key not in tensors:
            raise BadFile(f"{folder / WEIGHTS}: {key} is missing; found {', '.join(sorted(tensors))}")
        if tensors[key].shape != value.shape:
            raise BadFile(
                f"{folder / WEIGHTS}: {key} has shape {tuple(tensors[key].shape)} where config.json's sites, width and "
                f"features make it {tuple(value.shape)}"
            )
        if not bool(torch.isfinite(tensors[key]).all()) and key != "threshold":
            raise BadFile(f"{folder / WEIGHTS}: {key} holds values that are not finite")
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise BadFile(f"{folder / WEIGHTS}: unexpected tensors {', '.join(unknown)}")
    if record["weights_sha256"] != _hash(folder / WEIGHTS):
        raise BadFile(f"{folder / WEIGHTS} is not the file that config.json was written with (weights_sha256 differs)")
    coder.load_state_dict({**tensors, "scale": coder.scale})
    return coder


def push(coder: Crosscoder, repo_id: str, private: bool) -> None:
    import tempfile

    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "crosscoder"
        save(coder, folder)
        api = HfApi()
        api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=folder)


def _config(record: object, path: Path) -> CrosscoderConfig:
    if not isinstance(record, dict) or record.get("library") != "crossproof":
        raise BadFile(f"{path} does not describe a crossproof crosscoder (no field library: crossproof)")
    version = record.get("format_version")
    if version != FORMAT_VERSION:
        raise BadFile(f"{path}: format_version {version!r}; this version of crossproof reads {FORMAT_VERSION}")
    fields = {key: value for key, value in record.items() if key not in ("library", "weights_sha256")}
    try:
        config = CrosscoderConfig.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadFile(f"{path}: {problems}") from error
    if "weights_sha256" not in record:
        raise BadFile(f"{path}: weights_sha256 is missing")
    return config


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CrossproofError(f"{name} is neither a folder here nor a repository the hub gave us: {error}") from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
