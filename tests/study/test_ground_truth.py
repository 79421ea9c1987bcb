"""Metrics scored on what was planted: the truth, the reference, learned dictionaries, and the run folder."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch

from crossproof import runs
from crossproof.cli import main
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.study import metrics
from crossproof.study.ground_truth.dictionaries import (
    INDISTINCT,
    activations,
    learned_shape,
    matched,
    tokens_of,
    true_dictionary,
)
from crossproof.study.ground_truth.results import OTHERS, REFERENCE, GroundTruthStudy, Score, score_table, summarised
from crossproof.study.ground_truth.scores import BlockScores, score_block
from crossproof.study.ground_truth.study import GroundTruthConfig, run
from crossproof.study.retrieval import precision_at
from crossproof.subject.zoo.planted import build_planted
from crossproof.subject.zoo.planted_model import PlantedModel

BLOCKS = (0, 1)


@cache
def model() -> PlantedModel:
    return build_planted(0, torch.float64)


@cache
def scored(block: int) -> BlockScores:
    """With the true dictionary, on 2,000 tokens, and the reference on 320 of them."""
    ids = tokens_of(model(), "validation", 0, 63)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "MOST_KL_PAIRS", 0)
        return score_block(model(), true_dictionary(model(), ids), block, 320, 0)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_index_is_large_for_seen_interacting_pairs_and_exactly_0_for_all_others(block: int) -> None:
    found = scored(block)
    reference = found.by_metric[REFERENCE]
    shown = found.interacts & found.seen
    assert int(shown.sum()) == {0: 12, 1: 3}[block]
    assert float(reference[shown].min()) > 1e-3
    assert not reference[~shown].any()
    assert next(s for s in found.scores("true", 0) if s.metric == REFERENCE).average_precision_seen == 1


def test_additive_pairs_score_0_where_the_metric_is_a_difference_and_not_where_it_is_a_size() -> None:
    found = scored(0)
    for kind in ("sum", "offset", "halves"):
        for metric in (REFERENCE, "potential"):
            assert not found.by_metric[metric][found.kinds[kind]].any(), (metric, kind)
        for metric in ("directed", "ratio", "hadamard"):
            assert bool(found.by_metric[metric][found.kinds[kind]].all()), (metric, kind)
    for metric in ("mass", "potential, mass"):
        assert not found.by_metric[metric][found.kinds["sum"]].any()
        assert bool(found.by_metric[metric][found.kinds["offset"]].all())


def test_mass_misses_conjunctions_and_the_potential_misses_triples() -> None:
    found = scored(0)
    assert not found.by_metric["mass"][found.kinds["conjunction"] + found.kinds["splitting"]].any()
    assert not found.by_metric["potential"][found.kinds["triple"]].any()
    assert bool(found.by_metric["potential"][found.interacts].sum() > 0)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_pair_is_of_one_kind_and_a_kind_interacts_as_its_pairs_do(block: int) -> None:
    found = scored(block)
    places = sorted(place for where in found.kinds.values() for place in where)
    assert places == list(range(len(found.i)))
    assert not found.interacts[found.kinds[OTHERS]].any()
    for kind, where in found.kinds.items():
        assert len(set(found.interacts[where].tolist())) == 1, kind
    truth = {tuple(sorted(pair)) for pair in model().truth.interacting(block)}
    pairs = zip(found.i.tolist(), found.j.tolist(), found.interacts.tolist(), strict=True)
    assert {(i, j) for i, j, interacts in pairs if interacts} == truth


def test_shuffled_scores_find_no_more_than_chance() -> None:
    found = scored(0)
    reference, planted = found.by_metric[REFERENCE], int(found.interacts.sum())
    draw = torch.Generator().manual_seed(0)
    shuffled = [reference[torch.randperm(len(reference), generator=draw)] for _ in range(300)]
    precision = sum(precision_at(found.interacts, score, planted) for score in shuffled) / len(shuffled)
    assert precision == pytest.approx(planted / len(reference), abs=0.01)
    assert precision_at(found.interacts, reference, planted) > 0.75


def existing() -> list[int]:
    """The true features that an MLP reads and that can be told from others, in a random order."""
    truth = true_decoder()
    names = model().truth.names
    found = [f for f, name in enumerate(names) if name not in INDISTINCT and bool(truth[f].any())]
    return [found[place] for place in torch.randperm(len(found), generator=torch.Generator().manual_seed(0))]


def true_decoder() -> torch.Tensor:
    return torch.cat([model().directions(f"blocks.{block}.hook_mlp_in") for block in BLOCKS], 1)


def coder_like_the_truth(order: list[int], off: float) -> Crosscoder:
    """It reads these true features exactly, at other scales, and writes them `off` their length to the side."""
    shape = learned_shape(model(), len(order), 6)
    coder = Crosscoder(CrosscoderConfig(sites=shape.sites, width=shape.width, features=len(order), activation="relu"))
    scale = torch.linspace(0.2, 5, len(order), dtype=torch.float64)[:, None]
    decoder = true_decoder()
    side = torch.randn(decoder[order].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    side *= off * decoder[order].norm(dim=1, keepdim=True) / side.norm(dim=1, keepdim=True)
    with torch.no_grad():
        coder.W_dec.copy_((decoder[order] + side) / scale)
        coder.W_enc.copy_(torch.linalg.pinv(decoder).T[order] * scale)
        coder.b_dec.copy_(torch.cat([model().decoder_bias(f"blocks.{block}.hook_mlp_in") for block in BLOCKS]))
        coder.b_enc.copy_(-(coder.W_enc @ coder.b_dec) - 1e-3)
    return coder


def test_a_dictionary_that_is_the_truth_in_another_order_and_scale_is_matched_to_it() -> None:
    order, ids = existing(), tokens_of(model(), "validation", 0, 250)
    found, recovery = matched(model(), coder_like_the_truth(order, 0), ids, 0)
    fires = (model().codes[ids] > 0).any(0)
    assert recovery.by_both == recovery.true_features == int(fires[order].sum())
    assert found.stands_for.tolist() == [f if bool(fires[f]) else -1 for f in order]


def test_a_feature_that_reads_the_truth_and_writes_something_else_stands_for_nothing() -> None:
    order, ids = existing(), tokens_of(model(), "validation", 0, 250)
    found, recovery = matched(model(), coder_like_the_truth(order, 2), ids, 0)
    assert recovery.by_correlation == recovery.true_features
    assert recovery.by_cosine == 0
    assert bool((found.stands_for == -1).all())


def test_a_dictionary_of_random_directions_stands_for_nothing() -> None:
    shape = learned_shape(model(), 64, 6)
    coder = Crosscoder(shape)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        coder.W_dec.copy_(torch.randn(coder.W_dec.shape, generator=draw))
        coder.W_enc.copy_(coder.W_dec)
    ids = tokens_of(model(), "validation", 0, 63)
    coder.calibrate(activations(model()).float()[ids])
    found, recovery = matched(model(), coder, ids, 0)
    assert recovery.by_both == 0
    assert bool((found.stands_for == -1).all())


def test_a_run_is_a_folder_that_can_be_shown_and_is_not_computed_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MOST_KL_PAIRS", 0)
    threads = torch.get_num_threads()
    config = GroundTruthConfig(out=tmp_path, seeds=1, tokens=640, reference_tokens=8, features=48, steps=20)
    found = run(config)
    assert torch.get_num_threads() == threads
    assert runs.read_results(tmp_path, GroundTruthStudy) == found
    (tmp_path / "learned").rename(tmp_path / "gone")
    assert run(config) == found
    assert not (tmp_path / "learned").exists()
    assert main(["show", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "true dictionary, block 0" in printed
    assert REFERENCE in printed
    assert {row.metric for row in found.summary} >= {REFERENCE, *metrics.METRICS} - {"pair KL", *metrics.ONLY_GATED}


def test_the_range_over_seeds_is_shown_only_where_there_are_two_or_more() -> None:
    def shown(seeds: int) -> str:
        scores = tuple(
            Score(
                dictionary="true",
                seed=seed,
                block=0,
                metric="count",
                pairs=9,
                planted=2,
                average_precision=0.5 + seed / 10,
                precision_at_k=0.5,
                recall_at_2k=0.5,
                auroc=0.5,
                average_precision_seen=0.5,
            )
            for seed in range(seeds)
        )
        study = GroundTruthStudy(scores=scores, summary=summarised(scores), kinds=(), learned=())
        (row,) = score_table(study, "true", 0)
        return str(row["low–high"])

    assert shown(1) == "–"
    assert shown(2) == "0.50–0.60"
