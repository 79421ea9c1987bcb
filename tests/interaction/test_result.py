"""The result object: its tables and matrices are the sums; files that are not what was saved are refused."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import BadFile, CrossproofError, MismatchError, UnsupportedModel
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import GatedNeurons, Neurons, PlainNeurons, Table
from crossproof.interaction.cooccurrence import cooccurrence
from crossproof.interaction.gated import cross
from crossproof.interaction.neurons import dominance
from crossproof.interaction.pairs import strongest_neurons
from crossproof.interaction.result import Interactions, measure
from crossproof.interaction.result_view import three_digits
from crossproof.interaction.tokens import at_tokens
from crossproof.interaction.weights import potential, typical_strengths
from crossproof.units import ACTIVATIONS

N = 5


def some(seed: int = 0, n_tokens: int = 7, n_features: int = 6, gated: bool = False) -> tuple[Tensor, list[Neurons]]:
    """Strengths and the neurons of two MLPs, in small integers: ties and zeros are common."""
    generator = torch.Generator().manual_seed(seed)

    def whole(*shape: int, low: int = -2) -> Tensor:
        return torch.randint(low, 3, shape, generator=generator).double()

    def table() -> Table:
        return Table(whole(n_features, N), whole(N))

    strengths, relu = whole(n_tokens, n_features).clamp(min=0), ACTIVATIONS["relu"]
    units: list[Neurons] = [PlainNeurons("<first>", table(), relu, whole(N, low=0))]
    if gated:
        return strengths, [*units, GatedNeurons("second", table(), table(), relu, whole(N, low=0))]
    return strengths, [*units, PlainNeurons("second", table(), relu, whole(N, low=0))]


def measured(seed: int = 0, **shape: int) -> Interactions:
    strengths, units = some(seed, **shape)
    return measure(Codes.from_dense(strengths), units, about="a <toy>")


@pytest.mark.parametrize("seed", range(4))
def test_every_pair_says_how_often_chance_would_bring_it_together_and_how_its_strengths_go_together(seed: int) -> None:
    f, units = some(seed, n_tokens=40)
    rows = measure(Codes.from_dense(f), units).pairs
    on = (f > 0).double()
    correlation = torch.corrcoef(f.T)
    together = cooccurrence(Codes.from_dense(f))
    marks = {
        (i, j): m for i, j, m in zip(*(x.tolist() for x in (together.i, together.j, together.marked)), strict=True)
    }
    assert len(rows)
    for row in rows.itertuples():
        assert row.count == int((on[:, row.i] * on[:, row.j]).sum())
        assert row.expected == pytest.approx(float(on[:, row.i].sum() * on[:, row.j].sum()) / 40)
        assert math.copysign(1, row.z) == math.copysign(1, row.count - row.expected) or row.z == 0
        assert row.correlation == pytest.approx(float(correlation[row.i, row.j]))
        assert row.marked == marks[min(row.i, row.j), max(row.i, row.j)]


def test_pairs_never_seen_and_the_independence_of_neurons_are_made_when_asked_for_and_not_from_a_file(
    tmp_path: Path,
) -> None:
    f, units = some(3, n_tokens=9, n_features=8)
    f[:, 2] *= f[:, 5] == 0
    found = measure(Codes.from_dense(f), units)
    codes = Codes.from_dense(f)
    leads = found.potential()
    expected = potential(units, typical_strengths(codes), CoActive.of(codes))
    assert leads.i.tolist() == expected.i.tolist()
    assert leads.exact.tolist() == expected.exact.sum(1).tolist()
    assert {"mass", "directed", "second"} <= set(leads)
    assert set(zip(leads.i, leads.j, strict=True)).isdisjoint(zip(found.pairs.i, found.pairs.j, strict=True))
    per_neuron = found.independence(bins=16, shuffles=2)
    assert len(per_neuron) == 2 * N
    assert per_neuron.kl_bits.ge(0).all()
    found.save(tmp_path / "found")
    loaded = Interactions.load(tmp_path / "found")
    pd.testing.assert_frame_equal(loaded.pairs, found.pairs)
    with pytest.raises(CrossproofError, match="measure again"):
        loaded.potential()


cases = st.tuples(st.integers(0, 2**20), st.integers(1, 6), st.integers(1, 6), st.booleans())


@given(cases)
@settings(max_examples=25, deadline=None)
def test_every_row_of_the_pairs_is_what_plain_loops_give(case: tuple[int, int, int, bool]) -> None:
    seed, n_tokens, n_features, _ = case
    f, units = some(seed, n_tokens, n_features)
    found = measure(Codes.from_dense(f), units)
    rows = found.pairs
    at: dict[tuple[int, int, str], list[float]] = {}
    for unit in units:
        assert isinstance(unit, PlainNeurons)
        for t in range(n_tokens):
            active = [i for i in range(n_features) if f[t, i] > 0]
            here = {(i, j): 0.0 for i in active for j in active if i != j}
            for n in range(N):
                p = (f[t] * unit.pre.A[:, n]).tolist()
                for j in active:
                    if active and (best := min(active, key=lambda i: (-abs(p[i]), i))) != j:
                        here[best, j] += float(unit.loudness[n]) / N * abs(p[j])
            for (i, j), value in here.items():
                at.setdefault((i, j, unit.name), []).append(value)
    assert len(rows) == len(at)
    for row in rows.itertuples():
        values = at[row.i, row.j, row.unit]
        mean, everywhere = sum(values) / len(values), [*values, *[0.0] * (n_tokens - len(values))]
        assert row.strength == pytest.approx(mean, abs=1e-12)
        assert row.count == len(values)
        assert row.frequency == len(values) / n_tokens
        assert row.score == pytest.approx(row.strength * row.frequency, abs=1e-12)
        for error, of in ((row.strength_se, values), (row.score_se, everywhere)):
            if len(of) < 2:
                assert math.isnan(error)
            else:
                expected = float(torch.tensor(of, dtype=torch.float64).std()) / math.sqrt(len(of))
                assert error == pytest.approx(expected, abs=1e-7)
    keys = list(
        zip(-rows.score, rows.i, rows.j, [[u.name for u in units].index(name) for name in rows.unit], strict=True)
    )
    assert keys == sorted(keys)


@given(cases)
@settings(max_examples=25, deadline=None)
def test_the_tables_the_matrices_and_the_token_scores_have_one_total(case: tuple[int, int, int, bool]) -> None:
    seed, n_tokens, n_features, gated = case
    f, units = some(seed, n_tokens, n_features, gated)
    codes = Codes.from_dense(f)
    found = measure(codes, units)
    total = float(found.matrix().sum())
    close = {"rel": 1e-10, "abs": 1e-12}
    assert found.pairs.score.sum() == pytest.approx(total, **close)
    assert found.features.given.sum() == pytest.approx(total, **close)
    assert found.features.received.sum() == pytest.approx(total, **close)
    assert found.units.token_score.sum() == pytest.approx(total * N, **close)
    everything = total + (float(found.matrix("cross").sum()) if gated else 0)
    assert at_tokens(codes, units).score.sum() / n_tokens == pytest.approx(everything * N, **close)
    assert found.token_scores is not None
    assert found.token_scores.sum() / n_tokens == pytest.approx(everything * N, **close)
    once = found.neurons[found.neurons.table != "value"]
    assert once.score.sum() == pytest.approx(total * N, **close)
    assert found.mean_pairwise == pytest.approx(total / n_features**2, **close)
    for unit in units:
        of_unit = found.pairs[found.pairs.unit == unit.name].score.sum()
        assert float(found.matrix(unit=unit.name).sum()) == pytest.approx(of_unit, **close)


def test_a_matrix_holds_the_means_of_the_pairs_over_all_tokens_or_those_where_both_are_active() -> None:
    found = measured()
    for metric, per, column in (
        ("directed", "token", "score"),
        ("directed", "together", "strength"),
        ("mass", "token", "mass"),
        ("ratio", "together", "ratio"),
    ):
        dense = found.matrix(metric, "second", per).to_dense()
        for row in found.pairs[found.pairs.unit == "second"].itertuples():
            assert float(dense[row.i, row.j]) == pytest.approx(getattr(row, column), abs=1e-14)
    assert float(found.matrix("ratio", per="together").to_dense().max()) <= 1


def test_the_neuron_of_a_row_carries_most_of_its_pair_and_is_missing_where_nothing_is_carried() -> None:
    f, units = some(3)
    found = measure(Codes.from_dense(f), units)
    i, j = torch.tensor(found.pairs.i.to_numpy()).long(), torch.tensor(found.pairs.j.to_numpy()).long()
    strongest = dict(zip(("<first>", "second"), strongest_neurons(Codes.from_dense(f), units, i, j), strict=True))
    assert found.pairs.neuron.isna().any()
    for row, (_, its) in enumerate(found.pairs.iterrows()):
        neuron = int(strongest[its.unit].neuron[row])
        assert (its.neuron is pd.NA) == (neuron < 0) == (its.score == 0)
        if neuron >= 0:
            assert its.neuron == neuron
            assert its.neuron_share == float(strongest[its.unit].share[row])


def test_only_the_first_rows_are_looked_at_for_their_neuron(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossproof.interaction.result.LOOKED_AT", 3)
    found = measured()
    assert found.pairs.neuron.notna().tolist() == [True] * 3 + [False] * (len(found.pairs) - 3)
    pd.testing.assert_frame_equal(found.ranked(2), found.pairs.head(2))


def test_printing_looks_at_no_neuron_which_would_be_one_more_pass_over_the_tokens() -> None:
    found = measured()
    found.find_carriers = lambda *_: pytest.fail("looked at neurons")
    assert "→" in repr(found)


def test_features_have_their_frequency_and_typical_strength_and_a_dead_one_has_none() -> None:
    f, units = some(5)
    f[:, 2] = 0
    found = measure(Codes.from_dense(f), units)
    for feature, row in found.features.iterrows():
        on = f[:, feature][f[:, feature] > 0]
        assert row.frequency == len(on) / len(f)
        assert row.strength == float(on.mean()) if len(on) else math.isnan(row.strength)
        assert row.given == pytest.approx(float(found.matrix().to_dense()[feature].sum()))
    assert found.features.frequency[2] == 0
    assert found.alive == int((f > 0).any(0).sum())


@given(cases)
@settings(max_examples=15, deadline=None)
def test_the_strongest_pair_of_a_token_is_the_largest_of_the_table_of_that_token_alone(
    case: tuple[int, int, int, bool],
) -> None:
    seed, n_tokens, n_features, gated = case
    f, units = some(seed, n_tokens, n_features, gated)
    at = at_tokens(Codes.from_dense(f), units)
    for t in range(n_tokens):
        alone = Codes.from_dense(f[t : t + 1])
        rows = measure(alone, units, "directed").pairs
        scores = torch.tensor([float(its.score[0]) for its in dominance(alone, units)], dtype=torch.float64)
        if gated:  # what two features multiply is theirs too
            rows = rows.assign(score=rows.score + rows.cross).sort_values("score", ascending=False)
            multiply = [number for number, unit in enumerate(units) if isinstance(unit, GatedNeurons)]
            crossed = cross(alone, [units[number] for number in multiply], CoActive.of(alone))
            scores[multiply] += torch.tensor([float(its.score[0]) * N for its in crossed], dtype=torch.float64)
        assert at.score[t].tolist() == pytest.approx(scores.tolist())
        rows = rows[rows.score > 0]
        found = (int(at.i[t]), int(at.j[t]), int(at.unit[t]))
        if not len(rows):
            assert found == (-1, -1, -1)
            assert at.pair_score[t] == 0
            continue
        assert float(at.pair_score[t]) == pytest.approx(rows.score.iloc[0] * N)
        ties = rows[rows.score > rows.score.iloc[0] * (1 - 1e-12)]
        assert (found[0], found[1], units[found[2]].name) in list(zip(ties.i, ties.j, ties.unit, strict=True))


# -- files and views ---------------------------------------------------------------------------------------------------


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    found = measured()
    found.save(tmp_path / "found")
    again = Interactions.load(tmp_path / "found")
    for name in ("pairs", "units", "neurons", "features"):
        pd.testing.assert_frame_equal(getattr(again, name), getattr(found, name))
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "found" / f"{name}.parquet"), getattr(found, name))
    assert torch.equal(again.matrix("mass").to_dense(), found.matrix("mass").to_dense())
    assert repr(again) == repr(found)
    assert again.summary() == found.summary()
    again.save(tmp_path / "found")
    assert repr(Interactions.load(tmp_path / "found")) == repr(found)


def test_a_folder_from_before_there_were_accounts_is_loaded(tmp_path: Path) -> None:
    found = measured()
    found.save(tmp_path)
    path = tmp_path / "interactions.json"
    record = json.loads(path.read_text())
    assert record.pop("account") == {}
    del record["sha256"]
    written = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record | {"sha256": written}))
    pd.testing.assert_frame_equal(Interactions.load(tmp_path).pairs, found.pairs)
    path.write_text(json.dumps(record | {"sha256": written, "account": {"an MLP": "mlp"}}))
    with pytest.raises(BadFile, match="sha256 differs"):
        Interactions.load(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["interactions.json", "sums.safetensors", *(f"{t}.parquet" for t in ("pairs", "units", "neurons", "features"))],
)
@pytest.mark.parametrize("harm", ["truncated", "edited", "missing"])
def test_a_file_that_is_not_as_it_was_written_is_named(tmp_path: Path, name: str, harm: str) -> None:
    measured().save(tmp_path)
    path = tmp_path / name
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    elif harm == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif name == "interactions.json":
        path.write_text(json.dumps(json.loads(data) | {"n_tokens": 700}))
    else:
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    with pytest.raises(BadFile, match=name.replace(".", r"\.")):
        Interactions.load(tmp_path)


def test_a_foreign_folder_is_refused_and_never_replaced(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="holds no interactions"):
        Interactions.load(tmp_path / "nowhere")
    (tmp_path / "interactions.json").write_text('{"library": "other"}')
    with pytest.raises(BadFile, match="library: crossproof"):
        Interactions.load(tmp_path)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("years")
    with pytest.raises(MismatchError, match="something else"):
        measured().save(precious)
    assert (precious / "thesis.tex").read_text() == "years"


def test_the_text_and_the_page_say_what_was_measured_and_escape_names() -> None:
    found = measured()
    first = found.pairs.iloc[0]
    text = repr(found)
    assert "Interactions of a <toy>" in text
    assert f"{first.i} → {first.j}" in text
    assert f"dominant share {found.dominant_share:.3g}" in text
    page = found._repr_html_()
    assert "a &lt;toy&gt;" in page
    assert "&lt;first&gt;" in page
    assert "<toy>" not in page
    assert "<script" not in page


def test_a_number_is_said_to_three_digits_and_a_thousand_is_no_power_of_ten() -> None:
    said = [three_digits(value) for value in (999.4, 999.5, 999.7, -999.7, 1000.4, 999_999.4, 1e6, 0.0, -12.345, 99.96)]
    assert said == ["999", "1,000", "1,000", "-1,000", "1,000", "999,999", "1.00e+06", "0.00", "-12.3", "100"]


def test_a_dictionary_of_which_nothing_fires_has_empty_tables_and_can_be_shown_and_saved(tmp_path: Path) -> None:
    f, units = some()
    found = measure(Codes.from_dense(torch.zeros_like(f)), units)
    assert len(found.pairs) == 0
    assert found.alive == 0
    assert "0 of 6 features alive" in repr(found)
    assert "0 of 6 features alive" in found._repr_html_()
    assert found.matrix().to_dense().shape == (6, 6)
    found.save(tmp_path / "empty")
    pd.testing.assert_frame_equal(Interactions.load(tmp_path / "empty").pairs, found.pairs)


# -- wrong inputs ------------------------------------------------------------------------------------------------------


def test_unknown_names_are_refused_with_the_nearest_ones() -> None:
    f, units = some()
    with pytest.raises(CrossproofError, match="no metric 'direct' here; did you mean directed"):
        measure(Codes.from_dense(f), units, ["direct"])
    found = measured()
    with pytest.raises(CrossproofError, match="no unit 'secnd' here; did you mean second"):
        found.matrix(unit="secnd")
    with pytest.raises(CrossproofError, match="no per 'text' here"):
        found.matrix(per="text")
    with pytest.raises(CrossproofError, match="no metric 'ratio' here"):
        measure(Codes.from_dense(f), units, "mass").matrix("ratio")


def test_mass_is_left_out_of_gated_mlps_unless_it_is_asked_for() -> None:
    f, units = some(gated=True)
    codes = Codes.from_dense(f)
    assert "mass" not in measure(codes, units).pairs
    with pytest.raises(UnsupportedModel, match="second: mass is defined for plain MLPs"):
        measure(codes, units, ["mass"])


def test_no_tokens_and_no_units_are_refused() -> None:
    f, units = some()
    with pytest.raises(CrossproofError, match="no tokens"):
        measure(Codes.from_dense(f[:0]), units)
    with pytest.raises(CrossproofError, match="no MLPs"):
        measure(Codes.from_dense(f), [])


def test_texts_cannot_be_read_without_a_model() -> None:
    with pytest.raises(CrossproofError, match=r"token_interactions\(subject, coder, text\)"):
        measured().tokens("Lily")
