"""Attention of inputs that are known up to a distance each: no inputs within reach put the output out of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.units.attention import BoundedAttention
from crossproof.proof.units.search import highest
from crossproof.units import Attention, Rotary
from tests.proof.units.numbers import rows, seeds

POS, WIDTH, HEAD = 5, 6, 4


def attention(
    seed: int, heads: int = 2, rotary: bool = False, window: int | None = None, size: float = 1.0
) -> Attention:
    def weights(*shape: int, at: int) -> Tensor:
        return rows(*shape, seed=seed + at, hard=False) * size / WIDTH**0.5

    return Attention(
        W_Q=weights(heads, WIDTH, HEAD, at=0), W_K=weights(1, WIDTH, HEAD, at=1), W_V=weights(1, WIDTH, HEAD, at=2),
        W_O=weights(heads, HEAD, WIDTH, at=3), b_Q=weights(heads, HEAD, at=4), b_K=weights(1, HEAD, at=5),
        b_V=weights(1, HEAD, at=6), b_O=weights(WIDTH, at=7), scale=0.5, window=window,
        rotary=Rotary(torch.tensor([1.0, 0.1])) if rotary else None,
    )  # fmt: skip


def inputs(seed: int, part: float) -> tuple[Tensor, Tensor]:
    """Positions, and how far each may be moved: not at all, a bit, and more."""
    x = rows(POS, WIDTH, seed=seed + 50, hard=False)
    return x, part * x.norm(dim=1) * torch.tensor([0.0, 1.0, 0.1, 1.0, 2.0], dtype=torch.float64)


@settings(deadline=None, max_examples=25)
@given(
    seed=seeds, part=st.sampled_from([0.0, 1e-6, 0.01, 0.3, 2.0, 100.0]), rotary=st.booleans(),
    window=st.sampled_from([None, 2]), size=st.sampled_from([0.1, 1.0, 4.0]),
)  # fmt: skip
def test_no_inputs_within_reach_move_an_output_further_than_is_said(
    seed: int, part: float, rotary: bool, window: int | None, size: float
) -> None:
    unit, (x, radius) = attention(seed, rotary=rotary, window=window, size=size), inputs(seed, part)
    at = BoundedAttention(unit).at(exact(x))
    out = unit(x[None])[0]
    assert bool(((at.output.mid - out).abs() <= at.output.radius + 1e-12 * (1 + out.abs())).all())
    step = torch.randn(64, *x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    step = step / step.norm(dim=-1, keepdim=True) * radius[:, None]
    moved = (unit(x + step) - out).norm(dim=-1).amax(0)
    assert bool((moved <= at.carry(Ball(radius[None])).mid[0] + 1e-11 * (1 + out.norm(dim=-1))).all())


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("part", [0.02, 0.3, 3.0])
def test_not_even_the_worst_inputs_that_ascent_finds_do(rotary: bool, part: float) -> None:
    for seed in range(3):
        unit, (x, radius) = attention(seed, heads=1, rotary=rotary), inputs(seed, part)
        bound = BoundedAttention(unit).at(exact(x)).carry(Ball(radius[None])).mid[0]
        out = unit(x[None])[0]

        def away(points: Tensor, unit: Attention = unit, out: Tensor = out) -> Tensor:
            return (unit(points) - out)[:, -1].norm(dim=-1)

        found = highest(away, x, radius, restarts=8, steps=40)
        assert found <= float(bound[-1])
        assert part > 0.02 or found > float(bound[-1]) / 20, "far from what there is"


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("part", [1e-3, 1.0, 30.0])
def test_scores_move_no_further_than_is_said_and_nearly_as_far(rotary: bool, part: float) -> None:
    query, key = POS - 1, POS - 2
    for seed in range(3):
        unit, (x, radius) = attention(seed, heads=1, rotary=rotary), inputs(seed, part)
        at = BoundedAttention(unit).at(exact(x))
        eta = float(at.score_shift(Ball(radius[None])).mid[0, 0, query, key])
        keys = x @ unit.W_K[0] + unit.b_K[0]
        if unit.rotary is not None:
            keys = unit.rotary(keys)
        shared = at.pattern.mid[0, query] @ keys

        def shift(points: Tensor, unit: Attention = unit, x: Tensor = x, shared: Tensor = shared) -> Tensor:
            queries = (points - x)[:, -1] @ unit.W_Q[0] * unit.scale
            if unit.rotary is not None:
                queries = unit.rotary.at(queries[:, None], torch.tensor([POS - 1]))[:, 0]
            moved = (unit.scores(points) - unit.scores(x[None]))[:, 0, -1, -2]
            return moved - queries @ shared

        found = highest(shift, x, radius, restarts=8, steps=40)
        assert found <= eta * (1 + 1e-9)
        assert rotary or found > 0.6 * eta


def test_attention_moves_nothing_where_nothing_is_unknown_and_at_most_everything_where_all_is() -> None:
    unit, (x, _) = attention(3), inputs(3, 1.0)
    at = BoundedAttention(unit).at(exact(x))
    nothing, all_of_it = torch.zeros(1, POS, dtype=torch.float64), torch.full((1, POS), torch.inf, dtype=torch.float64)
    assert float(at.carry(Ball(nothing)).mid.max()) < 1e-12
    assert bool(at.carry(Ball(all_of_it)).mid.isinf().all())
    # patterns that may be anything: values cost the diameter of what is written, no more, and grow linearly
    huge = at.carry(Ball(nothing + 1e12)).mid
    assert bool((huge <= (at.diameter.mid + at.stretch.mid[:, None] * 1e12).sum(0) * (1 + 1e-9)).all())


def test_several_cases_are_those_cases_one_by_one() -> None:
    unit, (x, radius) = attention(5), inputs(5, 0.3)
    at = BoundedAttention(unit).at(exact(x))
    cases = torch.stack([radius, radius * 0, radius.flip(0)])
    together = at.carry(Ball(cases)).mid
    for case, its in zip(cases, together, strict=True):
        assert torch.allclose(at.carry(Ball(case[None])).mid[0], its, rtol=1e-12, atol=1e-200)


def test_what_it_takes_is_counted() -> None:
    unit, (x, radius) = attention(1), inputs(1, 0.1)
    with tallied() as small:
        BoundedAttention(unit).at(exact(x)).carry(Ball(radius[None]))
    with tallied() as twice:
        at = BoundedAttention(unit).at(exact(x))
        at.carry(Ball(radius[None]))
        at.carry(Ball(radius[None]))
    assert 0 < small.total < twice.total < 2 * small.total
