"""The training loop of the models of windows: the loss, and with a weight the certificate of `objective.py`.

The weight is warmed up over the first third of the steps: a model that has learned nothing yet is easy to certify, and
stays as it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from crossproof.errors import NonFinite
from crossproof.progress import progress
from crossproof.proof.training.masses import MassesObjective
from crossproof.proof.training.objective import certificate, logit_bounds
from crossproof.subject.zoo.train import reproducibly
from crossproof.subject.zoo.window_model import WindowModel
from crossproof.subject.zoo.window_recipes import TextData, WindowRecipe
from crossproof.subject.zoo.windows import Characters, Windows, alphabet, open_windows

_WARMUP = 1 / 3
_BATCH = 4096


@dataclass(frozen=True)
class Trained:
    model: WindowModel
    windows: Windows
    seconds: float


def train(recipe: WindowRecipe) -> Trained:
    """From random weights that the recipe's seed settles to a model in evaluation mode."""
    windows = open_windows(recipe)
    tokenizer = Characters(alphabet()) if isinstance(recipe.data, TextData) else None
    with reproducibly(recipe.seed, recipe.threads):
        began = time.perf_counter()
        model = WindowModel(recipe.model, tokenizer).train()
        loss_of = _objective(recipe, model, windows)
        with _shared_embedding(model) if recipe.shared_embedding else nullcontext():
            parameters = [*model.parameters(), *loss_of.parameters()]
            optimizer = torch.optim.Adam(parameters, lr=recipe.lr, fused=True)
            with progress(f"training {recipe.name}", recipe.steps, "steps") as advance:
                for step in range(recipe.steps):
                    done = step / recipe.steps
                    for group in optimizer.param_groups:
                        group["lr"] = recipe.lr * (1 - done)
                    loss = loss_of(model, recipe.batch, recipe.certificate * min(1.0, done / _WARMUP))
                    if step % 100 == 0:
                        _check_finite(recipe, step, value := loss.item())
                        advance(min(100, recipe.steps - step), f"{value:.3f}")
                    optimizer.zero_grad()
                    torch.autograd.backward(loss)
                    nn.utils.clip_grad_norm_(parameters, recipe.clip)
                    optimizer.step()
        return Trained(model.eval(), windows, time.perf_counter() - began)


def _objective(recipe: WindowRecipe, model: WindowModel, windows: Windows) -> nn.Module:
    if recipe.read is None or recipe.certificate == 0:
        return WorstCase(windows)
    return MassesObjective(model, windows, recipe.joined, recipe.read)


class WorstCase(nn.Module):
    """The mean of (1 − weight) · loss + weight · certificate of `objective.py`, on random windows."""

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self.windows = windows

    def forward(self, model: WindowModel, batch: int, weight: float) -> Float[Tensor, ""]:
        return objective(model, *self.windows.at(torch.randint(self.windows.n, (batch,))), weight)


def objective(
    model: WindowModel, ids: Int[Tensor, "item pos"], targets: Int[Tensor, " item"], weight: float
) -> Float[Tensor, ""]:
    """The mean of (1 − weight) · loss + weight · certificate."""
    if weight == 0:
        return functional.cross_entropy(model.last_logits(ids), targets)
    bounds = logit_bounds(model, ids)
    return (1 - weight) * functional.cross_entropy(bounds.exact, targets) + weight * certificate(bounds, targets).mean()


@dataclass(frozen=True)
class Measured:
    """Means over all windows."""

    loss: float
    accuracy: float
    certificate: float


@torch.no_grad()
def measure(model: WindowModel, windows: Windows) -> Measured:
    """In float64, every item once."""
    model = deepcopy(model).double()
    totals = torch.zeros(3, dtype=torch.float64)
    items = len(windows.item_count)
    with progress("measuring", items, "items") as advance:
        for start in range(0, items, _BATCH):
            batch = slice(start, start + _BATCH)
            ids = windows.contexts[windows.item_context[batch].long()].long()
            targets, count = windows.item_target[batch].long(), windows.item_count[batch].double()
            bounds = logit_bounds(model, ids)
            losses = functional.cross_entropy(bounds.exact, targets, reduction="none")
            right = (bounds.exact.argmax(1) == targets).double()
            totals += torch.stack([losses, right, certificate(bounds, targets)]) @ count
            advance(len(ids))
    return Measured(*(totals / windows.n).tolist())


class _TokenPlusPosition(nn.Module):
    """An embedding that is a vector per token plus one per position."""

    def forward(
        self, token: Float[Tensor, "vocab width"], position: Float[Tensor, "pos width"]
    ) -> Float[Tensor, "pos vocab width"]:
        return token + position[:, None]

    def right_inverse(
        self, W_E: Float[Tensor, "pos vocab width"]
    ) -> tuple[Float[Tensor, "vocab width"], Float[Tensor, "pos width"]]:
        return W_E.mean(0), W_E.mean(1) - W_E.mean((0, 1))


@contextmanager
def _shared_embedding(model: WindowModel) -> Iterator[None]:
    """Inside, the model has token and position vectors for parameters; afterwards their sums."""
    parametrize.register_parametrization(model, "W_E", _TokenPlusPosition())
    try:
        yield
    finally:
        parametrize.remove_parametrizations(model, "W_E")


def _check_finite(recipe: WindowRecipe, step: int, loss: float) -> None:
    if not math.isfinite(loss):
        raise NonFinite(f"{recipe.name}: the loss is {loss} at step {step}; a lower `lr` in its recipe helps")
