"""The study of units: exact sizes at the same tokens for all dictionaries, pooled by how they were trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crossproof import runs
from crossproof.binding.account import measured_units
from crossproof.binding.config import PenalisedTrainConfig, PenaltyConfig
from crossproof.binding.encoding import encode
from crossproof.errors import CrossproofError
from crossproof.interaction.attention.removal import second_differences
from crossproof.interaction.norms.removal import norm_share
from crossproof.study.dictionaries import CoderRecord, described
from crossproof.study.units.results import Measured, UnitsStudy, study_of, tables
from crossproof.study.units.study import UnitsConfig, measured, run
from tests.binding import coders
from tests.subject import tiny

EVERYWHERE = ("blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.ln*.hook_normalized")


def record(name: str, penalty: str = "plain", otherwise: str = "") -> CoderRecord:
    return CoderRecord(coder=name, penalty=penalty, otherwise=otherwise, seed=0, unexplained=None)


def one(family: str = "gpt2", seed: int = 0) -> tuple[Measured, torch.Tensor]:
    subject, tokens = tiny.subject(family), tiny.some_tokens(family)
    coder = coders.on(subject, *EVERYWHERE, features=12)
    with torch.no_grad():
        coder.W_dec += 0.01 * seed
    rows = torch.arange(0, tokens.n_kept, 3)
    return measured(subject, coder, tokens, rows), rows


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_sizes_are_those_of_removed_features_at_the_sampled_tokens(family: str) -> None:
    found, rows = one(family)
    subject, tokens = tiny.subject(family), tiny.some_tokens(family)
    coder = coders.on(subject, *EVERYWHERE, features=12)
    kinds = found.account.kinds
    assert set(found.sizes) == {name for name in kinds if not name.endswith("ln1")}
    sites = [f"blocks.{layer}.ln1.hook_normalized" for layer in range(subject.n_layers)]
    encoded = encode(subject, coder, tokens, sites)
    heads = measured_units(subject, coder, encoded.codes, ["attention"]).heads
    texts = encoded.text.unique().tolist()
    passages = dict(zip(texts, encoded.passages(), strict=True))
    places = tokens.keep.nonzero()[rows].tolist()
    for number, its in enumerate(heads):
        expected = [float(second_differences(passages[t], number, its, p).size.sum()) for t, p in places]
        assert found.sizes[its.name].tolist() == pytest.approx(expected)
    units = {unit.output_site: unit for unit in subject.units}
    norm, mlp = units["blocks.1.ln2.hook_normalized"], units["blocks.1.hook_mlp_out"]
    at = coder.sites.index(norm.input_site)
    share = norm_share(encoded.codes, norm, mlp, coder.decoder[:, at].detach(), coder.decoder_bias[at].detach(), rows)
    assert found.sizes["blocks.1.mlp"].tolist() == pytest.approx(share.frozen.tolist())
    assert found.sizes["blocks.1.ln2"].tolist() == pytest.approx(share.scale_only.tolist())


def test_groups_are_pooled_and_set_against_the_plain_one() -> None:
    plain, other = one()[0], one(seed=5)[0]
    records = [record("a"), record("b"), record("c", "penalised")]
    found = study_of("tiny", list(zip(records, [plain, plain, other], strict=True)), 100, len(one()[1]), seed=0)
    assert found.groups == ["plain", "penalised"]
    by = {(row.group, row.unit): row for row in found.units}
    for name in plain.sizes:
        size, ratio = by["plain", name].size, by["penalised", name].against_plain
        assert size is not None
        assert ratio is not None
        assert size.value == pytest.approx(float(plain.sizes[name].mean()))
        assert size.low <= size.value <= size.high
        assert ratio.value == pytest.approx(float(other.sizes[name].mean() / plain.sizes[name].mean()))
        assert ratio.low <= ratio.value <= ratio.high
        assert by["plain", name].against_plain is None
    bounds = plain.account.units.set_index("unit").per_token
    for row in found.units:
        if row.group == "plain":
            assert row.account.value == pytest.approx(bounds[row.unit])
            assert row.account.low <= row.account.value <= row.account.high
    shown = tables(found)
    assert list(shown) == ["tiny: plain", "tiny: penalised", "dictionaries"]
    assert [row["unit"] for row in shown["tiny: plain"]] == list(plain.account.kinds)


def test_a_dictionary_against_itself_has_ratios_of_one_without_any_spread() -> None:
    plain = one()[0]
    records = [record("a"), record("b", "same")]
    found = study_of("tiny", list(zip(records, [plain, plain], strict=True)), 100, len(one()[1]), seed=3)
    for row in found.units:
        if row.group == "same" and row.against_plain is not None:
            assert row.against_plain.value == row.against_plain.low == row.against_plain.high == 1


def test_intervals_are_those_of_resampled_texts_with_the_dictionaries_held_fixed() -> None:
    plain = one()[0]
    sizes = {name: torch.where(plain.text == 0, 4.0, 1.0).double() for name in plain.sizes}
    first, second = replace(plain, sizes=sizes), replace(plain, sizes={name: 3 * v for name, v in sizes.items()})
    found = study_of("tiny", [(record("a"), first), (record("b"), second)], 100, len(plain.text), seed=0)
    here, other = int((plain.text == 0).sum()), int((plain.text != 0).sum())
    for row in found.units:
        if row.size is not None:
            mean = (4 * here + other) / (here + other)
            assert row.size.each == pytest.approx([mean, 3 * mean])
            assert row.size.value == pytest.approx(2 * mean)
            # some draws have the loud text only, some do without it: dictionaries add nothing to that
            assert (row.size.low, row.size.high) == pytest.approx((2, 8), rel=0.35)
            assert row.size.low >= 2
            assert row.size.high <= 8


def test_dictionaries_trained_differently_are_not_pooled_and_each_has_its_own_baseline(tmp_path: Path) -> None:
    def trained(name: str, **settings: object) -> str:
        config = PenalisedTrainConfig(subject="tinytales", out=tmp_path / name, **settings)
        runs.begin(tmp_path / name, "train", config)
        return str(tmp_path / name)

    heavy, on = PenaltyConfig(weight=30), PenaltyConfig(weight=30, q=4, on=("mlp", "norm"))
    names = [trained("a", seed=7), trained("b", seed=8), trained("c", penalty=heavy), trained("d", penalty=on)]
    assert [its.group for its in described(names)] == [
        "plain",
        "plain",
        "penalty weight 30.0",
        "penalty on mlp norm, weight 30.0, q 4",
    ]
    assert [its.seed for its in described(names)] == [7, 8, 0, 0]
    names += [trained("e", features=256), trained("f", features=256, penalty=heavy), str(tmp_path / "nothing")]
    found = described(names)
    assert found[0].group == "plain, features 1024"
    assert found[4].group == "plain, features 256"
    assert found[5].baseline == found[4].group
    assert found[2].baseline == found[0].group
    assert found[6].group == f"plain, {tmp_path / 'nothing'}"


def test_a_run_is_read_again_and_wrong_settings_are_refused(tmp_path: Path) -> None:
    folder = tiny.folder("gpt2")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(["w1 w2 w3 w4 w5 w1 w2", "w3 w2 w1 w4"] * 20))
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject, *EVERYWHERE, features=12)
    coder.save_pretrained(tmp_path / "coder")
    options = {"subject": str(folder), "coders": (str(tmp_path / "coder"),), "texts": 2, "tokens": 3, "data": texts}
    found = run(UnitsConfig(out=tmp_path / "run", **options))
    assert isinstance(found, UnitsStudy)
    assert run(UnitsConfig(out=tmp_path / "run", **options)) == found
    with pytest.raises(CrossproofError, match="coders: none"):
        run(UnitsConfig(out=tmp_path / "other", **{**options, "coders": ()}))
