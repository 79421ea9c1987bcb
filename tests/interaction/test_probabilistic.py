"""Correlations against numpy, divergences against explicit convolutions and tokens that are independent by design."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction import cooccurrence, probabilistic
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, Table
from crossproof.interaction.probabilistic import FINER, LEVELS, gaussian_correlation, independence_kl, pair_kl
from crossproof.units import ACTIVATIONS

Array = np.ndarray


def neurons(A: Tensor, loudness: Tensor | None = None) -> PlainNeurons:
    loudness = torch.ones(A.shape[1], dtype=A.dtype) if loudness is None else loudness
    return PlainNeurons("mlp", Table(A, torch.ones(A.shape[1], dtype=A.dtype)), ACTIVATIONS["relu"], loudness)


def random_features(tokens: int, features: int, density: float, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    strengths = torch.rand(tokens, features, generator=draw, dtype=torch.float64) + 0.05
    return strengths * (torch.rand(tokens, features, generator=draw) < density)


# -- correlation -------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.integers(2, 30),
    st.integers(1, 8),
    st.sampled_from([0.1, 0.6, 1.0]),
    st.sampled_from([1e-8, 1.0, 1e8]),
    st.sampled_from([6, 2**22]),
    st.integers(0, 10**6),
)
def test_correlation_is_that_of_the_dense_features(
    tokens: int, features: int, density: float, size: float, block: int, seed: int
) -> None:
    f = random_features(tokens, features, density, seed) * size
    f[:, 0] = 0.1 * size  # constant
    found = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cooccurrence, "BLOCK", block)
        found = gaussian_correlation(Codes.from_dense(f))
    centred = (f - f.mean(0)).numpy()
    varies = ((f != f[0]).any(0)).numpy()
    norms = np.sqrt((centred**2).sum(0))
    expected = np.where(np.outer(varies, varies), centred.T @ centred / np.maximum(np.outer(norms, norms), 1e-300), 0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-10)
    assert np.array_equal(np.diag(found), varies.astype(float))


def test_a_feature_that_is_always_on_and_hardly_varies_keeps_its_correlation() -> None:
    wave = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
    found = gaussian_correlation(Codes.from_dense(torch.stack([1 + 2.0**-40 * wave, wave, 3 - wave], dim=1)))
    torch.testing.assert_close(found[0], torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64), rtol=1e-10, atol=0)


def test_too_many_features_for_a_dense_matrix_are_refused() -> None:
    with pytest.raises(CrossproofError, match=r"8,193 features .* at most 8,192"):
        gaussian_correlation(Codes.from_dense(torch.zeros(1, 8193)))


# -- distributions -----------------------------------------------------------------------------------------------------


def split(places: Array, weights: Array, n_cells: int) -> Array:
    """Linear splitting, one point after another."""
    found = np.zeros(n_cells)
    for place, weight in zip(places.flatten(), weights.flatten(), strict=True):
        cell = int(np.floor(place))
        found[cell] += weight * (1 - (place - cell))
        if place > cell:
            found[cell + 1] += weight * (place - cell)
    return found


def bits(actual: Array, independent: Array, tokens: int) -> float:
    mixed = (tokens * independent + 1 / len(independent)) / (tokens + 1)
    return float(sum(p * np.log2(p / q) for p, q in zip(actual, mixed, strict=True) if p > 0))


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([1e-8, 1.0, 1e8]), st.sampled_from([0.2, 0.9]), st.sampled_from([16, 64]), st.integers(0, 10**6))
def test_two_features_convolve_as_numpy_does(size: float, density: float, bins: int, seed: int) -> None:
    f = random_features(40, 2, density, seed)
    f[:2] = torch.tensor([[0.7, 0.0], [0.0, 0.4]])  # both fire
    A = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * size
    codes = Codes.from_dense(f)
    strengths = probabilistic._Strengths.of(codes)
    torch.testing.assert_close((strengths.probability.sum(1)), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(strengths.moments()[0], f.mean(0))
    z = f @ A
    grid = probabilistic._Grid.around(z.amin(0).clamp(max=0), z.amax(0).clamp(min=0), strengths, A, bins)
    found = probabilistic._independent(strengths, A, grid)
    kl = independence_kl(codes, neurons(A), bins, shuffles=2).kl
    for n in range(3):
        width, first, n_cells = float(grid.width[n]), int(grid.first[n]), bins * FINER
        law = np.array([1.0])
        for i in range(2):
            step = float(f[:, i].max()) / LEVELS
            levels = split(f[:, i].numpy() / step * (1 - 1e-16), np.full(40, 1 / 40), LEVELS + 2)[: LEVELS + 1]
            places = float(A[i, n]) * step * np.arange(LEVELS + 1) / width
            law = np.convolve(law, split(places + n_cells, levels, 2 * n_cells))  # from −n_cells cells on
        start = 2 * n_cells + first
        expected = law[start : start + n_cells]
        assert expected.sum() == pytest.approx(1, abs=1e-12)  # nothing lies outside the grid
        np.testing.assert_allclose(found[n].numpy(), expected, rtol=0, atol=1e-10)
        mean = float((found[n].numpy() * (np.arange(n_cells) + first)).sum() * width)
        assert mean == pytest.approx(float(z[:, n].mean()), abs=1e-10 * size)
        actual = split(z[:, n].numpy() / width - first, np.full(40, 1 / 40), n_cells)
        coarse = [law.reshape(bins, FINER).sum(1) for law in (actual, expected)]
        assert float(kl[n]) == pytest.approx(bits(*coarse, 40), abs=1e-9)


def test_a_wide_grid_is_not_needed_for_the_mass_of_many_features() -> None:
    """The grid is cut far inside of what all features together could reach: what wraps around must not count."""
    f = random_features(300, 200, 0.03, 0)
    A = torch.randn(200, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    strengths = probabilistic._Strengths.of(Codes.from_dense(f))
    z = f @ A
    narrow = probabilistic._Grid.around(z.amin(0), z.amax(0), strengths, A, 64)
    reach = strengths.largest @ A.clamp(min=0) - strengths.largest @ A.clamp(max=0)
    assert bool((narrow.width * narrow.n_cells < 0.9 * reach).all())
    factor = 4
    wide = probabilistic._Grid(narrow.width, narrow.first - 2 * narrow.n_cells, factor * narrow.n_cells)
    on_wide = probabilistic._independent(strengths, A, wide)[:, 2 * narrow.n_cells : 3 * narrow.n_cells]
    torch.testing.assert_close(probabilistic._independent(strengths, A, narrow), on_wide, rtol=0, atol=1e-9)


def test_independent_features_lie_within_the_null_and_a_planted_dependence_far_above() -> None:
    f = random_features(4000, 12, 0.25, 1)
    A = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = independence_kl(Codes.from_dense(f), neurons(A), bins=64, shuffles=6)
    assert bool((found.excess.abs() < 6 * found.null_sd + 0.2 * found.null_mean).all())
    f[:, 1] = torch.where(f[:, 0] > 0, 1.0, 0.0)
    A[:2] = 2.0
    planted = independence_kl(Codes.from_dense(f), neurons(A), bins=64, shuffles=6)
    assert bool((planted.excess > 10 * planted.null_sd).all())
    again = independence_kl(Codes.from_dense(f), neurons(A), bins=64, shuffles=6)
    assert torch.equal(planted.null_mean, again.null_mean)
    gate = GatedNeurons(
        "gated", neurons(A).pre, Table(A + 1, torch.zeros(6).double()), ACTIVATIONS["silu"], torch.ones(6)
    )
    assert torch.equal(independence_kl(Codes.from_dense(f), gate, bins=64, shuffles=6).kl, planted.kl)


def test_a_neuron_that_no_feature_reaches_diverges_by_the_smoothing_alone() -> None:
    f = random_features(50, 3, 0.5, 0)
    for codes in (Codes.from_dense(f), Codes.from_dense(f * 0)):
        found = independence_kl(codes, neurons(torch.zeros(3, 2)), bins=16, shuffles=2)
        assert found.kl.tolist() == pytest.approx(2 * [float(np.log2(51 / (50 + 1 / 16)))])
        assert torch.equal(found.kl, found.null_mean)


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([0.05, 0.5, 1.0]), st.integers(0, 10**6))
def test_shuffling_keeps_every_features_strengths_and_gives_each_a_token_of_its_own(density: float, seed: int) -> None:
    f = random_features(40, 5, density, seed)
    shuffled = probabilistic._shuffled(Codes.from_dense(f), torch.Generator().manual_seed(seed)).dense()
    assert shuffled.shape == f.shape
    torch.testing.assert_close(shuffled.sort(0).values, f.sort(0).values, rtol=0, atol=0)


def test_shuffled_tokens_are_drawn_evenly() -> None:
    f = torch.zeros(20, 2, dtype=torch.float64)
    f[:2, 0], f[:10, 1] = torch.tensor([1.0, 2.0]).double(), 1.0
    draw = torch.Generator().manual_seed(0)
    mean = sum(probabilistic._shuffled(Codes.from_dense(f), draw).dense() for _ in range(1500)) / 1500
    torch.testing.assert_close(mean, f.mean(0).expand(20, 2), rtol=0, atol=0.07)


# -- pairs -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([1e-8, 1.0, 1e8]), st.sampled_from([0.0, 0.2, 0.9]), st.integers(0, 10**6))
def test_pair_divergence_is_the_weighted_sum_over_neurons(size: float, density: float, seed: int) -> None:
    side, bins, tokens = probabilistic.PAIR_LEVELS + 1, 20, 30
    f = random_features(tokens, 3, density, seed)
    draw = torch.Generator().manual_seed(seed)
    A = torch.randn(3, 2, dtype=torch.float64, generator=draw) * size
    loudness = torch.rand(2, dtype=torch.float64, generator=draw)
    found = pair_kl(Codes.from_dense(f), neurons(A, loudness), torch.tensor([0]), torch.tensor([2]), bins, shuffles=2)
    step = [float(f[:, i].max()) / (side - 1) or 1.0 for i in (0, 2)]
    joint = np.zeros((side, side))
    for t in range(tokens):
        one, other = (
            split(f[t, i].numpy() / s * (1 - 1e-16), np.ones(1), side + 1)[:side]
            for i, s in zip((0, 2), step, strict=True)
        )
        joint += np.outer(one, other) / tokens
    expected = 0.0
    for n in range(2):
        x, y = (float(A[i, n]) * s * np.arange(side) for i, s in zip((0, 2), step, strict=True))
        if not f[:, 0].any():
            x = 0 * x
        if not f[:, 2].any():
            y = 0 * y
        z = x[:, None] + y
        width = (z.max() - z.min()) / (bins - 1) or 1.0
        places = np.clip((z - z.min()) / width, 0, bins - 1)
        laws = [split(places, law, bins + 1)[:bins] for law in (joint, np.outer(joint.sum(1), joint.sum(0)))]
        expected += float(loudness[n]) / 2 * bits(*laws, tokens)
    assert float(found.kl) == pytest.approx(expected, abs=1e-9)


def test_a_pair_that_fires_together_stands_out_from_one_that_does_not() -> None:
    f = random_features(3000, 4, 0.3, 5)
    f[:, 1] *= f[:, 0] > 0
    some: Neurons = neurons(torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))
    found = pair_kl(Codes.from_dense(f), some, torch.tensor([0, 2]), torch.tensor([1, 3]))
    assert float(found.excess[0]) > 20 * float(found.null_sd[0])
    assert abs(float(found.excess[1])) < 6 * float(found.null_sd[1])
    assert pair_kl(Codes.from_dense(f), some, torch.zeros(0).long(), torch.zeros(0).long()).kl.shape == (0,)


def test_no_features_have_an_empty_correlation() -> None:
    assert gaussian_correlation(Codes.from_dense(torch.zeros(3, 0))).shape == (0, 0)


def test_bad_input_is_refused() -> None:
    codes, one = Codes.from_dense(torch.ones(4, 3)), neurons(torch.ones(3, 2))
    with pytest.raises(MismatchError, match="are pairs"):
        pair_kl(codes, one, torch.tensor([1]), torch.tensor([1]))
    with pytest.raises(CrossproofError, match="at least 16"):
        independence_kl(codes, one, bins=8)
    with pytest.raises(CrossproofError, match="at least 2"):
        independence_kl(codes, one, shuffles=1)
    with pytest.raises(MismatchError, match="no tokens"):
        independence_kl(Codes.from_dense(torch.ones(0, 3)), one)
    with pytest.raises(MismatchError, match="different dictionaries"):
        independence_kl(codes, neurons(torch.ones(4, 2)))
