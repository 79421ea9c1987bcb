"""How interactions change between two models: slow references, planted changes, and none."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from crossproof.binding.encoding import codes_of
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.pairs import directed, mass
from crossproof.study.diffing import shown
from crossproof.study.diffing.changes import WAYS, measured, pair_at_tokens, totals, ways
from crossproof.study.diffing.features import (
    KINDS,
)
from crossproof.study.diffing.measure import Compared
from crossproof.study.diffing.summed import beyond_null, by_weights
from crossproof.study.estimates import Drawn, text_weights
from tests.study.diffing_toys import FEATURES, coder_of, copy_of, many_tokens, of, texts_without_labels


def test_tables_add_up_to_the_metrics_of_the_whole_and_each_way_uses_its_own_weights_and_directions() -> None:
    base, tuned = copy_of("base"), copy_of("tuned")
    for block in tuned.model.blocks:
        block.mlp.W_in.data.mul_(2)
    coder, tokens = coder_of(base, tuned, alike=False), many_tokens(base)
    texts = texts_without_labels(base, tokens)
    with torch.no_grad():
        codes, units = codes_of((base, tuned), coder, tokens), ways(base, tuned, coder)
        table = measured(codes, texts, units)
        coactive = CoActive.of(codes)
        assert torch.equal(table.i, coactive.i)
        assert torch.equal(table.j, coactive.j)
        for way in WAYS:
            whole = torch.stack([its.total for its in directed(codes, units[way], coactive)]).sum(0) / tokens.n_kept
            torch.testing.assert_close(table.per_token(f"directed {way}", texts.tokens), whole)
        for way in ("base", "tuned"):
            whole = torch.stack([its.pairs.total for its in mass(codes, units[way], coactive)]).sum(0) / tokens.n_kept
            torch.testing.assert_close(table.per_token(f"mass {way}", texts.tokens), whole)
        # weights twice as large interact twice as much, whoever's the directions are
        for one, other in (("base", "weights"), ("directions", "tuned")):
            first, second = (table.values[f"directed {way}"] for way in (one, other))
            torch.testing.assert_close(2 * first, second, rtol=0, atol=0)
        assert not torch.allclose(table.values["directed base"], table.values["directed directions"])
        for pair in (0, len(table.i) // 2):
            i, j = int(table.i[pair]), int(table.j[pair])
            at = pair_at_tokens(codes, units["tuned"], i, j)
            assert float(at.sum()) / tokens.n_kept == pytest.approx(
                float(table.per_token("directed tuned", texts.tokens)[pair]), rel=1e-4
            )
            together = (codes.dense()[:, [i, j]] > 0).all(1)
            assert not bool(at[~together].any())


def test_totals_are_sums_over_pairs_of_changes_of_means_in_the_direction_of_the_other_half_in_every_resample() -> None:
    base, tuned = copy_of("base"), copy_of("tuned")
    coder, tokens = coder_of(base, tuned, alike=False), many_tokens(base)
    texts = texts_without_labels(base, tokens)
    weights = text_weights(int(texts.reported.sum()), 1, draws=4)
    with torch.no_grad():
        table = measured(codes_of((base, tuned), coder, tokens), texts, ways(base, tuned, coder))
        group = torch.arange(len(table.i)) % 2
        found = totals(table, ("directed base", "directed tuned"), group, 3, texts, weights)
        by_text = {
            name: table.of_texts(name, 0, len(table.i), texts.count)[texts.reported]
            for name in ("directed base", "directed tuned")
        }
        other = [
            table.of_texts(name, 0, len(table.i), texts.count)[~texts.reported].sum(0)
            for name in ("directed base", "directed tuned")
        ]
    direction = torch.where(other[1] > other[0], 1.0, torch.where(other[1] < other[0], -1.0, 0.0)).double()
    assert set(direction.tolist()) >= {-1.0, 1.0}
    lengths = texts.tokens[texts.reported]
    for draw, counts in enumerate([torch.ones(len(lengths), dtype=torch.float64), *weights]):
        first, second = (counts @ its / (counts @ lengths) for its in by_text.values())
        for number in range(3):
            change = float(((second - first) * direction)[group == number].sum())
            interaction = float(((second + first) / 2)[group == number].sum())
            drawn = [
                its[number].value if draw == 0 else float(its[number].draws[draw - 1])
                for its in (found.change, found.interaction)
            ]
            assert drawn == pytest.approx([change, interaction])


def test_a_model_against_itself_with_the_same_directions_changes_nothing_at_all() -> None:
    base, again = copy_of("base"), copy_of("base again")
    coder = coder_of(base, again)
    found = of(base, again, coder, coder, again)
    for its in found.groups:
        assert its.found[1].value == 0
        assert not bool(its.found[1].draws.any())
    table = found.pair.table
    for way in WAYS[1:]:
        assert torch.equal(table.values["directed base"], table.values[f"directed {way}"])
    assert bool((found.kind == KINDS.index("unchanged")).all())
    assert beyond_null([found]) is None
    assert by_weights([found]) is None
    assert shown.pairs(found, texts_without_labels(base, many_tokens(base)), 5, 0) == []


def test_a_change_of_weights_between_features_that_do_not_change_is_found_and_put_down_to_the_weights() -> None:
    base, tuned, again = copy_of("base"), copy_of("tuned"), copy_of("base again")
    tuned.model.blocks[1].mlp.W_in.data.mul_(3)
    coder, null = coder_of(base, tuned), coder_of(base, again)
    found = of(base, tuned, coder, null, again)
    by = {its.group: its for its in found.groups if its.metric == "directed"}
    unchanged = by["both unchanged"]
    assert unchanged.found[1].value > 0
    assert unchanged.by_weights is not None
    assert unchanged.by_directions is not None
    assert unchanged.by_weights.value == pytest.approx(unchanged.found[1].value)
    assert unchanged.by_directions.value == 0
    beyond = beyond_null([found])
    assert beyond is not None
    assert (beyond.value, beyond.low) == pytest.approx((1, 1))
    part = by_weights([found])
    assert part is not None
    assert (part.value, part.low) == (1, 1)
    texts = texts_without_labels(base, many_tokens(base))
    pairs = shown.pairs(found, texts, 4, 0)
    with torch.no_grad():
        passages = shown.passages(found, pairs, (base, tuned), coder, texts)
    assert len(passages) == shown.PASSAGES
    for pair, passage in zip(pairs, passages, strict=False):
        first, second, before, after = (torch.tensor(layer.values) for layer in passage.layers)
        together = (first > 0) & (second > 0)
        assert not bool(before[~together].any())
        assert bool((after >= before).all())
        assert float((after - before).sum()) > 0
        texts_with_these_words = [
            text
            for text in texts.reported.nonzero().squeeze(1).tolist()
            if tuple(word for word, of_text in zip(texts.words, texts.text.tolist(), strict=True) if of_text == text)
            == passage.words
        ]
        assert texts_with_these_words
        assert str(pair.i) in passage.title
    for pair in pairs:
        assert pair.tuned > pair.base
        assert pair.change.value == pytest.approx(pair.tuned - pair.base)
        assert pair.by_weights == pytest.approx(pair.change.value)
        assert pair.by_directions == 0


def test_a_part_of_changes_that_cancel_is_none() -> None:
    """Changes have signs: one of 2 and one of −1.9 are no shares of their sum, which resamples may make anything."""
    base, tuned, again = copy_of("base"), copy_of("tuned"), copy_of("base again")
    tuned.model.blocks[1].mlp.W_in.data.mul_(3)
    found = of(base, tuned, coder_of(base, tuned), coder_of(base, again), again)
    draws = torch.linspace(-1.5, -0.5, 101, dtype=torch.float64)

    def with_directions(value: float) -> Compared:
        groups = [
            replace(its, by_weights=Drawn(1.0, -draws), by_directions=Drawn(value, value + draws * 0))
            for its in found.groups
        ]
        return replace(found, groups=groups)

    assert by_weights([with_directions(-0.9)]) is None
    assert by_weights([with_directions(-1.1)]) is None
    part = by_weights([with_directions(1.0)])
    assert part is not None
    assert part.value == 0.5


def test_features_that_turn_are_told_from_those_that_stay_and_their_partners_are_named() -> None:
    base, tuned, again = copy_of("base"), copy_of("tuned"), copy_of("base again")
    coder, null = coder_of(base, tuned), coder_of(base, again)
    half = coder.W_dec.shape[1] // 2
    turned = [1, 4]
    with torch.no_grad():
        coder.W_dec[turned, half:] = coder.W_dec[turned, :half].flip(1)
        coder.W_dec[7, half:] = 0
    found = of(base, tuned, coder, null, again)
    names = [KINDS[kind] for kind in found.kind.tolist()]
    assert [number for number, name in enumerate(names) if name == "rotated"] == turned
    assert [number for number, name in enumerate(names) if name == "base-only"] == [7]
    assert names.count("unchanged") == FEATURES - 3
    by = {its.group: its for its in found.groups if its.metric == "directed"}
    cause = by["one unchanged"].by_directions
    assert cause is not None
    assert cause.value == pytest.approx(by["one unchanged"].found[1].value)
    texts = texts_without_labels(base, many_tokens(base))
    partners = shown.partners(found, texts, 20)
    changed = found.changed.nonzero().squeeze(1).tolist()
    assert partners
    assert not {its.feature for its in partners} & set(changed)
    table, reported = found.pair.table, texts.tokens * texts.reported
    tuned_mean = table.per_token("directed tuned", reported)
    for its in partners:
        pairs_of = [
            p for p in range(len(table.i)) if {int(table.i[p]), int(table.j[p])} - set(changed) == {its.feature}
        ]
        assert its.tuned == pytest.approx(float(tuned_mean[pairs_of].sum()))
