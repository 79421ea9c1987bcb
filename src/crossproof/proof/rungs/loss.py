"""From what is known of logits to what is known of the loss."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Integer
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball

SURE = 1e-9


def loss_of_margins(margins: Ball, target: Integer[Tensor, " item"]) -> tuple[Ball, Bool[Tensor, " item"]]:
    """From logit_v − logit_target, [item, token], or what is no less, upper bounds of the loss log Σ_v exp(margin_v).

    And whether the prediction is certainly right: every other margin is negative, by enough that a program that rounds
    differently sees it too. The target's own margin is 0.
    """
    own = torch.zeros_like(margins.mid, dtype=torch.bool).scatter(1, target[:, None], True)
    upper = margins.upper().mid
    others = Ball(upper.masked_fill(own, -torch.inf)).amax(1)
    return Ball(upper.masked_fill(own, 0.0)).logsumexp(1).upper(), others.mid < -SURE


def of_target(logits: Ball, target: Integer[Tensor, " item"]) -> Ball:
    """[item, 1]."""
    return logits.gather(1, target[:, None])
