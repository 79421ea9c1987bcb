"""An interpretation of a whole MLP: how large its residual is at the MLP's output, and the certified size of that."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import CHUNK, Neurons, check_codes, chunks, tables
from crossproof.interaction.interpretations.base import Interpretation, block_of
from crossproof.progress import progress


@dataclass(frozen=True, eq=False)
class UnitResidual:
    """What interaction makes an interpretation miss at an MLP's output, token by token, in float64."""

    size: Float[Tensor, " token"]
    """‖Σ_n r_n W_out[n]‖₂."""
    certified: Float[Tensor, " token"]
    """What it cannot exceed: the smaller of Σ_n w_n c_n and ‖W_out‖₂ ‖c‖₂, with c_n the certified size of r_n.

    And a little more, about 1e-14 of the MLP's contributions, for the rounding errors that `size` itself may have.
    """


@torch.no_grad()
def unit_residual(
    interpretation: Interpretation,
    codes: Codes,
    neurons: Neurons,
    W_out: Float[Tensor, "neuron d_model"],
    budget: int = CHUNK,
) -> UnitResidual:
    """The residual of an MLP and its certified size, in float64 from the contributions on."""
    check_codes(codes, tables(neurons)[0].n_features)
    check_features(codes.values)
    n_neurons = tables(neurons)[0].n_neurons
    if len(W_out) != n_neurons:
        raise MismatchError(
            f"W_out: {len(W_out)} neurons on the first axis, but the contribution table has {n_neurons}"
        )
    W = W_out.double()
    loudness, norm = W.norm(dim=1), spectral_norm(W)
    size, certified = (W.new_empty(codes.pattern.n_rows) for _ in range(2))
    with progress(f"{interpretation.name} residual of {neurons.name or 'an MLP'}", len(size), "tokens") as bar:
        for chunk in chunks(codes, n_neurons, budget):
            block = block_of(chunk, neurons).double()
            c = interpretation.certified(block)
            rounded = 16 * (1 + chunk.features.shape[1]) * block.magnitude() + n_neurons * c
            allowance = torch.finfo(torch.float64).eps * rounded @ loudness
            size[chunk.tokens] = (interpretation.residual(block) @ W).norm(dim=1)
            certified[chunk.tokens] = torch.minimum(c @ loudness, norm * c.norm(dim=1)) + allowance
            bar(len(chunk.tokens))
    return UnitResidual(size, certified)


def spectral_norm(W: Float[Tensor, "rows columns"]) -> Float[Tensor, ""]:
    """‖W‖₂, rounded up: from the largest eigenvalue of the smaller Gram matrix, in float64."""
    W = W.double()
    gram = W @ W.T if W.shape[0] < W.shape[1] else W.T @ W
    # its rounding errors come to less than rows × columns × 1e-16 of the eigenvalue: 1e-8 covers the largest MLPs
    return torch.linalg.eigvalsh(gram)[-1].clamp(min=0).sqrt() * (1 + 1e-8)
