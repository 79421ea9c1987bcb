from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.proof.explanation import conjunctions
from crossproof.proof.network import Network
from crossproof.proof.prove import How, prove
from crossproof.proof.rungs import masses, offsets
from crossproof.proof.statement import proved
from crossproof.proof.training.masses import MassesObjective
from crossproof.subject.zoo.window_model import WindowModel
from crossproof.subject.zoo.window_recipes import WindowConfig
from crossproof.subject.zoo.windows import cut_windows
from tests.proof.small import C, D, M, V, items_of, state_of, true_losses


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), mlps=st.sampled_from([1, 2]), joined=st.sampled_from([1, 2]), read=st.integers(0, M))
def test_what_is_trained_on_is_what_is_proved(seed: int, mlps: int, joined: int, read: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    windows = cut_windows(torch.randint(0, V, (40,), generator=generator, dtype=torch.uint8), C)
    model = WindowModel(
        WindowConfig(vocabulary=V, context=C, width=D, neurons=M, mixing="sum", mlps=mlps, norm=False), None
    )
    model.load_state_dict(state_of(seed, mlps=mlps))
    trained = MassesObjective(model, windows, joined, read)
    for parameter in trained.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    network = Network.of(model.state_dict())
    witness = conjunctions(network, trained.items, joined) | trained.own.witness()
    witness["read"] = masses.choose(network, trained.items, witness, read)
    found = masses.verify(network, trained.items, witness).loss.mid
    mine = trained.bounds(model, torch.arange(len(found))).detach().double()
    torch.testing.assert_close(mine, found, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("attention", "norm", "mlps"), [(False, False, 1), (True, True, 1), (False, False, 2)])
def test_offsets_that_were_looked_for_prove_more_than_none_and_never_too_much(
    attention: bool, norm: bool, mlps: int
) -> None:
    state, items = state_of(5, attention, mlps), items_of(5, 200)
    network = Network.of(state, norm)
    without, found = (prove(network, items, How("masses", read=1, offsets=steps)) for steps in (0, 60))
    assert found.proved.loss < without.proved.loss
    losses, _ = true_losses(state, norm, items)
    assert bool((found.bounds.loss.mid >= losses - 1e-9).all())


def test_the_descent_begins_at_the_best_additive_prediction_of_corrections() -> None:
    state, items = state_of(2), items_of(2, 300)
    network = Network.of(state)
    none = prove(network, items, How("masses"))
    additive = offsets.find(network, items, {}, 0, 0)
    bounds = masses.verify(network, items, additive | {"read": none.witness["read"]})
    assert proved(bounds, items).loss < none.proved.loss


def test_the_objective_is_the_loss_alone_without_a_weight_and_pulls_on_model_and_offsets_with_one() -> None:
    windows = cut_windows(torch.arange(60, dtype=torch.uint8) * 7 % V, C)
    model = WindowModel(
        WindowConfig(vocabulary=V, context=C, width=D, neurons=M, mixing="sum", mlps=2, norm=False), None
    )
    model.load_state_dict(state_of(0, mlps=2))
    model.requires_grad_(True)
    objective = MassesObjective(model, windows, 2, 2)
    torch.manual_seed(0)
    alone = objective(model, 16, 0.0)
    torch.manual_seed(0)
    both = objective(model, 16, 0.5)
    assert float(both.detach()) > float(alone.detach())
    both.backward()
    for parameter in (*model.parameters(), *objective.parameters()):
        assert parameter.grad is not None
        assert bool(parameter.grad.isfinite().all())
    assert float(objective.own.offsets[1].grad.abs().sum()) > 0
