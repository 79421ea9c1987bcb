"""A run folder: what was asked (`run.json`), what came of it (`results.json`), and the files in between.

Everything a command finds out is in such a folder, so that reports, tests and people read files and never a model.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from crossproof.errors import BadFile, MismatchError
from crossproof.files import read_json, write_json

RUN, RESULTS = "run.json", "results.json"
REPORTED_PACKAGES = ("crossproof", "torch", "transformer-lens", "transformers", "numpy", "safetensors", "pydantic")
Results = TypeVar("Results", bound=BaseModel)


class Run(BaseModel):
    """`run.json`: enough to repeat the run and to know where its numbers come from."""

    model_config = ConfigDict(extra="forbid")
    kind: str
    command: str
    config: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    hardware: str
    started: str
    seconds: float = 0.0
    """How long the process took that finished the run; a run that was resumed took longer in all."""
    finished: bool = False


def resumable(folder: Path, kind: str, config: BaseModel, may_differ: tuple[str, ...] = ()) -> Run | None:
    """The run that is already in the folder, if there is one; it must be of the same kind and config."""
    if folder.exists() and not folder.is_dir():
        raise MismatchError(f"{folder} is a file; a run needs a folder of its own")
    if not (folder / RUN).exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise MismatchError(f"{folder} holds something that is no run; choose a new folder")
        return None
    run = read(folder)
    if run.kind != kind:
        raise MismatchError(f"{folder} holds a run of `{run.kind}`, not of `{kind}`; choose another folder")
    # a setting that the run's version did not know yet had what is now its default
    before = _flat(type(config).model_construct().model_dump(mode="json")) | _flat(run.config)
    now = _flat(config.model_dump(mode="json"))
    different = [
        f"{name} was {before.get(name)!r}, now {now.get(name)!r}"
        for name in before | now
        if name not in may_differ and before.get(name) != now.get(name)
    ]
    if different:
        raise MismatchError(
            f"{folder} holds a run with other settings ({'; '.join(different)}). Repeat its command to resume it, "
            "or choose another folder"
        )
    return run


def begin(folder: Path, kind: str, config: BaseModel, command: str | None = None) -> Run:
    """Write `run.json`, once everything that could be wrong with the config has been looked at.

    `command` is what does just this, if that is not what was typed.
    """
    settings = config.model_dump(mode="json")
    run = Run(
        kind=kind,
        command=command or shlex.join(["crossproof", *sys.argv[1:]]),
        config=settings,
        **provenance(),
    )
    write_json(folder / RUN, run.model_dump())
    return run


def finish(folder: Path, run: Run, results: BaseModel, seconds: float) -> None:
    """Write the results, then mark the run as finished."""
    write_json(folder / RESULTS, results.model_dump())
    write_json(folder / RUN, run.model_copy(update={"seconds": seconds, "finished": True}).model_dump())


def once(
    folder: Path,
    kind: str,
    config: BaseModel,
    results: type[Results],
    prepare: Callable[[], Callable[[], Results]],
    command: str | None = None,
) -> Results:
    """What the run in a folder found, which is read if it is finished.

    Otherwise `prepare` looks at all that could be wrong before anything is written, and what it returns does the work.
    """
    clock = Clock()
    earlier = resumable(folder, kind, config, may_differ=("out",))
    if earlier is not None and earlier.finished:
        return read_results(folder, results)
    work = prepare()
    run = earlier or begin(folder, kind, config, command)
    found = work()
    finish(folder, run, found, clock.seconds())
    return found


def command_of(kind: str, config: BaseModel) -> str:
    """The command with these settings, where options are the fields of its config: those that are not the default."""
    words = ["crossproof", kind]
    for name, value in _flat(config.model_dump(mode="json", exclude_defaults=True)).items():
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else option.replace("--", "--no-", 1))
        else:
            words += [option, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


def read(folder: Path) -> Run:
    if not (folder / RUN).exists():
        raise BadFile(f"{folder} is not a run folder: it has no {RUN}")
    try:
        return Run.model_validate(read_json(folder / RUN))
    except ValidationError as error:
        raise BadFile(f"{folder / RUN}: {first_problem(error)}") from error


def read_results(folder: Path, kind: type[Results]) -> Results:
    run = read(folder)
    if not run.finished:
        raise BadFile(f"{folder} has no results: the run has not finished. Repeat its command to resume it")
    try:
        return kind.model_validate(read_json(folder / RESULTS))
    except ValidationError as error:
        writer, reader = _writer(run.versions, run.git_commit), _writer(_versions(), _git_commit())
        if writer == reader:
            raise BadFile(f"{folder / RESULTS} was edited, or this code was: {first_problem(error)}") from error
        raise BadFile(
            f"{folder / RESULTS} was written by {writer} (this is {reader}) with other fields: {first_problem(error)}; "
            f"run its command again, into a new folder: {run.command}"
        ) from error


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of a group under the group's name and their own: `penalty.weight`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= {f"{name}.{key}": v for key, v in _flat(value).items()} if isinstance(value, dict) else {name: value}
    return flat


def provenance() -> dict[str, Any]:
    """Who made something, on what, and when it was begun."""
    return {
        "versions": _versions(),
        "git_commit": _git_commit(),
        "hardware": _hardware(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _writer(versions: dict[str, str], commit: str | None) -> str:
    return f"crossproof {versions.get('crossproof', 'of no version')}" + (f" at commit {commit[:10]}" if commit else "")


def first_problem(error: ValidationError) -> str:
    """The field and what is wrong with it: the first of its problems."""
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 2)


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    """The commit of the library's own checkout, marked when files differ from it; None when it is installed."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "diff", "--quiet", "HEAD"], cwd=here, capture_output=True, check=False)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if changed.returncode else "")


def _hardware() -> str:
    import torch

    parts = [f"{platform.machine()}, {torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
