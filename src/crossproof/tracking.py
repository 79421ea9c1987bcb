"""Metrics sent to a tracker, only when asked for. Files in the run folder stay the record."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from crossproof.errors import CrossproofError

if TYPE_CHECKING:
    from crossproof.crosscoder.config import TrainConfig

Send = Callable[[dict[str, int | float]], None]


@contextmanager
def tracker(config: TrainConfig) -> Iterator[Send | None]:
    """A function that sends one line of metrics, or None when no tracker was asked for."""
    if config.track == "no":
        yield None
        return
    try:
        service = import_module(config.track)
    except ImportError as error:
        raise CrossproofError(f"track: {config.track} is not installed; pip install 'crossproof[tracking]'") from error
    settings = config.model_dump(mode="json")
    if config.track == "wandb":
        # the same folder is the same run, so that a resumed run goes on in the same chart
        name = hashlib.sha256(str(config.out.resolve()).encode()).hexdigest()[:12]
        service.init(
            project="crossproof", name=config.out.name, id=name, resume="allow", config=settings, dir=config.out
        )
    else:
        service.init(project="crossproof", name=config.out.name, resume="allow", config=settings)
    try:
        yield lambda line: service.log({k: v for k, v in line.items() if k != "step"}, step=int(line["step"]))
    finally:
        service.finish()
