"""What no feature can be is refused, by every measurement that takes codes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from crossproof.codes import Codes, Pattern
from crossproof.errors import MismatchError, NonFinite
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import PlainNeurons, Table
from crossproof.interaction.cooccurrence import cooccurrence
from crossproof.interaction.games import token_index
from crossproof.interaction.interpretations import Mass, generic_penalty, unit_residual
from crossproof.interaction.neurons import dominance
from crossproof.interaction.probabilistic import gaussian_correlation, independence_kl, pair_kl
from crossproof.interaction.weights import typical_strengths
from crossproof.units import ACTIVATIONS

NEURONS = PlainNeurons("mlp", Table(torch.ones(2, 3), torch.zeros(3)), ACTIVATIONS["relu"], torch.ones(3))
FIRST, SECOND = torch.tensor([0]), torch.tensor([1])

MEASUREMENTS: dict[str, Callable[[Codes], Any]] = {
    "CoActive": CoActive.of,
    "cooccurrence": cooccurrence,
    "dominance": lambda codes: dominance(codes, [NEURONS]),
    "gaussian_correlation": gaussian_correlation,
    "generic_penalty": lambda codes: generic_penalty(Mass(), codes, NEURONS),
    "independence_kl": lambda codes: independence_kl(codes, NEURONS, bins=16),
    "pair_kl": lambda codes: pair_kl(codes, NEURONS, FIRST, SECOND, bins=16),
    "token_index": lambda codes: token_index(codes, 0, NEURONS, torch.ones(3, 2)),
    "typical_strengths": typical_strengths,
    "unit_residual": lambda codes: unit_residual(Mass(), codes, NEURONS, torch.ones(3, 2)),
}


@pytest.mark.parametrize("measurement", MEASUREMENTS)
def test_negative_and_non_finite_features_are_refused(measurement: str) -> None:
    pattern = Pattern(torch.tensor([0, 1, 0]), torch.tensor([0, 2, 3]), 2)
    MEASUREMENTS[measurement](Codes(pattern, torch.tensor([1.0, 2.0, 0.5])))
    for bad, error in ((-2.0, MismatchError), (float("nan"), NonFinite), (float("inf"), NonFinite)):
        with pytest.raises(error, match="features: some are"):
            MEASUREMENTS[measurement](Codes(pattern, torch.tensor([1.0, bad, 0.5])))
