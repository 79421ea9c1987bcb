"""Estimates: resampled dictionaries are drawn apart from texts, and what hangs on a few texts is not known."""

from __future__ import annotations

import math

import pytest
import torch

from crossproof.study.estimates import Drawn, drawn, estimate, mean, text_weights
from crossproof.study.suppression.estimating import share


def test_which_dictionaries_are_drawn_does_not_follow_from_which_texts_are() -> None:
    """Dictionary number n is what text number n is drawn: drawn alike they would be counted twice over."""
    weights = text_weights(5, 7)
    members = [Drawn(1.0, weights[:, number]) for number in range(5)]
    together = mean(members, 7).draws
    # Σ c w / 5 with c and w apart is 1 on average; were they the same, Σ w² / 5 would be 1.8
    assert float(together.mean()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize(("texts", "known"), [(1, False), (2, False), (6, True), (40, True)])
def test_what_hangs_on_one_or_two_texts_is_not_known(texts: int, known: bool) -> None:
    counts = torch.zeros(40, dtype=torch.float64)
    counts[:texts] = 1
    its = drawn(0.7 * counts, counts, text_weights(40, 0))
    assert its.value == pytest.approx(0.7)
    assert its.known == known


def test_a_number_that_is_not_defined_is_not_known() -> None:
    for value in (math.nan, math.inf):
        assert not Drawn(value, torch.ones(10).double()).known
    assert not Drawn(1.0, torch.full((10,), torch.inf).double()).known


def test_the_interval_of_one_that_was_chosen_is_that_much_wider() -> None:
    its = Drawn(0.5, torch.linspace(0, 1, 1001, dtype=torch.float64))
    alone, chosen = estimate([its]), estimate([its], chosen_from=5)
    assert (alone.low, alone.high) == pytest.approx((0.025, 0.975))
    assert (chosen.low, chosen.high) == pytest.approx((0.005, 0.995))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_few_texts_that_are_all_alike_are_no_proof_that_others_are(value: float) -> None:
    def of(texts: int) -> tuple[float, float]:
        values = torch.full((texts,), value, dtype=torch.float64)
        found = share([drawn(values, torch.ones(texts), text_weights(texts, 0))], texts)
        assert found.value == value
        return (found.low, found.high) if value == 0 else (1 - found.high, 1 - found.low)

    for texts in (4, 600):
        assert of(texts) == pytest.approx((0, 1 - 0.025 ** (1 / texts)))


def test_texts_that_differ_are_resampled() -> None:
    values = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    its = drawn(values, torch.ones(4), text_weights(4, 0))
    assert share([its], 4) == estimate([its])
