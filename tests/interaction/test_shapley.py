from collections.abc import Callable
from itertools import combinations
from math import comb

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError, NonFinite
from crossproof.interaction import shapley
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, Table
from crossproof.interaction.games import mlp_game, neuron_game, token_index
from crossproof.interaction.shapley import Game, ReadOut, exact, sampled
from crossproof.units import ACTIVATIONS

MAGNITUDES = st.sampled_from([1e-8, 1.0, 1e8])
SEEDS = st.integers(0, 2**31)
quick = settings(max_examples=25, deadline=None)


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def table_game(values: Tensor) -> Game:
    """A game by its 2^players values: player p is bit p of the row."""
    return lambda coalitions: values[(coalitions.long() << torch.arange(coalitions.shape[1])).sum(1)]


def pair_product(n: int, i: int, j: int, size: float = 1.0) -> Game:
    return lambda coalitions: size * (coalitions[:, i] & coalitions[:, j]).double()[:, None]


def brute_force(game: Game, n: int) -> Tensor:
    """The definition (MATHS.md §7), coalition by coalition."""

    def v(*players: int) -> Tensor:
        return game(torch.tensor([[p in players for p in range(n)]]).view(1, n))[0].double()

    pairs = torch.zeros(n, n, len(v()), dtype=torch.float64)
    for i, j in combinations(range(n), 2):
        others = [p for p in range(n) if p not in (i, j)]
        for size in range(n - 1):
            for C in combinations(others, size):
                pairs[i, j] += 2 / n / comb(n - 1, size) * (v(*C, i, j) - v(*C, i) - v(*C, j) + v(*C))
        pairs[j, i] = pairs[i, j]
    return pairs


def neurons_of(gated: bool, seed: int, features: int = 9, n_neurons: int = 7, size: float = 1.0) -> Neurons:
    tables = [
        Table(size * random(features, n_neurons, seed=seed + t), size * random(n_neurons, seed=seed + t + 2))
        for t in range(1 + gated)
    ]
    loudness = torch.ones(n_neurons, dtype=torch.float64)
    if gated:
        return GatedNeurons("m", tables[0], tables[1], ACTIVATIONS["silu"], loudness)
    return PlainNeurons("m", tables[0], ACTIVATIONS["relu"], loudness)


def assert_equal(actual: Tensor, expected: Tensor, magnitude: float, tolerance: float = 1e-10) -> None:
    assert float((actual - expected).abs().max()) <= tolerance * magnitude


@quick
@given(n=st.integers(2, 6), seed=SEEDS, size=MAGNITUDES)
def test_exact_is_the_definition(n: int, seed: int, size: float) -> None:
    game = table_game(size * random(2**n, 3, seed=seed))
    found = exact(game, n)
    assert found.evaluations == 2**n
    assert found.standard_error is None
    assert_equal(found.pairs, brute_force(game, n), size)


@pytest.mark.parametrize(("n", "seed"), [(2, 0), (3, 1), (5, 2), (7, 3)])
def test_exact_is_the_stii_of_shapiq(n: int, seed: int) -> None:
    import shapiq

    game = table_game(random(2**n, 1, seed=seed))
    computer = shapiq.ExactComputer(lambda rows: game(torch.tensor(np.asarray(rows, bool)))[:, 0].numpy(), n)
    oracle, found = computer("STII", 2), exact(game, n)
    for i, j in combinations(range(n), 2):
        assert float(found.pairs[i, j, 0]) == pytest.approx(float(oracle[(i, j)]), abs=1e-10)
    for i in range(n):
        assert float(found.single[i, 0]) == pytest.approx(float(oracle[(i,)]), abs=1e-10)


@quick
@given(n=st.integers(0, 9), seed=SEEDS, size=MAGNITUDES, at_once=st.sampled_from([1, 7, 100, 2**18]))
def test_t12_all_that_the_game_gives_is_shared_out_whatever_the_batch(
    n: int, seed: int, size: float, at_once: int
) -> None:
    values = size * random(2**n, 2, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapley, "BATCH", at_once)
        exactly = exact(table_game(values), n)
        results = [exactly, sampled(table_game(values), n, 3, seed)]
    for found in results:
        upper = torch.triu(torch.ones(n, n, dtype=torch.float64), 1)
        shared = found.empty + found.single.sum(0) + (found.pairs * upper[..., None]).sum((0, 1))
        assert_equal(shared, found.full, size)
        assert torch.equal(found.full, values[-1])
        assert torch.equal(found.empty, values[0])
        assert torch.equal(found.single, values[[2**p for p in range(n)]] - values[0])
        assert torch.equal(found.pairs, found.pairs.transpose(0, 1))
        assert not found.pairs.diagonal().any()


@pytest.mark.parametrize(
    ("n", "needed", "shapley_taylor", "banzhaf"), [(3, 3, 1 / 3, 1 / 2), (5, 3, 1 / 10, 0.0), (4, 2, 1 / 6, -1 / 4)]
)
def test_majority_and_three_way_games_have_the_values_of_shapley_taylor_and_not_those_of_banzhaf(
    n: int, needed: int, shapley_taylor: float, banzhaf: float
) -> None:
    def game(coalitions: Tensor) -> Tensor:
        return (coalitions.sum(1) >= needed).double()[:, None]

    counts = [comb(n - 2, size) for size in range(n - 1)]
    step = [(size + 2 >= needed) - 2 * (size + 1 >= needed) + (size >= needed) for size in range(n - 1)]
    assert sum(c * s for c, s in zip(counts, step, strict=True)) / 2 ** (n - 2) == banzhaf
    found = exact(game, n)
    off_diagonal = found.pairs[..., 0][~torch.eye(n, dtype=torch.bool)]
    expected = (1.0 - n * found.single[0, 0]) / comb(n, 2)  # all pairs are alike, and T12
    assert off_diagonal.tolist() == pytest.approx([float(expected)] * len(off_diagonal))
    assert float(expected) == pytest.approx(shapley_taylor)


@quick
@given(n=st.integers(2, 7), seed=SEEDS, size=MAGNITUDES)
def test_additive_games_have_no_index(n: int, seed: int, size: float) -> None:
    weights = size * random(n, 2, seed=seed)
    found = exact(lambda c: size + c.double() @ weights, n)
    assert_equal(found.pairs, torch.zeros(n, n, 2, dtype=torch.float64), size, 1e-13 * n)
    assert_equal(found.single, weights, size)


@quick
@given(n=st.integers(2, 7), seed=SEEDS, size=MAGNITUDES)
def test_a_pure_pair_product_goes_to_its_pair_alone(n: int, seed: int, size: float) -> None:
    i, j = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:2].tolist()
    expected = torch.zeros(n, n, 1, dtype=torch.float64)
    expected[i, j] = expected[j, i] = size
    assert_equal(exact(pair_product(n, i, j, size), n).pairs, expected, size)
    assert_equal(sampled(pair_product(n, i, j, size), n, 2, seed).pairs, expected, size)


@quick
@given(n=st.integers(2, 6), seed=SEEDS, size=MAGNITUDES)
def test_a_player_that_adds_the_same_to_every_coalition_interacts_with_nobody(n: int, seed: int, size: float) -> None:
    values = size * random(2 ** (n - 1), 2, seed=seed)
    game = table_game(torch.cat([values, values + 3 * size]))  # the last player is the highest bit
    assert_equal(exact(game, n).pairs[-1], torch.zeros(n, 2, dtype=torch.float64), size)
    assert_equal(sampled(game, n, 2, seed).pairs[-1], torch.zeros(n, 2, dtype=torch.float64), size)


@quick
@given(n=st.integers(2, 6), seed=SEEDS)
def test_renaming_players_renames_the_index(n: int, seed: int) -> None:
    game = table_game(random(2**n, 2, seed=seed))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    renamed = exact(lambda c: game(torch.zeros_like(c).index_copy(1, order, c)), n)
    assert_equal(renamed.pairs, exact(game, n).pairs[order][:, order], 1)


@quick
@given(gated=st.booleans(), seed=st.integers(0, 10**6), size=MAGNITUDES, outputs=st.integers(1, 9), n=st.integers(0, 6))
def test_the_mlp_game_is_the_mlp_and_its_index_the_same_on_either_side_of_the_read_out(
    gated: bool, seed: int, size: float, outputs: int, n: int
) -> None:
    neurons = neurons_of(gated, seed, size=size)
    W_out, b_out = random(7, outputs, seed=seed + 8), random(outputs, seed=seed + 9)
    features, strengths = torch.randperm(9, generator=torch.Generator().manual_seed(seed))[:n], torch.arange(n) / 2.0
    strengths = strengths.double()
    game = mlp_game(neurons, strengths, features, W_out, b_out)
    coalitions = torch.rand(4, n, generator=torch.Generator().manual_seed(seed)) > 0.5
    for coalition, output in zip(coalitions, game(coalitions), strict=True):
        on = [int(k) for k in range(n) if coalition[k]]
        pre = [
            table.beta + sum((strengths[k] * table.A[features[k]] for k in on), torch.zeros_like(table.beta))
            for table in ((neurons.pre,) if isinstance(neurons, PlainNeurons) else (neurons.gate, neurons.value))
        ]
        hidden = neurons.activation.function(pre[0]) * (pre[1] if gated else 1)
        assert_equal(output, hidden @ W_out + b_out, (1 + size ** (1 + gated)) * 100, 1e-13)
    after, before = exact(game, n), exact(lambda c: game(c), n)
    scale = 1 + float(before.full.abs().max()) + float(before.single.abs().sum())
    for name in ("pairs", "single", "empty", "full"):
        ours, plain = getattr(after, name), getattr(before, name)
        assert ours.shape == plain.shape
        if ours.numel():
            assert_equal(ours, plain, scale, 1e-12)


def test_the_read_out_comes_last_exactly_where_that_is_cheaper() -> None:
    def rows_seen(outputs: int) -> int:
        seen = []

        def hidden(coalitions: Tensor) -> Tensor:
            return coalitions.double().repeat(1, 2)

        class Spy(ReadOut):
            def values(self, hidden: Tensor) -> Tensor:
                seen.append(len(hidden))
                return super().values(hidden)

        exact(Spy(hidden, torch.ones(16, outputs, dtype=torch.float64)), 8)
        return sum(seen)

    assert rows_seen(1) == 2**8  # 28 pairs × 16 hidden > 16 + 28: every coalition is read out
    assert rows_seen(100) == 8 + 2  # no player, each alone, all; the pairs go through `changes`


@pytest.mark.parametrize("read_out", [False, True])
def test_sampled_intervals_cover_as_they_say(read_out: bool) -> None:
    n, seeds = 6, 80
    hidden = neuron_game(random(n, 4, seed=1), random(4, seed=2), ACTIVATIONS["gelu"])
    game: Game = ReadOut(hidden, random(4, 3, seed=3)) if read_out else hidden
    truth = exact(game, n)
    i, j = torch.triu_indices(n, n, 1)
    scores = []
    for seed in range(seeds):
        found = sampled(game, n, 60, seed)
        assert found.standard_error is not None
        assert torch.equal(found.standard_error, found.standard_error.transpose(0, 1))
        assert found.evaluations == n + 2 + 2 * 60 * (comb(n, 2) - 1)
        scores.append(((found.pairs - truth.pairs) / found.standard_error)[i, j])
    z = torch.stack(scores)
    assert 0.90 <= float((z.abs() < 1.96).double().mean()) <= 0.99
    assert 0.85 <= float(z.std()) <= 1.15
    # no pair is off by more than chance allows the mean of so many seeds
    assert float(z.mean(0).abs().max()) * seeds**0.5 < 4.5


def test_sampled_is_unbiased_and_covers_where_interactions_are_rare_as_behind_a_relu() -> None:
    n, seeds = 6, 150
    game = neuron_game(random(n, 4, seed=1), random(4, seed=2), ACTIVATIONS["relu"])
    truth = exact(game, n).pairs
    runs = [sampled(game, n, 60, seed) for seed in range(seeds)]
    estimates = torch.stack([found.pairs for found in runs])
    errors = torch.stack([found.standard_error for found in runs if found.standard_error is not None])
    spread = estimates.std(0) / seeds**0.5
    assert bool(((estimates.mean(0) - truth).abs() <= 4.5 * spread + 1e-12).all())
    # an order may meet none of the few coalitions that matter, and then says 0 ± 0: counted as a miss
    covered = ((estimates - truth).abs() <= 1.96 * errors + 1e-12).double().mean()
    assert 0.90 <= float(covered) <= 1.0


def test_sampled_repeats_with_its_seed_and_does_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    game = table_game(random(2**5, 2, seed=0))
    first, other = sampled(game, 5, 20, 7), sampled(game, 5, 20, 8)
    assert not torch.equal(first.pairs, other.pairs)
    monkeypatch.setattr(shapley, "BATCH", 64)
    again = sampled(game, 5, 20, 7)
    assert_equal(again.pairs, first.pairs, 1, 1e-13)
    assert first.standard_error is not None
    assert again.standard_error is not None
    assert_equal(again.standard_error, first.standard_error, 1, 1e-13)


def test_twenty_players_can_be_sampled() -> None:
    game = neuron_game(random(20, 2, seed=0), random(2, seed=1), ACTIVATIONS["gelu"])
    found = sampled(game, 20, 4, 0)
    assert found.pairs.shape == (20, 20, 2)
    assert found.pairs.isfinite().all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_with_no_others_there_is_nothing_to_sample(n: int) -> None:
    game = table_game(random(2**n, 2, seed=n))
    found = sampled(game, n, 2, 0)
    assert torch.equal(found.pairs, exact(game, n).pairs)
    assert found.standard_error is not None
    assert found.standard_error.shape == (n, n, 2)
    assert not found.standard_error.any()


def test_strength_is_the_norm_over_outputs() -> None:
    found = exact(lambda c: (c[:, :1] & c[:, 1:2]).double() * torch.tensor([3.0, -4.0]), 3)
    assert found.strength()[0, 1] == pytest.approx(5)
    assert found.strength()[0, 2] == pytest.approx(0)


def test_token_index_is_of_the_features_active_at_the_token() -> None:
    neurons, W_out = neurons_of(False, 5, features=30), random(7, 3, seed=9)
    dense = torch.zeros(3, 30, dtype=torch.float64)
    dense[0, [4, 20]] = torch.tensor([1.0, 2.0]).double()
    dense[1, :20] = 1.0
    codes = Codes.from_dense(dense)
    features, found = token_index(codes, 0, neurons, W_out)
    assert features.tolist() == [4, 20]
    assert found.standard_error is None
    assert_equal(found.pairs, brute_force(mlp_game(neurons, dense[0, [4, 20]], features, W_out), 2), 10)
    features, found = token_index(codes, 1, neurons, W_out, samples=2)
    assert features.tolist() == list(range(20))
    assert found.standard_error is not None
    features, found = token_index(codes, 2, neurons, W_out)
    assert len(features) == 0
    assert found.pairs.shape == (0, 0, 3)
    for row in (-1, 3):
        with pytest.raises(MismatchError, match=r"rows 0 to 2"):
            token_index(codes, row, neurons, W_out)


def test_sixteen_players_are_visited_and_seventeen_refused() -> None:
    calls = []

    def game(coalitions: Tensor) -> Tensor:
        calls.append(len(coalitions))
        return (coalitions[:, 3] & coalitions[:, 15]).double()[:, None]

    assert exact(game, 16).pairs[3, 15, 0] == pytest.approx(1)
    assert sum(calls) == 2**16
    with pytest.raises(CrossproofError, match=r"17 players have 131,072 coalitions.*sampled"):
        exact(game, 17)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: sampled(pair_product(3, 0, 1), 3, 1, 0), CrossproofError, "at least 2"),
        (lambda: exact(lambda c: c.double()[:, 0], 3), MismatchError, r"\[coalition, output\]"),
        (lambda: exact(lambda c: 1 / (~c[:, :2]).double(), 3), NonFinite, r"players \[0\]"),
        (
            lambda: mlp_game(neurons_of(False, 0), torch.ones(2).double(), torch.arange(3), torch.ones(7, 2).double()),
            MismatchError,
            "2 of them, but 3 features",
        ),
        (
            lambda: mlp_game(neurons_of(False, 0), torch.ones(2).double(), torch.arange(2), torch.ones(6, 2).double()),
            MismatchError,
            "6 neurons",
        ),
    ],
)
def test_bad_input_is_named(call: Callable[[], object], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
