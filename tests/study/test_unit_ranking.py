"""The ranking study of attention layers and norms: its pairs, its reference and its metrics are what they say."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.binding.bound_units import bound_norms
from crossproof.binding.encoding import Encoded, encode
from crossproof.codes import Codes
from crossproof.errors import CrossproofError
from crossproof.interaction.attention.game import attention_game
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.output import read
from crossproof.interaction.norms.removal import norm_game
from crossproof.interaction.shapley import exact, sampled
from crossproof.study.ranking import comparison
from crossproof.study.unit_ranking import attention, index, norms
from crossproof.study.unit_ranking import study as unit_study
from crossproof.study.unit_ranking.results import ALL, UnitRanking, agreement_table, summary, tables, unit_table
from crossproof.study.unit_ranking.study import UnitRankingConfig, run, study
from crossproof.subject.tokens import Tokens
from crossproof.units import Attention
from tests.binding import coders
from tests.interaction.attention.toys import attentions, make_attention, make_heads, make_passage
from tests.interaction.norm_toys import toy
from tests.subject import tiny

SITES = ("blocks.[01].hook_resid_pre", "blocks.[01].ln1.hook_normalized")


def texts(family: str = "gpt2", count: int = 5) -> Tokens:
    words = torch.randint(50, (count, 10), generator=torch.Generator().manual_seed(2)).tolist()
    return tiny.subject(family, torch.float32).tokens([" ".join(f"w{word}" for word in text) for text in words])


def encoded_toy(attention: Attention, n_texts: int = 3, layers: int = 1) -> tuple[Encoded, Heads]:
    """Texts of different lengths, each with a given position in front."""
    passages = [make_passage(seed, positions=3 + seed % 4, empty=(2,), layers=layers) for seed in range(n_texts)]
    keep = torch.zeros(n_texts, 8, dtype=torch.bool)
    rows = []
    for text, passage in enumerate(passages):
        keep[text, 1 : passage.positions] = True
        rows.append(passage.codes.dense()[1:])
    given = tuple(torch.cat([passage.inputs[layer] for passage in passages]) for layer in range(layers))
    return Encoded(Codes.from_dense(torch.cat(rows)), keep, given), make_heads(attention)


def slow_metrics(passage: Passage, heads: Heads, t: int, i: int, j: int) -> dict[str, float]:
    """By loops over heads and keys, from the layer's own scores and pattern."""
    unit, x, f = heads.attention, heads.input(passage, 0), passage.codes.dense()
    group = len(unit.W_Q) // len(unit.W_K)
    seen = [s for s in range(len(x)) if unit.mask(len(x))[t, s]]
    found = {"interaction, here": 0.0, "scores, here": 0.0}
    first, second = x.new_zeros(x.shape[1]), x.new_zeros(x.shape[1])
    without_i, without_j = x.clone(), x.clone()
    without_i[t] -= f[t, i] * heads.directions[i]
    without_j -= f[:, j, None] * heads.directions[j]

    def scores(queries: Tensor, keys: Tensor, h: int) -> Tensor:
        q = unit.scale * (queries @ unit.W_Q[h] + unit.b_Q[h])
        k = keys @ unit.W_K[h // group] + unit.b_K[h // group]
        return (heads.rotated(q) @ heads.rotated(k).T)[t]

    for h in range(heads.n_heads):
        A = unit.pattern(x[None])[0, h, t]
        full = scores(x, x, h)
        by_i, by_j = full - scores(without_i, x, h), full - scores(x, without_j, h)
        c = by_i - scores(x, without_j, h) + scores(without_i, without_j, h)
        y = (x @ unit.W_V[h // group] + unit.b_V[h // group]) @ unit.W_O[h]
        mean_c, mean_i, mean_j = (sum(A[s] * of[s] for s in seen) for of in (c, by_i, by_j))
        mean_y = sum(A[s] * y[s] for s in seen)
        spread = sum(float(A[s] * (c[s] - mean_c) ** 2) for s in seen) ** 0.5
        reach = sum(float(A[s] * (y[s] - mean_y).square().sum()) for s in seen) ** 0.5
        found["interaction, here"] += spread * reach
        found["scores, here"] += sum(float(A[s] * c[s].abs()) for s in seen)
        for s in seen:
            first += A[s] * (c[s] - mean_c) * (y[s] - mean_y)
            second += A[s] * (c[s] - mean_c + (by_i[s] - mean_i) * (by_j[s] - mean_j)) * (y[s] - mean_y)
    found["first order, here"], found["second order, here"] = float(first.norm()), float(second.norm())
    found["strengths, here"] = float(f[t, i] * sum(f[s, j] for s in seen) / len(seen))
    found["keys, here"] = float(sum(f[s, j] > 0 for s in seen))
    return found


@settings(max_examples=25, deadline=None)
@given(attentions(), st.integers(0, 100), st.sampled_from([1, 3, 4]))
def test_metrics_of_a_query_are_their_definitions(unit: Attention, seed: int, t: int) -> None:
    heads, passage = make_heads(unit, seed), make_passage(seed)
    f, seen = passage.codes.dense(), unit.mask(passage.positions)[t]
    keys = (f[seen] > 0).any(0).nonzero().flatten()[::2].contiguous()
    found = attention.metrics_at(read(passage, 0, heads), t, keys)
    assert [*found] == [name for name in attention.HERE if name != "second difference, here"]
    for q, i in enumerate(f[t].nonzero().squeeze(1).tolist()):
        for k, j in enumerate(keys.tolist()):
            for name, expected in slow_metrics(passage, heads, t, i, j).items():
                assert float(found[name][q, k]) == pytest.approx(expected, rel=1e-8, abs=1e-10), name


@settings(max_examples=15, deadline=None)
@given(attentions(), st.integers(0, 20))
def test_the_corpus_table_is_the_mean_of_what_the_metric_says_at_all_queries(unit: Attention, seed: int) -> None:
    encoded, heads = encoded_toy(unit)
    total, met, asked = torch.zeros(3, 6, 6).double().unbind()
    queries = 0
    for passage in encoded.passages():
        f, text = passage.codes.dense(), read(passage, 0, heads)
        for t in passage.described.nonzero().squeeze(1).tolist():
            queries += 1
            seen = unit.mask(passage.positions)[t]
            j = (f[seen] > 0).any(0).nonzero().squeeze(1)
            i = f[t].nonzero().squeeze(1)
            asked[i] += 1
            met[i[:, None], j] += 1
            if len(i) and len(j):
                total[i[:, None], j] += attention.metrics_at(text, t, j)["interaction, here"]
    i, j = met.nonzero(as_tuple=True)
    found = {name: values[0] for name, values in attention.corpus_scores(encoded, [heads], i, j, seed).items()}
    assert [*found] == [*attention.CORPUS]
    assert torch.equal(found["meetings"], met[i, j])
    for name, count in (("interaction", torch.tensor(queries)), ("interaction, asking", asked[i, j])):
        assert torch.allclose(found[name], total[i, j] / count, rtol=1e-7, atol=1e-9), name
    assert torch.allclose(found["interaction, together"], total[i, j] / met[i, j], rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("layout", [None, "halves", "adjacent"])
def test_the_typical_table_is_the_mean_over_the_distances_of_queries_and_what_they_see(layout: str | None) -> None:
    unit = make_attention(rotary=layout, window=3)
    encoded, heads = encoded_toy(unit)
    f = encoded.codes.dense()
    typical = f.sum(0) / (f > 0).sum(0).clamp(min=1)
    i, j = torch.tensor([0, 1, 5, 3]), torch.tensor([2, 1, 0, 4])
    q, k = (vectors[:, at] * typical[at, None] for vectors, at in ((heads.queries, i), (heads.keys, j)))
    entries, count = torch.zeros(2, 4).double(), 0
    for passage in encoded.passages():
        for t in passage.described.nonzero().squeeze(1).tolist():
            for s in range(passage.positions):
                if unit.mask(passage.positions)[t, s]:
                    turned = [
                        v if unit.rotary is None else unit.rotary.at(v[:, :, None], torch.tensor([at]))[:, :, 0]
                        for v, at in ((q, t), (k, s))
                    ]
                    entries += (turned[0] * turned[1]).sum(2)
                    count += 1
    found = attention.corpus_scores(encoded, [heads], i, j, 0)
    assert torch.allclose(found["table, typical"][0], (entries / count).abs().sum(0), rtol=1e-6, atol=1e-9)
    assert torch.allclose(found["strengths, typical"][0], typical[i] * typical[j])
    assert not torch.allclose(found["table, centred"], found["table, typical"], rtol=1e-2)


@settings(max_examples=6, deadline=None)
@given(attentions(), st.integers(1, 3))
def test_the_reference_is_the_index_of_the_layers_game_at_each_query(unit: Attention, n_keys: int) -> None:
    encoded, heads = encoded_toy(unit)
    rows = torch.tensor([0, 3, 4, 7])
    at = attention.at_positions(encoded, rows, [heads], n_keys, 0)
    assert at.gap.max() < 1e-12
    assert list(at.here) == [*attention.HERE]
    where = {place.sampled: place for place in attention.places(encoded, rows)}
    for token in at.token.unique().tolist():
        mine, place = at.token == token, where[token]
        keys = at.j[mine].unique()
        seen = place.passage.codes.dense()[unit.mask(place.passage.positions)[place.position]]
        assert bool((seen[:, keys] > 0).any(0).all())
        assert len(keys) == min(n_keys, int((seen > 0).any(0).sum()))
        game, queries = attention_game(place.passage, 0, heads, place.position, keys)
        found = exact(game, len(queries) + len(keys)).strength()[: len(queries), len(queries) :]
        assert torch.equal(at.i[mine], queries.repeat_interleave(len(keys)))
        assert torch.allclose(at.index[0, mine], found.flatten(), rtol=1e-9, atol=1e-14)
        for pair, (i, j) in enumerate(product(range(len(queries)), range(len(queries), len(queries) + len(keys)))):
            some = torch.ones(4, len(queries) + len(keys), dtype=torch.bool)
            some[1, i] = some[2, j] = some[3, i] = some[3, j] = False
            full, without_i, without_j, neither = game(some)
            removed = float((full - without_i - without_j + neither).norm())
            measured = float(at.here["second difference, here"][0, mine][pair])
            assert measured == pytest.approx(removed, rel=1e-7, abs=1e-12)


def test_where_only_two_play_the_index_is_what_their_removal_changes() -> None:
    encoded, heads = encoded_toy(make_attention(rotary="halves"))
    dense = encoded.codes.dense()
    alone = Encoded(Codes.from_dense(dense * (dense >= dense.amax(1, keepdim=True))), encoded.keep, encoded.given)
    at = attention.at_positions(alone, torch.tensor([0, 2, 5]), [heads], 1, 0)
    assert len(at.token) == 3
    assert at.index.min() > 1e-6
    assert torch.allclose(at.index, at.here["second difference, here"], rtol=1e-9)


def test_a_row_of_the_codes_is_the_position_that_has_its_features() -> None:
    encoded, _ = encoded_toy(make_attention())
    dense = encoded.codes.dense()
    rows = torch.arange(0, len(dense), 2)
    found = list(attention.places(encoded, rows))
    assert [place.sampled for place in found] == list(range(len(rows)))
    for place, row in zip(found, rows.tolist(), strict=True):
        assert torch.equal(place.passage.codes.dense()[place.position], dense[row])


def norm_case(active: int = 4) -> tuple[norms.Reached, Codes]:
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(8, 6, generator=generator).double()
    strengths = torch.rand(5, 8, generator=generator).double() + 0.1
    strengths *= torch.arange(8) < active
    strengths[4, :6] = 0
    case = toy(directions, strengths.roll(1, 1), kind="layer")
    bias = torch.randn(6, generator=generator).double()
    return norms.Reached("a norm", case.norm, directions, bias), case.codes


def test_the_reference_in_a_norm_is_the_index_in_its_output_and_metrics_are_their_definitions() -> None:
    its, codes = norm_case()
    at = norms.at_tokens(codes, torch.tensor([1, 3]), [its], 0)
    assert at.gap.max() < 1e-14
    f = codes.dense()
    for row, (token, i, j) in enumerate(zip(at.token.tolist(), at.i.tolist(), at.j.tolist(), strict=True)):
        strengths = f[(1, 3)[token]]
        on = strengths.nonzero().squeeze(1).tolist()

        def output(features: list[int], strengths: Tensor = strengths) -> Tensor:
            return its.norm(its.bias + strengths[features] @ its.directions[features])

        def game(coalitions: Tensor, on: list[int] = on) -> Tensor:
            return torch.stack([output([p for p, there in zip(on, c, strict=True) if there]) for c in coalitions])

        found = exact(game, len(on)).strength()[on.index(i), on.index(j)]
        assert float(at.index[0, row]) == pytest.approx(float(found), rel=1e-9)
        centred = strengths[:, None] * (its.directions - its.directions.mean(1, keepdim=True))
        lengths, inner = centred.norm(dim=1), float(centred[i] @ centred[j])

        def scale(features: list[int], strengths: Tensor = strengths) -> float:
            x = its.bias + strengths[features] @ its.directions[features]
            return float((x.var(unbiased=False) + its.norm.eps) ** -0.5)

        directed = sum(
            float((its.norm.gain * centred[b]).norm()) * abs(scale(on) - scale([k for k in on if k != a]))
            for a, b in ((i, j), (j, i))
        )
        removed = [output([k for k in on if k not in gone]) for gone in ((), (i,), (j,), (i, j))]
        expected = {
            "second difference, here": float((removed[0] - removed[1] - removed[2] + removed[3]).norm()),
            "directed, here": directed,
            "inner product, here": abs(inner),
            "lengths, here": float(lengths[i] * lengths[j]),
            "strengths, here": float(strengths[i] * strengths[j]),
        }
        assert {name: float(values[0, row]) for name, values in at.here.items()} == pytest.approx(expected, rel=1e-8)
    assert len(at.token) == 2 * 6


def test_metrics_of_norms_over_all_tokens_are_means_of_those_at_tokens() -> None:
    its, codes = norm_case()
    rows = torch.arange(5)
    at = norms.at_tokens(codes, rows[codes.pattern.row_starts.diff() > 0], [its], 0)
    keys, pair, count = (at.i * 8 + at.j).unique(return_inverse=True, return_counts=True)
    found = {name: values[0] for name, values in norms.corpus_scores(codes, [its], keys // 8, keys % 8, 0).items()}
    assert [*found] == [*norms.CORPUS]
    total = torch.zeros(len(keys)).double().index_add_(0, pair, at.here["directed, here"][0])
    assert torch.allclose(found["directed"], total / 5)
    assert torch.allclose(found["directed, together"], total / count)
    assert torch.equal(found["count"], count.double())
    typical = codes.dense().sum(0) / codes.firing_counts().clamp(min=1)
    parts = typical[:, None] * its.features.directions
    i, j = keys // 8, keys % 8
    inner = (parts[i] * parts[j]).sum(1).abs()
    assert torch.allclose(found["inner product, typical"], inner)
    assert torch.allclose(found["lengths, typical"] * found["cosine of directions"], inner)
    assert torch.allclose(found["strengths, typical"], typical[i] * typical[j])


def test_an_estimate_is_shortened_by_its_own_error_and_says_how_large_that_is(monkeypatch: pytest.MonkeyPatch) -> None:
    its, codes = norm_case(active=6)
    rows = torch.tensor([0])
    true = norms.at_tokens(codes, rows, [its], 0)
    monkeypatch.setattr(index, "MOST_PLAYERS", 3)
    monkeypatch.setattr(index, "ORDERS", 6)
    at = norms.at_tokens(codes, rows, [its], 7)
    assert (true.estimated, at.estimated) == (0, 1)
    assert not bool(true.relative_error.isfinite().any())
    game = norm_game(its.norm, its.directions, its.bias, codes.rows(0, 1).values, codes.rows(0, 1).pattern.features)
    found = sampled(game, 6, 6, 7)
    assert found.standard_error is not None
    error, (a, b) = found.standard_error.norm(dim=2), torch.triu_indices(6, 6, 1)
    squared = (found.strength().square() - error.square()).clamp(min=0)[a, b]
    assert torch.allclose(at.index[0].square(), squared, rtol=1e-9)
    assert float(at.relative_error[0]) == pytest.approx(float((error / found.strength())[a, b].median()))
    assert float((at.index - true.index).norm() / true.index.norm()) < 0.3
    assert not torch.allclose(at.index, true.index, rtol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "mistral"])
def test_the_study_sets_every_metric_beside_the_index_at_both_levels(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "DRAWS", 3)
    subject = tiny.subject(family, torch.float32)
    found = study(subject, coders.on(subject, *SITES), texts(family), queries=10, keys=3, seen=2, seed=0)
    assert [its.kind for its in found.kinds] == ["attention", "norm"]
    assert (found.texts, found.sampled, found.tokens) == (5, 10, texts(family).n_kept)
    for its, room in zip(found.kinds, (attention, norms), strict=True):
        assert max(unit.gap for unit in its.units) < 1e-12
        assert 3 <= its.ranked_pairs < its.pairs
        for level in ("token", "pair"):
            rows = agreement_table(its, level)
            assert {row["metric"] for row in rows} == {*room.HERE, *room.CORPUS}
            best = max(row.spearman.value for row in its.agreements if (row.level, row.unit) == (level, ALL[its.kind]))
            assert rows[0]["Spearman"].startswith(f"{best:.2f}")
            assert {name for row in unit_table(its, level) for name in row} == {
                "metric",
                *(unit.unit for unit in its.units),
            }
    names = [unit.unit for unit in found.kinds[0].units]
    assert names == ["blocks.0.attn", "blocks.1.attn"]
    assert found.kinds[1].units[0].unit == "blocks.0.ln1"
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert UnitRanking.model_validate_json(found.model_dump_json()) == found
    assert all(its.kind in summary(found) for its in found.kinds)
    assert {title.split(":")[0] for title in tables(found)} == {"attention", "norm"}


def test_the_same_seed_gives_the_same_study_and_another_one_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "DRAWS", 2)
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject, "blocks.0.ln1.hook_normalized")
    first, again, other = (study(subject, coder, texts(), 6, 2, 1, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.kinds[0].agreements != other.kinds[0].agreements
    assert [its.kind for its in first.kinds] == ["attention"]


def test_a_crosscoder_that_no_layer_or_norm_reads_is_refused() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    with pytest.raises(CrossproofError, match="no site that an attention layer or a norm"):
        study(subject, coders.on(subject), texts(), 5, 2, 1, 0)


def test_bound_norms_are_measured_in_the_order_of_the_model() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject, "blocks.*.hook_resid_*")
    encoded = encode(subject, coder, texts())
    reached = [
        norms.Reached(its.name, its.unit, coder.decoder[:, its.site], coder.decoder_bias[its.site])
        for its in bound_norms(subject, coder)
    ]
    at = norms.at_tokens(encoded.codes, torch.tensor([1, 4]), reached, 0)
    assert len(at.index) == len(reached) >= 8
    assert not torch.allclose(at.index[0], at.index[1])


def test_a_run_is_written_and_a_finished_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "DRAWS", 2)
    subject = tiny.subject("gpt2", torch.float32)
    coders.on(subject, *SITES).save_pretrained(tmp_path / "coder")
    words = [" ".join(f"w{(7 * text + 3 * word) % 50}" for word in range(9)) for text in range(4)]
    (tmp_path / "texts.txt").write_text("\n".join(words))
    config = UnitRankingConfig(
        subject=str(tiny.folder("gpt2")),
        coder=str(tmp_path / "coder"),
        out=tmp_path / "out",
        texts=4,
        queries=4,
        keys=2,
        seen=1,
        data=tmp_path / "texts.txt",
    )
    found = run(config)
    assert found.sampled == 4
    monkeypatch.setattr(unit_study, "study", None)
    assert run(config) == found
    with pytest.raises(CrossproofError, match="queries was 4, now 5"):
        run(config.model_copy(update={"queries": 5}))
