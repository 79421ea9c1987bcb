"""The ranking study: what must agree does, what cannot does not, and its reference is the index itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.cli import main
from crossproof.codes import Codes
from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import GatedNeurons, PlainNeurons
from crossproof.interaction.games import token_index
from crossproof.interaction.shapley import ShapleyTaylor, exact
from crossproof.study.metrics import BASELINES, METRICS, ONLY_GATED, ONLY_PLAIN
from crossproof.study.ranking import comparison as ranking_comparison
from crossproof.study.ranking import results as ranking_results
from crossproof.study.ranking import tokens as ranking_tokens
from crossproof.study.ranking.comparison import TOPS, Comparison
from crossproof.study.ranking.results import ALL, Agreement, RankingStudy, agreement_table, summary, tables
from crossproof.study.ranking.study import study
from crossproof.study.ranking.tokens import AT_TOKEN, TokenPairs, at_tokens
from crossproof.subject.tokens import Tokens
from tests.subject import tiny

FEATURES = 24
FEW = 9
"""Where a study takes divergences of all pairs."""


def dictionary(k: int = 4, subject: str = "tiny", width: int = tiny.WIDTH, features: int = FEATURES) -> Crosscoder:
    """Of the inputs of the first two MLPs."""
    hook = "hook_mlp_in" if subject == "planted" else "ln2.hook_normalized"
    sites = tuple(Site(subject=subject, hook=f"blocks.{block}.{hook}") for block in range(2))
    coder = Crosscoder(CrosscoderConfig(sites=sites, width=width, features=features, activation="topk", k=k))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return coder


def texts(family: str = "gpt2", count: int = 6) -> Tokens:
    words = torch.randint(50, (count, 12), generator=torch.Generator().manual_seed(2)).tolist()
    return tiny.subject(family, torch.float32).tokens([" ".join(f"w{word}" for word in text) for text in words])


def some_codes(active: int, tokens: int, seed: int = 0) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(tokens, FEATURES, generator=generator)
    return Codes.from_dense(dense * (dense >= dense.topk(active).values[:, -1:]))


def synthetic(n_tokens: int = 60, active: int = 12, n_texts: int = 20) -> tuple[TokenPairs, Tensor, Tensor]:
    """An index drawn for each pair, with noise at each token."""
    generator = torch.Generator().manual_seed(3)
    codes = some_codes(active, n_tokens)
    a, b = torch.triu_indices(active, active, 1)
    features = codes.pattern.features.view(n_tokens, active)
    i, j = features[:, a].flatten(), features[:, b].flatten()
    keys, pair = (i * FEATURES + j).unique(return_inverse=True)
    typical = torch.rand(2, len(keys), generator=generator, dtype=torch.float64)
    index = typical[:, pair] * (0.5 + torch.rand(2, len(pair), generator=generator, dtype=torch.float64))
    none = torch.full((2,), torch.nan, dtype=torch.float64)
    token = torch.arange(n_tokens).repeat_interleave(len(a))
    here = {"the index": index, "its cube": index**3}
    at = TokenPairs(token, i, j, index, here, 0, none, torch.zeros(2, dtype=torch.float64))
    return at, pair, torch.arange(n_tokens) % n_texts


def compared(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str, str], Agreement]:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 20)
    at, pair, text = synthetic()
    n_pairs = int(pair.max()) + 1
    random = torch.rand(2, n_pairs, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    flat = torch.ones(2, n_pairs, dtype=torch.float64)
    ranked = torch.bincount(pair) >= 3
    comparison = Comparison(at, pair, ranked, {"random": random, "flat": flat}, {}, text, 20)
    return {(its.level, its.unit, its.metric): its for its in comparison.agreements(("first", "second"), 0)}


def test_a_metric_that_is_the_index_has_spearman_and_precision_1_and_so_has_its_cube_within_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = compared(monkeypatch)
    for unit in ("first", "second", ALL):
        for metric in ("the index", "its cube"):
            assert found["token", unit, metric].spearman.value == pytest.approx(1)
        between = found["pair", unit, "the index"]
        assert between.spearman.value == pytest.approx(1)
        assert sorted(between.precision) == list(TOPS)
        assert all(precision.value == pytest.approx(1) for precision in between.precision.values())
        assert found["pair", unit, "its cube"].spearman.value < 1


def test_a_random_metric_has_spearman_0_and_the_precision_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    found = compared(monkeypatch)
    n_pairs = FEATURES * (FEATURES - 1) // 2
    for metric in ("random", "flat"):
        assert abs(found["token", ALL, metric].spearman.value) < 0.1
        between = found["pair", ALL, metric]
        assert abs(between.spearman.value) < 0.15
        for k, precision in between.precision.items():
            assert precision.value == pytest.approx(k / n_pairs, abs=3 / (2 * k) ** 0.5)
    assert found["pair", ALL, "flat"].precision[100].value == pytest.approx(100 / n_pairs, abs=1e-9)


def test_every_interval_holds_its_estimate_and_where_nothing_varies_it_has_no_width(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = compared(monkeypatch)
    for its in found.values():
        for estimate in (its.spearman, *its.precision.values()):
            assert estimate.low is not None
            assert estimate.high is not None
            assert estimate.low <= estimate.value <= estimate.high
    same, random = found["token", ALL, "the index"].spearman, found["token", ALL, "random"].spearman
    assert same.high == pytest.approx(same.value, abs=1e-9)
    assert random.high != pytest.approx(random.value, abs=1e-3)


@pytest.mark.parametrize("active", [2, 6, 17])
def test_the_reference_is_the_index_at_each_token_and_t2_holds_to_rounding(active: int) -> None:
    subject, coder = tiny.subject("gpt2", torch.float32), dictionary()
    codes, units = some_codes(active, 3), [its.unit.to(torch.float64) for its in bound_mlps(subject, coder)]
    neurons = neurons_of(subject, coder, torch.float64)
    at = at_tokens(codes, torch.tensor([2, 0]), neurons, units, seed=0)
    assert at.estimated == (2 if active > 16 else 0)
    assert at.residual_gap.max() < 1e-13
    doubled = Codes(codes.pattern, codes.values.double())
    for u, unit in enumerate(units):
        features, found = token_index(doubled, 2, neurons[u], unit.W_out, ranking_tokens.ORDERS, seed=2)
        a, b = torch.triu_indices(active, active, 1)
        mine = at.token == 0
        assert at.i[mine].tolist() == features[a].tolist()
        assert at.j[mine].tolist() == features[b].tolist()
        assert torch.allclose(at.index[u, mine], found.strength()[a, b], rtol=1e-9)
    assert bool(at.relative_error.isfinite().all()) == (active > 16)


def test_an_index_that_is_a_little_wrong_shows_in_the_check_of_t2(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(game: object, players: int) -> ShapleyTaylor:
        found = exact(game, players)
        found.pairs.mul_(1 + 1e-6)
        return found

    monkeypatch.setattr(ranking_tokens, "exact", wrong)
    subject, coder = tiny.subject("gpt2", torch.float32), dictionary()
    units = [its.unit.to(torch.float64) for its in bound_mlps(subject, coder)]
    at = at_tokens(some_codes(6, 3), torch.arange(3), neurons_of(subject, coder, torch.float64), units, seed=0)
    assert at.residual_gap.min() > 1e-9


def test_metrics_at_a_token_are_their_definitions() -> None:
    subject, coder = tiny.subject("gpt2", torch.float32), dictionary()
    codes, neurons = some_codes(4, 2), neurons_of(subject, coder, torch.float64)
    at = at_tokens(
        codes, torch.arange(2), neurons, [its.unit.to(torch.float64) for its in bound_mlps(subject, coder)], 0
    )
    assert list(at.here) == [name for name in AT_TOKEN if name != "cross, here"]
    dense = codes.dense().double()
    for u, its in enumerate(neurons):
        assert isinstance(its, PlainNeurons)
        for row in range(0, len(at.token), 3):
            f, i, j = dense[at.token[row]], int(at.i[row]), int(at.j[row])
            p = (f[:, None] * its.pre.A).T.tolist()
            weight = (its.loudness / len(its.loudness)).tolist()
            charged = cancelled = alike = 0.0
            for w, mine in zip(weight, p, strict=True):
                dominant = max(range(FEATURES), key=lambda k: abs(mine[k]))
                charged += w * (abs(mine[j]) * (dominant == i) + abs(mine[i]) * (dominant == j))
                small, large = sorted((abs(mine[i]), abs(mine[j])))
                cancelled += w * small * (mine[i] * mine[j] < 0)
                alike += small / large / len(p)
            expected = [charged, cancelled, alike, float(f[i] * f[j])]
            assert [float(values[u, row]) for values in at.here.values()] == pytest.approx(expected, rel=1e-9)


def test_cross_at_a_token_is_its_definition() -> None:
    subject, coder = tiny.subject("llama", torch.float32), dictionary()
    codes, neurons = some_codes(4, 2), neurons_of(subject, coder, torch.float64)
    units = [its.unit.to(torch.float64) for its in bound_mlps(subject, coder)]
    at = at_tokens(codes, torch.arange(2), neurons, units, 0)
    assert list(at.here) == [name for name in AT_TOKEN if name != "mass, here"]
    dense = codes.dense().double()
    for u, its in enumerate(neurons):
        assert isinstance(its, GatedNeurons)
        for row in range(0, len(at.token), 3):
            f, i, j = dense[at.token[row]], int(at.i[row]), int(at.j[row])
            p, q = f[:, None] * its.gate.A, f[:, None] * its.value.A
            g = p.sum(0) + its.gate.beta
            crossed = (its.activation.function(g) / g).abs() * ((p[i] * q[j]).abs() + (p[j] * q[i]).abs())
            expected = float(crossed @ its.loudness / len(its.loudness))
            assert float(at.here["cross, here"][u, row]) == pytest.approx(expected, rel=1e-9)


def test_the_study_sets_every_metric_beside_the_index_at_both_levels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 3)
    tokens = texts()
    found = study(tiny.subject("gpt2", torch.float32), dictionary(features=FEW), tokens, sample=40, seen=2, seed=0)
    assert (found.texts, found.tokens, found.sampled, found.estimated) == (6, tokens.n_kept, 40, 0)
    assert [unit.unit for unit in found.units] == ["blocks.0.mlp", "blocks.1.mlp"]
    assert max(unit.residual_gap for unit in found.units) < 1e-13
    metrics = {*METRICS, *BASELINES, *AT_TOKEN} - {*ONLY_GATED, "cross, here"}
    for level in ("token", "pair"):
        rows = agreement_table(found, level)
        assert {row["metric"] for row in rows} == metrics
        best = max(its.spearman.value for its in found.agreements if (its.level, its.unit) == (level, ALL))
        assert rows[0]["Spearman"].startswith(f"{best:.2f}")
    json.dumps(found.model_dump(mode="json"), allow_nan=False)
    assert RankingStudy.model_validate_json(found.model_dump_json()) == found


def test_the_same_seed_gives_the_same_study_and_another_one_other_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 2)
    subject, coder, tokens = tiny.subject("gpt2", torch.float32), dictionary(features=FEW), texts()
    first, again, other = (study(subject, coder, tokens, sample=10, seen=2, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.agreements != other.agreements


def test_gated_mlps_have_the_metrics_that_are_defined_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 2)
    found = study(tiny.subject("llama", torch.float32), dictionary(), texts("llama"), sample=10, seen=2, seed=0)
    metrics = {*METRICS, *BASELINES, *AT_TOKEN} - {*ONLY_PLAIN, "mass, here"}
    for level in ("token", "pair"):
        assert {row["metric"] for row in agreement_table(found, level)} == metrics
    assert max(unit.residual_gap for unit in found.units) < 1e-13


def test_texts_without_a_pair_and_dictionaries_of_other_models_are_refused() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    with pytest.raises(CrossproofError, match="no pair to rank"):
        study(subject, dictionary(k=1), texts(), sample=5, seen=1, seed=0)
    with pytest.raises(MismatchError, match="has no site"):
        study(subject, dictionary(subject="planted"), texts(), sample=5, seen=1, seed=0)


def test_the_command_writes_a_run_that_show_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 2)
    dictionary(subject="planted", width=64, features=FEW).save_pretrained(tmp_path / "coder")
    out = tmp_path / "out"
    command = ["ranking", "planted", "--coder", str(tmp_path / "coder"), "--out", str(out)]
    assert main([*command, "--texts", "1"]) == 1
    assert "--texts 1: give at least 2" in capsys.readouterr().err
    assert main([*command, "--texts", "3", "--tokens", "12", "--json"]) == 0
    found = RankingStudy.model_validate_json(capsys.readouterr().out)
    assert found.sampled == 12
    assert main(["show", str(out)]) == 0
    printed = capsys.readouterr().out
    assert all(title in printed for title in tables(found))
    assert main([*command, "--texts", "3", "--tokens", "13"]) == 1
    assert "tokens was 12, now 13" in capsys.readouterr().err


def one_silent_mlp() -> Comparison:
    at, pair, text = synthetic()
    index = torch.stack([at.index[0], torch.zeros_like(at.index[1])])
    return Comparison(replace(at, index=index), pair, torch.bincount(pair) >= 3, {}, {}, text, 20)


def test_an_mlp_in_which_nothing_interacts_is_left_out_and_the_others_keep_their_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 5)
    found = {(its.level, its.unit, its.metric): its for its in one_silent_mlp().agreements(("good", "silent"), 0)}
    assert {unit for _, unit, _ in found} == {"good", ALL}
    for level in ("token", "pair"):
        assert found[level, "good", "its cube"].spearman.value > 0.9
        for metric in ("the index", "its cube"):
            assert found[level, ALL, metric].spearman == found[level, "good", metric].spearman
            assert found[level, ALL, metric].precision == found[level, "good", metric].precision


def test_where_no_mlp_has_any_order_there_are_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 2)
    silent = one_silent_mlp()
    silent = replace(silent, at=replace(silent.at, index=torch.zeros_like(silent.at.index)))
    assert silent.agreements(("first", "second"), 0) == []


def test_the_summary_names_the_mlps_that_the_means_leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking_comparison, "DRAWS", 2)
    found = study(tiny.subject("gpt2", torch.float32), dictionary(features=FEW), texts(), sample=10, seen=2, seed=0)
    assert "left out" not in summary(found)
    rows = tuple(row for row in found.agreements if (row.level, row.unit) != ("token", "blocks.1.mlp"))
    said = summary(found.model_copy(update={"agreements": rows}))
    assert "does not order the pairs of a token in blocks.1.mlp: left out" in said
    assert "all pairs" not in said


def of_few_texts(n_pairs: int, n_texts: int) -> Comparison:
    """One token in each text, and different pairs in each; a metric that is the index."""
    row = torch.arange(n_pairs)
    index = torch.rand(1, n_pairs, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    none = torch.full((1,), torch.nan, dtype=torch.float64)
    at = TokenPairs(row * n_texts // n_pairs, row, row + 1, index, {"the index": index}, 0, none, none)
    return Comparison(at, row, torch.ones(n_pairs, dtype=torch.bool), {}, {}, torch.arange(n_texts), n_texts)


def test_a_draw_that_leaves_too_few_pairs_says_nothing_of_precision() -> None:
    comparison = of_few_texts(60, 6)
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    (((spearman_, at_20, at_50),),) = comparison.between_pairs(weights).tolist()
    assert (spearman_, at_20) == (pytest.approx(1), pytest.approx(1))
    assert at_50 != at_50
    (its,) = [its for its in comparison.agreements(("only",), 0) if (its.level, its.unit) == ("pair", "only")]
    precise = its.precision[20]
    assert (precise.value, precise.low, precise.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))


def test_where_hardly_any_draw_leaves_pairs_enough_there_is_no_interval() -> None:
    found = of_few_texts(51, 51).agreements(("only",), 0)
    (its,) = [its for its in found if (its.level, its.unit) == ("pair", "only")]
    assert its.precision[50].value == pytest.approx(1)
    assert (its.precision[50].low, its.precision[50].high) == (None, None)
    json.dumps(its.model_dump(mode="json"), allow_nan=False)
    assert ranking_results._with_interval(its.precision[50]) == "1.00 ± –"


def test_a_text_of_weight_w_counts_as_w_such_texts_and_one_of_weight_0_not_at_all() -> None:
    at, pair, text = synthetic()
    ranked = torch.bincount(pair) >= 3
    corpus = {"corpus": torch.rand(2, len(ranked), generator=torch.Generator().manual_seed(6), dtype=torch.float64)}
    weights = torch.tensor([0.0, 2.0, 1.0, 3.0] * 5, dtype=torch.float64)
    weighted = Comparison(at, pair, ranked, corpus, {}, text, 20)

    tokens = [t for t in range(len(text)) for _ in range(int(weights[text[t]]))]
    rows = torch.cat([(at.token == t).nonzero().flatten() for t in tokens])
    token = torch.arange(len(tokens)).repeat_interleave(int((at.token == 0).sum()))
    here = {name: values[:, rows] for name, values in at.here.items()}
    copied = TokenPairs(token, at.i[rows], at.j[rows], at.index[:, rows], here, 0, at.relative_error, at.residual_gap)
    written_out = Comparison(copied, pair[rows], ranked, corpus, {}, torch.arange(len(tokens)), len(tokens))
    ones = torch.ones(len(tokens), dtype=torch.float64)
    for level in ("within_tokens", "between_pairs"):
        found = getattr(weighted, level)(weights)
        assert torch.allclose(found, getattr(written_out, level)(ones), atol=1e-12)
        assert not torch.allclose(found, getattr(weighted, level)(torch.ones(20, dtype=torch.float64)), atol=1e-6)
