"""The sparse products against plain dense ones, values and gradients, in float64."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof import codes as codes_module
from crossproof.codes import Codes, Pattern, decode, decode_and_read, encoded_values


def random_pattern(rows: int, features: int, density: float, seed: int) -> Pattern:
    mask = torch.rand(rows, features, generator=torch.Generator().manual_seed(seed)) < density
    return Pattern.from_flat(torch.nonzero(mask.flatten()).squeeze(1), rows, features)


patterns = st.builds(
    random_pattern,
    rows=st.integers(1, 9),
    features=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.03, 0.2, 1.0]),
    seed=st.integers(0, 10**6),
)


@settings(deadline=None, max_examples=60)
@given(patterns)
def test_a_pattern_lists_every_entry_once_row_by_row(pattern: Pattern) -> None:
    dense = pattern.dense(torch.ones(pattern.n_entries))
    assert dense.shape == (pattern.n_rows, pattern.n_features)
    assert int(dense.sum()) == pattern.n_entries
    where = torch.nonzero(dense)
    assert torch.equal(where[:, 0], pattern.rows)
    assert torch.equal(where[:, 1], pattern.features)
    order, starts = pattern.by_feature
    assert torch.equal(pattern.features[order], pattern.features.sort().values)
    assert torch.equal(starts.diff(), torch.bincount(pattern.features, minlength=pattern.n_features))


@settings(deadline=None, max_examples=60)
@given(patterns, st.booleans(), st.sampled_from([1e-6, 1.0, 1e6]))
def test_decoding_equals_the_dense_product_with_all_its_gradients(pattern: Pattern, bias: bool, size: float) -> None:
    torch.manual_seed(0)
    values = (size * torch.rand(pattern.n_entries, dtype=torch.float64)).requires_grad_()
    W = torch.randn(pattern.n_features, 5, dtype=torch.float64, requires_grad=True)
    b = torch.randn(5, dtype=torch.float64, requires_grad=True) if bias else None
    upstream = torch.randn(pattern.n_rows, 5, dtype=torch.float64)
    wanted = [values, W, *([b] if b is not None else [])]

    ours = decode(Codes(pattern, values), W, b)
    ours_grads = torch.autograd.grad((ours * upstream).sum(), wanted)
    plain = pattern.dense(values) @ W + (b if b is not None else 0)
    plain_grads = torch.autograd.grad((plain * upstream).sum(), wanted)

    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12 * size)
    for got, expected in zip(ours_grads, plain_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12 * size)


@settings(deadline=None, max_examples=60)
@given(patterns)
def test_encoded_values_equal_the_dense_encoder_with_all_its_gradients(pattern: Pattern) -> None:
    torch.manual_seed(1)
    x = torch.randn(pattern.n_rows, 6, dtype=torch.float64, requires_grad=True)
    W = torch.randn(pattern.n_features, 6, dtype=torch.float64, requires_grad=True)
    b = torch.randn(pattern.n_features, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(pattern.n_entries, dtype=torch.float64)

    pre = x @ W.T + b
    ours = encoded_values(x, W, b, pre.detach(), pattern)
    ours_grads = torch.autograd.grad((ours * upstream).sum(), [x, W, b])
    plain = (x @ W.T + b)[pattern.rows, pattern.features]
    plain_grads = torch.autograd.grad((plain * upstream).sum(), [x, W, b])

    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    for got, expected in zip(ours_grads, plain_grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dense_above", [0.0, 1.0])
def test_the_dense_and_the_sparse_route_agree(monkeypatch: pytest.MonkeyPatch, dense_above: float) -> None:
    monkeypatch.setattr(codes_module, "DENSE_ABOVE", dense_above)
    pattern = random_pattern(7, 11, 0.3, seed=3)
    torch.manual_seed(2)
    values, W, b = (torch.randn(*shape, dtype=torch.float64) for shape in [(pattern.n_entries,), (11, 4), (4,)])
    torch.testing.assert_close(decode(Codes(pattern, values), W, b), pattern.dense(values) @ W + b)
    assert pattern.is_dense == (dense_above == 0.0)


def test_without_mkl_the_transposed_product_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = random_pattern(6, 30, 0.05, seed=5)
    values, right = torch.randn(pattern.n_entries), torch.randn(6, 4)
    with_mkl = codes_module._transposed_product(pattern, values, right)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    torch.testing.assert_close(codes_module._transposed_product(pattern, values, right), with_mkl)


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0)])
def test_codes_of_no_features_or_no_tokens_keep_their_shape(shape: tuple[int, int]) -> None:
    codes = Codes.from_dense(torch.zeros(shape))
    assert codes.dense().shape == shape
    assert codes.pattern.row_starts.tolist() == [0] * (shape[0] + 1)
    assert codes.firing_counts().tolist() == [0] * shape[1]


def test_l0_and_firing_counts_ignore_entries_that_are_zero() -> None:
    pattern = Pattern.from_flat(torch.tensor([0, 2, 3]), 2, 3)
    codes = Codes(pattern, torch.tensor([1.0, 0.0, 2.0]))
    assert float(codes.l0) == 1.0
    assert codes.firing_counts().tolist() == [2, 0, 0]


@settings(deadline=None, max_examples=40)
@given(patterns, st.booleans(), st.booleans())
def test_columns_that_are_read_beside_the_product_have_their_gradient_in_its_own(
    pattern: Pattern, product_used: bool, second_used: bool
) -> None:
    torch.manual_seed(0)
    W = torch.randn(pattern.n_features, 6, dtype=torch.float64, requires_grad=True)
    values = torch.rand(pattern.n_entries, dtype=torch.float64, requires_grad=True)
    columns = [slice(0, 2), slice(4, 6)]

    def loss(product: torch.Tensor, read: Sequence[torch.Tensor]) -> torch.Tensor:
        total = (read[0] ** 2).sum() + values.sum()
        if product_used:
            total = total + (product**2).sum()
        return total + (read[1] ** 3).sum() if second_used else total

    ours = torch.autograd.grad(loss(*decode_and_read(Codes(pattern, values), W, None, columns)), [W, values])
    plain = torch.autograd.grad(loss(pattern.dense(values) @ W, [W[:, some] for some in columns]), [W, values])
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b)


def test_some_rows_are_those_of_the_matrix_and_keep_their_gradient() -> None:
    features = torch.rand(7, 5, dtype=torch.float64).sub(0.5).relu().requires_grad_()
    codes = Codes.from_dense(features)
    for start in range(8):
        for stop in range(start, 8):
            some = codes.rows(start, stop)
            assert torch.equal(some.dense(), features[start:stop])
            assert some.pattern.n_rows == stop - start
    codes.rows(2, 4).values.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.grad.nonzero()[:, 0].unique(), (features.detach()[2:4] > 0).any(1).nonzero()[:, 0] + 2)
