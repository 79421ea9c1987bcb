"""Small crosscoders and activations with known structure."""

from __future__ import annotations

import torch
from torch import Tensor

from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder


def config(activation: str = "batchtopk", sites: int = 3, width: int = 8, features: int = 24, k: int = 4):
    return CrosscoderConfig(
        sites=tuple(Site(subject="toy", hook=f"site{v}") for v in range(sites)),
        width=width,
        features=features,
        activation=activation,
        k=k if activation in ("topk", "batchtopk") else None,
        bandwidth=0.1 if activation == "jumprelu" else None,
    )


def crosscoder(activation: str = "batchtopk", seed: int = 0, **shape: int) -> Crosscoder:
    """Random weights, a non-trivial bias everywhere, and a threshold where there is one."""
    generator = torch.Generator().manual_seed(seed)
    coder = Crosscoder(config(activation, **shape))
    with torch.no_grad():
        for parameter in (coder.W_enc, coder.W_dec, coder.b_enc, coder.b_dec):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        if coder.threshold is not None:
            coder.threshold.fill_(0.2)
    return coder


def sparse_data(rows: int, sites: int = 3, width: int = 8, seed: int = 0, norms: tuple[float, ...] = ()) -> Tensor:
    """Activations made of a few shared directions, with a given typical norm at every site."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(12, sites, width, generator=torch.Generator().manual_seed(99))
    active = torch.rand(rows, 12, generator=generator) < 0.2
    strengths = active * (0.5 + torch.rand(rows, 12, generator=generator))
    activations = torch.einsum("bf,fvd->bvd", strengths, directions) + 0.3
    if norms:
        activations = activations / activations.norm(dim=2).mean(0)[:, None] * torch.tensor(norms)[:, None]
    return activations
