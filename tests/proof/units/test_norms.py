"""Norms of points that are known up to a distance: nothing in the ball leaves what is said of its image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.units.around import Around
from crossproof.proof.units.norms import BoundedNorm
from crossproof.proof.units.search import highest
from crossproof.units import Norm
from tests.proof.units.numbers import rows, seeds

WIDTH = 5
kinds = st.sampled_from(["layer", "rms"])


def norm(kind: str, seed: int = 0, eps: float = 1e-5, plain: bool = False) -> Norm:
    gain = torch.ones(WIDTH, dtype=torch.float64) if plain else rows(WIDTH, seed=seed, hard=False)
    bias = torch.zeros(WIDTH, dtype=torch.float64) if plain else rows(WIDTH, seed=seed + 1, hard=False)
    return Norm(kind=kind, gain=gain, bias=bias, eps=eps)  # type: ignore[arg-type]


def moved(x: Tensor, radius: Tensor, seed: int, tries: int = 60) -> Tensor:
    step = torch.randn(tries, *x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step = step / step.norm(dim=-1, keepdim=True).clamp(min=1e-300)
    step[0] = -x / x.norm(dim=-1, keepdim=True).clamp(min=1e-300)  # towards nothing
    return x + step * radius[:, None]


@settings(deadline=None, max_examples=60)
@given(seed=seeds, hard=st.booleans(), kind=kinds, part=st.sampled_from([0.0, 1e-9, 0.1, 0.9, 1.0, 3.0, 1e6]))
def test_no_point_of_the_ball_leaves_any_image(seed: int, hard: bool, kind: str, part: float) -> None:
    x, unit = rows(4, WIDTH, seed=seed, hard=hard), norm(kind, seed)
    radius = part * x.norm(dim=1)
    bounded, around = BoundedNorm(unit), Around(exact(x), Ball(radius))
    images = unit(moved(x, radius, seed))
    rounding = 1e-8 * unit.gain.abs().max() * (1 + x.abs().amax(1) / bounded.scale(exact(x)).mid)
    for image in (bounded.around(around), bounded.about(around), bounded.lipschitz(around)):
        away = (images - image.centre.mid).norm(dim=-1).amax(0)
        assert bool((away <= image.radius.mid + rounding).all())


@settings(deadline=None, max_examples=30)
@given(seed=seeds, kind=kinds, part=st.floats(0, 5))
def test_balls_and_chords_are_no_wider_than_lipschitz_constants_make_them(seed: int, kind: str, part: float) -> None:
    x = rows(4, WIDTH, seed=seed, hard=False)
    bounded, around = BoundedNorm(norm(kind, seed)), Around(exact(x), Ball(part * x.norm(dim=1)))
    ball, chord, plain = (image(around).radius.mid for image in (bounded.around, bounded.about, bounded.lipschitz))
    assert bool((ball <= chord * (1 + 1e-7) + 1e-7).all())
    assert bool((chord <= plain * (1 + 1e-7) + 1e-7).all())


@pytest.mark.parametrize("kind", ["layer", "rms"])
@pytest.mark.parametrize("part", [0.01, 0.5, 0.95])
def test_without_eps_the_ball_is_attained_and_with_it_not_left(kind: str, part: float) -> None:
    x = rows(1, WIDTH, seed=5, hard=False)
    for eps, least in ((0.0, 0.999), (0.5, 0.0)):
        unit = norm(kind, eps=eps, plain=True)
        bounded = BoundedNorm(unit)
        radius = part * bounded.centred(exact(x)).mid.norm(dim=1)
        image = bounded.around(Around(exact(x), Ball(radius)))

        def away(points: Tensor, unit: Norm = unit, image: Around = image) -> Tensor:
            return (unit(points) - image.centre.mid).norm(dim=-1)[:, 0]

        found = highest(away, x, radius)
        assert least * float(image.radius.mid) <= found <= float(image.radius.mid) * (1 + 1e-9)


def test_the_ball_of_a_point_that_is_known_exactly_has_no_width_but_its_rounding() -> None:
    x = rows(4, WIDTH, seed=2, hard=False)
    unit = norm("layer")
    image = BoundedNorm(unit).around(Around(exact(x), Ball(torch.zeros(4, dtype=torch.float64))))
    assert float(image.radius.mid.max()) < 1e-11
    assert torch.allclose(image.centre.mid, unit(x))


def test_however_little_is_known_of_a_point_its_image_is_no_further_than_all_images_are() -> None:
    x = torch.zeros(1, WIDTH, dtype=torch.float64)
    bounded = BoundedNorm(norm("layer", plain=True))
    for radius in (1.0, 1e300, float("inf")):
        around = Around(exact(x), Ball(torch.full((1,), radius, dtype=torch.float64)))
        assert float(bounded.around(around).radius.mid) == pytest.approx(WIDTH**0.5)
        assert float(bounded.about(around).radius.mid) == pytest.approx(2 * WIDTH**0.5)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, kind=kinds, hard=st.booleans(), features=st.integers(1, 6))
def test_the_scale_of_codes_is_k_squared_lookups_in_a_gram_matrix(
    seed: int, kind: str, hard: bool, features: int
) -> None:
    directions, unit = rows(features, WIDTH, seed=seed, hard=False), norm(kind, seed)
    strengths = rows(3, features, seed=seed + 1, hard=hard).abs()
    bounded = BoundedNorm(unit)
    centred = bounded.centred(exact(directions))
    among = torch.arange(features).expand(3, -1)
    found = bounded.scale_of_codes(centred @ centred.mT, among, exact(strengths))
    true = bounded.scale(exact(strengths) @ exact(directions))
    assert bool(((found.mid - true.mid).abs() <= found.radius + true.radius).all())


@settings(deadline=None, max_examples=30)
@given(seed=seeds, kind=kinds, hard=st.booleans())
def test_relu_after_a_norm_is_relu_before_it_over_the_scale(seed: int, kind: str, hard: bool) -> None:
    x, W, b = rows(3, WIDTH, seed=seed, hard=hard), rows(WIDTH, 4, seed=seed + 1, hard=hard), rows(4, seed=3, hard=hard)
    bounded = BoundedNorm(norm(kind, plain=True))
    scale = bounded.scale(exact(x)).mid[:, None]
    after = (bounded(exact(x)).mid @ W + b).relu()
    before = (WIDTH**0.5 * bounded.centred(exact(x)).mid @ W + scale * b).relu() / scale
    assert torch.allclose(after, before, atol=1e-9 * float(W.abs().sum() + b.abs().max() + 1))
