"""How far a matrix can stretch a vector, certified: an iteration would only say how far it stretches some vector.

Somebody says what the eigenvectors of the Gram matrix G = MᵀM are; let Q hold them as columns. Nothing is believed of
them. For every x = Qz, if Q is invertible,

    ‖Mx‖² / ‖x‖² = zᵀ(QᵀGQ)z / zᵀ(QᵀQ)z ≤ λ_max(QᵀGQ) / λ_min(QᵀQ)

and Gershgorin's discs bound both, tightly when Q is nearly what it is said to be. They also say whether Q is
invertible: where the lower end of λ_min(QᵀQ) is not above zero, the bound is infinite.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from crossproof.errors import MismatchError
from crossproof.proof.arithmetic.ball import Ball, exact


def eigenvectors(matrix: Float[Tensor, "rows width"]) -> Float[Tensor, "width width"]:
    """A good witness: the eigenvectors of the Gram matrix, as columns."""
    matrix = matrix.to(torch.float64)
    return torch.linalg.eigh(matrix.T @ matrix).eigenvectors


def norm_bound(matrix: Ball, claimed: Float[Tensor, "width width"]) -> Ball:
    """A number that is at least the spectral norm, whatever is claimed."""
    width = matrix.shape[1]
    if claimed.shape != (width, width):
        raise MismatchError(f"eigenvectors: {tuple(claimed.shape)} numbers for the {width} × {width} of a Gram matrix")
    Q = exact(claimed)
    images = matrix @ Q
    most = (images.mT @ images).abs().sum(1).amax(0)
    gram = Q.mT @ Q
    diagonal = torch.arange(len(Q))
    own = gram[diagonal, diagonal]
    # own − (sum of the others) = 2 own − (sum of all), the diagonal of a Gram matrix being no less than zero
    least = -(gram.abs().sum(1) - own * 2.0).amax(0)
    return (most / least.maximum(0.0)).sqrt().upper()
