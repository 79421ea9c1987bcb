"""The query × key table against its definition in loops, its bound, and what must not change it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.attention import pairs, pairs_blocks, pairs_events, reach
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.pairs import HeadPairs, at_positions, query_key_pairs
from crossproof.units import Attention, Rotary
from tests.interaction.attention.toys import attentions, make_attention, make_heads, make_passage, passages

LAYERS = settings(deadline=None, max_examples=12)
SCALES = st.sampled_from([1.0, 5.0, 40.0])
"""Of the scores: large ones make patterns of a single source."""


@contextmanager
def sizes(**of: float) -> Iterator[None]:
    """With other sizes of chunks, blocks and groups."""
    places = {"GROUP": pairs, "POSITIONS": pairs_blocks, "MEETINGS": pairs_events, "MOST_BYTES": pairs}
    with pytest.MonkeyPatch.context() as patch:
        for name, size in of.items():
            for module in [places[name]] if name in places else [reach, pairs_blocks, pairs_events]:
                patch.setattr(module, name, size, raising=name != "ELEMENTS")
        yield


class Slow:
    """The definition, position by position and query feature by query feature."""

    def __init__(self, heads: Heads, passage: Passage, layer: int = 0) -> None:
        unit, f = heads.attention, passage.codes.dense()
        n, n_features = f.shape
        self.n_heads, self.given = len(unit.W_Q), set(passage.given.tolist())
        x = torch.stack([heads.bias + f[t] @ heads.directions for t in range(n)])
        for place, t in enumerate(passage.given.tolist()):
            x[t] = passage.inputs[layer][place]
        self.pattern = unit.pattern(x[None])[0]
        self.pairs = x.new_zeros(self.n_heads, n, n_features, n_features)
        self.background = x.new_zeros(self.n_heads, n, n_features)
        self.written = x.new_zeros(self.n_heads)
        self.y: list[Tensor] = []
        self.terms: dict[tuple[int, int, int, int], Tensor] = {}
        self.largest = 1e-300
        for h in range(self.n_heads):
            g = h // (len(unit.W_Q) // len(unit.W_K))
            y = (x @ unit.W_V[g] + unit.b_V[g]) @ unit.W_O[h]
            self.y.append(y)
            keys = [self.turned(unit, heads.directions[j] @ unit.W_K[g], n) for j in range(n_features)]
            key = torch.stack(keys, dim=1)  # position, feature, d_head
            ones = [unit.scale * heads.directions[i] @ unit.W_Q[h] for i in range(n_features)]
            ones.append(unit.scale * (heads.bias @ unit.W_Q[h] + unit.b_Q[h]))
            queries = [self.turned(unit, one, n) for one in ones]
            for t in range(n):
                if t in self.given:
                    continue
                A = self.pattern[h, t]
                ybar = A @ y
                moved = (A * (y - ybar).square().sum(1)).sum().sqrt()
                self.written[h] += ybar.norm()
                for i in range(n_features + 1):
                    strength = f[t, i] if i < n_features else torch.tensor(1.0)
                    if strength == 0:
                        continue
                    c = strength * f * (key @ queries[i][t])  # position, feature
                    found = (A[:, None] * (c - A @ c).square()).sum(0).sqrt() * moved
                    self.largest = max(self.largest, float(c.abs().max() * y.norm(dim=1).max()))
                    if i == n_features:
                        self.background[h, t] = found
                    else:
                        self.pairs[h, t, i] = found
                        self.terms |= {(h, t, i, j): c[:, j] for j in range(n_features)}

    @staticmethod
    def turned(unit: Attention, vector: Tensor, n: int) -> Tensor:
        everywhere = vector.expand(n, -1)
        return everywhere if unit.rotary is None else unit.rotary(everywhere)


def close(found: Tensor, expected: Tensor, largest: float, digits: float = 1e-10) -> None:
    torch.testing.assert_close(found, expected.to(found), rtol=0, atol=digits * largest)


def louder(attention: Attention, by: float) -> Attention:
    return replace(attention, scale=attention.scale * by)


def alike(one: HeadPairs, other: HeadPairs, digits: float = 1e-10) -> None:
    for its, theirs in (
        (one.total, other.total), (one.background, other.background), (one.written, other.written),
        (one.by_text, other.by_text),
    ):  # fmt: skip
        close(its, theirs, float(theirs.abs().max()) if theirs.numel() else 0.0, digits)
    assert torch.equal(one.queries, other.queries)


@settings(deadline=None, max_examples=40)
@given(attentions(), st.lists(passages(), min_size=1, max_size=3), SCALES, st.sampled_from([1e-3, 10.0]))
def test_tables_are_the_definition_in_loops(
    attention: Attention, texts: list[Passage], scale: float, flat: float
) -> None:
    heads = make_heads(louder(attention, scale))
    slow = [Slow(heads, text) for text in texts]
    largest = sum(its.largest * text.positions for its, text in zip(slow, texts, strict=True))
    with sizes(FLAT=flat):
        [found] = query_key_pairs(texts, [heads])
    close(found.total, sum(its.pairs.sum(1) for its in slow), largest)  # type: ignore[arg-type]
    close(found.background, sum(its.background.sum(1) for its in slow), largest)  # type: ignore[arg-type]
    close(found.written, sum(its.written for its in slow), float(found.written.max()))  # type: ignore[arg-type]
    close(found.by_text, torch.stack([its.pairs.sum((1, 2, 3)) for its in slow]), largest)
    assert found.queries.tolist() == [text.positions - len(text.given) for text in texts]
    assert found.n_queries == sum(found.queries.tolist())
    if found.n_queries:
        close(found.mean * found.n_queries, found.total, largest)


@LAYERS
@given(attentions(rotary=None, rotary_dim=None), st.lists(passages(), min_size=1, max_size=3), SCALES)
def test_positions_that_turn_nothing_change_nothing(attention: Attention, texts: list[Passage], scale: float) -> None:
    attention = louder(attention, scale)
    still = replace(attention, rotary=Rotary(torch.zeros(2)))
    [straight], [turned] = (query_key_pairs(texts, [make_heads(each)]) for each in (attention, still))
    alike(turned, straight)


@LAYERS
@given(attentions(), passages(), SCALES)
def test_no_term_moves_the_output_faster_than_its_interaction(
    attention: Attention, passage: Passage, scale: float
) -> None:
    slow = Slow(make_heads(louder(attention, scale)), passage)
    for (h, t, i, j), c in slow.terms.items():
        scores = slow.pattern[h, t].log()

        def output(amplitude: Tensor, scores: Tensor = scores, c: Tensor = c, y: Tensor = slow.y[h]) -> Tensor:
            return (scores + amplitude * c).softmax(0) @ y

        slope = torch.func.jvp(output, (torch.zeros((), dtype=c.dtype),), (torch.ones((), dtype=c.dtype),))[1]
        bound = slow.pairs[h, t, i, j]
        assert slope.norm() <= bound * (1 + 1e-9) + 1e-13 * slow.largest


@LAYERS
@given(attentions(window=None), st.integers(0, 10**6))
def test_the_bound_is_attained_between_two_sources(attention: Attention, seed: int) -> None:
    heads = make_heads(attention)
    slow = Slow(heads, make_passage(seed, positions=2, empty=()))
    [found] = query_key_pairs([make_passage(seed, positions=2, empty=())], [heads])
    for (h, t, i, j), c in slow.terms.items():
        A, y = slow.pattern[h, t], slow.y[h]
        slope = (A * (c - A @ c)) @ (y - A @ y)
        close(found.total[h, i, j], slope.norm(), slow.largest)  # t = 1 is the only query


@LAYERS
@given(attentions(rotary=None), passages(given=()), st.integers(0, 5), SCALES)
def test_a_feature_that_is_on_everywhere_at_one_strength_attracts_nothing(
    attention: Attention, passage: Passage, always: int, scale: float
) -> None:
    f = passage.codes.dense()
    f[:, always] = 0.7
    heads = make_heads(louder(attention, scale))
    passage = Passage(Codes.from_dense(f), passage.given, passage.inputs)
    [found] = query_key_pairs([passage], [heads])
    largest = Slow(heads, passage).largest
    assert float(found.total[:, :, always].max()) <= 1e-14 * passage.positions * largest
    assert float(found.background[:, always].max()) <= 1e-14 * passage.positions * largest


@LAYERS
@given(attentions(rotary=None), passages(), st.integers(0, 10**6))
def test_what_only_the_query_decides_changes_nothing(attention: Attention, passage: Passage, seed: int) -> None:
    b_K = torch.randn(attention.b_K.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    attentions = attention, replace(attention, b_K=b_K)
    [one], [other] = (query_key_pairs([passage], [make_heads(each)]) for each in attentions)
    close(other.total, one.total, Slow(make_heads(attention), passage).largest)


@LAYERS
@given(attentions(), passages(), st.integers(0, 5), st.sampled_from([1e-8, 0.3, 1e8]))
def test_a_feature_and_its_direction_may_be_scaled_against_each_other(
    attention: Attention, passage: Passage, feature: int, by: float
) -> None:
    heads = make_heads(attention)
    f, directions = passage.codes.dense(), heads.directions.clone()
    f[:, feature] *= by
    directions[feature] /= by
    scaled = Passage(Codes.from_dense(f), passage.given, passage.inputs)
    [one] = query_key_pairs([passage], [heads])
    [other] = query_key_pairs([scaled], [heads_of(attention, directions, heads.bias)])
    largest = Slow(heads, passage).largest * passage.positions
    close(other.total, one.total, largest)
    close(other.background, one.background, largest)


def texts_of(seed: int, many: int = 5) -> list[Passage]:
    return [make_passage(seed + n, positions=1 + (5 * n + seed) % 8, layers=2) for n in range(many)]


@settings(LAYERS, max_examples=8)
@given(attentions(), attentions(), st.integers(0, 10**6), st.sampled_from([1, 9, 20]), SCALES)
def test_sums_do_not_depend_on_how_the_work_is_cut(
    first: Attention, second: Attention, seed: int, size: int, scale: float
) -> None:
    layers, texts = [make_heads(louder(first, scale), 1), make_heads(second, 2)], texts_of(seed)
    whole = query_key_pairs(texts, layers)
    with sizes(GROUP=size, POSITIONS=size, MEETINGS=size, ELEMENTS=size):
        cut = query_key_pairs(iter(texts), layers, total=len(texts))
    with sizes(POSITIONS=size):  # a group of texts in several blocks
        in_blocks = query_key_pairs(texts, layers)
    apart = [query_key_pairs([text], layers) for text in texts]
    for number, table in enumerate(whole):
        alike(cut[number], table)
        alike(in_blocks[number], table)
        close(sum(its[number].total for its in apart), table.total, float(table.total.max()))  # type: ignore[arg-type]
        close(torch.cat([its[number].by_text for its in apart]), table.by_text, float(table.by_text.max()))
        close(table.by_text.sum(0), table.total.sum((1, 2)), float(table.by_text.sum()))


@LAYERS
@given(attentions(), attentions(), passages(layers=2), SCALES)
def test_what_is_said_of_each_position_adds_up_to_the_tables(
    first: Attention, second: Attention, passage: Passage, scale: float
) -> None:
    layers = [make_heads(louder(first, scale), 1), make_heads(second, 2)]
    slow = [Slow(heads, passage, number) for number, heads in enumerate(layers)]
    found, tables = at_positions(passage, layers), query_key_pairs([passage], layers)
    for number, (heads, table) in enumerate(zip(layers, tables, strict=True)):
        score = found.score[:, number]
        largest = slow[number].largest * passage.codes.pattern.n_features**2
        close(score[:, : heads.n_heads].sum(0), table.total.sum((1, 2)), largest * passage.positions)
        close(score[:, : heads.n_heads], slow[number].pairs.sum((2, 3)).T, largest)
        assert not score[:, heads.n_heads :].any()
    assert not found.score[passage.given].any()
    for t in range(passage.positions):
        most = max(float(its.pairs[:, t].max()) for its in slow)
        close(found.value[t], torch.tensor(most, dtype=torch.float64), max(its.largest for its in slow))
        if found.i[t] >= 0:
            its = slow[int(found.layer[t])]
            close(found.value[t], its.pairs[found.head[t], t, found.i[t], found.j[t]], its.largest)
        else:
            assert found.value[t] == 0
            assert found.j[t] == found.layer[t] == found.head[t] == -1


def test_of_several_strongest_pairs_the_lowest_features_in_the_lowest_layer_and_head_are_named() -> None:
    def twins(rotary: str | None) -> Sequence[Heads]:
        unit = make_attention(3, heads=1, rotary=rotary)
        unit = replace(
            unit, W_Q=unit.W_Q.repeat(2, 1, 1), W_K=unit.W_K.repeat(2, 1, 1), W_V=unit.W_V.repeat(2, 1, 1),
            W_O=unit.W_O.repeat(2, 1, 1), b_Q=unit.b_Q.repeat(2, 1), b_K=unit.b_K.repeat(2, 1),
            b_V=unit.b_V.repeat(2, 1),
        )  # fmt: skip
        heads = make_heads(unit, 4, 2)
        doubled = heads.directions[[0, 1, 0, 1]]
        return [heads_of(unit, doubled, heads.bias)] * 2

    half = torch.tensor([[0.0, 0.0], [0.5, 0.25], [0.0, 1.5], [1.0, 0.5]], dtype=torch.float64)
    for rotary in (None, "halves"):
        f = torch.cat([half, half], dim=1)
        given = torch.tensor([0])
        passage = Passage(Codes.from_dense(f), given, [torch.ones(1, 5, dtype=torch.float64)] * 2)
        found = at_positions(passage, twins(rotary))
        assert found.i.tolist()[1:] == [i % 2 for i in found.i.tolist()[1:]]
        assert found.j.tolist()[1:] == [j % 2 for j in found.j.tolist()[1:]]
        assert found.layer.tolist() == found.head.tolist() == [-1, 0, 0, 0]


def test_strengths_of_zero_are_not_active() -> None:
    heads, passage = make_heads(make_attention()), make_passage()
    codes = passage.codes
    values = codes.values.clone()
    values[::3] = 0
    with_zeros = Passage(Codes(codes.pattern, values), passage.given, passage.inputs)
    without = Passage(Codes(codes.pattern, values).active(), passage.given, passage.inputs)
    alike(query_key_pairs([with_zeros], [heads])[0], query_key_pairs([without], [heads])[0])
    strongest = at_positions(with_zeros, [heads])
    assert torch.equal(strongest.i, at_positions(without, [heads]).i)


@pytest.mark.parametrize("rotary", [None, "halves"])
def test_a_feature_that_is_on_once_interacts_with_itself(rotary: str | None) -> None:
    f = torch.zeros(3, 6, dtype=torch.float64)
    f[1, 4] = 0.5
    heads, passage = make_heads(make_attention(rotary=rotary)), replace(make_passage(), codes=Codes.from_dense(f))
    [found], slow = query_key_pairs([passage], [heads]), Slow(heads, passage)
    assert found.total[:, 4, 4].all()
    close(found.total, slow.pairs.sum(1), slow.largest)


@pytest.mark.parametrize("rotary", [None, "adjacent"])
def test_single_precision_is_near_double(rotary: str | None) -> None:
    single, double = torch.float32, torch.float64
    [one], [other] = (
        query_key_pairs(
            [make_passage(seed, positions=12, dtype=dtype) for seed in range(4)],
            [make_heads(make_attention(rotary=rotary, dtype=dtype))],
        )
        for dtype in (single, double)
    )
    assert one.total.dtype == single
    assert one.by_text.dtype == double
    alike(one, other, digits=1e-4)


@pytest.mark.parametrize("rotary", [None, "halves"])
def test_no_texts_make_tables_of_zeros(rotary: str | None) -> None:
    [found] = query_key_pairs([], [make_heads(make_attention(rotary=rotary))])
    assert not found.total.any()
    assert found.by_text.shape == (0, 2)
    assert found.n_queries == 0


def test_tables_that_would_not_fit_are_refused_with_what_to_do() -> None:
    heads = make_heads(make_attention())
    with sizes(MOST_BYTES=8 * 2 * 36 - 1), pytest.raises(MismatchError, match=r"fewer `layers` at a time"):
        query_key_pairs([make_passage()], [heads])
    with sizes(MOST_BYTES=8 * 2 * 36):
        query_key_pairs([make_passage()], [heads])


def test_texts_of_another_dictionary_or_other_layers_are_refused() -> None:
    heads = make_heads(make_attention())
    with pytest.raises(MismatchError, match="different dictionaries"):
        query_key_pairs([make_passage(features=7)], [heads])
    with pytest.raises(MismatchError, match="inputs of 1 layers"):
        at_positions(make_passage(), [heads, heads])
