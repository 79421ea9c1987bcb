"""How weights start. Each strategy is one function; the config names it.

All strategies put b_dec at the mean of the scaled activations and choose b_enc so that features see deviations from it
(−b_dec · W_encᵀ in the bias: subtracting a trainable b_dec before the encoder product would cost a product more).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.config import Initialisation
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, NonFinite

Sample = Float[Tensor, "row site width"]


def estimate_scales(sample: Sample) -> Float[Tensor, "site"]:
    """s_v = sqrt(D) / mean ‖a^v‖ for every site."""
    if sample.shape[0] == 0:
        raise CrossproofError("no tokens: the site scales cannot be estimated from an empty sample of activations")
    norms = torch.linalg.vector_norm(sample, dim=2, dtype=torch.float64).mean(0)
    if not bool(torch.isfinite(norms).all()) or bool((norms == 0).any()):
        bad = [v for v, n in enumerate(norms.tolist()) if not 0 < n < float("inf")]
        raise NonFinite(f"the activations at site index {bad} are all zero or not finite; their scale is undefined")
    return (sample.shape[2] ** 0.5 / norms).to(sample.dtype)


@torch.no_grad()
def initialise(
    coder: Crosscoder, sample: Sample, strategy: Initialisation, decoder_norm: float, generator: torch.Generator
) -> None:
    """Set scales and weights from a sample of raw activations."""
    coder.scale.copy_(estimate_scales(sample))
    x = coder.scaled(sample)
    coder.b_dec.copy_(x.mean(0))
    STRATEGIES[strategy](coder, x, decoder_norm, generator)
    coder.b_enc.copy_(-(coder.W_enc @ coder.b_dec))


@torch.no_grad()
def continue_from(coder: Crosscoder, start: Crosscoder) -> None:
    """Set scales, weights and thresholds to another's, whose sites may be those of another model.

    Scales are kept and not estimated anew, so that what changes afterwards is what training changed.
    """
    for name in ("features", "width", "activation", "bandwidth"):
        mine, its = getattr(coder.config, name), getattr(start.config, name)
        if mine != its:
            raise MismatchError(f"start_from: that crosscoder's {name} is {its}, and {mine} is asked for")
    if start.sites != coder.sites:
        raise MismatchError(
            f"start_from: that crosscoder has the sites {', '.join(start.sites)}, and {', '.join(coder.sites)} are "
            "asked for"
        )
    scales = start.site_scales / start.scale  # what was folded into its weights when it was saved
    per_input = scales.repeat_interleave(start.config.width)
    state = {name: tensor.clone() for name, tensor in start.state_dict().items()}
    state["W_enc"] /= per_input
    state["W_dec"] *= per_input
    state["b_dec"] *= per_input
    state["scale"] *= scales
    coder.load_state_dict(state)


def _tied(coder: Crosscoder, x: Tensor, decoder_norm: float, generator: torch.Generator) -> None:
    """Random decoder rows; the encoder is the decoder, as it would be for orthogonal features."""
    rows = torch.randn(coder.W_dec.shape, generator=generator)
    coder.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True) * decoder_norm)
    coder.W_enc.copy_(coder.W_dec)


def _independent(coder: Crosscoder, x: Tensor, decoder_norm: float, generator: torch.Generator) -> None:
    """Random decoder rows and, independently, random encoder rows of the same norm."""
    _tied(coder, x, decoder_norm, generator)
    rows = torch.randn(coder.W_enc.shape, generator=generator)
    coder.W_enc.copy_(rows / rows.norm(dim=1, keepdim=True) * decoder_norm)


def _data(coder: Crosscoder, x: Tensor, decoder_norm: float, generator: torch.Generator) -> None:
    """Decoder rows point from the mean to random tokens of the sample, with a little noise against duplicates."""
    chosen = torch.randint(x.shape[0], (coder.W_dec.shape[0],), generator=generator)
    rows = (x[chosen.to(x.device)] - coder.b_dec).cpu()
    noise = torch.randn(rows.shape, generator=generator)
    rows = rows + 0.1 * noise * rows.norm(dim=1, keepdim=True) / rows.shape[1] ** 0.5
    coder.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-12) * decoder_norm)
    coder.W_enc.copy_(coder.W_dec)


STRATEGIES: dict[Initialisation, Callable[[Crosscoder, Tensor, float, torch.Generator], None]] = {
    "tied": _tied,
    "independent": _independent,
    "data": _data,
}
