"""One optimiser step: everything it reads and writes, and nothing about files or how long to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.crosscoder.config import FitConfig
from crossproof.crosscoder.losses import L0, L1, AuxK, Batch, Reconstruction, Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.memory import keep_freed_memory

RESERVED = ("step", "tokens", "loss", "l0", "gradient_norm", "unexplained", "dead", "lr")
"""Columns of metrics.jsonl that are not loss terms."""


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
        self.reads = sorted({site for term in self.terms for site in getattr(term, "reads", ())})
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
        reconstruction, written = coder.decode_and_read(encoding.codes, self.reads)
        batch = Batch(
            coder=coder,
            x=x,
            encoding=encoding,
            reconstruction=reconstruction,
            dead=self.tokens_since_fired >= config.dead_after,
            progress=self.step / config.steps,
            written=written,
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
