"""Reading and writing files so that nothing is ever half there.

A file or folder appears under its name only when it is complete. What is read is checked, and what is wrong is named.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.errors import BadFile

if TYPE_CHECKING:
    from torch import Tensor


def write_text(path: Path, text: str) -> None:
    """Write a whole file or leave the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise BadFile(f"{path} is not valid JSON ({error}); it was truncated or edited") from error


def append_jsonl(path: Path, value: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(value, allow_nan=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """All complete lines; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")
    return [json.loads(line) for line in lines[:-1]]


def truncate_jsonl(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Drop the lines that a resumed run will write again."""
    if path.exists():
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_jsonl(path) if keep(line)))


@contextmanager
def replace_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends without an error.

    POSIX cannot exchange two folders in one step, so the old one is moved aside first; `recover_folder` puts it back if
    the process died between the two renames.
    """
    beside, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(path)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for file in beside.iterdir():
            _sync(file)
        if path.exists():
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)
        beside.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        recover_folder(path)


def complete_folder(path: Path) -> Path | None:
    """Where the folder can be read, also while somebody is replacing it: a reader moves nothing."""
    old = path.with_name(f".{path.name}.old")
    return path if path.exists() else old if old.exists() else None


def recover_folder(path: Path) -> bool:
    """Whether `path` is there, after finishing a replacement that was interrupted. For its only writer."""
    old = path.with_name(f".{path.name}.old")
    if old.exists():
        if path.exists():
            shutil.rmtree(old)
        else:
            old.rename(path)
    return path.exists()


def _sync(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_safetensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}); what was there before is intact") from error


def read_safetensors(path: Path, device: str = "cpu") -> dict[str, Tensor]:
    """All tensors of a file; one that is missing, truncated or not safetensors is named."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise BadFile(f"{path} is missing")
    try:
        return load_file(path, device=device)
    except SafetensorError as error:
        raise BadFile(f"{path} is not a complete safetensors file ({error}); it was truncated or edited") from error
