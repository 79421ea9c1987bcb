"""Functions of two numbers modulo p: waves are found where they are planted, on pairs they were not fitted to."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.contributions import PlainNeurons, Table
from crossproof.study.modadd.sharing import sharing
from crossproof.study.modadd.spectra import cut_waves, spectrum
from crossproof.study.modadd.waves import NONE, follow
from crossproof.units import ACTIVATIONS

P = 11


def angles(modulus: int) -> Tensor:
    """2π x / p for x = a, b, a + b, a − b."""
    a, b = (its.flatten().double() for its in torch.meshgrid(*[torch.arange(modulus)] * 2, indexing="ij"))
    return 2 * math.pi / modulus * torch.stack([a, b, a + b, a - b])


# -- spectra -----------------------------------------------------------------------------------------------------------


@given(
    st.integers(3, 14),
    st.integers(0, 3),
    st.integers(1, 7),
    st.floats(0.1, 6.2),
    st.sampled_from([1e-12, 1.0, 1e9]),
    st.sampled_from([0.0, -3.0, 1e4]),
)
@settings(max_examples=60, deadline=None)
def test_a_wave_is_found_on_its_line_and_nowhere_else(
    modulus: int, direction: int, k: int, phase: float, size: float, offset: float
) -> None:
    k = 1 + (k - 1) % (modulus // 2)
    wave = size * ((k * angles(modulus)[direction] - phase).cos() + offset)
    found = spectrum(wave[:, None], modulus)
    if 2 * k == modulus and direction == 3:
        direction = 2  # one and the same function
    if float(wave.std()) > 1e-3 * size:
        assert float(found.shares[0, direction, k - 1]) == pytest.approx(1, abs=1e-6)
        assert float(found.shares.sum()) == pytest.approx(1, abs=1e-6)
        assert float(found.waves) == pytest.approx(1, abs=1e-6)
    assert float(found.variance) == pytest.approx(float(wave.var(correction=0)), rel=1e-6, abs=1e-9 * size**2)
    assert float(found.constant) == pytest.approx(float(wave.mean()) ** 2, rel=1e-6, abs=1e-9 * size**2)


@pytest.mark.parametrize("modulus", [5, 6, 9])
def test_the_lines_of_any_function_are_its_projections_on_their_waves(modulus: int) -> None:
    values = torch.randn(modulus**2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, angle = spectrum(values, modulus), angles(modulus)
    centred = values - values.mean(0)
    for direction in range(4):
        for k in range(1, modulus // 2 + 1):
            if 2 * k == modulus and direction == 3:
                expected = torch.zeros(2, dtype=torch.float64)
            else:
                basis = torch.stack([(k * angle[direction]).cos(), (k * angle[direction]).sin()], 1)
                fitted = basis @ torch.linalg.lstsq(basis, centred, driver="gelsd").solution
                expected = fitted.square().mean(0)
            assert found.lines[:, direction, k - 1].tolist() == pytest.approx(expected.tolist(), abs=1e-9)
    assert bool((found.lines.sum((1, 2)) < found.variance).all())


def test_a_peak_has_all_frequencies_alike_a_constant_has_none_and_pools_are_weighted_sums() -> None:
    a = torch.arange(P**2) // P
    found = spectrum(torch.stack([(a == 3).double(), torch.full_like(a, 7).double()], 1), P)
    assert found.waves.tolist() == pytest.approx([P // 2, 0])
    assert found.shares[1].abs().max() == 0
    assert found.shares[0].sum(1).tolist() == pytest.approx([1, 0, 0, 0])
    pooled = found.pooled(torch.tensor([2.0, 5.0], dtype=torch.float64))
    assert float(pooled.variance) == pytest.approx(2 * float(found.variance[0]))
    assert float(pooled.constant) == pytest.approx(2 / P**2 + 5 * 49)


def test_a_wave_that_is_cut_off_is_less_pure_the_rarer_it_is_active() -> None:
    active = torch.tensor([0.0, 0.02, 0.1, 0.5, 1.0], dtype=torch.float64)
    found = cut_waves(active).tolist()
    assert found == sorted(found)
    assert found[0] == 0
    assert found[3] == pytest.approx(0.125 / (0.25 - math.pi**-2), rel=1e-3)  # of max(0, cos)
    assert found[4] == pytest.approx(1, rel=1e-3)


# -- which frequency a feature follows ---------------------------------------------------------------------------------


def halves(modulus: int) -> tuple[Tensor, Tensor]:
    drawn = torch.randperm(modulus**2, generator=torch.Generator().manual_seed(1))
    return drawn[: modulus**2 // 2], drawn[modulus**2 // 2 :]


def explained(strengths: Tensor, residual: Tensor, held_out: Tensor) -> list[float]:
    asked = strengths[held_out]
    found: list[float] = (1 - residual.square().sum(0) / (asked - asked.mean(0)).square().sum(0)).tolist()
    return found


def test_planted_frequencies_are_followed_and_scored_on_other_pairs() -> None:
    modulus, generator = 23, torch.Generator().manual_seed(0)
    angle, coordinates = angles(modulus), adding_pairs(modulus)
    train, held_out = halves(modulus)
    noise = torch.randn(modulus**2, dtype=torch.float64, generator=generator)
    both = (3 * angle[0]).cos() + (3 * angle[1]).cos() + 2
    strengths = torch.stack([5 + (4 * angle[2] - 1).cos(), both, (5 * angle[3]).sin() + noise, noise, 0 * noise], 1)
    found = follow(strengths, train, held_out, coordinates, modulus)
    assert found.frequency[:3].tolist() == [4, 3, 5]
    assert int(found.frequency[4]) == NONE
    assert found.residual[:, 4].abs().max() == 0
    pure = explained(strengths, found.residual, held_out)
    assert pure[:2] == pytest.approx([1, 1])
    assert pure[2] == pytest.approx(0.5 / 1.5, abs=0.1)
    assert pure[3] < 0.02  # what fits noise on some pairs says nothing of others
    changed = strengths.clone()
    changed[held_out] = changed[held_out].flip(0)
    assert torch.equal(follow(changed, train, held_out, coordinates, modulus).frequency, found.frequency)


def test_numbers_in_a_random_order_are_followed_only_in_that_order() -> None:
    modulus = 23
    coordinates, (train, held_out) = adding_pairs(modulus), halves(modulus)
    order = torch.randperm(modulus, generator=torch.Generator().manual_seed(2))
    strengths = (2 * math.pi / modulus * 6 * order[coordinates[2]].double()).cos()[:, None]
    known = follow(strengths, train, held_out, coordinates, modulus, order)
    assert int(known.frequency) == 6
    assert explained(strengths, known.residual, held_out) == pytest.approx([1])
    plain = follow(strengths, train, held_out, coordinates, modulus)
    assert explained(strengths, plain.residual, held_out)[0] < 0.7


def adding_pairs(modulus: int) -> Tensor:
    a, b = torch.arange(modulus**2) // modulus, torch.arange(modulus**2) % modulus
    return torch.stack([a, b, (a + b) % modulus, (a - b) % modulus])


# -- interaction within a frequency ------------------------------------------------------------------------------------


def neurons(generator: torch.Generator, features: int, count: int = 7, name: str = "mlp") -> PlainNeurons:
    table = torch.randn(features, count, generator=generator)
    return PlainNeurons(
        name, Table(table, torch.zeros(count)), ACTIVATIONS["relu"], torch.rand(count, generator=generator)
    )


def test_sharing_is_what_loops_over_tokens_neurons_and_features_find() -> None:
    generator, features = torch.Generator().manual_seed(0), 6
    strengths = torch.rand(40, features, generator=generator) * (torch.rand(40, features, generator=generator) < 0.6)
    strengths[3] = 0
    strengths[:, 5] = 0  # never fires
    units = [neurons(generator, features, 7, "one"), neurons(generator, features, 4, "two")]
    frequency = torch.tensor([1, 2, 1, NONE, NONE, 1])
    found = sharing(Codes.from_dense(strengths), units, frequency, known=3, seed=0)
    every, same = torch.zeros(40), torch.zeros(40)
    grid = torch.zeros(4, 4)
    for token in range(40):
        for unit in units:
            for n in range(len(unit.loudness)):
                p = (strengths[token] * unit.pre.A[:, n]).abs()
                dominant = int(p.argmax())
                for j in range(features):
                    if j != dominant:
                        value = float(unit.loudness[n] * p[j]) / len(unit.loudness)
                        every[token] += value
                        grid[frequency[dominant], frequency[j]] += value / 40
                        if frequency[j] == frequency[dominant] != NONE:
                            same[token] += value
    active = strengths > 0
    alike = (frequency[:, None] == frequency) & (frequency != NONE) & ~torch.eye(features, dtype=torch.bool)
    assert found.interaction.tolist() == pytest.approx(every.tolist(), abs=1e-5)
    assert found.same.tolist() == pytest.approx(same.tolist(), abs=1e-5)
    assert found.grid.flatten().tolist() == pytest.approx(grid[1:, 1:].flatten().tolist(), abs=1e-5)
    assert found.meetings.tolist() == [int(its.sum()) * (int(its.sum()) - 1) for its in active]
    assert found.same_meetings.tolist() == [int(alike[its][:, its].sum()) for its in active]
    # of five features that fire two have the same frequency: 2 of 20 ordered pairs
    assert found.expected_share == pytest.approx(0.1)
    assert float(found.shuffled.mean()) == pytest.approx(0.1, abs=0.02)
    assert found.strongest == pytest.approx(2 / 20)  # fewer pairs than are looked at


def test_features_of_a_frequency_that_share_their_neurons_are_told_from_others() -> None:
    generator, frequency = torch.Generator().manual_seed(0), torch.arange(12) // 3 + 1
    strengths = torch.rand(200, 12, generator=generator)
    apart = torch.kron(torch.eye(4), torch.ones(3, 5)) * torch.rand(12, 20, generator=generator)
    together = torch.rand(12, 20, generator=generator)
    found = []
    for table in (apart, together):
        unit = PlainNeurons("mlp", Table(table, torch.zeros(20)), ACTIVATIONS["relu"], torch.ones(20))
        its = sharing(Codes.from_dense(strengths), [unit], frequency, known=4, seed=0)
        found.append(float(its.same.sum() / its.interaction.sum()) / its.expected_share)
        assert its.expected_share == pytest.approx(12 * 2 / (12 * 11))
    assert found[0] == pytest.approx(1 / (24 / 132))  # all of it
    assert found[1] == pytest.approx(1, abs=0.2)


def test_no_feature_and_one_feature_share_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    for strengths in (torch.zeros(3, 2), torch.tensor([[1.0, 0], [2.0, 0], [0, 0]])):
        found = sharing(Codes.from_dense(strengths), [neurons(generator, 2)], torch.tensor([1, 1]), 2, 0)
        assert float(found.interaction.sum()) == float(found.same.sum()) == float(found.meetings.sum()) == 0
        assert math.isnan(found.expected_share)
        assert found.strongest == 0
