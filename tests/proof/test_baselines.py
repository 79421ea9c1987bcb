from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.proof.baselines import additive_centre, best_additive, largest_loss, sample_at, unigram_entropy
from crossproof.proof.explanation import explain
from crossproof.proof.network import Network
from crossproof.proof.prove import How, Truth, prove
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.waterfall import waterfall
from tests.proof.small import items_of, state_of, true_losses


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), mlps=st.sampled_from([1, 2]), magnitude=st.sampled_from([0.1, 1.0, 3.0]))
def test_no_window_has_a_larger_loss_than_the_largest(seed: int, mlps: int, magnitude: float) -> None:
    state, items = state_of(seed, mlps=mlps, magnitude=magnitude), items_of(seed, 30)
    losses, _ = true_losses(state, False, items)
    assert largest_loss(Network.of(state), items, {}) >= float(losses.max()) - 1e-9


def test_the_largest_loss_is_not_claimed_where_it_is_not_bounded() -> None:
    assert math.isinf(largest_loss(Network.of(state_of(0, attention=True)), items_of(0), {}))


def test_the_additive_centre_is_the_models_loss_where_nothing_meets() -> None:
    state, items = state_of(1), items_of(1)
    state["W_E"][:-1] = 0.0
    network, (losses, _) = Network.of(state), true_losses(state, False, items)
    mean = float((losses * items.count).sum()) / items.windows
    assert additive_centre(Layers.of(network, items, {}), items) == pytest.approx(mean, abs=1e-9)


def test_the_best_additive_predictor_is_between_the_entropy_given_the_window_and_that_of_nothing() -> None:
    items = items_of(2, 200)
    found = best_additive(explain(Network.of(state_of(0)), items, {}).codes, items, 200)
    total = torch.zeros(len(items.contexts)).index_add_(0, items.context, items.count.float())
    given_window = -float((items.count * (items.count / total[items.context]).log()).sum()) / items.windows
    assert given_window - 1e-6 <= found < unigram_entropy(items)


def test_a_larger_sample_says_more_and_none_says_nothing() -> None:
    network, items = Network.of(state_of(0)), items_of(0)
    truth = Truth.of(network, items)
    few, many = (sample_at(operations, 100.0, truth, items, 20.0) for operations in (1_000, 100_000))
    assert few is not None
    assert many is not None
    assert few.windows == 10
    assert few.loss > many.loss > truth.loss
    assert sample_at(99, 100.0, truth, items, 20.0) is None


@pytest.mark.parametrize(("attention", "norm"), [(False, False), (True, False), (True, True)])
def test_the_waterfall_adds_up_to_the_bound_and_names_the_pairs_that_cost(attention: bool, norm: bool) -> None:
    network, items = Network.of(state_of(4, attention), norm), items_of(4)
    proof, truth = prove(network, items, How("pairs")), Truth.of(network, items)
    found = waterfall(network, items, proof, truth, top=10_000)
    paid = sum(cost for _, _, cost in found.families)
    assert found.centre + paid == pytest.approx(proof.proved.loss, abs=1e-9)
    assert sum(cost for _, _, cost in found.pairs) == pytest.approx(paid, abs=1e-9)
    assert min(cost for _, _, cost in found.families) >= 0
    costs = [cost for _, _, cost in found.pairs]
    assert costs == sorted(costs, reverse=True)
