"""The soundness campaign: a thousand models and a million neurons, none of whose bounds may be too low."""

from __future__ import annotations

import pytest
import torch

from crossproof.proof.arithmetic.ball import exact
from crossproof.proof.explanation import conjunctions
from crossproof.proof.network import Network
from crossproof.proof.prove import How, prove
from crossproof.proof.rungs import masses, uniform
from crossproof.proof.rungs.pairs import conflict, sides
from tests.proof.small import M, items_of, state_of, true_losses
from tests.proof.test_dictionary import any_dictionary, nothing_read
from tests.proof.test_rungs import KINDS, holds, rungs_of

SEED = 20260000
MODELS = 1000
NEURONS = 1_000_000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_bound_on_a_thousand_random_models_is_below_the_loss_of_any_item() -> None:
    proofs = 0
    for number in range(MODELS):
        attention, norm, mlps, joined = KINDS[number % len(KINDS)]
        magnitude = (1.0, 0.1, 4.0)[number % 3]
        state = state_of(SEED + number, attention, mlps, magnitude, ties=number % 5 == 0)
        items = items_of(SEED + number, 40)
        network, truth = Network.of(state, norm), true_losses(state, norm, items)
        for how in rungs_of(norm, attention, mlps):
            steps = 5 if how.rung == "masses" and number % 4 == 0 else 0
            holds(prove(network, items, How(how.rung, joined, min(how.read, M), steps)).bounds, *truth)
            proofs += 1
        witness = conjunctions(network, items, joined)
        witness |= any_dictionary(network, items, witness, SEED + number, 10.0 ** (number % 7 - 3))
        holds(uniform.verify(network, items, witness), *truth)
        holds(masses.verify(network, items, witness | nothing_read(items)), *truth)
        proofs += 2
    assert proofs > 6 * MODELS


@pytest.mark.slow
def test_the_corrections_of_a_million_neurons_are_masses_and_below_their_pairs() -> None:
    generator = torch.Generator().manual_seed(SEED)
    features, neurons = 6, NEURONS // 10
    for number in range(10):
        table = torch.randn(features, neurons, generator=generator, dtype=torch.float64)
        table *= 10.0 ** torch.randint(-8, 9, (1, neurons), generator=generator)
        if number % 2:
            table = table.round()  # ties and zeros
        offset = torch.randn(features, neurons, generator=generator, dtype=torch.float64)
        correction = table.relu().sum(0) - table.sum(0).relu()
        ball = exact(table)
        positive, negative = ball.relu() - exact(offset), (-ball).relu() - exact(offset)
        left = positive.sum(0).minimum(negative.sum(0))
        # the obvious sums round too
        rounding = 1e-14 * (table.abs() + offset.abs()).sum(0)
        assert bool(((left.mid - (correction - offset.sum(0))).abs() <= left.radius + rounding).all())
        first, second = torch.triu_indices(features, features, 1)
        pairs = conflict(*sides(ball), first, second).sum(0).upper()
        assert bool((correction <= pairs.mid + rounding).all())
