"""Small random crosscoders on the sites of a subject."""

from __future__ import annotations

import torch

from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.subject.subject import Subject

MLP_INPUTS = "blocks.*.ln2.hook_normalized"


def on(subject: Subject, *patterns: str, features: int = 20) -> Crosscoder:
    """Random weights and scales, biases everywhere; about a third of the features active."""
    sites = subject.find_sites(patterns or (MLP_INPUTS,))
    config = CrosscoderConfig(
        sites=tuple(Site(subject=subject.name, hook=site) for site in sites),
        width=subject.width(sites[0]),
        features=features,
        activation="relu",
    )
    coder = Crosscoder(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        coder.b_enc -= 1
        coder.scale.copy_(torch.linspace(0.5, 2.0, len(sites)))
    return coder
