"""How far the output of a head can be moved at each query position: the spread of what it would write.

Where a head looks at the sources s with the weights A_ts, it writes Σ_s A_ts y_s (and the layer's own bias). A change
δ_s of its scores moves that, to first order, by Σ_s A_ts (δ_s − δ̄)(y_s − ȳ), which is no longer than Std(δ) Std(y),
both under A_t. Std(y) = sqrt(Σ_s A_ts ‖y_s − ȳ‖²) is the *reach* of the head at t, in units of the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossproof.interaction.attention.heads import Heads

FLAT = 1e-3
"""A mean of squares less the square of the mean that is below this share of the former has lost digits, and is taken
again from the deviations themselves."""
ELEMENTS = 2**19
"""Numbers held at a time where that is done."""


@dataclass(frozen=True, eq=False)
class Reach:
    """Of all heads of a layer, at all positions of some texts."""

    pattern: Float[Tensor, "text head pos key"]
    reach: Float[Tensor, "text head pos"]
    written: Float[Tensor, "text head pos"]
    """‖Σ_s A_ts y_s‖: how much the head writes there."""


def reach_of(heads: Heads, x: Float[Tensor, "text pos d_model"], described: Bool[Tensor, "text pos"]) -> Reach:
    """From the layer's inputs. What is not described means nothing in `reach` and `written`."""
    attention = heads.attention
    pattern = attention.pattern(x)
    # y W_O in d_head coordinates of its own: lengths stay as they are
    to_lengths = torch.linalg.qr(attention.W_O.mT).R.mT
    group = len(attention.W_Q) // len(attention.W_K)
    v = torch.einsum("tpd,hde->thpe", x, attention.W_V) + attention.b_V[:, None]
    y = v.repeat_interleave(group, dim=1) @ to_lengths
    common = y.mean(2, keepdim=True)
    y = y - common
    mean = pattern @ y
    squares = (pattern @ y.square().sum(-1, keepdim=True)).squeeze(-1)
    variance = squares - mean.square().sum(-1)
    text, head, pos = ((variance < FLAT * squares) & described[:, None]).nonzero(as_tuple=True)
    for some in torch.arange(len(text), device=x.device).split(max(1, ELEMENTS // max(1, y[0, 0].numel()))):
        at = (text[some], head[some])
        far = (y[at] - mean[*at, pos[some]][:, None]).square().sum(-1)
        variance[*at, pos[some]] = (pattern[*at, pos[some]] * far).sum(-1)
    return Reach(pattern, variance.clamp_(min=0).sqrt_(), (mean + common).norm(dim=-1))
