"""Who dominates each neuron, against plain loops in float64."""

from __future__ import annotations

from collections import Counter
from math import isnan

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction import tally
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, Table, chunks, tables
from crossproof.interaction.neurons import dominance
from crossproof.interaction.pairs import directed
from crossproof.units import ACTIVATIONS
from tests.interaction.test_pairs import N, cases, random_plain, slow_ranked


@settings(max_examples=30, deadline=None)
@given(cases())
def test_dominance_is_what_plain_loops_give(case: tuple[Tensor, Neurons]) -> None:
    strengths, unit = case
    n_tables = len(tables(unit))
    (found,) = dominance(Codes.from_dense(strengths), [unit])
    scores, per_neuron = [0.0] * len(strengths), [0.0] * N
    shares: list[list[float]] = [[] for _ in range(n_tables)]
    wins = [[Counter[int]() for _ in range(N)] for _ in range(n_tables)]
    for token, f in enumerate(strengths):
        for n in range(N):
            for table, (p, dominant, weight) in enumerate(slow_ranked(f, unit, n)):
                total, largest = sum(map(abs, p)), max(map(abs, p))
                scores[token] += weight * (total - largest)
                per_neuron[n] += weight * (total - largest) / len(strengths)
                if largest > 0:
                    shares[table].append(largest / total)
                    wins[table][n][dominant] += 1
    assert found.score.tolist() == pytest.approx(scores, rel=1e-10)
    assert found.neuron_score.tolist() == pytest.approx(per_neuron, rel=1e-10)
    pooled = [share for of_table in shares for share in of_table]
    assert found.counted == len(pooled)
    assert found.left_out == n_tables * N * len(strengths) - len(pooled)
    assert found.share == pytest.approx(sum(pooled) / len(pooled), rel=1e-10) if pooled else isnan(found.share)
    for its, counters in zip(found.tables, wins, strict=True):
        for n, counter in enumerate(counters):
            in_order = sorted(counter.items(), key=lambda win: (-win[1], win[0])) + [(-1, 0)] * 2
            tokens = sum(counter.values())
            assert int(its.tokens[n]) == tokens
            assert (int(its.feature[n]), int(its.runner_up[n])) == (in_order[0][0], in_order[1][0])
            if tokens:
                first, second = in_order[0][1] / tokens, in_order[1][1] / tokens
                assert float(its.feature_share[n]) == pytest.approx(first)
                assert float(its.runner_up_share[n]) == pytest.approx(second)
                assert float(its.margin[n]) == pytest.approx(first - second)
            else:
                assert isnan(float(its.margin[n]))


def test_a_tie_goes_to_the_lowest_feature_and_a_lone_feature_dominates_wholly() -> None:
    unit = PlainNeurons(
        "mlp", Table(torch.tensor([[0.0], [2.0], [-2.0], [1.0]]), torch.zeros(1)), ACTIVATIONS["relu"], torch.ones(1)
    )
    codes = Codes.from_dense(torch.tensor([[1.0, 1.0, 1.0, 2.0], [0.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]]))
    (found,) = dominance(codes, [unit])
    (table,) = found.tables
    assert int(table.feature[0]) == 1
    assert int(table.runner_up[0]) == 3
    assert found.score.tolist() == [4, 0, 0]
    assert found.share == pytest.approx((1 / 3 + 1) / 2)
    assert (found.counted, found.left_out) == (2, 1)


@pytest.mark.parametrize("gated", [False, True])
def test_others_far_below_the_dominant_feature_keep_their_digits_in_single_precision(gated: bool) -> None:
    """T7 between two outputs: what the neurons leave to others is what directed pairs are charged with."""
    ones, relu = Table(torch.ones(8, 1), torch.zeros(1)), ACTIVATIONS["relu"]
    unit = GatedNeurons("g", ones, ones, relu, torch.ones(1)) if gated else PlainNeurons("p", ones, relu, torch.ones(1))
    small = torch.tensor([1.0, 1.3, 0.7, 0.9, 1.1, 1.2, 0.8])
    strengths = torch.stack([torch.cat([torch.ones(1), size * small]) for size in (1e-7, 1e-8, 1e-20)])
    for f in strengths:
        codes = Codes.from_dense(f[None])
        (found,) = dominance(codes, [unit])
        left = (2 if gated else 1) * float(f[1:].double().sum())
        assert float(found.score) == pytest.approx(left, rel=1e-5)
        assert float(found.neuron_score) == pytest.approx(left, rel=1e-5)
        assert float(directed(codes, [unit], CoActive.of(codes))[0].total.sum()) == pytest.approx(left, rel=1e-5)


def test_many_features_are_counted_as_few_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound on dense counters, and in chunks of one token; scores come in the order of the tokens."""
    strengths = torch.rand(30, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).sub(0.6).clamp(min=0)
    codes, unit = Codes.from_dense(strengths), random_plain(6)
    (whole,) = dominance(codes, [unit])
    monkeypatch.setattr(tally, "DENSE_KEYS", 0)
    monkeypatch.setattr(chunks, "__defaults__", (1,))
    (parts,) = dominance(codes, [unit])
    for one, other in zip(whole.tables, parts.tables, strict=True):
        for name in ("tokens", "feature", "runner_up", "feature_share"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()
    assert parts.score.tolist() == pytest.approx(whole.score.tolist())


def test_codes_without_tokens_have_no_dominant_features() -> None:
    (found,) = dominance(Codes.from_dense(torch.zeros(0, 3, dtype=torch.float64)), [random_plain(3)])
    assert isnan(found.share)
    assert found.tables[0].feature.tolist() == [-1] * N
    assert found.neuron_score.tolist() == [0] * N
