"""The one training loop of the zoo: from a recipe to a model, the same to the last bit on one machine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from crossproof.errors import NonFinite
from crossproof.progress import progress
from crossproof.subject.tokens import NO_TARGET, Tokens, TokenSource
from crossproof.subject.zoo.recipes import Recipe
from crossproof.subject.zoo.sources import open_source, open_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Trained:
    model: PreTrainedModel
    tokens: int
    """Predictions that were scored in training."""
    seconds: float


def train(recipe: Recipe, start: PreTrainedModel | None = None) -> Trained:
    """Train from `start`, which is changed, or from random weights that the recipe's seed settles."""
    with reproducibly(recipe.seed, recipe.threads):
        began = time.perf_counter()
        model = (new_model(recipe) if start is None else start).train()
        optimizer = _optimizer(model, recipe)
        supply = batches(open_source(recipe.data, "train"), recipe.batch, recipe.chunk, recipe.seed)
        tokens = 0
        with progress(f"training {recipe.name}", recipe.steps, "steps") as advance:
            for step, batch in zip(range(recipe.steps), supply, strict=False):
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(recipe, step)
                loss = mean_loss(model, batch)
                if not math.isfinite(value := loss.item()):
                    raise NonFinite(
                        f"{recipe.name}: the loss is {value} at step {step}; a lower `lr` in its recipe helps"
                    )
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
                optimizer.step()
                tokens += int((batch.targets != NO_TARGET).sum())
                advance(1, f"loss {value:.3f}")
        return Trained(model.eval(), tokens, time.perf_counter() - began)


def mean_loss(model: Any, batch: Tokens) -> Float[Tensor, ""]:
    """The mean cross-entropy of the scored positions."""
    return functional.cross_entropy(scored_logits(model, batch), batch.targets[batch.targets != NO_TARGET])


def scored_logits(model: Any, batch: Tokens) -> Float[Tensor, "scored vocab"]:
    """The logits of the scored positions; those of all the others are never computed."""
    # Padding comes last, where a causal model cannot see it: nothing needs a mask, and saying so spares a warning.
    everything = torch.ones_like(batch.ids)
    hidden = model.base_model(batch.ids, attention_mask=everything, use_cache=False).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden[batch.targets != NO_TARGET])
    return logits


def batches(source: TokenSource, batch: int, chunk: int, seed: int) -> Iterator[Tokens]:
    """Shuffled batches of texts of similar length, each cropped to its longest: chunk by chunk, without end.

    A source that begins again is read in chunks of all its texts, that is in epochs, each in an order of its own.
    What is left of a chunk when no whole batch is left is not used.
    """
    size = min(chunk, source.texts_in_all or chunk)
    for number in count():
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        texts = source.tokens(number * size, size)
        # A row ends with the answer to its last scored position, which no later position has to see.
        scored = texts.targets != NO_TARGET
        lengths = texts.ids.shape[1] - scored.flip(1).int().argmax(1)
        order = torch.randperm(size, generator=generator)
        order = order[torch.argsort(lengths[order], stable=True)]
        groups = order[: size // batch * batch].view(-1, batch)
        for group in groups[torch.randperm(len(groups), generator=generator)]:
            longest = int(lengths[group].max())
            yield Tokens(texts.ids[group, :longest], texts.keep[group, :longest], texts.targets[group, :longest])


def learning_rate(recipe: Recipe, step: int) -> float:
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / (recipe.steps - recipe.warmup)))


def new_model(recipe: Recipe) -> PreTrainedModel:
    """The recipe's architecture with random weights, and the vocabulary and special tokens of its data."""
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = open_tokenizer(recipe.data)
    special = {f"{role}_token_id": getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")}
    arguments = recipe.architecture | {"vocab_size": len(tokenizer)} | special
    make: Any = AutoModelForCausalLM.from_config
    model: PreTrainedModel = make(AutoConfig.for_model(recipe.model_type, **arguments))
    return model


@contextmanager
def reproducibly(seed: int, threads: int) -> Iterator[None]:
    """Inside, torch gives the same bits every time; afterwards its generator and settings are as they were."""
    were_threads, were_strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    with torch.random.fork_rng(devices=()):
        try:
            torch.manual_seed(seed)
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(True)
            yield
        finally:
            torch.set_num_threads(were_threads)
            torch.use_deterministic_algorithms(were_strict)


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=recipe.betas, fused=True)
