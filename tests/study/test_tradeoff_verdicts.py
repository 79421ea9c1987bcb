"""Frontiers with known answers; planted effects are found, and none where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.findings import Claim
from crossproof.study.estimates import Drawn
from crossproof.study.tradeoff.claims import claims_of, primary
from crossproof.study.tradeoff.frontier import at_cost, drawn_at_cost, estimated, paired
from crossproof.study.tradeoff.measure import Measured
from crossproof.study.tradeoff.results import TradeoffStudy, costs_at, study_of
from crossproof.study.tradeoff.settings import Dictionary

TEXTS = 12


def points(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


# -- frontiers ---------------------------------------------------------------------------------------------------------


def by_walking(cost: list[float], value: list[float], level: float, log: bool) -> float:
    """From the last weight back to the first place where the cost rises through the level."""
    for k in range(len(cost) - 2, -1, -1):
        if cost[k] <= level <= cost[k + 1]:
            part = 1.0 if cost[k] == cost[k + 1] else (level - cost[k]) / (cost[k + 1] - cost[k])
            if log:
                return math.exp((1 - part) * math.log(value[k]) + part * math.log(value[k + 1]))
            return (1 - part) * value[k] + part * value[k + 1]
    return math.nan


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(st.tuples(st.integers(0, 8), st.floats(1e-9, 1e9)), min_size=1, max_size=6),
    level=st.integers(-1, 9),
    log=st.booleans(),
)
def test_what_a_frontier_has_at_a_cost_is_found_by_walking_back_along_it(
    steps: list[tuple[int, float]], level: int, log: bool
) -> None:
    cost, value = [float(c) for c, _ in steps], [v for _, v in steps]
    expected = by_walking(cost, value, float(level), log)
    found = float(at_cost(points(*cost), points(*value), float(level), log))
    assert found == pytest.approx(expected, rel=1e-9, nan_ok=True)
    if not math.isnan(found):
        assert min(cost) <= level <= max(cost)
        assert min(value) * (1 - 1e-9) <= found <= max(value) * (1 + 1e-9)


def test_a_frontier_that_is_straight_is_met_exactly_and_nothing_is_said_beyond_it() -> None:
    cost = points(1.0, 1.05, 1.3)
    assert float(at_cost(cost, 10 - 4 * cost, 1.1)) == pytest.approx(10 - 4.4)
    assert float(at_cost(cost, (-3 * cost).exp(), 1.1, log=True)) == pytest.approx(math.exp(-3.3))
    for level in (0.99, 1.31):
        assert math.isnan(float(at_cost(cost, cost, level)))
    assert math.isnan(float(at_cost(points(1.0), points(5.0), 1.0)))


def test_a_dip_of_the_cost_does_not_hide_what_is_had_further_on() -> None:
    """The cost falls before it rises: at that of no penalty stands what the larger weight has."""
    cost, value = points(1.0, 0.9, 1.1), points(8.0, 4.0, 2.0)
    assert float(at_cost(cost, value, 1.0)) == pytest.approx(3.0)


def test_a_number_of_zero_has_no_logarithm_and_is_not_gone_towards() -> None:
    assert math.isnan(float(at_cost(points(1.0, 2.0), points(3.0, 0.0), 1.5, log=True)))
    assert float(at_cost(points(1.0, 2.0), points(3.0, 0.0), 1.5)) == 1.5


def test_each_resample_has_its_own_frontier() -> None:
    cost = [Drawn(1.0, torch.ones(3).double()), Drawn(1.2, torch.tensor([1.2, 1.1, 1.05]).double())]
    value = [Drawn(4.0, torch.full((3,), 4.0).double()), Drawn(2.0, torch.full((3,), 2.0).double())]
    found = drawn_at_cost(cost, value, 1.1)
    assert found.value == pytest.approx(3.0)
    assert found.draws.tolist() == pytest.approx([3.0, 2.0, math.nan], nan_ok=True)


def spread(value: float, by: float = 0.0) -> Drawn:
    return Drawn(value, value + by * torch.linspace(-1, 1, 101).double())


def test_from_five_dictionaries_on_intervals_are_about_others_too() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    few, enough = estimated([spread(v) for v in values[:4]], 0), estimated([spread(v) for v in values], 0)
    assert few is not None
    assert enough is not None
    assert (few.low, few.value, few.high) == (2.5, 2.5, 2.5)
    assert enough.low < 2.5 < enough.value < 3.5 < enough.high


def test_ratios_are_averaged_as_ratios() -> None:
    found = estimated([spread(2.0), spread(0.5)], 0, ratio=True)
    assert found is not None
    assert found.value == pytest.approx(1.0)
    assert found.each == pytest.approx([2.0, 0.5])


def test_what_is_not_defined_has_no_estimate() -> None:
    nan, holed = torch.full((101,), torch.nan).double(), torch.ones(101).double()
    holed[:10] = torch.nan
    assert estimated([], 0) is None
    assert estimated([Drawn(math.nan, nan)], 0) is None
    assert estimated([Drawn(1.0, holed)], 0) is None
    assert estimated([Drawn(0.0, holed.nan_to_num(0))], 0, ratio=True) is None
    holed[4:] = 1.0
    assert estimated([Drawn(1.0, holed)], 0) is not None


def test_pairs_are_of_one_seed_and_those_that_are_not_defined_are_left_out() -> None:
    ones, others = {n: spread(v) for n, v in enumerate([2.0, 8.0, math.nan, 5.0])}, {0: spread(1.0), 1: spread(2.0)}
    found, seeds = paired(ones, others | {2: spread(1.0), 7: spread(9.0)}, 0, ratio=True)
    assert found is not None
    assert found.each == pytest.approx([2.0, 4.0])
    assert seeds == [0, 1]


# -- verdicts from made-up dictionaries --------------------------------------------------------------------------------


def made(error: float, share: float, others: float, largest: float, noise: Tensor | None = None) -> Measured:
    """A dictionary of one MLP with these numbers, every text like the others but for the noise."""
    ones = torch.ones(TEXTS, dtype=torch.float64)
    each = ones if noise is None else 1 + noise
    column = each[:, None]
    losses = {"all": 1.1, "keep 1": 2.0 - largest, "none": 2.0}
    return Measured(
        mlps=("blocks.0.mlp",),
        tokens=10 * ones,
        active=40 * ones,
        error=error * column,
        variance=10 * ones[:, None],
        share=10 * share * ones[:, None],
        touched=10 * ones[:, None],
        total=10 * (others + 1) * column,
        others=10 * others * column,
        score=20 * others * column,
        clean=10 * ones,
        targets=10 * ones,
        patched=torch.stack([10 * loss * ones[:, None] for loss in losses.values()]),
        inputs=torch.tensor([0]),
        neurons=torch.tensor([4]),
        pre_activations=torch.tensor([4]),
        features=torch.tensor(16),
        alive=torch.tensor(12),
    )


Others = Callable[[str, float, int], float]
NAMES = ("relative", "l1_contributions")


def sweep(
    others: Others, seeds: int = 5, small: float = 1.02, level: float = 1.1, names: tuple[str, ...] = NAMES
) -> TradeoffStudy:
    """Costs rise with the weight; what is left of Σ|p| − max|p| is as given."""
    found = []
    for seed in range(seeds):
        noise = 0.05 * torch.randn(TEXTS, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        base = 2 + 0.1 * seed
        for setting, weight in [("plain", 0.0), *((name, w) for name in names for w in (10.0, 100.0))]:
            cost = {0.0: 1.0, 10.0: small, 100.0: 1.3}[weight]
            its = made(base * cost, 0.3 + 0.001 * weight, others(setting, weight, seed), 0.5, noise)
            found.append((dictionary(setting, weight, seed), its))
    return study_of(found, costs_at(level, 0.02), seed=0)


def dictionary(setting: str, weight: float, seed: int, features: int = 16) -> Dictionary:
    name = f"{setting}-{weight:g}-{features}-{seed}"
    values = {"subject": "made", "setting": setting, "weight": weight, "features": features, "seed": seed}
    return Dictionary(name=name, folder=name, **values)


def verdicts(found: TradeoffStudy) -> dict[str, str]:
    return {claim.id.removeprefix("tradeoff."): claim.verdict for claim in claims_of(found, "made")}


def falling(of_penalty: float, of_control: float, noise: float = 0.0) -> Others:
    """exp(−rate × weight), the same for every seed but for noise that goes up and down."""

    def others(setting: str, weight: float, seed: int) -> float:
        rate = {"plain": 0.0, "relative": of_penalty}.get(setting, of_control)
        odd = noise * (-1) ** seed * (1 + seed) if setting == "relative" else 0.0
        return 2.0 * math.exp(-rate * weight / 100 + odd * weight / 100)

    return others


def test_a_planted_advantage_over_the_control_is_found_at_its_size_and_a_planted_handicap_too() -> None:
    found = sweep(falling(2.0, 1.0))
    its = primary(found, "made")
    assert its is not None
    assert its.difference is not None
    # both reach 1.1 at 8/28 of the way from weight 10 to weight 100
    assert its.difference.value == pytest.approx(math.exp(-(0.1 + 0.9 * 8 / 28)), rel=1e-9)
    assert its.seeds == [0, 1, 2, 3, 4]
    assert its.missing == []
    assert verdicts(found)["controls"] == "holds"
    assert verdicts(sweep(falling(1.0, 2.0)))["controls"] == "does not hold"


def test_without_any_difference_none_is_found() -> None:
    assert verdicts(sweep(falling(1.0, 1.0, noise=0.02)))["controls"] == "cannot tell"


def test_where_the_cost_is_not_reached_it_cannot_be_told() -> None:
    dear = sweep(falling(2.0, 1.0), level=1.5)
    its = primary(dear, "made")
    assert its is not None
    assert its.difference is None
    assert its.missing == [0, 1, 2, 3, 4]
    claim = next(claim for claim in claims_of(dear, "made") if claim.id == "tradeoff.controls")
    assert claim.verdict == "cannot tell"
    assert "do not both reach 1.5 ×" in claim.why
    assert "named before looking is at 1.1 ×: this one is no test" in claim.why


def test_share_and_interaction_are_judged_against_no_penalty_and_a_small_weight_by_its_own_cost() -> None:
    found = verdicts(sweep(falling(2.0, 1.0), small=0.98))
    assert found["share"] == found["pairwise"] == found["free"] == "holds"
    rising = verdicts(sweep(falling(-1.0, 1.0), small=1.01))
    assert rising["pairwise"] == rising["free"] == "does not hold"


def test_with_few_seeds_the_words_say_that_dictionaries_are_held_fixed() -> None:
    for seeds, words in ((1, "this dictionary held fixed"), (5, "resampled texts and dictionaries (5 seeds)")):
        claim = next(c for c in claims_of(sweep(falling(2.0, 1.0), seeds), "made") if c.id == "tradeoff.controls")
        assert words in claim.why


def test_a_setting_reaches_the_target_only_if_nothing_that_it_pays_is_too_much() -> None:
    def study(largest: float, cost: float) -> str:
        plain, its = dictionary("plain", 0.0, 0), dictionary("relative", 9.0, 0)
        found = [(plain, made(2.0, 0.3, 1.0, 0.3)), (its, made(2.0 * cost, 0.5, 0.5, largest))]
        return verdicts(study_of(found, costs_at(1.1, 0.02), seed=0))["reach"]

    assert study(0.85, 1.05) == "holds"  # Φ(all) is .9 and .85 more than nine tenths of it
    assert study(0.75, 1.05) == "does not hold"
    assert study(0.85, 1.15) == "does not hold"


def noisy(middles: list[float], spread: float = 0.02) -> Measured:
    """Of each of these MLPs Φ(all) is .9, the same in every text, and Φ(only the largest) so much, give or take."""
    base = made(2.0, 0.3, 1.0, 0.5)
    wide = {name: getattr(base, name).expand(TEXTS, len(middles)) for name in ("share", "touched", "total", "others")}
    largest = torch.tensor(middles, dtype=torch.float64) + spread * torch.linspace(-1, 1, TEXTS).double()[:, None]
    flat = torch.ones_like(largest)
    return replace(
        base,
        mlps=tuple(f"blocks.{n}.mlp" for n in range(len(middles))),
        score=wide["others"],
        **wide,
        patched=10 * torch.stack([1.1 * flat, 2 - largest, 2 * flat]),
        inputs=torch.zeros(len(middles), dtype=torch.long),
        neurons=torch.full((len(middles),), 4),
        pre_activations=torch.full((len(middles),), 4),
    )


def reached(middles: list[float], beside: int) -> Claim:
    """Of a setting, with so many others that are far from the bar."""
    found = [(dictionary("plain", 0.0, 0), noisy([0.3] * len(middles), 0.0))]
    found += [(dictionary("relative", 1.0, 0), noisy(middles))]
    found += [(dictionary("paper", 2.0 + n, 0), noisy([0.2] * len(middles), 0.0)) for n in range(beside)]
    claims = claims_of(study_of(found, costs_at(1.1, 0.02), seed=0), "made")
    return next(claim for claim in claims if claim.id == "tradeoff.reach")


def test_that_some_setting_reaches_the_target_allows_for_how_many_were_tried() -> None:
    alone, among = reached([0.819], 0), reached([0.819], 30)
    assert alone.ours == among.ours == pytest.approx(0.009)
    assert "relative λ 1" in among.measure
    assert (alone.verdict, among.verdict) == ("holds", "cannot tell")


def test_that_none_reaches_the_target_allows_for_how_many_conditions_there_are() -> None:
    one, many = reached([0.8006], 0), reached([0.8006] * 12, 0)
    assert (one.verdict, many.verdict) == ("does not hold", "cannot tell")
    assert one.ours == many.ours == pytest.approx(-0.0094)


def test_the_worst_mlp_of_the_table_has_an_interval_that_is_not_that_of_the_worst_of_each_resample() -> None:
    generator = torch.Generator().manual_seed(0)
    its = noisy([0.6] * 8, 0.0)
    losses = 10 * (1.4 + torch.randn(TEXTS, 8, generator=generator, dtype=torch.float64))
    its = replace(its, patched=torch.stack([its.patched[0], losses - losses.mean(0) + 14, its.patched[2]]))
    found = study_of([(dictionary("plain", 0.0, 0), its)], costs_at(1.1, 0.02), seed=0)
    plain = found.points[0]
    assert plain.worst is not None
    assert plain.slack is None
    assert plain.worst.value == pytest.approx(0.6 / 0.9)
    assert plain.worst.low < 0.6 / 0.9 < plain.worst.high
    assert "worst MLP" in found.findings().tables[0].columns


def test_findings_have_every_dictionary_and_say_what_is_not_there() -> None:
    names = (*NAMES, "reconstruction")
    found = sweep(falling(2.0, 1.0), seeds=2, names=names)
    shown = TradeoffStudy.model_validate_json(found.model_dump_json()).findings()
    assert shown == found.findings()
    share = next(figure for figure in shown.figures if figure.id == "share-made")
    assert [line.name for line in share.series] == list(names)
    assert all(len(line.x) == 3 for line in share.series)
    assert "relative λ 100, 16 features, seeds 0, 1" in (share.series[0].words or ())[2]
    assert shown.tables[0].rows[0][:3] == ("plain", 0.0, 2)
    assert len(shown.tables[0].rows) == 7
    assert "less than a generic penalty" in shown.answer


def test_sizes_and_models_have_figures_of_their_own() -> None:
    found = []
    for subject in ("one", "two"):
        for features in (16, 32):
            for setting, weight in (("plain", 0.0), ("relative", 5.0)):
                its = dictionary(setting, weight, 0, features).model_copy(update={"subject": subject})
                found.append((its, made(2 + weight / 10, 0.3, 1 - weight / 10, 0.5)))
    shown = study_of(found, costs_at(1.1, 0.02), seed=0).findings()
    ids = [figure.id for figure in shown.figures]
    assert len(set(ids)) == len(ids)
    assert {"share-one", "share-features-two", "share-models", "others-models"} <= set(ids)
    assert {"tradeoff.share", "tradeoff.share.two"} <= {claim.id for claim in shown.claims}
