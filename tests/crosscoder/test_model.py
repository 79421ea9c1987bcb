"""What a crosscoder promises, whatever its activation function."""

from __future__ import annotations

import pytest
import torch

from crossproof.crosscoder.initialise import STRATEGIES, estimate_scales, initialise
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, NonFinite
from tests.crosscoder import toys

ACTIVATIONS = ["relu", "topk", "batchtopk", "jumprelu"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_encoding_and_decoding_follow_the_definition(activation: str) -> None:
    coder, a = toys.crosscoder(activation), toys.sparse_data(10)
    coder.scale.copy_(torch.tensor([0.5, 1.0, 2.0]))
    x = (a * coder.scale[:, None]).flatten(1)
    pre = x @ coder.W_enc.T + coder.b_enc
    if activation == "topk":
        kept = pre.topk(4, dim=1)
        f = torch.zeros_like(pre).scatter(1, kept.indices, kept.values.relu())
    else:
        f = pre * (pre > coder.thresholds) * (pre > 0)
    reconstruction = (f @ coder.W_dec + coder.b_dec).view_as(a) / coder.scale[:, None]
    torch.testing.assert_close(coder.encode(a).dense(), f)
    torch.testing.assert_close(coder(a), reconstruction)
    torch.testing.assert_close(coder(a), torch.einsum("bf,fvd->bvd", f, coder.decoder) + coder.decoder_bias)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_tokens_features_do_not_depend_on_its_neighbours(activation: str) -> None:
    coder, a = toys.crosscoder(activation), toys.sparse_data(32)
    together = coder.encode(a).dense()
    alone = torch.cat([coder.encode(a[i : i + 1]).dense() for i in range(len(a))])
    assert torch.equal(together > 0, alone > 0)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_features_are_never_negative_in_training_or_outside_it(activation: str) -> None:
    coder, a = toys.crosscoder(activation), toys.sparse_data(32)
    with torch.no_grad():
        coder.b_enc.sub_(2.0)  # so that almost everything is negative and a careless top-k would keep some of it
    assert bool((coder.encode_batch(coder.scaled(a)).codes.values >= 0).all())
    assert bool((coder.encode(a).values > 0).all())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norms", [(4.0, 40.0, 1.0), (1.0, 1.0, 1.0)])
def test_folding_the_scales_changes_nothing(activation: str, norms: tuple[float, ...]) -> None:
    coder, a = toys.crosscoder(activation).double(), toys.sparse_data(50, norms=norms).double()
    coder.scale.copy_(estimate_scales(a))
    folded = coder.folded().double()
    # folded() makes a float32 crosscoder; compare with one that was rounded the same way
    single = toys.crosscoder(activation)
    single.load_state_dict({name: value.float() for name, value in coder.state_dict().items()})
    a = a.float()
    torch.testing.assert_close(single.folded()(a), single(a), rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(single.folded().encode(a).dense(), single.encode(a).dense(), rtol=2e-5, atol=2e-5)
    assert bool((folded.scale == 1).all())
    assert folded.config.site_scales == pytest.approx(coder.scale.tolist())


def test_scales_bring_every_site_to_the_same_typical_norm() -> None:
    a = toys.sparse_data(200, norms=(4.0, 40.0, 1.0))
    norms = (a * estimate_scales(a)[:, None]).norm(dim=2).mean(0)
    torch.testing.assert_close(norms, torch.full((3,), 8**0.5))


def test_scales_of_nothing_and_of_zeros_are_refused() -> None:
    with pytest.raises(CrossproofError, match="no tokens"):
        estimate_scales(torch.zeros(0, 2, 4))
    with pytest.raises(NonFinite, match=r"site index \[1\]"):
        estimate_scales(torch.stack([torch.ones(5, 4), torch.zeros(5, 4)], dim=1))


def test_the_batchtopk_threshold_follows_the_smallest_activation_kept() -> None:
    coder, a = toys.crosscoder(), toys.sparse_data(64)
    coder.threshold.fill_(torch.nan)
    x = coder.scaled(a)
    smallest = coder.encode_batch(x).codes.values.min().item()
    assert float(coder.threshold[0]) == pytest.approx(smallest)
    coder.encode_batch(x * 2, threshold_momentum=0.75)
    doubled = toys.crosscoder()
    doubled.threshold.fill_(torch.nan)
    expected = 0.75 * smallest + 0.25 * doubled.encode_batch(x * 2).codes.values.min().item()
    assert float(coder.threshold[0]) == pytest.approx(expected)


def test_a_threshold_that_was_never_set_is_refused_and_can_be_calibrated() -> None:
    coder, a = Crosscoder(toys.config()), toys.sparse_data(500)
    initialise(coder, a, "data", 1.0, torch.Generator().manual_seed(0))
    with pytest.raises(CrossproofError, match="no inference threshold"):
        coder.encode(a)
    coder.calibrate(a)
    # strictly above the smallest value kept: one entry of 2,000 fewer than k a token
    assert float(coder.encode(a).l0) == pytest.approx(4.0, abs=0.01)


def test_the_threshold_stays_float32_under_bf16_and_masters_stay_exact() -> None:
    coder, a = toys.crosscoder(), toys.sparse_data(64)
    coder.threshold.fill_(torch.nan)
    encoding = coder.encode_batch(coder.scaled(a), bf16=True)
    assert coder.threshold.dtype == torch.float32
    assert encoding.codes.values.dtype == torch.float32
    encoding.codes.values.sum().backward()
    assert coder.W_enc.grad.dtype == torch.float32
    exact = toys.crosscoder().encode_batch(coder.scaled(a)).codes.dense()
    assert ((encoding.codes.dense() - exact).norm() / exact.norm()).item() < 0.1


def test_encoding_outside_training_moves_no_state() -> None:
    coder, a = toys.crosscoder(), toys.sparse_data(64)
    before = {name: value.clone() for name, value in coder.state_dict().items()}
    coder(a)
    assert all(torch.equal(before[name], value) for name, value in coder.state_dict().items())


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_initialisations_have_the_asked_norm_and_see_deviations_from_the_mean(strategy: str) -> None:
    coder, a = Crosscoder(toys.config()), toys.sparse_data(100, norms=(4.0, 40.0, 1.0))
    initialise(coder, a, strategy, 0.25, torch.Generator().manual_seed(0))
    torch.testing.assert_close(coder.W_dec.norm(dim=1), torch.full((24,), 0.25))
    at_the_mean = coder.b_enc + coder.W_enc @ coder.b_dec
    torch.testing.assert_close(at_the_mean, torch.zeros(24), atol=1e-5, rtol=0)
    again = Crosscoder(toys.config())
    initialise(again, a, strategy, 0.25, torch.Generator().manual_seed(0))
    assert torch.equal(again.W_enc, coder.W_enc)


def test_activations_of_the_wrong_shape_are_refused_by_site_and_width() -> None:
    with pytest.raises(MismatchError, match=r"3 sites of width 8.*\(5, 2, 8\).*site0, site1, site2"):
        toys.crosscoder().encode(torch.zeros(5, 2, 8))


def test_one_site_is_a_sparse_autoencoder() -> None:
    coder = toys.crosscoder(sites=1)
    assert coder(toys.sparse_data(5, sites=1)).shape == (5, 1, 8)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("tensor", ["W_enc", "b_enc"])
def test_a_feature_that_is_not_a_number_is_refused_and_one_that_is_off_is_not(activation: str, tensor: str) -> None:
    coder, a = toys.crosscoder(activation), toys.sparse_data(5)
    with torch.no_grad():
        coder.b_enc[7] = -torch.inf
        assert not bool(coder.encode(a).dense()[:, 7].any())
        coder.get_parameter(tensor)[9] = torch.nan
    with pytest.raises(NonFinite, match="feature 9 is not a number"):
        coder.encode(a)


def test_no_rows_give_no_features() -> None:
    for activation in ACTIVATIONS:
        coder = toys.crosscoder(activation)
        assert coder(torch.zeros(0, 3, 8)).shape == (0, 3, 8)


def test_k_larger_than_the_dictionary_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot keep 30 of 24 features"):
        toys.config(k=30)
