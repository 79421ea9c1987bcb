"""Accumulated pairwise tables against plain loops in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.interaction.coactive import CoActive, PairSums
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, Table, chunks, contributions
from crossproof.interaction.neurons import dominance
from crossproof.interaction.pairs import directed, mass, mean_pairwise, ratio, strongest_neurons
from crossproof.units import ACTIVATIONS, MLP

N = 5
MAGNITUDES = (1e-8, 1.0, 1e8)


@st.composite
def cases(draw: st.DrawFn, gated: bool | None = None) -> tuple[Tensor, Neurons]:
    """Strengths of tokens × features and neurons; small integers before scaling, so that ties and zeros are common."""
    n_tokens, n_features = draw(st.integers(0, 5)), draw(st.integers(1, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from(MAGNITUDES))
    lowest = draw(st.sampled_from((0, 1)))

    def whole(*shape: int, low: int = -2) -> Tensor:
        return torch.randint(low, 3, shape, generator=generator).double()

    strengths = whole(n_tokens, n_features, low=lowest) * draw(st.sampled_from((1.0, 0.37)))
    activation = ACTIVATIONS[draw(st.sampled_from(("relu", "gelu", "silu")))]

    def table() -> Table:
        return Table(whole(n_features, N) * scale, whole(N))

    loudness = whole(N, low=0)
    if draw(st.booleans()) if gated is None else gated:
        return strengths, GatedNeurons("gated", table(), table(), activation, loudness)
    return strengths, PlainNeurons("plain", table(), activation, loudness)


def first_largest(values: list[float]) -> int:
    return max(range(len(values)), key=lambda slot: (abs(values[slot]), -slot))


def slow_ranked(f: Tensor, unit: Neurons, n: int) -> list[tuple[list[float], int, float]]:
    """Of one token and neuron, for each table: all p, the dominant feature, the weight."""
    w, phi = float(unit.loudness[n]), unit.activation.function
    if isinstance(unit, PlainNeurons):
        p = (f * unit.pre.A[:, n]).tolist()
        return [(p, first_largest(p), w)]
    g, h = (f * unit.gate.A[:, n]).tolist(), (f * unit.value.A[:, n]).tolist()
    top = first_largest(g)
    gate = torch.tensor(g[top] + float(unit.gate.beta[n]), dtype=torch.float64)
    value = sum(h) + float(unit.value.beta[n])
    lip = unit.activation.lipschitz
    return [(g, top, w * lip * abs(value)), (h, first_largest(h), w * abs(float(phi(gate))))]


def slow_directed(f: Tensor, unit: Neurons) -> Tensor:
    I = torch.zeros(len(f), len(f), dtype=torch.float64)  # noqa: E741
    for n in range(N):
        for p, dominant, weight in slow_ranked(f, unit, n):
            for j in range(len(f)):
                if j != dominant:
                    I[dominant, j] += weight / N * abs(p[j])
    return I


def slow_mass(f: Tensor, unit: Neurons) -> Tensor:
    assert isinstance(unit, PlainNeurons)
    M = torch.zeros(len(f), len(f), dtype=torch.float64)
    for n in range(N):
        p, w = (f * unit.pre.A[:, n]).tolist(), float(unit.loudness[n])
        for i in range(len(f)):
            for j in range(len(f)):
                if p[i] * p[j] < 0:
                    M[i, j] += w / N * min(abs(p[i]), abs(p[j]))
    return M


def slow_bias(f: Tensor, unit: PlainNeurons) -> Tensor:
    M = torch.zeros(len(f), dtype=torch.float64)
    for n in range(N):
        beta, w = float(unit.pre.beta[n]), float(unit.loudness[n])
        for i, p in enumerate((f * unit.pre.A[:, n]).tolist()):
            if p * beta < 0:
                M[i] += w / N * min(abs(p), abs(beta))
    return M


def slow_ratio(f: Tensor, unit: Neurons) -> Tensor:
    R = torch.zeros(len(f), len(f), dtype=torch.float64)
    for i in range(len(f)):
        for j in range(len(f)):
            if f[i] > 0 and f[j] > 0:
                found = []
                for n in range(N):
                    for p, _, _ in slow_ranked(f, unit, n):
                        low, high = sorted((abs(p[i]), abs(p[j])))
                        found += [low / high] if high > 0 else []
                R[i, j] = sum(found) / max(1, len(found))
    return R


def agree(ours: Tensor, theirs: Tensor) -> None:
    assert ours.dtype == torch.float64
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10 * float(theirs.abs().max()) if len(theirs) else 0)


def check(sums: PairSums, pairs: CoActive, strengths: Tensor, slow: Callable[[Tensor], Tensor]) -> None:
    each = [slow(f) for f in strengths]
    zero = torch.zeros(pairs.n_features, pairs.n_features, dtype=torch.float64)
    total, squares = sum(each, zero), sum((one.square() for one in each), zero)
    agree(sums.total, total[pairs.i, pairs.j])
    agree(sums.squares, squares[pairs.i, pairs.j])
    off_axis = total.clone()
    off_axis[pairs.i, pairs.j] = 0
    assert not off_axis.fill_diagonal_(0).any()


@settings(max_examples=30, deadline=None)
@given(cases())
def test_directed_and_ratio_are_what_plain_loops_give(case: tuple[Tensor, Neurons]) -> None:
    strengths, unit = case
    codes = Codes.from_dense(strengths)
    pairs = CoActive.of(codes)
    check(directed(codes, [unit], pairs)[0], pairs, strengths, lambda f: slow_directed(f, unit))
    check(ratio(codes, [unit], pairs)[0], pairs, strengths, lambda f: slow_ratio(f, unit))


@settings(max_examples=20, deadline=None)
@given(cases(gated=False))
def test_mass_is_what_plain_loops_give_and_counts_each_pair_once(case: tuple[Tensor, PlainNeurons]) -> None:
    strengths, unit = case
    codes = Codes.from_dense(strengths)
    pairs = CoActive.of(codes)
    (found,) = mass(codes, [unit], pairs)
    check(found.pairs, pairs, strengths, lambda f: slow_mass(f, unit))
    bias = [slow_bias(f, unit) for f in strengths]
    zero = torch.zeros(pairs.n_features, dtype=torch.float64)
    agree(found.bias.total, sum(bias, zero))
    agree(found.bias.squares, sum((one.square() for one in bias), zero))
    if len(strengths):
        once = sum(float(slow_mass(f, unit).triu().sum()) for f in strengths) + float(sum(bias, zero).sum())
        assert found.mean_per_token == pytest.approx(once / len(strengths), rel=1e-10)


@settings(max_examples=20, deadline=None)
@given(cases(gated=False))
def test_what_a_neuron_cancels_is_at_most_the_mass_of_its_pairs(case: tuple[Tensor, PlainNeurons]) -> None:
    """T4, summed over neurons and tokens."""
    strengths, unit = case
    codes = Codes.from_dense(strengths)
    (found,) = mass(codes, [unit], CoActive.of(codes))
    p, beta = strengths[:, :, None] * unit.pre.A, unit.pre.beta
    up, down = p.clamp(min=0).sum(1) + beta.clamp(min=0), p.neg().clamp(min=0).sum(1) + beta.neg().clamp(min=0)
    cancelled = float((torch.minimum(up, down) @ unit.loudness).sum() / N) / max(1, len(strengths))
    if len(strengths):
        assert cancelled <= found.mean_per_token * (1 + 1e-12)


@settings(max_examples=20, deadline=None)
@given(cases())
def test_a_tokens_directed_pairs_sum_to_what_its_neurons_leave_to_others(case: tuple[Tensor, Neurons]) -> None:
    """T7, token by token."""
    strengths, unit = case
    for f in strengths:
        codes = Codes.from_dense(f[None])
        pairs = CoActive.of(codes)
        total = directed(codes, [unit], pairs)[0].total.sum()
        left = 0.0
        for n in range(N):
            for p, _, weight in slow_ranked(f, unit, n):
                left += weight / N * (sum(map(abs, p)) - max(map(abs, p)))
        assert float(total) == pytest.approx(left, rel=1e-10)
        assert float(total) == pytest.approx(float(dominance(codes, [unit])[0].score[0]) / N, rel=1e-10)


def test_repeated_pairs_accumulate() -> None:
    """The published code kept only the last write."""
    unit = PlainNeurons("mlp", Table(torch.tensor([[3.0], [1.0]]), torch.zeros(1)), ACTIVATIONS["relu"], torch.ones(1))
    codes = Codes.from_dense(torch.tensor([[1.0, 1.0], [1.0, 2.0], [1.0, 0.0], [0.0, 0.0]]))
    pairs = CoActive.of(codes)
    (sums,) = directed(codes, [unit], pairs)
    assert sums.total.tolist() == [1 + 2, 0]
    assert sums.squares.tolist() == [1 + 4, 0]
    assert sums.mean.tolist() == [3 / 4, 0]
    assert sums.mean_together.tolist() == [3 / 2, 0]


@settings(max_examples=15, deadline=None)
@given(cases(), st.integers(0, 5), st.sampled_from((0.25, 4.0)))
def test_scaling_a_feature_and_its_direction_changes_nothing(
    case: tuple[Tensor, Neurons], which: int, c: float
) -> None:
    """T6; powers of two, so that ties stay ties."""
    strengths, unit = case
    feature = which % strengths.shape[1]
    scaled = strengths.clone()
    scaled[:, feature] *= c

    def rescale(table: Table) -> Table:
        A = table.A.clone()
        A[feature] /= c
        return Table(A, table.beta)

    if isinstance(unit, PlainNeurons):
        other: Neurons = PlainNeurons(unit.name, rescale(unit.pre), unit.activation, unit.loudness)
    else:
        other = GatedNeurons(unit.name, rescale(unit.gate), rescale(unit.value), unit.activation, unit.loudness)
    before, after = Codes.from_dense(strengths), Codes.from_dense(scaled)
    pairs = CoActive.of(before)
    metrics = (directed, ratio) if isinstance(unit, GatedNeurons) else (directed, ratio, _mass_pairs)
    for metric in metrics:
        agree(metric(after, [other], pairs)[0].total, metric(before, [unit], pairs)[0].total)


def _mass_pairs(codes: Codes, units: list[Neurons], pairs: CoActive) -> list[PairSums]:
    return [found.pairs for found in mass(codes, units, pairs)]


def test_standard_errors_are_those_of_the_sample_of_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    strengths = torch.rand(40, 4, dtype=torch.float64, generator=generator).sub(0.4).clamp(min=0)
    strengths[1:, 3] = 0  # fires once
    strengths[0] = 1
    unit = random_plain(4)
    codes = Codes.from_dense(strengths)
    pairs = CoActive.of(codes)
    (sums,) = directed(codes, [unit], pairs)
    each = torch.stack([slow_directed(f, unit)[pairs.i, pairs.j] for f in strengths])
    agree(sums.mean, each.mean(0))
    agree(sums.standard_error, each.std(0) / 40**0.5)
    for pair, (i, j) in enumerate(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True)):
        together = each[(strengths[:, i] > 0) & (strengths[:, j] > 0), pair]
        assert float(sums.mean_together[pair]) == pytest.approx(float(together.mean()))
        if len(together) > 1:
            expected = float(together.std()) / len(together) ** 0.5
            assert float(sums.standard_error_together[pair]) == pytest.approx(expected)
        else:
            assert 3 in (i, j)
            assert bool(sums.standard_error_together[pair].isnan())


def test_a_large_dictionary_and_a_small_one_give_the_same_table() -> None:
    """32,768 features, 6 of which fire."""
    generator = torch.Generator().manual_seed(1)
    chosen = torch.tensor([0, 5, 6, 4000, 32_000, 32_767])
    small = torch.randint(0, 3, (20, 6), generator=generator).double()
    large = torch.zeros(20, 32_768, dtype=torch.float64)
    large[:, chosen] = small
    unit = random_plain(6)
    A = torch.randn(32_768, N, dtype=torch.float64, generator=generator)
    A[chosen] = unit.pre.A
    wide = PlainNeurons("wide", Table(A, unit.pre.beta), unit.activation, unit.loudness)
    few, many = Codes.from_dense(small), Codes.from_dense(large)
    of_few, of_many = CoActive.of(few), CoActive.of(many)
    assert of_many.i.tolist() == chosen[of_few.i].tolist()
    assert of_many.j.tolist() == chosen[of_few.j].tolist()
    agree(directed(many, [wide], of_many)[0].total, directed(few, [unit], of_few)[0].total)


@settings(max_examples=15, deadline=None)
@given(cases())
def test_the_strongest_neuron_carries_most_of_a_pair(case: tuple[Tensor, Neurons]) -> None:
    strengths, unit = case
    F = strengths.shape[1]
    pairs = [(i, j) for i in range(F) for j in range(F) if i != j] * 2  # twice: the list may repeat itself
    by_neuron = torch.zeros(F, F, N, dtype=torch.float64)
    for f in strengths:
        for n in range(N):
            for p, dominant, weight in slow_ranked(f, unit, n):
                for j in range(F):
                    by_neuron[dominant, j, n] += weight * abs(p[j])
    i, j = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    (found,) = strongest_neurons(Codes.from_dense(strengths), [unit], i, j)
    for place, (a, b) in enumerate(pairs):
        total, neuron = float(by_neuron[a, b].sum()), int(found.neuron[place])
        if total == 0:
            assert neuron == -1
            assert bool(found.share[place].isnan())
        else:
            assert float(by_neuron[a, b, neuron]) == pytest.approx(float(by_neuron[a, b].max()), rel=1e-10)
            assert float(found.share[place]) == pytest.approx(float(by_neuron[a, b].max()) / total, rel=1e-10)


def test_several_units_in_one_pass_are_as_each_alone() -> None:
    strengths = torch.rand(30, 6, dtype=torch.float64).sub(0.5).clamp(min=0)
    codes = Codes.from_dense(strengths)
    pairs = CoActive.of(codes)
    one, other = random_plain(6, seed=1), random_plain(6, seed=2)
    together = directed(codes, [one, other], pairs)
    for unit, sums in zip((one, other), together, strict=True):
        agree(sums.total, directed(codes, [unit], pairs)[0].total)
    over_both = sum(float(slow_directed(f, unit).sum()) for f in strengths for unit in (one, other)) / 30
    firing = int((strengths > 0).any(0).sum())
    mean = mean_pairwise(together, pairs)
    assert mean.all_entries == pytest.approx(over_both / 36)
    assert mean.alive_pairs == pytest.approx(over_both / (firing * (firing - 1)))


def test_dead_features_lower_the_mean_over_all_entries_alone() -> None:
    strengths = torch.rand(30, 6, dtype=torch.float64).sub(0.3).clamp(min=0)
    strengths[:, 4:] = 0
    codes, unit = Codes.from_dense(strengths), random_plain(6)
    pairs = CoActive.of(codes)
    mean = mean_pairwise(directed(codes, [unit], pairs), pairs)
    assert mean.all_entries * 36 == pytest.approx(mean.alive_pairs * 4 * 3)


def test_codes_of_no_tokens_and_chunks_of_one_token_work(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = random_plain(4)
    empty = Codes.from_dense(torch.zeros(0, 4, dtype=torch.float64))
    pairs = CoActive.of(empty)
    assert len(pairs) == 0
    assert len(directed(empty, [unit], pairs)[0].total) == 0
    assert float(mass(empty, [unit], pairs)[0].bias.total.sum()) == 0
    strengths = torch.rand(10, 4, dtype=torch.float64).sub(0.3).clamp(min=0)
    codes = Codes.from_dense(strengths)
    whole = directed(codes, [unit], CoActive.of(codes))[0]
    monkeypatch.setattr(chunks, "__defaults__", (1,))
    agree(directed(codes, [unit], CoActive.of(codes))[0].total, whole.total)


def test_a_measurement_needs_no_gradients_and_takes_none_away() -> None:
    mlp = MLP(
        W_in=torch.randn(3, N),
        b_in=torch.zeros(N),
        activation="relu",
        W_out=torch.randn(N, 3),
        b_out=torch.zeros(3),
    )
    directions = torch.randn(4, 3, requires_grad=True)
    unit = contributions(mlp, directions)
    codes = Codes.from_dense(torch.rand(6, 4, requires_grad=True))
    assert not directed(codes, [unit], CoActive.of(codes))[0].total.requires_grad
    assert isinstance(unit, PlainNeurons)
    assert unit.pre.magnitude.requires_grad


def test_what_does_not_fit_is_refused() -> None:
    strengths = torch.ones(3, 4)
    codes, other = Codes.from_dense(strengths), Codes.from_dense(torch.ones(2, 4))
    gated = GatedNeurons("blocks.0", *[Table(torch.ones(4, N), torch.ones(N))] * 2, ACTIVATIONS["silu"], torch.ones(N))
    with pytest.raises(UnsupportedModel, match=r"blocks\.0.*gated"):
        mass(codes, [gated], CoActive.of(codes))
    with pytest.raises(MismatchError, match="2 tokens"):
        directed(codes, [gated], CoActive.of(other))
    five = Codes.from_dense(torch.ones(3, 5))
    with pytest.raises(MismatchError, match="4 rows"):
        directed(five, [gated], CoActive.of(five))
    with pytest.raises(MismatchError, match="different"):
        strongest_neurons(codes, [gated], torch.tensor([1]), torch.tensor([1]))


def random_plain(n_features: int, seed: int = 0) -> PlainNeurons:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(n_features, N, dtype=torch.float64, generator=generator)
    beta, w = torch.randn(2, N, dtype=torch.float64, generator=generator)
    return PlainNeurons("mlp", Table(A, beta), ACTIVATIONS["relu"], w.abs())
