"""Where a detector looks: which tokens of a poisoned text, and which of the clean version of the same text beside them.

trigger   the trigger; in the clean text what stands at the same positions
last      the last token before the story or the answer begins: in the zoo's texts the same token in both
prompt    all tokens before the story or the answer begins
text      all tokens
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from crossproof.study.anomaly.texts import Marked

CASES = ("trigger", "last", "prompt, largest", "prompt, mean", "text, largest", "text, mean")
"""A place, and how a text's score is made from those of its tokens there."""
BEFORE_THE_ANSWER = CASES[:4]


class Places(NamedTuple):
    """The tokens that a case is about."""

    here: Bool[Tensor, "text pos"]
    clean: Bool[Tensor, "text cleanpos"]


def places(here: Marked, clean: Marked) -> dict[str, Places]:
    """For each of CASES."""
    prompt, text = Places(here.prompt(), clean.prompt()), Places(here.tokens.keep, clean.tokens.keep)
    trigger = here.of("trigger")
    of_place = {
        "trigger": Places(trigger, at_the_same_positions(trigger, clean)),
        "last": Places(_last(prompt.here), _last(prompt.clean)),
        "prompt": prompt,
        "text": text,
    }
    return {case: of_place[case.partition(",")[0]] for case in CASES}


def at_the_same_positions(mask: Bool[Tensor, "text pos"], other: Marked) -> Bool[Tensor, "text otherpos"]:
    """Of the kept tokens of another version."""
    found = torch.zeros_like(other.tokens.keep)
    width = min(mask.shape[1], found.shape[1])
    found[:, :width] = mask[:, :width]
    return found & other.tokens.keep


def pooled(
    values: Float[Tensor, "*any text pos"], mask: Bool[Tensor, "text pos"], case: str
) -> Float64[Tensor, "*any text"]:
    """One number for each text; not a number where it has no token there."""
    values = values.double()
    there = mask.any(1)
    if case.endswith("mean"):
        found = torch.where(mask, values, 0).sum(-1) / mask.sum(1).clamp(min=1)
    else:
        found = torch.where(mask, values, -torch.inf).amax(-1)
    return torch.where(there, found, torch.nan)


def _last(mask: Bool[Tensor, "text pos"]) -> Bool[Tensor, "text pos"]:
    return mask & (mask.flip(1).cumsum(1).flip(1) == 1)
