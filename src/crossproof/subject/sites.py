"""Sites: the places in a model where activations are read and written, under the names TransformerLens gives them.

A name promises a value and a causal effect, and models keep the promise in different ways. This file is the one place
that knows how:

- `blocks.L.ln1.hook_normalized`, `blocks.L.ln2.hook_normalized` and `ln_final.hook_normalized` are what the next
  weights multiply, after the norm's gain and bias. TransformerBridge calls that `hook_out` and keeps
  `hook_normalized` for the value before gain and bias, so we read and write `hook_out` there. A model that shows only
  the value before the gain is refused at that site.
- `blocks.L.hook_resid_mid` is the residual stream that both the MLP and the skip path see. TransformerBridge reads it
  at the entrance of the second norm, where writing misses the skip path, so we write it as a change of what the
  attention adds: attn_out + (new mid − mid), with mid = resid_pre + attn_out as it is in this run. Both paths see the
  change, and writing back the same value changes nothing, to the last bit.
- Attention patterns and scores that a model reports after its attention has run, as TransformerBridge does for GPT-Neo:
  the pattern can be read and is refused to writers, whom it would not obey; what is called scores is the pattern again
  and is refused. `Attention.scores` of `units.py` computes them.
- TransformerBridge's own `hook_in` and `hook_out` names are left out: each is another name for a site, or an argument
  of a submodule.

Sites are found by running the model once, on three tokens, so their order is the order of computation and a width is
one that was seen.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossproof.errors import MismatchError, UnknownSite, UnsupportedModel, nearest

Replace = Callable[[Tensor], Tensor]
"""Given a site's value, what to put in its place: the same shape."""

Hook = Callable[..., Tensor | None]
"""What a hook point calls with its value and itself; a returned tensor takes the value's place."""

RECIPE = (
    "blocks.*.hook_resid_pre",
    "blocks.*.ln1.hook_normalized",
    "blocks.*.hook_resid_mid",
    "blocks.*.ln2.hook_normalized",
)
"""The paper's sites of every block; to them comes the last block's resid_post."""

_PROBE_TEXTS, _PROBE_POSITIONS = 2, 3
"""A value of shape [2, 3, width] is taken for one vector per position of each text; heads have a fourth axis."""


@dataclass(frozen=True)
class Site:
    """Where a site's value is seen (`hook`), how wide it is, and how it is written."""

    name: str
    hook: str
    width: int | None
    """None where the value is not one vector for every position of every text: heads, patterns."""
    addends: tuple[str, str] | None = None
    """For a residual stream that cannot be written where it is seen: the hooks of the two values whose sum it is."""
    refusal: str = ""
    """Why this site cannot be used, for a site whose name would promise something else than its value."""
    read_only: str = ""
    """Why this site cannot be written, for a site whose value nothing is computed from."""

    def vector_width(self) -> int:
        self.check()
        if self.width is None:
            raise MismatchError(f"site {self.name} does not hold one vector per position: it cannot be harvested")
        return self.width

    def check(self) -> None:
        if self.refusal:
            raise UnsupportedModel(f"site {self.name}: {self.refusal}")

    def writing_hooks(self, replace: Replace) -> list[tuple[str, Hook]]:
        """The hooks that replace this site's value, with its true effect on everything after it."""
        self.check()
        if self.read_only:
            raise UnsupportedModel(f"site {self.name} cannot be written: {self.read_only}")

        def checked(value: Tensor) -> Tensor:
            # A function may change what it is given: the model's tensor may be another site's value too.
            new = replace(value.clone())
            if not isinstance(new, Tensor):
                raise MismatchError(
                    f"a patch at {self.name} must return the tensor to put there; it returned {type(new).__name__}"
                )
            if new.shape != value.shape:
                raise MismatchError(
                    f"a patch at {self.name} must keep the shape {tuple(value.shape)}; it returned {tuple(new.shape)}"
                )
            return new.to(value.dtype)

        if self.addends is None:
            return [(self.hook, lambda value, hook: checked(value))]

        entering: list[Tensor] = []
        entrance, addition = self.addends

        def remember(value: Tensor, hook: Any) -> None:
            entering[:] = [value]

        def write(added: Tensor, hook: Any) -> Tensor:
            value = entering.pop() + added
            return added + (checked(value) - value)

        return [(entrance, remember), (addition, write)]


def discover(model: Any, context: int | None = None) -> dict[str, Site]:
    """Every site of a model, in order of computation: what fires when it reads two texts of three tokens."""
    positions = min(_PROBE_POSITIONS, context or _PROBE_POSITIONS)
    ids = torch.zeros(_PROBE_TEXTS, positions, dtype=torch.long, device=device_of(model))
    outputs: dict[str, Tensor] = {}
    watched = [
        module.register_forward_hook(_remember_output(outputs, name))
        for name, module in model.named_modules()
        if hasattr(module, "hook_normalized")
    ]
    try:
        with torch.no_grad():
            _, cache = model.run_with_cache(ids)
    finally:
        for handle in watched:
            handle.remove()
    values: dict[str, Any] = dict(cache.items())
    bridge = is_bridge(model)
    return {
        name: _describe(name, values, outputs, _points(model), positions)
        for name in values
        if not (bridge and name.endswith((".hook_in", ".hook_out")))
    }


def device_of(model: Any) -> torch.device:
    parameter = next(iter(model.parameters()), None)
    return torch.device("cpu") if parameter is None else parameter.device


def is_bridge(model: Any) -> bool:
    """Whether the model is a TransformerBridge, which wraps a Hugging Face model and adds hook names of its own."""
    return hasattr(model, "original_model") and hasattr(model, "hook_dict")


def find(patterns: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The names that match any of the unix globs, each once and in the order of `names`."""
    found: set[str] = set()
    for pattern in patterns:
        matches = [name for name in names if fnmatch.fnmatchcase(name, pattern)]
        if not matches:
            close = nearest(pattern, names)
            raise UnknownSite(
                f"no site matches {pattern!r}"
                + (f"; the nearest are {close}" if close else "")
                + f". `Subject.sites` lists all {len(names)}."
            )
        found.update(matches)
    return tuple(name for name in names if name in found)


def recipe(names: Sequence[str]) -> tuple[str, ...]:
    """The patterns of the paper's recipe that this model has; where there is no second norm, what the MLP reads."""
    last = [name for name in names if re.fullmatch(r"blocks\.\d+\.hook_resid_post", name)][-1:]
    patterns = [*RECIPE, *last]
    if not fnmatch.filter(names, RECIPE[-1]):
        patterns.insert(-1, "blocks.*.hook_mlp_in")
    return tuple(pattern for pattern in patterns if fnmatch.filter(names, pattern))


def _describe(
    name: str, values: Mapping[str, Any], outputs: Mapping[str, Tensor], points: Mapping[str, Any], positions: int
) -> Site:
    value = values[name]
    shape = tuple(value.shape) if isinstance(value, Tensor) else ()
    width = shape[2] if len(shape) == 3 and shape[:2] == (_PROBE_TEXTS, positions) else None
    if name.endswith(".hook_normalized"):
        norm = name.removesuffix(".hook_normalized")
        if f"{norm}.hook_out" in values:
            return Site(name, f"{norm}.hook_out", width)
        output = outputs.get(norm)
        if output is None or output.shape != value.shape or not torch.allclose(output, value, rtol=1e-4, atol=1e-5):
            return Site(name, name, width, refusal="it shows the value before the norm's gain and bias; fold the norms")
    attention = re.fullmatch(r"(blocks\.\d+)\.attn\.hook_(pattern|attn_scores)", name)
    if attention and _fires_after(f"{attention[1]}.hook_attn_out", name, values):
        late = "the model reports it after its attention has run"
        if attention[2] == "attn_scores":
            return Site(name, name, width, refusal=f"{late}, and what it reports is the pattern")
        return Site(name, name, width, read_only=late)
    block = re.fullmatch(r"(blocks\.\d+)\.hook_resid_mid", name)
    if block and points.get(name) is points.get(f"{block[1]}.ln2.hook_in", object()):
        return Site(name, name, width, addends=(f"{block[1]}.hook_resid_pre", f"{block[1]}.hook_attn_out"))
    return Site(name, name, width)


def _fires_after(earlier: str, later: str, values: Mapping[str, Any]) -> bool:
    order = list(values)
    return earlier in values and order.index(earlier) < order.index(later)


def _points(model: Any) -> Mapping[str, Any]:
    points: Mapping[str, Any] = getattr(model, "hook_dict", {})
    return points


def _remember_output(outputs: dict[str, Tensor], name: str) -> Callable[..., None]:
    def remember(module: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs[name] = output

    return remember
