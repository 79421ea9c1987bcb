"""A crosscoder on disk: a folder with `config.json` and `model.safetensors`, scales folded in. Nothing else is read.

A hash of both stands in the config, so that a truncated, edited or mixed-up pair of files is noticed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from crossproof.crosscoder.config import FORMAT_VERSION, CrosscoderConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError, NonFinite
from crossproof.files import complete_folder, read_json, read_safetensors, replace_folder, write_json, write_safetensors

CONFIG, WEIGHTS = "config.json", "model.safetensors"
IN_RUN = "crosscoder"
"""The folder of a training run that holds its crosscoder."""


def save(coder: Crosscoder, folder: Path) -> None:
    folded = coder.folded()
    tensors = {name: value.contiguous().cpu() for name, value in folded.state_dict().items() if name != "scale"}
    for name, tensor in tensors.items():
        if not _finite(name, tensor):
            raise NonFinite(f"{name} of this crosscoder holds values that are not finite: it is not saved to {folder}")
    with replace_folder(folder) as new:
        write_safetensors(new / WEIGHTS, tensors)
        record = {"library": "crossproof", **folded.config.model_dump(mode="json")}
        write_json(new / CONFIG, record | {"sha256": _hash(record, new / WEIGHTS)})


def load(name: str | Path, device: str = "cpu") -> Crosscoder:
    given = Path(name)
    folder = complete_folder(given / IN_RUN) or complete_folder(given)
    if folder is None:
        # a hub id is a name, or a user and a name
        if given.is_absolute() or len(given.parts) > 2 or str(name).startswith((".", "~")):
            raise BadFile(f"there is no folder {name}; name one that `crossproof train` has written, or a hub id")
        folder = _download(str(name))
    if (folder / "run.json").exists():
        raise BadFile(f"{folder} is a run that has no crosscoder yet; repeat its command to finish it")
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
        if not _finite(key, tensors[key]):
            raise BadFile(f"{folder / WEIGHTS}: {key} holds values that are not finite")
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise BadFile(f"{folder / WEIGHTS}: unexpected tensors {', '.join(unknown)}")
    written = {key: value for key, value in record.items() if key != "sha256"}
    if record["sha256"] != _hash(written, folder / WEIGHTS):
        raise BadFile(f"{folder}: {CONFIG} and {WEIGHTS} are not as they were written together (sha256 differs)")
    coder.load_state_dict({**tensors, "scale": coder.scale})
    return coder


def _finite(name: str, tensor: Tensor) -> bool:
    """Whether all of it is; a threshold that was never set is all NaN, and says so when it is asked for."""
    return bool(tensor.isfinite().all()) or (name == "threshold" and bool(tensor.isnan().all()))


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
    fields = {key: value for key, value in record.items() if key not in ("library", "sha256")}
    try:
        config = CrosscoderConfig.model_validate(fields)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise BadFile(f"{path}: {problems}") from error
    if "sha256" not in record:
        raise BadFile(f"{path}: sha256 is missing")
    return config


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, WEIGHTS]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise CrossproofError(f"{name} is neither a folder here nor a repository the hub gave us: {error}") from error


def _hash(record: dict[str, object], weights: Path) -> str:
    """Of the fields and the weights together."""
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(record, sort_keys=True).encode())
    return digest.hexdigest()
