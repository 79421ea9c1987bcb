"""What is said of fidelity: planted losses whose verdicts are known, and intervals of the worst and the best."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crossproof.findings import Claim
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.extremes import Bounded
from crossproof.study.fidelity.claims import verdict
from crossproof.study.fidelity.config import Residual
from crossproof.study.fidelity.measure import Losses
from crossproof.study.fidelity.results import FidelityStudy, study_of

TEXTS = 60


def record(name: str, penalty: str = "plain", unexplained: float | None = 0.1, otherwise: str = "") -> CoderRecord:
    return CoderRecord(coder=name, penalty=penalty, otherwise=otherwise, seed=0, unexplained=unexplained)


def planted(*blocks: tuple[float, float], cost: float = 1.0, noise: float = 0.0, seed: int = 0) -> Losses:
    """Of each block Φ(all) and Φ(only the largest), the same in every text but for noise."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> Tensor:
        return torch.randn(TEXTS, generator=generator, dtype=torch.float64)

    clean, targets = 10 + draw(), torch.full((TEXTS,), 10.0, dtype=torch.float64)
    none = clean + 10 * cost
    patched = {
        f"blocks.{layer}.mlp": {
            "all": clean + (none - clean) * (1 - every) + noise * draw(),
            "none": none,
            "keep 1": clean + (none - clean) * (1 - one) + noise * draw(),
        }
        for layer, (every, one) in enumerate(blocks)
    }
    return Losses(clean, targets, patched, dict.fromkeys(patched, clean))


def found(*members: tuple[CoderRecord, Losses]) -> tuple[FidelityStudy, dict[str, Claim]]:
    measured: list[dict[Residual, Losses]] = [{"true": losses} for _, losses in members]
    result = study_of("tiny", [about for about, _ in members], measured, seed=0)
    return result, {claim.id.removeprefix("fidelity."): claim for claim in result.findings().claims}


PLAIN = record("a"), planted((0.99, 0.3), (0.98, 0.1))


def test_a_setting_that_meets_the_bar_on_every_block_is_found_and_others_are_not_shown() -> None:
    good = record("b", "good", 0.105), planted((0.98, 0.95), (0.97, 0.9))
    bad = record("c", "bad"), planted((0.99, 0.4), (0.99, 0.2))
    result, claims = found(bad, PLAIN, good)
    assert [group.group for group in result.groups] == ["plain", "bad", "good"]
    assert {claim.verdict for claim in claims.values()} == {"holds"}
    assert claims["ratio"].ours == pytest.approx(0.9 / 0.97)
    assert claims["gain"].ours == pytest.approx(min(0.95 / 0.98 - 0.3 / 0.99, 0.9 / 0.97 - 0.1 / 0.98))
    assert claims["cost"].ours == pytest.approx(-0.01)
    assert claims["frontier"].ours == pytest.approx(min(0.9 - 0.9 * 0.97, 0.01, 1.1 - 1.05))
    assert "“good” does best" in result.findings().answer
    assert "it meets the bar" in result.findings().answer.lower()


@pytest.mark.parametrize(
    ("blocks", "unexplained"),
    [
        (((0.98, 0.95), (0.97, 0.86)), 0.1),  # one block keeps too little
        (((0.98, 0.95), (0.95, 0.95)), 0.1),  # one block loses too much
        (((0.98, 0.95), (0.97, 0.95)), 0.12),  # too much is left unexplained
    ],
)
def test_a_setting_that_fails_one_condition_on_one_block_fails(
    blocks: tuple[tuple[float, float], ...], unexplained: float
) -> None:
    result, claims = found(PLAIN, (record("b", "failing", unexplained), planted(*blocks)))
    assert claims["frontier"].verdict == "does not hold"
    assert "does not meet the bar" in result.findings().answer


def test_that_no_setting_meets_the_bar_must_be_sure_of_each_and_not_only_of_the_nearest() -> None:
    near = record("b", "near"), planted((0.99, 0.86), (0.98, 0.86))
    far = record("c", "far"), planted((0.99, 0.84), (0.98, 0.84))
    vague = record("d", "vague"), planted((0.99, 0.84), (0.98, 0.84), noise=5.0)
    _, claims = found(PLAIN, near, far)
    assert claims["frontier"].verdict == "does not hold"
    _, claims = found(PLAIN, near, vague)
    assert "near" in claims["frontier"].measure
    assert claims["frontier"].verdict == "cannot tell"


def test_what_is_missing_is_said_and_then_nothing_is_claimed() -> None:
    _, claims = found((record("b", "alone"), planted((0.9, 0.8))))
    assert [claims[id].verdict for id in ("ratio", "gain", "cost", "frontier")] == ["holds", *["cannot tell"] * 3]
    assert "no dictionary is of the group “plain”" in claims["cost"].why
    _, claims = found(PLAIN, (record("b", "unknown", None), planted((0.99, 0.95), (0.98, 0.95))))
    assert claims["cost"].verdict == "holds"
    assert claims["frontier"].verdict == "cannot tell"
    assert "how much variance" in claims["frontier"].why
    result, claims = found(PLAIN)
    assert {claim.verdict for claim in claims.values()} == {"cannot tell"}
    assert "no dictionary here was trained with a penalty" in result.findings().answer
    # each with the plain one that is otherwise trained alike
    sized = record("d", otherwise="features 256"), planted((0.5, 0.1), (0.5, 0.1))
    small = record("e", "small", otherwise="features 256"), planted((0.49, 0.48), (0.49, 0.48))
    result, _ = found(PLAIN, sized, small)
    cost = {group.group: group.cost for group in result.groups}["small, features 256"]
    assert cost is not None
    assert cost.value == pytest.approx(-0.01)


def test_shares_of_nothing_are_not_numbers_but_reasons() -> None:
    result, claims = found(PLAIN, (record("b", "harmful"), planted((0.9, 0.8), (-0.1, 0.2))))
    by = {(row.group, row.mlp): row for row in result.blocks}
    assert by["harmful", "blocks.0.mlp"].ratio is not None
    assert by["harmful", "blocks.1.mlp"].ratio is None
    assert "not above 0 in 100.0%" in by["harmful", "blocks.1.mlp"].why
    assert claims["ratio"].ours is None
    assert claims["cost"].verdict == claims["frontier"].verdict == "does not hold"
    idle = planted((0.9, 0.8), (0.9, 0.8), cost=0.0)
    result, claims = found((record("a"), idle), (record("b", "idle"), idle))
    assert {row.fidelity for row in result.schemes} == {None}
    assert "without any feature the model loses nothing" in claims["frontier"].why
    assert {claim.verdict for claim in claims.values()} == {"cannot tell"}


def test_only_five_dictionaries_are_resampled_and_groups_apart() -> None:
    def several(count: int, penalty: str) -> list[tuple[CoderRecord, Losses]]:
        levels = [0.90, 0.92, 0.94, 0.96, 0.98][:count]
        return [(record(f"{penalty}{n}", penalty), planted((level, level))) for n, level in enumerate(levels)]

    few, _ = found(*several(4, "plain"), *several(4, "other"))
    many, _ = found(*several(5, "plain"), *several(5, "other"))
    for row in few.schemes:
        if row.scheme == "all":
            assert row.fidelity is not None
            assert row.fidelity.low == pytest.approx(row.fidelity.high) == pytest.approx(0.93)
    assert [group.resampled for group in few.groups + many.groups] == [False, False, True, True]
    for row in many.schemes:
        if row.scheme == "all":
            assert row.fidelity is not None
            assert row.fidelity.each == pytest.approx([0.90, 0.92, 0.94, 0.96, 0.98])
            assert row.fidelity.low < 0.925 < 0.955 < row.fidelity.high
    cost = many.groups[1].cost
    assert cost is not None  # the same dictionaries, drawn apart: their difference varies
    assert cost.value == pytest.approx(0)
    assert cost.high - cost.low > 0.04


def test_a_penalty_that_changes_nothing_gains_nothing() -> None:
    _, claims = found(PLAIN, (record("b", "idle"), PLAIN[1]))
    assert (claims["gain"].ours, claims["gain"].low, claims["gain"].high) == (0, 0, 0)
    assert claims["gain"].verdict == "does not hold"


def test_of_a_setting_of_which_the_bar_is_not_known_it_is_not_said_that_it_fails() -> None:
    failing = record("b", "failing"), planted((0.98, 0.5), (0.97, 0.5))
    unknown = record("c", "unknown", None), planted((0.98, 0.95), (0.97, 0.95))
    _, claims = found(PLAIN, failing, unknown)
    assert claims["frontier"].verdict == "cannot tell"
    assert "not known of 1" in claims["frontier"].why


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0.1, 0.2, "holds"),
        (0.0, 0.2, "holds"),
        (-0.1, 0.2, "cannot tell"),
        (-0.2, 0.0, "cannot tell"),
        (-0.2, -1e-9, "does not hold"),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, expected: str) -> None:
    assert verdict(Bounded(value=(low + high) / 2, low=low, high=high, where=""), 0.0) == expected


def test_intervals_widen_with_noise_between_texts_and_figures_show_them() -> None:
    noisy = record("b", "noisy"), planted((0.98, 0.95), (0.97, 0.9), noise=3.0)
    result, claims = found(PLAIN, noisy)
    low, high = claims["frontier"].low, claims["frontier"].high
    assert low is not None
    assert high is not None
    assert high - low > 0.03
    assert claims["frontier"].verdict == "cannot tell"
    others = [(record(f"d{n}", f"other {n}"), planted((0.5, 0.1), (0.5, 0.1))) for n in range(4)]
    _, among = found(PLAIN, noisy, *others)  # chosen as the best of five
    assert among["frontier"].ours == claims["frontier"].ours
    assert among["frontier"].low is not None
    assert among["frontier"].low < low - 0.002
    figures = {figure.id: figure for figure in result.findings().figures}
    assert set(figures) == {"schemes-true-blocks.0.mlp", "schemes-true-blocks.1.mlp", "frontier"}
    bars = figures["schemes-true-blocks.0.mlp"].series
    assert [series.name for series in bars] == ["plain", "noisy"]
    assert bars[0].x == ("all features", "only the largest")
    assert bars[0].y == pytest.approx((0.99, 0.3))
    assert bars[1].low is not None
    assert bars[1].low[0] is not None
    assert not math.isnan(bars[1].low[0])
