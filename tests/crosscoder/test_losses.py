"""Every term trains what it claims to train. Peers shipped terms whose gradient was zero, or that were never added."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from crossproof.crosscoder.config import FitConfig
from crossproof.crosscoder.losses import L0, L1, AuxK, Batch, Reconstruction
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training, default_terms
from crossproof.errors import CrossproofError
from tests.crosscoder import toys


def batch(
    coder: Crosscoder, dead: Tensor | None = None, progress: float = 1.0, dtype: torch.dtype = torch.float32
) -> Batch:
    x = coder.scaled(toys.sparse_data(16).to(dtype))
    encoding = coder.encode_batch(x)
    dead = torch.zeros(coder.config.features, dtype=torch.bool) if dead is None else dead
    return Batch(coder, x, encoding, coder.decode_scaled(encoding.codes), dead, progress)


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk"])
def test_the_gradient_of_a_step_equals_that_of_the_dense_formulation(activation: str) -> None:
    coder = toys.crosscoder(activation).double()
    Reconstruction()(batch(coder, dtype=torch.float64)).backward()
    ours = {name: p.grad.clone() for name, p in coder.named_parameters()}
    coder.zero_grad()
    x = coder.scaled(toys.sparse_data(16).double())
    pre = x @ coder.W_enc.T + coder.b_enc
    mask = coder.encode_batch(x).codes.dense() > 0
    ((pre * mask) @ coder.W_dec + coder.b_dec - x).square().sum(1).mean().backward()
    for name, parameter in coder.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-10, atol=1e-12)


def test_reconstruction_is_a_sum_over_sites_and_a_mean_over_tokens() -> None:
    b = batch(toys.crosscoder())
    expected = (b.reconstruction - b.x).square().sum(1).mean()
    torch.testing.assert_close(Reconstruction()(b), expected)


def test_auxk_reaches_encoder_and_decoder_of_dead_features_and_of_no_others() -> None:
    coder = toys.crosscoder()
    dead = torch.zeros(24, dtype=torch.bool)
    dead[[3, 7, 20]] = True
    AuxK(1.0, 2)(batch(coder, dead)).backward()
    for parameter in (coder.W_enc, coder.W_dec, coder.b_enc):
        grad = parameter.grad.view(24, -1)
        assert bool((grad[dead].abs().sum(1) > 0).all())
        assert float(grad[~dead].abs().sum()) == 0


def test_auxk_equals_its_definition() -> None:
    coder = toys.crosscoder().double()
    dead = torch.arange(24) % 3 == 0
    b = batch(coder, dead, dtype=torch.float64)
    kept = torch.where(dead, b.encoding.pre, -torch.inf).topk(2, dim=1)
    f = torch.zeros_like(b.encoding.pre).scatter(1, kept.indices, kept.values)
    expected = 0.5 * (f @ coder.W_dec - (b.x - b.reconstruction)).square().sum(1).mean()
    torch.testing.assert_close(AuxK(0.5, 2)(b), expected)


def test_auxk_without_dead_features_is_zero_and_harmless() -> None:
    assert float(AuxK(1.0, 2)(batch(toys.crosscoder()))) == 0.0


def test_a_dead_feature_comes_back() -> None:
    torch.manual_seed(0)
    coder = toys.crosscoder()
    with torch.no_grad():
        coder.b_enc[5] = -3.0  # nothing in this data is near enough to wake it by itself
    config = FitConfig(steps=3000, batch_tokens=64, lr=1e-2, dead_after=256, warmup=0, aux_weight=1.0, aux_k=4)

    def alive_after(steps: int, config: FitConfig) -> bool:
        coder.load_state_dict(start)
        training = Training(coder, default_terms(coder, config), config)
        for step in range(steps):
            training.advance(toys.sparse_data(64, seed=step))
        return bool(training.tokens_since_fired[5] < 256)

    start = {name: value.clone() for name, value in coder.state_dict().items()}
    assert not alive_after(600, config.model_copy(update={"aux_weight": 0.0}))
    assert alive_after(600, config)


def test_l1_weighs_features_by_their_decoder_norms_summed_over_sites() -> None:
    coder = toys.crosscoder("relu")
    b = batch(coder)
    norms = sum(coder.W_dec[:, v * 8 : (v + 1) * 8].norm(dim=1) for v in range(3))
    expected = 0.5 * (b.encoding.codes.dense() * norms).sum(1).mean()
    torch.testing.assert_close(L1(0.5, warmup=0.0)(b), expected)
    L1(0.5, warmup=0.0)(b).backward()
    assert float(coder.W_enc.grad.abs().sum()) > 0
    assert float(coder.W_dec.grad.abs().sum()) > 0


def test_sparsity_weights_ramp_up() -> None:
    b = batch(toys.crosscoder("relu"), progress=0.1)
    torch.testing.assert_close(L1(1.0, warmup=0.2)(b), 0.5 * L1(1.0, warmup=0.0)(b))


def test_l0_moves_the_thresholds_of_jumprelu() -> None:
    coder = toys.crosscoder("jumprelu")
    with torch.no_grad():
        coder.log_threshold.fill_(-1.0)
    L0(1.0, warmup=0.0)(batch(coder)).backward()
    assert float(coder.log_threshold.grad.sum()) < 0  # a higher threshold means fewer active features


def test_l0_is_refused_where_it_has_no_gradient() -> None:
    with pytest.raises(CrossproofError, match="l0_weight"):
        default_terms(toys.crosscoder("relu"), FitConfig(l0_weight=1.0))


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk", "jumprelu"])
def test_a_short_training_explains_most_of_simple_data(activation: str) -> None:
    torch.manual_seed(0)
    coder = toys.crosscoder(activation, features=48)
    config = FitConfig(steps=400, batch_tokens=128, lr=1e-2, l1_weight=0.01 if activation == "relu" else 0.0)
    training = Training(coder, default_terms(coder, config), config)
    for step in range(400):
        training.advance(toys.sparse_data(128, seed=step))
    fresh = toys.sparse_data(500, seed=10**6)
    error = (coder(fresh).detach() - fresh).square().sum()
    assert float(error / (fresh - fresh.mean(0)).square().sum()) < 0.1
