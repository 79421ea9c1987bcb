"""The other way to remove an interaction: tuning an MLP's input weights, with a penalty on that interaction alone."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.study.suppression.edit import AnyMLP, Meetings, input_layers, second_differences, with_layers

_BATCH = 256
_RATE = 0.02
"""Of the root mean square of the weights, a step of Adam."""


def tuned(unit: AnyMLP, at: Meetings, clean: Float[Tensor, "row d_model"], steps: int, seed: int) -> AnyMLP:
    """With the outputs at `clean` inputs as they were, and less interaction at the meetings.

    Both are squares relative to what was there: the change of the outputs, and the second differences that are left.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = [W.detach().clone().requires_grad_() for W, _ in input_layers(unit)]
    biases = [b.detach() for _, b in input_layers(unit)]
    size = torch.stack([W.detach().square().mean() for W in weights]).mean().sqrt()
    optimiser = torch.optim.Adam(weights, lr=_RATE * float(size))
    before = unit(clean)
    usual = (before - before.mean(0)).square().sum(1).mean()
    met = (second_differences(unit, at) @ unit.W_out).square().sum(1).mean()
    with torch.enable_grad():
        for _ in range(steps):
            now = with_layers(unit, weights, biases)
            some = torch.randint(len(clean), (_BATCH,), generator=generator)
            rows = torch.randint(len(at.x), (_BATCH,), generator=generator)
            kept = (now(clean[some]) - before[some]).square().sum(1).mean() / usual
            here = Meetings(at.x[rows], at.a[rows], at.b[rows], at.text[rows])
            left = (second_differences(now, here) @ unit.W_out).square().sum(1).mean() / met
            optimiser.zero_grad()
            (kept + left).backward()
            optimiser.step()
    return with_layers(unit, [W.detach() for W in weights], biases)
