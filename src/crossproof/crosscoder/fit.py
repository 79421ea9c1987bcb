"""The training loop. It takes batches of activations and a list of loss terms, and knows no language model.

A run is a folder. `checkpoint/` holds everything the next step depends on (weights, optimiser, data position, counters,
random state), so a run that is killed at any moment goes on from there and ends with the same bits as one that was
never stopped. `metrics.jsonl` gets a line every `log_every` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder import checkpoint
from crossproof.crosscoder.config import FitConfig
from crossproof.crosscoder.losses import Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training, default_terms
from crossproof.errors import CrossproofError, NonFinite
from crossproof.files import append_jsonl, truncate_jsonl
from crossproof.progress import progress


@runtime_checkable
class Resumable(Protocol):
    """A data stream that can say where it is and go back there. Any other iterator works, but cannot be resumed."""

    def state(self) -> dict[str, int]: ...
    def restore(self, state: dict[str, int]) -> None: ...


def fit(
    coder: Crosscoder,
    batches: Iterator[Float[Tensor, "row site width"]],
    config: FitConfig,
    out: Path,
    extra_terms: Sequence[Term] = (),
    track: Callable[[dict[str, int | float]], None] | None = None,
) -> Crosscoder:
    """Train `coder` in place for `config.steps` steps, resuming from the checkpoint in `out` if there is one.

    `track` is given every line that goes to metrics.jsonl.
    """
    training = Training(coder, [*default_terms(coder, config), *extra_terms], config)
    if checkpoint.exists(out):
        data_position = checkpoint.restore(out, training)
        if data_position is not None and isinstance(batches, Resumable):
            batches.restore(data_position)
        elif training.step < config.steps:
            raise CrossproofError(
                f"{out}: this run stopped at step {training.step}, and its data stream cannot be repositioned. Give a "
                "stream with state() and restore(), or start again in an empty folder"
            )
    elif not bool(coder.W_dec.any()):
        raise CrossproofError("this crosscoder's weights are all zero: call initialise(coder, sample, …) first")
    metrics = out / "metrics.jsonl"
    truncate_jsonl(metrics, keep=lambda line: line["step"] <= training.step)

    # Reading a number from a GPU waits for it; there, look only when a line is logged.
    check_every = config.log_every if coder.b_enc.is_cuda else 1
    with progress("training", config.steps * config.batch_tokens, "tokens", training.step * config.batch_tokens) as bar:
        while training.step < config.steps:
            try:
                activations = next(batches)
            except StopIteration:
                raise CrossproofError(
                    f"the activations ended after {training.step} of {config.steps} steps; lower steps or give more"
                ) from None
            numbers = training.advance(activations)
            step = training.step
            saving = step % config.checkpoint_every == 0 or step == config.steps
            # A loss can be finite when its gradient is not, and the weights of the next step would be lost.
            if (saving or step % check_every == 0) and not all(map(math.isfinite, _watched(numbers))):
                raise NonFinite(_diagnosis(activations, coder, numbers, step, out))
            if step % config.log_every == 0 or step == config.steps:
                line = {"step": step, "tokens": step * config.batch_tokens} | _line(training, activations, numbers)
                append_jsonl(metrics, line)
                if track is not None:
                    track(line)
                bar(0, note=f"loss {line['loss']:.1f} dead {line['dead']:.1%}")
            if saving:
                checkpoint.write(out, training, batches.state() if isinstance(batches, Resumable) else None)
            bar(activations.shape[0])
    return coder


def _watched(numbers: dict[str, Tensor]) -> tuple[float, float]:
    return float(numbers["loss"]), float(numbers["gradient_norm"])


@torch.no_grad()
def _line(training: Training, activations: Tensor, numbers: dict[str, Tensor]) -> dict[str, float]:
    """One line of metrics: the step's numbers and what is only worth computing now and then."""
    x = training.coder.scaled(activations)
    variance = (x - x.mean(0)).square().sum() / x.shape[0]
    return {name: float(value) for name, value in numbers.items()} | {
        "unexplained": float(numbers["reconstruction"] / variance) if "reconstruction" in numbers else math.nan,
        "dead": float((training.tokens_since_fired >= training.config.dead_after).float().mean()),
        "lr": training.optimiser.param_groups[0]["lr"],
    }


def _diagnosis(activations: Tensor, coder: Crosscoder, numbers: dict[str, Tensor], step: int, out: Path) -> str:
    finite = torch.isfinite(activations).all(dim=2).all(dim=0)
    bad_sites = [site for site, fine in zip(coder.sites, finite.tolist(), strict=True) if not fine]
    if bad_sites:
        what = f"the activations of batch {step} are not finite at {', '.join(bad_sites)}"
    else:
        terms = ", ".join(f"{name} {float(value):g}" for name, value in numbers.items())
        cure = "a lower lr or a longer warmup usually helps"
        what = f"the loss or its gradient is not finite at step {step} ({terms}); {cure}"
    saved = f"the last good checkpoint is kept in {out}" if checkpoint.exists(out) else "no checkpoint was written yet"
    return f"{what}; {saved}"
