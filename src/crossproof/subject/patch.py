"""Running a model while reading some sites and replacing the values of others.

A patch is a mapping from a site to a function of the site's value. Patches act in the order of computation, so one
function sees what the ones before it did, and a site that is both patched and read is read as patched. A function gets
a copy of the value and may change it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.subject.sites import Hook, Replace, Site
from crossproof.subject.tokens import Tokens

Patch = Mapping[str, Replace]
"""Site → function of its value `[text, pos, width]`; it returns what takes the value's place."""


def run(
    model: Any, ids: Int[Tensor, "text pos"], sites: Mapping[str, Site], read: Sequence[str], patch: Patch
) -> tuple[Tensor, dict[str, Tensor]]:
    """One forward pass: the logits, and the values at the sites to read."""
    hooks: list[tuple[str, Hook]] = []
    values: dict[str, Tensor] = {}
    # Sites can share a hook: resid_mid is written where attn_out is read, which must then see its own value.
    for name, site in sites.items():
        if name in patch:
            hooks += site.writing_hooks(patch[name])
        if name in read:
            site.check()
            hooks.append((site.hook, _reader(values, name)))
    logits: Tensor = model.run_with_hooks(ids, fwd_hooks=hooks)
    return logits, values


def splice(tokens: Tokens, rows: Float[Tensor, "row width"] | Callable[[Tensor], Tensor]) -> Replace:
    """A patch function that replaces the kept positions' values and leaves every other position as it is.

    `rows` are the new values in the order in which `Subject.harvest` returns them, or a function from the values the
    run has at the kept positions to the new ones.
    """

    def replace(value: Float[Tensor, "text pos width"]) -> Float[Tensor, "text pos width"]:
        keep = tokens.keep.to(value.device)
        if keep.shape != value.shape[:2]:
            raise MismatchError(f"a splice made for texts {tuple(keep.shape)} meets a value {tuple(value.shape)}")
        old = value[keep]
        new = rows if isinstance(rows, Tensor) else rows(old)
        if new.shape != old.shape:
            raise MismatchError(f"a splice needs {tuple(old.shape)}, a row per kept position, not {tuple(new.shape)}")
        return torch.index_put(value, (keep,), new.to(value))

    return replace


def splice_sites(tokens: Tokens, sites: Sequence[str], values: Float[Tensor, "row site width"]) -> dict[str, Replace]:
    """The patch that puts `values`, laid out as `Subject.harvest(tokens, sites)` returns them, at all these sites."""
    if values.shape[1] != len(sites):
        raise MismatchError(f"values for {values.shape[1]} sites cannot be spliced at {len(sites)} sites")
    return {site: splice(tokens, values[:, index]) for index, site in enumerate(sites)}


def _reader(values: dict[str, Tensor], name: str) -> Hook:
    def read(value: Tensor, hook: Any) -> None:
        values[name] = value

    return read
