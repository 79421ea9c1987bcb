"""Interaction through a norm's scale, against loops that run the norm with features removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.attention.heads import heads_of
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import contributions
from crossproof.interaction.norms.features import norm_features
from crossproof.interaction.norms.pairs import norm_pairs, norm_tokens
from crossproof.interaction.norms.scale import scales, without
from crossproof.units import MLP, Norm
from tests.interaction.attention.toys import make_attention
from tests.interaction.norm_toys import HUGE, TINY, Case, agree, cases, centred, inverse_scale, slow_pairs, toy


def gained_lengths(case: Case) -> torch.Tensor:
    return torch.stack([(case.norm.gain * centred(case.norm, d)).norm() for d in case.directions])


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_scale_with_and_without_each_feature_is_that_of_the_norm_when_it_is_run(case: Case) -> None:
    def check(scale: float, token: int, removed: tuple[int, ...]) -> None:
        inverse = inverse_scale(case.norm, case.input(token, removed))
        if inverse == 0:
            assert scale == 0
        else:
            assert abs(scale * inverse - 1) <= 1e-10

    codes = case.codes
    every, each = scales(codes, case.features).tolist(), without(codes, case.features).tolist()
    for token, scale in enumerate(every):
        check(scale, token, ())
    for token, feature, scale in zip(codes.pattern.rows.tolist(), codes.pattern.features.tolist(), each, strict=True):
        check(scale, token, (feature,))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_pairs_are_what_removing_a_feature_does_to_the_share_of_another(case: Case) -> None:
    codes, n = case.codes, len(case.directions)
    pairs = CoActive.of(codes)
    (found,) = norm_pairs(codes, [case.features], pairs)
    reach, zero = gained_lengths(case), torch.zeros(n, n).double()
    slow = [slow_pairs(case, token, reach) for token in range(len(case.strengths))]
    total, magnitude = (sum((one[k] for one in slow), zero) for k in (0, 1))
    agree(found.pairs.total, total[pairs.i, pairs.j], magnitude[pairs.i, pairs.j])
    squares = sum((one.square() for one, _ in slow), zero)
    agree(found.pairs.squares, squares[pairs.i, pairs.j], 4 * magnitude.square()[pairs.i, pairs.j])
    for token, (one, size) in enumerate(slow):
        agree(found.score[token], one.sum(), size.sum())
    assert found.pairs.count is pairs.count


@settings(max_examples=30, deadline=None)
@given(cases())
def test_the_background_is_rescaled_as_a_feature_is(case: Case) -> None:
    """It is one more feature that is always on, except that it is never removed."""
    codes, n_tokens = case.codes, len(case.strengths)
    (found,) = norm_pairs(codes, [case.features], CoActive.of(codes))
    with_it = replace(
        case,
        directions=torch.cat([case.directions, case.bias[None]]),
        bias=torch.zeros_like(case.bias),
        strengths=torch.cat([case.strengths, torch.ones(n_tokens, 1).double()], 1),
    )
    slow = [slow_pairs(with_it, token, gained_lengths(with_it)) for token in range(n_tokens)]
    total, magnitude = (sum((one[k][:-1, -1] for one in slow), torch.zeros(len(case.directions))) for k in (0, 1))
    agree(found.background.total, total, magnitude)


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from((1.0, 0.5)))
def test_token_scores_are_those_of_the_pairs_and_the_strongest_pair_is_the_first_of_the_largest(
    case: Case, quieter: float
) -> None:
    codes = case.codes
    norms = [norm_features(case.norm, case.directions, case.bias, heard=lambda v: quieter * v.norm(dim=1))]
    norms.append(case.features)
    found = norm_tokens(codes, norms)
    for at, sums in enumerate(norm_pairs(codes, norms, CoActive.of(codes))):
        torch.testing.assert_close(found.score[:, at], sums.score, rtol=1e-12, atol=0)
    for token in range(len(case.strengths)):
        table, magnitude = slow_pairs(case, token, gained_lengths(case))
        agree(found.pair_score[token], table.max(), magnitude.max())
        i, j, unit = (int(its[token]) for its in (found.i, found.j, found.unit))
        if found.pair_score[token] > 0:
            agree(table[i, j], table.max(), magnitude.max())
            assert unit == (0 if quieter == 1 else 1)
        else:
            assert (i, j, unit) == (-1, -1, -1)


def test_of_equal_pairs_the_lowest_is_the_strongest() -> None:
    case = toy(directions=torch.ones(3, 4).double(), strengths=torch.tensor([[0, 1, 1, 1]]).double())
    case = replace(case, directions=torch.cat([case.directions[:1], case.directions]))
    found = norm_tokens(case.codes, [case.features, case.features])
    assert (int(found.i), int(found.j), int(found.unit)) == (1, 2, 0)


@settings(max_examples=30, deadline=None)
@given(cases(), st.sampled_from((TINY, HUGE)))
def test_rescaling_features_and_adding_a_constant_to_a_layer_norms_directions_change_nothing(
    case: Case, factor: float
) -> None:
    codes = case.codes
    pairs = CoActive.of(codes)
    (before,) = norm_pairs(codes, [case.features], pairs)
    rescaled = replace(case, directions=case.directions / factor)
    (after,) = norm_pairs(Codes(codes.pattern, codes.values * factor), [rescaled.features], pairs)
    torch.testing.assert_close(before.pairs.total, after.pairs.total, rtol=1e-10, atol=0)
    if case.norm.kind == "layer":
        shifted = replace(case, directions=case.directions + float(case.directions.abs().max()))
        (after,) = norm_pairs(codes, [shifted.features], pairs)
        torch.testing.assert_close(before.pairs.total, after.pairs.total, rtol=1e-10, atol=0)


def test_where_there_is_nothing_to_make_larger_nothing_interacts() -> None:
    for kind, directions in (("rms", torch.zeros(2, 4)), ("layer", torch.ones(2, 4))):
        case = toy(directions.double(), torch.tensor([[1.0, 2.0], [0, 0]]).double(), eps=0.0, kind=kind)
        (found,) = norm_pairs(case.codes, [case.features], CoActive.of(case.codes))
        assert not scales(case.codes, case.features).any()
        assert not without(case.codes, case.features).any()
        assert not found.score.any()
        assert not found.pairs.total.any()
        assert not found.background.total.any()


@pytest.mark.parametrize("magnitude", [1e-16, 1e-8, 1e8, 1e16])
def test_in_float32_magnitudes_neither_overflow_nor_vanish(magnitude: float) -> None:
    """Without ε a norm does not see them at all."""
    generator = torch.Generator().manual_seed(1)
    case = toy(torch.randn(6, 4, generator=generator).double(), torch.rand(3, 6, generator=generator).double(), 0.0)
    codes = case.codes
    pairs = CoActive.of(codes)
    (exact,) = norm_pairs(codes, [case.features], pairs)
    single = replace(case, norm=case.norm.to(torch.float32), directions=(case.directions * magnitude).float())
    of_single = norm_features(single.norm, single.directions)
    (found,) = norm_pairs(Codes(codes.pattern, codes.values.float()), [of_single], pairs)
    torch.testing.assert_close(found.pairs.total, exact.pairs.total, rtol=1e-3, atol=1e-5)


def test_many_tokens_in_several_chunks_are_each_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    strengths = torch.rand(40, 6, generator=generator).double().sub(0.5).relu()
    case = toy(torch.randn(6, 4, generator=generator).double(), strengths)
    pairs = CoActive.of(case.codes)
    monkeypatch.setattr("crossproof.interaction.contributions.chunks.__defaults__", (50,))
    (found,) = norm_pairs(case.codes, [case.features], pairs)
    slow = [slow_pairs(case, token, gained_lengths(case)) for token in range(40)]
    agree(found.pairs.total, sum(one for one, _ in slow)[pairs.i, pairs.j], sum(size.max() for _, size in slow))
    agree(found.score, torch.stack([one.sum() for one, _ in slow]), torch.stack([size.sum() for _, size in slow]))


def test_the_gram_matrix_is_that_of_centred_directions() -> None:
    case = toy(torch.tensor([[1.0, 3.0], [0.0, 4.0], [5.0, 5.0]]).double(), torch.ones(1, 3).double(), kind="layer")
    some = torch.tensor([0, 1])
    torch.testing.assert_close(case.features.gram(some), torch.tensor([[2.0, 4.0], [4.0, 8.0]]).double())
    torch.testing.assert_close(case.features.squared, torch.tensor([2.0, 8.0, 0.0]).double())


def test_a_dictionary_in_another_dtype_than_a_units_weights_is_refused_by_every_kind_of_unit() -> None:
    mlp = MLP(
        W_in=torch.ones(4, 2), b_in=torch.zeros(2), activation="relu", W_out=torch.ones(2, 4), b_out=torch.zeros(4)
    )
    norm = Norm(kind="rms", gain=torch.ones(4), bias=torch.zeros(4), eps=0.0)
    attention = make_attention(d_model=4, dtype=torch.float32)
    single, double = torch.ones(3, 4), torch.ones(3, 4).double()
    asks: list[Callable[[torch.Tensor, torch.Tensor], object]] = [
        lambda d, b: contributions(mlp, d, b),
        lambda d, b: norm_features(norm, d, b),
        lambda d, b: heads_of(attention, d, b),
    ]
    for ask in asks:
        ask(single, single[0])
        with pytest.raises(MismatchError, match=r"directions: torch\.float64, but the weights .* are torch\.float32"):
            ask(double, single[0])
        with pytest.raises(MismatchError, match=r"bias: torch\.float64, but the weights .* are torch\.float32"):
            ask(single, double[0])


def test_without_norms_no_token_has_a_score() -> None:
    found = norm_tokens(toy(torch.ones(3, 4).double(), torch.ones(2, 3).double()).codes, [])
    assert found.score.shape == (2, 0)
    assert found.i.tolist() == found.j.tolist() == found.unit.tolist() == [-1, -1]


def test_what_does_not_fit_the_norm_is_refused() -> None:
    case = toy(torch.ones(3, 4).double(), torch.ones(2, 3).double())
    with pytest.raises(MismatchError, match="d_model 4"):
        norm_features(case.norm, torch.ones(3, 5).double())
    with pytest.raises(MismatchError, match="bias"):
        norm_features(case.norm, case.directions, torch.ones(3).double())
    with pytest.raises(CrossproofError, match="not finite"):
        norm_features(case.norm, case.directions * torch.inf)
    foreign = Codes.from_dense(torch.ones(2, 5).double())
    for ask in (
        lambda: scales(foreign, case.features),
        lambda: without(foreign, case.features),
        lambda: norm_tokens(foreign, [case.features]),
        lambda: norm_pairs(foreign, [case.features], CoActive.of(foreign)),
        lambda: norm_pairs(case.codes, [case.features], CoActive.of(foreign)),
    ):
        with pytest.raises(MismatchError):
            ask()
