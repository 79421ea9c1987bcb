"""The study of clusters: planted ones are found, and judged by nothing but the labels of other texts."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import contributions
from crossproof.interaction.pairs import directed, mass
from crossproof.study.clusters.algorithms import AFFINITY_PROPAGATION, ALGORITHMS
from crossproof.study.clusters.compare import row
from crossproof.study.clusters.judge import CHANCE, apart, assigned, others_as_frequent, profiles, share_right
from crossproof.study.clusters.measured import clusterings, judge, names_a_word
from crossproof.study.clusters.similarities import RANDOM, dealt_anew, mutual_ranks, of_features, similarities
from crossproof.units import MLP
from tests.study.planted_clusters import SIZES, planted, random_profiles


def same_partition(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a[:, None] == a, b[:, None] == b)


# -- similarities --------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 9), st.booleans())
def test_mutual_ranks_are_those_of_counting_and_only_the_order_matters(seed: int, n: int, ties: bool) -> None:
    draw = torch.Generator().manual_seed(seed)
    values = (
        torch.randint(-1, 2, (n, n), generator=draw).double() if ties else torch.randn(n, n, generator=draw).double()
    )
    similarity = values + values.T
    found = mutual_ranks(similarity)
    for i in range(n):
        for j in range(n):
            if i == j:
                assert found[i, j] == 0
                continue
            ranks = []
            for a, b in ((i, j), (j, i)):
                others = [float(similarity[a, k]) for k in range(n) if k != a]
                its = float(similarity[a, b])
                ranks.append(sum(o > its for o in others) + (1 + sum(o == its for o in others)) / 2)
            assert float(found[i, j]) == pytest.approx(math.sqrt(ranks[0] * ranks[1]))
    assert torch.equal(mutual_ranks(similarity.exp() * 1e-9), found)


def test_dealt_anew_pairs_have_the_same_values_elsewhere() -> None:
    similarity = planted()[0]
    dealt = dealt_anew(similarity, seed=1)
    assert torch.equal(dealt, dealt.T)
    assert dealt.diagonal().eq(0).all()
    assert torch.equal(dealt.flatten().sort().values, similarity.flatten().sort().values)
    assert (dealt != similarity).double().mean() > 0.9
    assert torch.equal(dealt, dealt_anew(similarity, seed=1))


def example(tokens: int = 80, features: int = 6) -> tuple[Codes, MLP, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    strengths = torch.rand(tokens, features, generator=draw) * (torch.rand(tokens, features, generator=draw) < 0.5)
    weights = [torch.randn(*shape, generator=draw) for shape in ((5, 7), (7,), (7, 5), (5,), (features, 5))]
    unit = MLP(W_in=weights[0], b_in=weights[1], activation="relu", W_out=weights[2], b_out=weights[3])
    return Codes.from_dense(strengths), unit, weights[4]


def test_similarities_are_those_of_the_definitions() -> None:
    codes, unit, directions = example()
    neurons = [contributions(unit, directions, None, name) for name in ("a", "b")]
    chosen = torch.tensor([0, 2, 3, 5])
    found = similarities(codes, neurons, directions, chosen, seed=0)
    f = codes.dense().double().numpy()
    pairs = CoActive.of(codes)
    charged, cancelled = directed(codes, neurons[:1], pairs)[0], mass(codes, neurons[:1], pairs)[0].pairs
    for a, i in enumerate(chosen.tolist()):
        for b, j in enumerate(chosen.tolist()):
            if i == j:
                continue
            forth, back = (int(pairs.positions(torch.tensor(x), torch.tensor(y))) for x, y in ((i, j), (j, i)))
            together = float(((f[:, i] > 0) & (f[:, j] > 0)).sum())
            chance = float((f[:, i] > 0).sum() * (f[:, j] > 0).sum() / len(f))
            expected = {
                "directed": 2 * float(charged.mean[forth] + charged.mean[back]),
                "mass": 2 * float(cancelled.mean[forth]),
                "activations": float(f[:, i] @ f[:, j] / np.linalg.norm(f[:, i]) / np.linalg.norm(f[:, j])),
                "directions": float(torch.cosine_similarity(directions[i].double(), directions[j].double(), dim=0)),
                "co-occurrence": together,
                "PMI": math.log2((together + 0.5) / (chance + 0.5)),
            }
            for name, value in expected.items():
                assert float(found[name][a, b]) == pytest.approx(value, rel=1e-5), name
    assert set(found) == {*expected, RANDOM}


def test_codes_of_some_features_are_their_columns() -> None:
    codes = example()[0]
    chosen = torch.tensor([4, 1, 5])
    found, expected = of_features(codes, chosen), Codes.from_dense(codes.dense()[:, chosen])
    assert torch.equal(found.pattern.features, expected.pattern.features)
    assert torch.equal(found.pattern.row_starts, expected.pattern.row_starts)
    assert torch.equal(found.values, expected.values)


# -- algorithms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("seed", range(3))
def test_every_algorithm_finds_planted_blocks_whatever_their_scale(name: str, seed: int) -> None:
    similarity, block = planted(seed)
    found = ALGORITHMS[name](mutual_ranks(similarity), 0)
    if name == AFFINITY_PROPAGATION:  # it may cut a block in two
        assert not ((found[:, None] == found) & (block[:, None] != block)).any()
    else:
        assert same_partition(found, block)
    assert found.unique().tolist() == list(range(int(found.max()) + 1))
    assert len(SIZES) <= int(found.max()) + 1 <= len(SIZES) + 1
    assert torch.equal(found, ALGORITHMS[name](mutual_ranks(similarity), 0))


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_features_are_no_cluster(name: str) -> None:
    similarity, block = planted(0, (5, 2, 6, 2, 7, 8))
    found = ALGORITHMS[name](mutual_ranks(similarity), 0)
    assert found[found >= 0].bincount().min() >= 3
    large = (block != 1) & (block != 3)
    assert same_partition(found[large], block[large])


# -- the judge -----------------------------------------------------------------------------------------------------


def test_profiles_are_correlations_with_labels() -> None:
    codes = example(tokens=5000)[0]
    labels = torch.rand(5000, 4, generator=torch.Generator().manual_seed(1)) < torch.tensor([0.1, 0.3, 0.5, 1.0])
    active = (codes.dense() > 0).double().numpy()
    raw = np.array([[np.corrcoef(active[:, i], labels[:, k].numpy())[0, 1] for k in range(3)] for i in range(6)])
    raw = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    expected = np.c_[raw - raw.mean(0), np.zeros(6)]  # a label that is always true says nothing
    np.testing.assert_allclose(profiles(codes, labels).numpy(), expected, atol=1e-9)


def test_a_feature_that_is_always_or_never_active_has_no_profile() -> None:
    strengths = torch.rand(40, 4) * (torch.rand(40, 4) < 0.5)
    strengths[:, 0], strengths[:, 1] = 1, 0
    found = profiles(Codes.from_dense(strengths), torch.rand(40, 3) < 0.5)
    assert found[:2].eq(0).all()
    assert found.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 9), st.data())
def test_the_share_of_draws_is_that_of_all_draws(others: int, data: st.DataObject) -> None:
    better = data.draw(st.integers(0, others))
    tied = data.draw(st.integers(0, others - better))
    kinds = ["better"] * better + ["tied"] * tied + ["worse"] * (others - better - tied)
    draws = list(combinations(kinds, 4))
    right = [0 if "better" in draw else 1 / (1 + draw.count("tied")) for draw in draws]
    found = share_right(torch.tensor([better]), torch.tensor([tied]), others)
    assert float(found) == pytest.approx(sum(right) / len(draws))


def test_assignment_is_that_of_looking_at_every_draw() -> None:
    description, heard = random_profiles(seed=1), random_profiles(seed=2)
    clusters = torch.arange(30) % 7 - 1  # a cluster in seven is none
    found = assigned(description, heard, clusters)
    assert found is not None
    for h in range(30):
        own = int(clusters[h])
        if own < 0:
            assert found[h] == 0
            continue
        sums = [sum(description[i] for i in range(30) if clusters[i] == k and i != h) for k in range(6)]
        cosine = [float(torch.cosine_similarity(torch.as_tensor(its), heard[h], dim=0)) for its in sums]
        draws = list(combinations([k for k in range(6) if k != own], 4))
        expected = sum(all(cosine[own] > cosine[k] for k in draw) for draw in draws) / len(draws)
        assert float(found[h]) == pytest.approx(expected)


def test_nobody_is_described_by_itself_or_judged_by_what_others_are_heard_on() -> None:
    description, heard, clusters = random_profiles(seed=1), random_profiles(seed=2), torch.arange(30) % 6
    before = assigned(description, heard, clusters)
    description[4] += 100
    again = assigned(description, heard, clusters)
    assert before is not None
    assert again is not None
    assert before[4] == again[4]
    heard[5] = -heard[5]
    last = assigned(description, heard, clusters)
    assert last is not None
    assert torch.equal(last[torch.arange(30) != 5], again[torch.arange(30) != 5])


def test_fewer_than_five_clusters_cannot_be_judged_and_without_any_knowledge_one_in_five_is_right() -> None:
    assert assigned(random_profiles(), random_profiles(), torch.arange(30) % 4) is None
    found = assigned(random_profiles(), torch.zeros(30, 5, dtype=torch.float64), torch.arange(30) % 6)
    assert found is not None
    assert found.tolist() == pytest.approx([CHANCE] * 30)
    many = assigned(random_profiles(4000, 9, 3), random_profiles(4000, 9, 4), torch.arange(4000) % 400)
    assert many is not None
    assert float(many.mean()) == pytest.approx(CHANCE, abs=0.02)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 130), st.integers(0, 100))
def test_stand_ins_are_as_frequent_and_each_stands_once(features: int, seed: int) -> None:
    firing = torch.randint(0, 50, (features,), generator=torch.Generator().manual_seed(seed))
    stands = others_as_frequent(firing, torch.Generator().manual_seed(seed))
    assert sorted(stands.tolist()) == list(range(features))
    place = firing.sort(stable=True).indices.argsort()
    assert int((place - place[stands]).abs().max()) < 40


def test_near_duplicates_are_those_inside_the_cluster() -> None:
    cosine = torch.eye(5, dtype=torch.float64)
    cosine[0, 1] = cosine[1, 0] = 0.9
    cosine[2, 3] = cosine[3, 2] = 0.9
    clusters = torch.tensor([0, 0, 0, 1, -1])
    assert apart(clusters, cosine, 0.5).tolist() == [False, False, True, True, False]


def test_labels_that_name_a_word_are_told_from_the_grammars() -> None:
    names = ("“ the”", "tokens after “ the”", "names", "tokens after names", "tokens that express “happy”")
    assert names_a_word(names).tolist() == [True, True, False, False, False]


def of_blocks(block: torch.Tensor, seed: int, means_something: bool) -> tuple[Codes, torch.Tensor]:
    """Features of a block fire on tokens of the block's kind; the label says of which kind a token is, or anything."""
    draw = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 7, (2000,), generator=draw)
    fires = torch.rand(2000, len(block), generator=draw) < torch.where(kind[:, None] == block, 0.6, 0.02)
    told = kind if means_something else torch.randint(0, 7, (2000,), generator=draw)
    return Codes.from_dense(fires.double()), told[:, None] == torch.arange(7)


@pytest.mark.parametrize("means_something", [True, False])
def test_clusters_that_mean_something_are_told_from_clusters_that_do_not(means_something: bool) -> None:
    similarity, block = planted()
    clusters = clusterings({"directed": similarity, RANDOM: dealt_anew(similarity, 0)}, 0)
    halves = [of_blocks(block, seed, means_something) for seed in (1, 2)]
    description, heard = (profiles(codes, labels) for codes, labels in halves)
    firing = halves[0][0].firing_counts()
    found = judge(clusters, (description, heard), (description, heard), firing, torch.eye(len(block)).double(), 0)
    for its in found:
        summed = row("plain", [its], seed=0)
        if its.matrix == "directed" and means_something:
            assert summed.accuracy is not None
            assert summed.above is not None
            assert summed.accuracy.value > 0.95
            assert summed.above.low > 0.5
        elif summed.accuracy is not None:
            assert summed.accuracy.value < 0.45
    assert len(found) == 2 * len(ALGORITHMS)
