"""The penalty on a random part of the neurons: what it is on average, and what it goes on from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossproof.interaction.penalty import InteractionPenalty
from tests.interaction.penalty_toys import batch, make_mlp, value_and_gradients


@pytest.mark.parametrize("form", ["dominant", "mass", "additive"])
def test_a_random_part_of_the_neurons_is_unbiased_in_value_and_gradient(form: str) -> None:
    mlps = [make_mlp(0, neurons=4, activation="gelu")]
    f, (d,) = batch(1, 5, 0.7, 1)
    f, d = f.requires_grad_(), d.requires_grad_()

    def run(penalty: InteractionPenalty) -> Tensor:
        value, gradients = value_and_gradients(lambda: penalty(f, [d]), [f, d])
        return torch.cat([value[None], *(gradient.flatten() for gradient in gradients)])

    part = InteractionPenalty(mlps, form=form, scaling="paper", weighted=True, fraction=0.5)
    # two of four neurons: six draws, each as likely as another, so their plain mean is the expectation
    draws = torch.stack([run(part) for _ in range(120)])
    different = torch.unique(draws.mul(1e12).round().div(1e12), dim=0)
    assert len(different) == 6
    seen = (draws[:, None] - different).abs().amax(2).argmin(1).bincount()
    assert int(seen.min()) >= 8, "draws are even"
    whole = run(InteractionPenalty(mlps, form=form, scaling="paper", weighted=True))
    torch.testing.assert_close(different.mean(0), whole, rtol=1e-8, atol=1e-10)


def test_relative_on_a_part_of_the_neurons_comes_to_that_on_all_of_them_in_value_and_gradient() -> None:
    mlps = [make_mlp(0, neurons=12)]
    d = batch(1, 5, 0.7, 1)[1][0].requires_grad_()
    part, several, wholes, runs = InteractionPenalty(mlps, fraction=0.25), [], [], []
    for seed in range(5):
        f = batch(seed, 5, 0.7, 1)[0]
        several.append(f)
        wholes.append(value_and_gradients(lambda: InteractionPenalty(mlps, scaling="paper")(several[-1], [d]), [d]))
    for call in range(1500):
        f = several[call % 5]
        value, (gradient,) = value_and_gradients(lambda: part(f, [d]), [d])  # noqa: B023
        runs.append(torch.cat([value[None], gradient.flatten()]))
    # one denominator for all batches: the mean contribution
    mean = sum(float(f.sum(0) @ (d.detach() @ mlps[0].W_in).abs().sum(1)) for f in several) / sum(
        5 * 12 for _ in several
    )
    exact = torch.stack([torch.cat([value[None], each.flatten()]) for value, (each,) in wholes]).mean(0) / mean
    found = torch.stack(runs[200:])
    away = (found.mean(0) - exact).abs()
    assert bool((away < 0.03 * exact.abs().max() + 5 * found.std(0) / len(found) ** 0.5).all())
    assert float(part.totals[0]) == pytest.approx(mean, rel=0.3)


@pytest.mark.parametrize("factor", [0.0, 0.01])
def test_a_first_batch_without_features_or_with_weak_ones_does_not_set_the_denominator_for_long(factor: float) -> None:
    mlps = [make_mlp(0, neurons=12)]
    f, (d,) = batch(1, 5, 0.7, 1)
    part = InteractionPenalty(mlps, fraction=0.5)
    first = float(part(f * factor, [d]))
    assert 0 <= first < 1
    values = [float(part(f, [d])) for _ in range(300)]
    assert max(values[0 if factor == 0 else 5 :]) < 10
    assert max(values[-100:]) < 1.2


def test_draws_go_on_where_a_saved_state_left_them_and_all_neurons_are_looked_at_when_evaluating() -> None:
    mlps = [make_mlp(0, neurons=12)]
    f, (d,) = batch(1, 5, 0.7, 1)
    first = InteractionPenalty(mlps, fraction=0.25, seed=3)
    before = [float(first(f, [d])) for _ in range(3)]
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    after = [float(first(f, [d])) for _ in range(3)]
    assert len(set(before + after)) > 2
    second = InteractionPenalty(mlps, fraction=0.25, seed=3)
    second.load_state_dict(state)
    assert [float(second(f, [d])) for _ in range(3)] == after
    second.eval()
    torch.testing.assert_close(second(f, [d]), InteractionPenalty(mlps)(f, [d]))
    assert [float(v) for v in second.state_dict().values() if v.dim() == 0] == [6.0]
