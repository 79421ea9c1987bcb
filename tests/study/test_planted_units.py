"""Units with planted interactions: the truth holds where the units are run, and metrics see what they are said to."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

from crossproof import runs
from crossproof.interaction.attention.heads import heads_of
from crossproof.interaction.attention.pairs import query_key_pairs
from crossproof.study.planted_units import attention, gated, norms
from crossproof.study.planted_units.attention import (
    PLANTED_QUERY_AND_SINK,
    gadgets,
    planted_attention,
    planted_passages,
    score_attention,
)
from crossproof.study.planted_units.gated import GADGETS, planted_gated, score_gated
from crossproof.study.planted_units.norms import LEVEL, LOUD, PAIRS, UNHEARD, planted_norm, score_norm
from crossproof.study.planted_units.results import (
    PlantedUnitsStudy,
    Score,
    UnitName,
    collected,
    kind_table,
    page,
    score_table,
    tables,
)
from crossproof.study.planted_units.scenes import ALONE, BOTH, Scored, paired_codes
from crossproof.study.planted_units.study import PlantedUnitsConfig, run

ATTENDS = ("query × key", "query × key, away from it", "query × its own key", "query × key that writes nothing")


@cache
def scored(name: UnitName) -> Scored:
    match name:
        case "gated MLP, ReLU":
            return score_gated(name, "relu", 400, 80, 0)
        case "gated MLP, SiLU":
            return score_gated(name, "silu", 400, 80, 0)
        case "attention" | "attention, rotary":
            return score_attention(name, name == "attention, rotary", 12, 20, 0)
        case "LayerNorm":
            return score_norm(name, "layer", 600, 0)
        case "RMSNorm":
            return score_norm(name, "rms", 600, 0)


def of_kind(name: UnitName, metric: str, kind: str) -> Tensor:
    found = scored(name)
    return found.by_metric[metric][found.kinds[kind]]


UNITS: tuple[UnitName, ...] = (
    "gated MLP, ReLU",
    "gated MLP, SiLU",
    "attention",
    "attention, rotary",
    "LayerNorm",
    "RMSNorm",
)


@pytest.mark.parametrize("name", UNITS)
def test_every_item_is_of_one_kind_and_a_kind_interacts_as_its_items_do(name: UnitName) -> None:
    found = scored(name)
    assert sorted(place for where in found.kinds.values() for place in where) == list(range(len(found.interacts)))
    assert all(len(set(found.interacts[where].tolist())) == 1 for where in found.kinds.values())
    assert all(len(score) == len(found.interacts) for score in found.by_metric.values())
    assert all(bool(score.isfinite().all()) for score in found.by_metric.values())


def test_the_features_of_a_pair_fire_together_four_times_as_often_as_by_chance_and_those_apart_never() -> None:
    codes = paired_codes(3, (1,), 8_000, torch.Generator().manual_seed(0))
    on = (codes > 0).double()
    torch.testing.assert_close(on.mean(0), torch.full((6,), BOTH + ALONE).double(), atol=0.015, rtol=0)
    together = (on.T @ on / len(on)).tolist()
    assert together[0][1] == pytest.approx(BOTH, abs=0.01)
    assert together[2][3] == 0
    assert together[0][2] == pytest.approx((BOTH + ALONE) ** 2, abs=0.005)


# -- gated MLPs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_a_gadget_interacts_in_the_unit_s_own_output_if_and_only_if_it_is_said_to(
    activation: Literal["relu", "silu"],
) -> None:
    unit = planted_gated(activation, torch.Generator().manual_seed(0))
    zero = torch.zeros(unit.W_in.shape[0], dtype=torch.float64)
    for p, gadget in enumerate(GADGETS):
        largest = 0.0
        for a, b in ((1.0, 1.4), (1.4, 1.0), (1.2, 1.2)):
            one, other = zero.clone(), zero.clone()
            one[2 * p], other[2 * p + 1] = a, b
            largest = max(largest, float((unit(one + other) - unit(one) - unit(other) + unit(zero)).norm()))
        assert (largest > 0.1) == gadget.interacts, gadget.kind
        assert gadget.interacts or largest < 1e-5, gadget.kind


def test_the_index_finds_every_planted_pair_that_meets_and_nothing_else() -> None:
    found = scored("gated MLP, ReLU")
    for kind, where in found.kinds.items():
        index = found.by_metric[gated.REFERENCE][where]
        interacts = bool(found.interacts[where[0]]) and kind != "product, unseen"
        assert bool((index > 1e-3).all() if interacts else not index.any()), kind


@pytest.mark.parametrize("name", ["gated MLP, ReLU", "gated MLP, SiLU"])
def test_cross_finds_products_and_no_sums_and_is_blind_to_what_the_gate_alone_does(name: UnitName) -> None:
    for kind in ("product", "product, gate held open", "square of a sum"):
        assert bool((of_kind(name, "cross", kind) > 0).all()), kind
    blind = ("conjunction in the gate", "veto in the gate", "product, unseen")
    sums = ("same", "gate always on", "sum in the value", "offset in the value", "sum in the gate")
    for kind in (*blind, *sums, "gate × bias, bias × value", gated.OTHERS):
        assert not of_kind(name, "cross", kind).any(), kind


def test_directed_finds_what_shares_a_gate_or_a_value_and_no_product_of_one_by_one() -> None:
    for kind in ("conjunction in the gate", "veto in the gate", "sum in the value", "sum in the gate"):
        assert bool(of_kind("gated MLP, ReLU", "directed", kind).all()), kind
    assert not of_kind("gated MLP, ReLU", "directed", "product").any()


def test_no_metric_that_sums_over_neurons_sees_that_two_cancel() -> None:
    for metric in ("cross", "potential", "hadamard"):
        assert bool(of_kind("gated MLP, ReLU", metric, "cancelled products").all())


# -- attention ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention", "attention, rotary"])
def test_the_query_key_table_is_positive_where_a_planted_pair_meets_and_0_everywhere_else(name: UnitName) -> None:
    found = scored(name)
    everywhere = {"query × key that is everywhere"} if name == "attention, rotary" else set()
    table = found.by_metric["query × key"]
    noise = 1e-12 * float(table.max())
    for kind, where in found.kinds.items():
        seen = kind in {*ATTENDS, *everywhere}
        assert bool((table[where] > 1e-3).all() if seen else (table[where] <= noise).all()), kind


@pytest.mark.parametrize("name", ["attention", "attention, rotary"])
def test_weights_see_what_never_meets_and_the_index_sees_what_a_sink_shares_through_the_softmax(name: UnitName) -> None:
    assert bool((of_kind(name, "weights", "query × key, never in one text") > 0.1).all())
    assert bool((of_kind(name, "weights", "in a head that writes nothing") > 0.1).all())
    for metric in (attention.REFERENCE, "removal"):
        assert not of_kind(name, metric, "query × key, never in one text").any()
        assert bool((of_kind(name, metric, PLANTED_QUERY_AND_SINK) > 1e-3).any())
        for kind in ("sink", "query alone", "values alone", "in a head that writes nothing"):
            assert float(of_kind(name, metric, kind).max()) < 1e-12, kind


@pytest.mark.parametrize("name", ["attention", "attention, rotary"])
def test_the_index_and_removal_are_large_for_planted_pairs(name: UnitName) -> None:
    for metric in (attention.REFERENCE, "removal"):
        largest = max(float(of_kind(name, metric, kind).max()) for kind in ATTENDS)
        others = float(of_kind(name, metric, attention.OTHERS).max())
        assert others < 0.3 * largest


def test_a_key_that_is_everywhere_counts_only_where_it_is_turned_by_the_distance() -> None:
    kind = "query × key that is everywhere"
    for metric in (attention.REFERENCE, "removal"):
        assert float(of_kind("attention", metric, kind).max()) < 1e-12
        assert float(of_kind("attention, rotary", metric, kind).min()) > 1e-3


def test_a_sink_is_found_where_no_feature_asks() -> None:
    draw = torch.Generator().manual_seed(0)
    planted = gadgets(False)
    unit = planted_attention(planted, False, draw)
    passages = planted_passages(planted, 12, draw)
    background = query_key_pairs(passages, [heads_of(unit, torch.eye(2 * len(planted)).double())])[0].background
    (sink,) = (2 * p + 1 for p, gadget in enumerate(planted) if gadget.kind == "sink")
    assert background.nonzero().tolist() == [[0, sink]]


# -- norms -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "seen"), [("layer", False), ("rms", True)])
def test_a_loud_feature_shrinks_all_that_is_heard_and_a_level_one_is_nothing_to_a_layer_norm(
    kind: Literal["layer", "rms"], seen: bool
) -> None:
    norm, directions, background = planted_norm(kind, torch.Generator().manual_seed(0))
    quiet, other = [f for f in range(2 * PAIRS) if f not in (*LOUD, LEVEL, *UNHEARD)][:2]

    def change(i: int, j: int) -> float:
        without = norm(background + directions[j]) - norm(background)
        with_i = norm(background + directions[i] + directions[j]) - norm(background + directions[i])
        return float((with_i - without).norm())

    assert change(LOUD[0], quiet) > 0.2
    assert (change(LEVEL, quiet) > 0.2) == seen
    assert change(quiet, other) < 0.05
    alone = norm(background + directions[UNHEARD[0]]) - norm(background)
    axes = directions[UNHEARD[0]] != 0
    assert not alone[axes].any()


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
def test_the_exact_table_of_a_norm_ranks_loud_ones_first_and_lengths_do_so_less_well(name: UnitName) -> None:
    found = {row.metric: row.average_precision for row in scored(name).scores(0)}
    assert found["scale"] > 0.95
    assert found[norms.REFERENCE] > 0.95
    assert found["lengths"] < found["scale"] - 0.03


# -- the run -----------------------------------------------------------------------------------------------------------


def test_random_scores_find_as_much_as_chance() -> None:
    found = [score_norm("RMSNorm", "rms", 1, seed) for seed in range(20)]
    rows = [next(row for row in its.scores(0) if row.metric == "random") for its in found]
    mean = sum(row.precision_at_k for row in rows) / len(rows)
    assert mean == pytest.approx(rows[0].planted / rows[0].items, abs=0.05)


def test_means_over_seeds_come_with_the_least_and_the_largest() -> None:
    def score(seed: int, precision: float) -> Score:
        return Score(
            unit="attention",
            seed=seed,
            metric="count",
            items=9,
            planted=2,
            average_precision=precision,
            precision_at_k=precision,
            auroc=precision,
        )

    (row,) = collected([score(0, 0.25), score(1, 0.75)], []).summary
    assert (row.average_precision, row.low, row.high, row.seeds) == (0.5, 0.25, 0.75, 2)
    (shown,) = score_table(collected([score(0, 0.25)], []), "attention")
    assert shown["low–high"] == "–"


def test_a_run_is_a_folder_that_is_read_again_and_makes_a_page(tmp_path: Path) -> None:
    config = PlantedUnitsConfig(out=tmp_path, seeds=1, tokens=200, reference_tokens=5, texts=3, reference_queries=2)
    threads = torch.get_num_threads()
    found = run(config)
    assert torch.get_num_threads() == threads
    assert runs.read_results(tmp_path, PlantedUnitsStudy) == found
    assert run(config) == found
    assert list(dict.fromkeys(row.unit for row in found.summary)) == list(UNITS)
    printed = page(found)
    assert all(title in printed for title in tables(found))
    assert {row["kind"] for row in kind_table(found, "attention")} >= {*ATTENDS, "sink"}
