"""The training loop. It takes batches of activations and a list of loss terms, and knows no language model.

A run is a folder. `checkpoint/` holds everything the next step depends on (weights, optimiser, data position, counters,
random state), so a run that is killed at any moment goes on from there and ends with the same bits as one that was
never stopped. `metrics.jsonl` gets a line every `log_every` steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder import checkpoint
from crossproof.crosscoder.config import FitConfig
from crossproof.crosscoder.losses import L0, L1, AuxK, Batch, Reconstruction, Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, NonFinite
from crossproof.files import append_jsonl, truncate_jsonl
from crossproof.memory import keep_freed_memory
from crossproof.progress import progress

RESERVED = ("step", "tokens", "loss", "l0", "gradient_norm", "unexplained", "dead", "lr")
"""Columns of metrics.jsonl that are not loss terms."""


@runtime_checkable
class Resumable(Protocol):
    """A data stream that can say where it is and go back there. Any other iterator works, but cannot be resumed."""

    def state(self) -> dict[str, int]: ...
    def restore(self, state: dict[str, int]) -> None: ...


@dataclass
class Training:
    """Everything one optimiser step reads and writes."""

    coder: Crosscoder
    terms: Sequence[Term]
    config: FitConfig
    optimiser: torch.optim.Adam = field(init=False)
    tokens_since_fired: Int[Tensor, "feature"] = field(init=False)
    step: int = 0
    _scaled: Tensor = field(init=False)
    """One batch of scaled activations, overwritten at every step: a fresh one costs more than the multiplication."""

    def __post_init__(self) -> None:
        config = self.config
        names = [term.name for term in self.terms]
        for name in names:
            if names.count(name) > 1 or name in RESERVED:
                raise CrossproofError(f"two columns of metrics.jsonl would be called {name!r}; rename a loss term")
        if not self.coder.b_enc.is_cuda:
            keep_freed_memory()
        self._scaled = self.coder.b_enc.new_empty(0)
        self.optimiser = torch.optim.Adam(
            self.coder.parameters(), lr=config.lr, betas=(config.beta1, config.beta2), fused=True
        )
        self.tokens_since_fired = torch.zeros_like(self.coder.b_enc, dtype=torch.long)

    def advance(self, activations: Float[Tensor, "row site width"]) -> dict[str, Tensor]:
        """One optimiser step on a batch of raw activations. Returns its numbers as tensors, not waiting for them."""
        coder, config = self.coder, self.config
        if activations.shape[0] == 0:
            raise CrossproofError(f"batch {self.step + 1} has no tokens")
        if self._scaled.shape != activations.shape:
            self._scaled = coder.b_enc.new_empty(activations.shape)
        x = coder.scaled(activations.to(coder.b_enc.device), out=self._scaled)
        encoding = coder.encode_batch(x, config.threshold_momentum, config.bf16)
        batch = Batch(
            coder=coder,
            x=x,
            encoding=encoding,
            reconstruction=coder.decode_scaled(encoding.codes),
            dead=self.tokens_since_fired >= config.dead_after,
            progress=self.step / config.steps,
        )
        losses = {term.name: term(batch) for term in self.terms}
        loss = torch.stack(list(losses.values())).sum()

        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = clip_gradients(list(coder.parameters()), config.clip)
        for group in self.optimiser.param_groups:
            group["lr"] = config.lr * schedule(self.step, config)
        self.optimiser.step()

        with torch.no_grad():
            fired = encoding.codes.firing_counts() > 0
            self.tokens_since_fired.add_(x.shape[0]).masked_fill_(fired, 0)
        self.step += 1
        numbers = {name: value.detach() for name, value in losses.items()}
        return {"loss": loss.detach(), **numbers, "l0": encoding.l0.detach(), "gradient_norm": norm}


def default_terms(coder: Crosscoder, config: FitConfig) -> list[Term]:
    """Reconstruction, and whatever the config gives a weight."""
    terms: list[Term] = [Reconstruction()]
    if config.aux_weight:
        terms.append(AuxK(config.aux_weight, config.aux_k))
    if config.l1_weight:
        terms.append(L1(config.l1_weight, config.sparsity_warmup))
    if config.l0_weight:
        if coder.config.activation != "jumprelu":
            raise CrossproofError(
                f"l0_weight: L0 has a gradient only through the thresholds of jumprelu, not for "
                f"{coder.config.activation}; use l1_weight for relu, k for topk and batchtopk"
            )
        terms.append(L0(config.l0_weight, config.sparsity_warmup))
    return terms


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


def schedule(step: int, config: FitConfig) -> float:
    """The learning rate as a fraction of its peak: linear rise, plateau, linear fall to 0."""
    rise = (step + 1) / max(1, round(config.warmup * config.steps))
    fall = (config.steps - step) / max(1, round(config.decay * config.steps))
    return min(1.0, rise, fall)


@torch.no_grad()
def clip_gradients(parameters: Sequence[Tensor], limit: float) -> Float[Tensor, ""]:
    """Scale gradients down to the total norm `limit`. On a CPU nothing is written when they are below it."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if norm.is_cuda or norm > limit:
        torch._foreach_mul_(gradients, (limit / (norm + 1e-6)).clamp(max=1.0))
    return norm


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
