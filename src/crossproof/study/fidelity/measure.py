"""What a model loses when one MLP's neurons hear only some of the features (MATHS §6).

    measured = losses(subject, coder, tokens, SCHEMES, "true", seed=0)
    fidelity(measured, "blocks.1.mlp", "keep 1", text_weights(len(tokens), seed=0))

The output of one MLP is replaced at the kept positions by what its neurons write under a scheme, computed from the
features of the crosscoder, which are read from the model as it is. The residual stream beside it is

    true            the model's own; the rest of the model runs on
    reconstructed   the crosscoder's reconstruction of the stream that the MLP's norm reads, at the kept positions: what
                    the MLP's output is added to is then the dictionary's too, and nothing that the dictionary misses
                    goes past the MLP. That stream is `hook_resid_mid`. Where attention and MLP work in parallel it is
                    `hook_resid_pre`, and the attention of that block reads the reconstruction as well

Φ(scheme) = 1 − (loss(scheme) − loss(model)) / (loss(none) − loss(model)): 1 where nothing is lost, 0 where as much is
lost as with the MLP's neurons at β. Loss(model) is always that of the untouched model; loss(none) is taken with the
same residual stream as loss(scheme), so with a reconstructed one Φ(all) is also lowered by what the stream's
reconstruction costs. `stream` says how much that is: the loss with the stream replaced and the MLP left alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.binding.bound import BoundMLP, bound_mlps, neurons_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import Neurons
from crossproof.interaction.schemes import keeps, written
from crossproof.progress import progress
from crossproof.study.estimates import Drawn, combine, drawn
from crossproof.study.fidelity.config import Residual
from crossproof.subject.patch import Patch, splice
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens

TEXTS_PER_PASS = 16
"""What the MLPs write under all schemes is held for so many texts at a time."""


@dataclass(frozen=True, eq=False)
class Losses:
    """Summed over each text's scored positions."""

    clean: Float64[Tensor, " text"]
    """Of the model, unpatched."""
    targets: Float64[Tensor, " text"]
    """How many positions of each text are scored."""
    patched: dict[str, dict[str, Float64[Tensor, " text"]]]
    """MLP → scheme → loss with that MLP's output replaced."""
    stream: dict[str, Float64[Tensor, " text"]]
    """MLP → loss with only the residual stream beside it replaced; that of the model where the stream is true."""


def losses(
    subject: Subject, coder: Crosscoder, tokens: Tokens, schemes: Sequence[str], residual: Residual, seed: int
) -> Losses:
    """Of every MLP that the crosscoder reaches, under these schemes and, always, `all` and `none`.

    With a reconstructed stream: of those whose stream is one of the crosscoder's sites.
    """
    return losses_of(subject, coder, tokens, schemes, (residual,), seed)[residual]


def losses_of(
    subject: Subject,
    coder: Crosscoder,
    tokens: Tokens,
    schemes: Sequence[str],
    residuals: Sequence[Residual],
    seed: int,
) -> dict[Residual, Losses]:
    """With each of these residual streams; what the MLPs write is computed once for all of them."""
    check(subject, coder, tokens, schemes, residuals)
    schemes = tuple(dict.fromkeys(["all", "none", *schemes]))
    mlps = list(zip(bound_mlps(subject, coder), neurons_of(subject, coder), strict=True))
    generator = torch.Generator().manual_seed(seed)
    found = []
    with progress("ablating", len(tokens), "texts") as bar:
        for batch in tokens.batches(TEXTS_PER_PASS):
            found.append(_of_batch(subject, coder, batch, mlps, schemes, residuals, generator))
            bar(len(batch))
    return {residual: _joined([its[residual] for its in found]) for residual in residuals}


def check(
    subject: Subject, coder: Crosscoder, tokens: Tokens, schemes: Sequence[str], residuals: Sequence[Residual]
) -> None:
    """Refuse what cannot be measured."""
    for scheme in schemes:
        keeps(scheme)
    reached = [mlps_with(subject, coder, residual) for residual in residuals]
    if tokens.n_kept == 0 or tokens.n_scored == 0:
        raise CrossproofError(f"no tokens: none of the positions of these {len(tokens)} texts is kept, or none scored")
    if not all(reached):
        raise MismatchError(
            f"this crosscoder has the sites {', '.join(coder.sites)}, and none is the residual stream before an MLP of "
            f"{subject.name} that it reaches: leave out the reconstructed stream, or train a crosscoder that has it"
        )


def mlps_with(subject: Subject, coder: Crosscoder, residual: Residual) -> list[str]:
    """Those that can be measured with this residual stream."""
    mlps = bound_mlps(subject, coder)
    return [mlp.name for mlp in mlps if residual == "true" or stream_site(subject, coder, mlp) is not None]


def stream_site(subject: Subject, coder: Crosscoder, mlp: BoundMLP) -> str | None:
    """Where the residual stream is that an MLP is added to and its norm reads; None if the crosscoder lacks it.

    There is none between attention and MLP where the two work in parallel, or without attention.
    """
    places = (f"blocks.{mlp.unit.layer}.hook_resid_{where}" for where in ("mid", "pre"))
    site = next((place for place in places if place in subject.sites), None)
    return site if site in coder.sites else None


@torch.no_grad()
def _of_batch(
    subject: Subject,
    coder: Crosscoder,
    batch: Tokens,
    mlps: Sequence[tuple[BoundMLP, Neurons]],
    schemes: Sequence[str],
    residuals: Sequence[Residual],
    generator: torch.Generator,
) -> dict[Residual, Losses]:
    activations = subject.kept(batch, coder.sites, subject.cache(batch, coder.sites)).to(coder.W_dec)
    codes = coder.encode(activations)
    reconstruction = coder.decode(codes)
    clean = _by_text(subject, batch, {})
    targets = (batch.targets != NO_TARGET).sum(1).double().cpu()
    found = {residual: Losses(clean, targets, {}, {}) for residual in residuals}
    for mlp, neurons in mlps:
        unit = mlp.unit.to(reconstruction.dtype).to(reconstruction.device)
        outputs = written(codes, neurons, unit.W_out, schemes, generator)
        patches = {scheme: {unit.output_site: splice(batch, its + unit.b_out)} for scheme, its in outputs.items()}
        site = stream_site(subject, coder, mlp)
        for residual, its in found.items():
            beside: Patch = {}
            if residual == "reconstructed":
                if site is None:
                    continue
                beside = {site: splice(batch, reconstruction[:, coder.sites.index(site)])}
            its.stream[mlp.name] = _by_text(subject, batch, beside) if beside else clean
            its.patched[mlp.name] = {
                scheme: _by_text(subject, batch, {**beside, **patch}) for scheme, patch in patches.items()
            }
    return found


def _by_text(subject: Subject, batch: Tokens, patch: Patch) -> Float64[Tensor, " text"]:
    return subject.token_losses(batch, patch).sum(1, dtype=torch.float64).cpu()


def _joined(parts: Sequence[Losses]) -> Losses:
    """One after the other."""
    first = parts[0]
    return Losses(
        torch.cat([part.clean for part in parts]),
        torch.cat([part.targets for part in parts]),
        {
            mlp: {scheme: torch.cat([part.patched[mlp][scheme] for part in parts]) for scheme in schemes}
            for mlp, schemes in first.patched.items()
        },
        {mlp: torch.cat([part.stream[mlp] for part in parts]) for mlp in first.stream},
    )


def fidelity(losses: Losses, mlp: str, scheme: str, weights: Float64[Tensor, "draw text"]) -> Drawn:
    """Φ, and in each resample of the texts. Not a number where the model loses nothing without any feature."""
    of_mlp = losses.patched[mlp]
    parts = [drawn(its, losses.targets, weights) for its in (of_mlp[scheme], losses.clean, of_mlp["none"])]
    return combine(_fidelity, *parts)


def _fidelity(kept: Tensor, clean: Tensor, none: Tensor) -> Tensor:
    cost = none - clean
    return torch.where(cost > 0, 1 - (kept - clean) / cost, torch.nan)
