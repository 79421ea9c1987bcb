"""The certificate that models are trained with is a bound on every item's loss, whatever the weights."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from crossproof.errors import UnsupportedModel
from crossproof.proof.training.objective import certificate, families, logit_bounds
from crossproof.subject.zoo.window_model import WindowConfig, WindowModel, normalized

CONTEXT, VOCABULARY = 4, 3
KINDS = tuple(kind for kind in product(("attention", "sum"), (0, 1, 2), (False, True)) if kind[1:] != (2, True))
ALL = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * CONTEXT)

kinds = st.sampled_from(KINDS)
seeds = st.integers(0, 10**6)
scales = st.sampled_from((1e-9, 1e-3, 1.0, 30.0))
"""Of all weights: three products of them are a million times as large or small."""


def a_model(mixing: str, mlps: int, norm: bool, seed: int = 0, scale: float = 1.0, whole: bool = False) -> WindowModel:
    """Random weights; whole numbers make ties and zeros wherever they can be."""
    config = WindowConfig.model_validate(
        {"vocabulary": 3, "context": CONTEXT, "width": 4, "neurons": 5, "mixing": mixing, "mlps": mlps, "norm": norm}
    )
    generator = torch.Generator().manual_seed(seed)
    model = WindowModel(config).double()
    for parameter in model.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = scale * (drawn.round() if whole else drawn)
    return model


def losses(model: WindowModel, ids: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(model.last_logits(ids), targets, reduction="none")


def some_targets(seed: int) -> Tensor:
    return torch.randint(0, VOCABULARY, (len(ALL),), generator=torch.Generator().manual_seed(seed))


def rounding(*values: Tensor) -> float:
    return 1e-9 * (1 + max(float(value.abs().max()) for value in values))


@given(kinds, seeds, scales, st.booleans())
@settings(max_examples=150, deadline=None)
def test_no_item_has_a_larger_loss_than_its_certificate(
    kind: tuple[str, int, bool], seed: int, scale: float, whole: bool
) -> None:
    model, targets = a_model(*kind, seed, scale, whole), some_targets(seed)
    with torch.no_grad():
        bounds = logit_bounds(model, ALL)
        slack = rounding(bounds.high, bounds.low)
        assert (bounds.low <= bounds.exact + slack).all()
        assert (bounds.exact <= bounds.high + slack).all()
        assert (losses(model, ALL, targets) <= certificate(bounds, targets) + slack).all()


@given(kinds, seeds)
@settings(max_examples=60, deadline=None)
def test_no_error_that_the_masses_allow_makes_a_larger_loss_than_the_certificate(
    kind: tuple[str, int, bool], seed: int
) -> None:
    """The certificate is of the explanation with any overstatement from nothing to all of it, not of one model."""
    kind = (kind[0], 1, kind[2])
    model, targets = a_model(*kind, seed), some_targets(seed)
    with torch.no_grad():
        explained, conflict = slow_masses(model)
        bound = certificate(logit_bounds(model, ALL), targets)
        for share in (torch.rand(20, *conflict.shape, dtype=torch.float64), torch.randint(0, 2, (20, *conflict.shape))):
            logits = (explained - (share * conflict) @ model.mlps[0].W_out) @ model.W_U
            worst = functional.cross_entropy(logits.mT, targets.expand(20, -1), reduction="none").max(0).values
            assert (worst <= bound + rounding(logits)).all()


def slow_masses(model: WindowModel) -> tuple[Tensor, Tensor]:
    """By loops over families: the stream that the additive explanation gives, and each neuron's smaller mass."""
    parts, mlp = families(model, ALL), model.mlps[0]
    mid = parts.sum(1)
    scale = (mid.var(1, correction=0, keepdim=True) + 1e-5).sqrt() if model.config.norm else torch.ones(len(ALL), 1)
    plus = minus = torch.zeros(len(ALL), len(mlp.b_in), dtype=torch.float64)
    for family in range(parts.shape[1]):
        part = parts[:, family]
        seen = (part - part.mean(1, keepdim=True)) / scale if model.config.norm else part
        contribution = seen @ mlp.W_in + (mlp.b_in if family == 0 else 0)
        plus, minus = plus + contribution.clamp(min=0), minus + (-contribution).clamp(min=0)
    return mid + plus @ mlp.W_out + mlp.b_out, torch.minimum(plus, minus)


@given(kinds, seeds)
@settings(max_examples=40, deadline=None)
def test_the_certificate_is_the_largest_loss_between_the_bounds_on_logits(
    kind: tuple[str, int, bool], seed: int
) -> None:
    model, targets = a_model(*kind, seed), some_targets(seed)
    with torch.no_grad():
        bounds = logit_bounds(model, ALL)
        corners = [
            functional.cross_entropy(
                torch.where(torch.tensor(corner), bounds.high, bounds.low), targets, reduction="none"
            )
            for corner in product((False, True), repeat=VOCABULARY)
        ]
        torch.testing.assert_close(certificate(bounds, targets), torch.stack(corners).amax(0), rtol=1e-9, atol=1e-9)


@given(st.sampled_from([kind for kind in KINDS if kind[1] == 1]), seeds, st.booleans())
@settings(max_examples=60, deadline=None)
def test_with_one_mlp_the_bounds_on_logits_are_those_of_the_masses(
    kind: tuple[str, int, bool], seed: int, whole: bool
) -> None:
    model = a_model(*kind, seed, whole=whole)
    with torch.no_grad():
        explained, conflict = slow_masses(model)
        W_U = model.W_U - model.W_U.mean(1, keepdim=True)
        effect = -conflict[:, :, None] * (model.mlps[0].W_out @ W_U)
        bounds = logit_bounds(model, ALL)
        slack = rounding(effect)
        centre = explained @ W_U
        torch.testing.assert_close(bounds.high, centre + effect.clamp(min=0).sum(1), rtol=1e-9, atol=slack)
        torch.testing.assert_close(bounds.low, centre + effect.clamp(max=0).sum(1), rtol=1e-9, atol=slack)


@given(kinds, seeds)
@settings(max_examples=60, deadline=None)
def test_families_add_up_to_the_stream_in_front_of_the_first_mlp(kind: tuple[str, int, bool], seed: int) -> None:
    model = a_model(*kind, seed)
    with torch.no_grad():
        _, cache = model.run_with_cache(ALL)
        parts = families(model, ALL)
        torch.testing.assert_close(parts.sum(1), cache["blocks.0.hook_resid_mid"][:, -1])
        assert parts.shape[1] == (CONTEXT + 1 if kind[0] == "attention" else CONTEXT - 1)


@given(st.sampled_from([kind for kind in KINDS if not kind[2]]), seeds, st.sampled_from((1, -1)))
@settings(max_examples=60, deadline=None)
def test_the_certificate_is_the_loss_where_nothing_conflicts(kind: tuple[str, int, bool], seed: int, sign: int) -> None:
    """All weights are positive, so every neuron hears families of one sign; of either sign in the first MLP."""
    model, targets = a_model(*kind, seed), some_targets(seed)
    for parameter in model.parameters():
        parameter.data.abs_()
    if model.config.mlps:
        model.mlps[0].W_in.data *= sign
        model.mlps[0].b_in.data *= sign
    with torch.no_grad():
        bounds = logit_bounds(model, ALL)
        torch.testing.assert_close(certificate(bounds, targets), losses(model, ALL, targets), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(bounds.low, bounds.high)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("weights", ["zeros", "ties", "constant"])
def test_gradients_are_numbers_at_zeros_and_ties(kind: tuple[str, int, bool], weights: str) -> None:
    model = a_model(*kind, whole=True)
    for number, parameter in enumerate(model.parameters()):
        if weights == "zeros":
            parameter.data.zero_()
        elif weights == "constant":  # what a norm sees then has no variance
            parameter.data.fill_(number % 2)
    objective = certificate(logit_bounds(model, ALL), some_targets(0)).mean()
    gradients = torch.autograd.grad(objective, list(model.parameters()), allow_unused=True, materialize_grads=True)
    assert objective.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_the_gradient_of_the_certificate_reaches_every_weight() -> None:
    for kind in KINDS:
        model = a_model(*kind)
        objective = certificate(logit_bounds(model, ALL), some_targets(0)).mean()
        gradients = torch.autograd.grad(objective, list(model.parameters()))
        assert all(gradient.abs().max() > 0 for gradient in gradients), kind


def test_the_norm_is_that_of_the_model() -> None:
    """The scale that families are divided by is computed apart from the model's."""
    model = a_model("attention", 1, True)
    with torch.no_grad():
        mid = families(model, ALL).sum(1)
        scaled = (mid - mid.mean(1, keepdim=True)) / (mid.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(scaled, normalized(mid))


def test_two_mlps_with_norms_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="second norm"):
        logit_bounds(a_model("sum", 2, True), ALL)
