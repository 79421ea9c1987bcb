"""Explanations: the search finds what was planted and little where nothing was, and scores are those of other texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.study.explain import explanation
from crossproof.study.explain.explanation import HEADS, Explanation, explanations_of, information_gain
from crossproof.study.explain.score import Tally, in_a_ring, measured, tally
from crossproof.study.token_labels import TokenLabels

NOTHING = Explanation(())


def random_labels(tokens: int, labels: int, seed: int, rate: float = 0.3) -> TokenLabels:
    values = torch.rand(tokens, labels, generator=torch.Generator().manual_seed(seed)) < rate
    return TokenLabels(tuple(f"l{number}" for number in range(labels)), values)


def active_where(columns: Sequence[torch.Tensor]) -> Codes:
    """Features of various strengths that are active on these tokens."""
    on = torch.stack(list(columns), 1).float()
    return Codes.from_dense(on * torch.linspace(0.1, 3, len(on))[:, None])


@pytest.mark.parametrize("seed", range(4))
def test_planted_labels_are_found_and_named(seed: int) -> None:
    labels = random_labels(1500, 30, seed)
    its = labels.values.T
    planted = [its[4], its[7] & its[2], its[1] | its[9], (its[3] & its[8]) | its[20], its[0] & ~its[0]]
    found = explanations_of(active_where(planted), labels, 4)
    assert found[0] == Explanation((("l4",),))
    assert found[1] == Explanation((("l2", "l7"),))
    assert set(found[2].parts) == {("l1",), ("l9",)}
    assert set(found[3].parts) == {("l3", "l8"), ("l20",)}
    assert found[4] == NOTHING


def test_where_nothing_is_planted_little_is_found_and_it_is_worth_nothing_on_other_tokens() -> None:
    generator = torch.Generator().manual_seed(0)
    codes = [Codes.from_dense((torch.rand(2000, 60, generator=generator) < 0.05).float()) for _ in range(2)]
    labels = [random_labels(2000, 60, seed) for seed in (1, 2)]
    found = explanations_of(codes[0], labels[0], 4)
    assert sum(bool(its.parts) for its in found) < 30
    scored = tally(codes[1], labels[1], found, torch.zeros(2000, dtype=torch.long), 1)
    assert float(scored.balanced.mean()) == pytest.approx(0.5, abs=0.01)


def saved(hits: float, named: float, positives: float, tokens: int) -> float:
    numbers = (torch.tensor([float(number)], dtype=torch.float64) for number in (hits, named, positives))
    return float(information_gain(*numbers, tokens))


def entropy(ones: float, of: float) -> float:
    """In bits, of all."""
    return -sum(part * math.log2(part / of) for part in (ones, of - ones) if part > 0)


@given(st.integers(1, 10**7), st.data())
def test_information_gain_is_the_entropy_saved_and_never_negative(tokens: int, data: st.DataObject) -> None:
    positives = data.draw(st.integers(0, tokens))
    named = data.draw(st.integers(0, tokens))
    hits = data.draw(st.integers(max(0, positives + named - tokens), min(positives, named)))
    gain = saved(hits, named, positives, tokens)
    slow = entropy(positives, tokens) - entropy(hits, named) - entropy(positives - hits, tokens - named)
    expected = slow if hits * tokens > positives * named else 0
    assert gain == pytest.approx(expected, abs=1e-6 * tokens)
    assert gain >= -1e-6 * tokens


def slow_search(active: list[bool], labels: TokenLabels, most_parts: int) -> tuple[float, list[tuple[str, ...]]]:
    """The same search in loops: what the best parts are worth, and which they are."""
    rows, count = labels.values.tolist(), len(labels.names)
    price = math.log2(max(count, 2))

    def gain(said: list[bool]) -> float:
        hits = sum(a and s for a, s in zip(active, said, strict=True))
        return saved(hits, sum(said), sum(active), len(active))

    said, worth, spent = [False] * len(active), 0.0, 0.0
    parts: list[tuple[str, ...]] = []
    for _ in range(most_parts):

        def with_part(part: tuple[int, ...], said: list[bool] = said) -> list[bool]:
            return [old or all(row[label] for label in part) for old, row in zip(said, rows, strict=True)]

        singles = [gain(with_part((label,))) for label in range(count)]
        heads = sorted(range(count), key=lambda label: -singles[label])[:HEADS]
        options = [(singles[label] - price - spent, (label,)) for label in range(count)]
        options += [
            (gain(with_part((head, label))) - 2 * price - spent, (head, label))
            for head, label in product(heads, range(count))
            if head != label
        ]
        best, part = max(options, key=lambda option: option[0])
        if best <= worth:
            break
        said, worth, spent = with_part(part), best, spent + price * len(part)
        parts.append(tuple(labels.names[label] for label in sorted(part)))
    return worth, parts


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 30), st.integers(1, 7), st.floats(0.05, 0.9))
def test_the_search_is_that_of_slow_loops(seed: int, tokens: int, count: int, rate: float) -> None:
    labels = random_labels(tokens, count, seed, rate)
    generator = torch.Generator().manual_seed(seed)
    # labels of the tokens with some noise, so that there is something to find
    noise = torch.rand(tokens, 3, generator=generator) < 0.1
    columns = labels.values[:, torch.randint(count, (2, 3), generator=generator)]
    active = columns.any(1) ^ noise
    for feature, found in enumerate(explanations_of(Codes.from_dense(active.float()), labels, 3)):
        on = active[:, feature].tolist()
        worth, parts = slow_search(on, labels, 3)
        said = found.predict(labels)
        spent = math.log2(max(count, 2)) * sum(len(part) for part in found.parts)
        gain = saved(int((said & active[:, feature]).sum()), int(said.sum()), sum(on), tokens)
        assert gain - spent == pytest.approx(worth, abs=1e-6)
        assert len(found.parts) == len(parts)


def test_features_are_explained_alone_whatever_is_explained_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = random_labels(300, 12, 3)
    on = (torch.rand(300, 11, generator=torch.Generator().manual_seed(0)) < 0.2) | labels.values[:, :11]
    together = explanations_of(Codes.from_dense(on.float()), labels, 3)
    alone = [explanations_of(Codes.from_dense(on[:, [f]].float()), labels, 3)[0] for f in range(11)]
    monkeypatch.setattr(explanation, "FEATURES_AT_ONCE", 4)
    assert explanations_of(Codes.from_dense(on.float()), labels, 3) == together == alone


def test_what_has_strength_zero_is_not_active_and_what_has_no_labels_has_no_explanation() -> None:
    labels = random_labels(200, 5, 0)
    codes = active_where([labels.values[:, 0], labels.values[:, 1]])
    silent = Codes(codes.pattern, codes.values * (codes.pattern.features == 0))
    assert explanations_of(silent, labels, 3) == [Explanation((("l0",),)), NOTHING]
    none = TokenLabels((), torch.zeros(200, 0, dtype=torch.bool))
    assert explanations_of(codes, none, 3) == [NOTHING, NOTHING]
    assert not NOTHING.predict(none).any()
    with pytest.raises(MismatchError, match="codes of 200 tokens, labels of 150"):
        explanations_of(codes, labels.at(torch.arange(150)), 3)


def test_an_explanation_reads_as_a_sentence() -> None:
    for parts, said in {
        (("names",),): "names",
        (("tokens inside speech",),): "tokens inside speech",
        (("tokens inside speech", "names"),): "names inside speech",
        (("names", "“ Lily”"), ("verbs",)): "names that are “ Lily”, or verbs",
        (("tokens after “,”", "tokens inside speech"),): "tokens after “,” and inside speech",
        (): "nothing was found",
    }.items():
        assert str(Explanation(parts)) == said


def some_tally() -> tuple[Tally, Codes, TokenLabels, list[Explanation], torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    labels = random_labels(90, 6, 5)
    codes = Codes.from_dense(torch.rand(90, 7, generator=generator) * (torch.rand(90, 7, generator=generator) < 0.3))
    explanations = [NOTHING, *(Explanation(((f"l{n}",), ("l0", f"l{(n + 1) % 6}"))) for n in range(6))]
    text = torch.randint(4, (90,), generator=generator).sort().values
    return tally(codes, labels, explanations, text, 5), codes, labels, explanations, text


def test_tallies_and_measures_are_those_of_loops() -> None:
    found, codes, labels, explanations, text = some_tally()
    on = codes.dense() > 0
    for feature, its in enumerate(explanations):
        said = its.predict(labels)
        expected = [
            any(all(bool(labels.values[t, int(name[1:])]) for name in part) for part in its.parts) for t in range(90)
        ]
        assert said.tolist() == expected
        for its_text in range(5):
            here = [t for t in range(90) if int(text[t]) == its_text]
            so = [bool(on[t, feature]) for t in here]
            is_said = [expected[t] for t in here]
            both = [a and b for a, b in zip(so, is_said, strict=True)]
            counts = [float(its[its_text, feature]) for its in (found.tokens, found.active, found.said, found.hits)]
            assert counts == [len(here), sum(so), sum(is_said), sum(both)]
    shares = []
    for feature, its in enumerate(explanations):
        said, so = its.predict(labels), on[:, feature]
        right = [[int((said == s)[so == a].sum()) for s in (True, False)] for a in (True, False)]
        shares.append((right[0][0] / sum(right[0]), right[1][1] / sum(right[1])))
    once = measured(found, None, torch.ones(1, 5, dtype=torch.float64))
    assert once["sensitivity"].value == pytest.approx(sum(s for s, _ in shares) / 7)
    assert once["specificity"].value == pytest.approx(sum(s for _, s in shares) / 7)
    assert once["balanced"].value == pytest.approx(sum(a + b for a, b in shares) / 14)
    for name, drawn in once.items():
        assert float(drawn.draws[0]) == pytest.approx(drawn.value), name


def test_a_resample_is_the_score_on_the_texts_drawn_and_a_feature_in_none_of_them_keeps_its_own() -> None:
    found = some_tally()[0]
    only = torch.zeros(1, 5, dtype=torch.float64)
    only[0, 2] = 3
    draws = measured(found, None, only)
    of_text = found.sensitivity[2].where(found.active[2] > 0, found.pooled().sensitivity[0])
    assert float(draws["sensitivity"].draws[0]) == pytest.approx(float(of_text.mean()))
    nowhere = torch.zeros(1, 5, dtype=torch.float64)
    nowhere[0, 4] = 1  # a text without tokens
    draws = measured(found, None, nowhere)
    assert float(draws["balanced"].draws[0]) == pytest.approx(draws["balanced"].value)


def test_bits_saved_are_all_for_the_truth_none_for_silence_and_less_than_none_for_what_misleads() -> None:
    def bits(hits_then: int, hits_now: int, said: int = 100) -> float:
        def of(hits: int) -> Tally:
            return Tally(*(torch.tensor([[float(n)]], dtype=torch.float64) for n in (10000, 100, said, hits)))

        return measured(of(hits_now), of(hits_then), torch.ones(1, 1, dtype=torch.float64))["information"].value

    assert bits(100, 100) > 0.97
    assert bits(0, 0, said=0) == 0
    assert 0 < bits(50, 50) < 0.7
    assert bits(100, 0) < -1


@given(st.lists(st.integers(0, 100), unique=True, min_size=2), st.integers(0, 50))
def test_in_a_ring_everybody_has_another_and_nobody_is_had_twice(features: list[int], seed: int) -> None:
    ring = in_a_ring(features, seed)
    assert sorted(ring) == sorted(ring.values()) == sorted(features)
    assert all(here != there for here, there in ring.items())
