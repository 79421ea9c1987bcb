"""One account of all units: it adds up over pairs, tokens and texts, whatever the architecture, and survives files."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import crossproof as xp
from crossproof.binding.account import _together
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError, MismatchError
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.norms.features import norm_features
from crossproof.interaction.norms.pairs import norm_pairs
from crossproof.interaction.norms.reach import Listener
from crossproof.interaction.result import Interactions
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import ACTIVATIONS, MLP, Attention, GatedMLP, Norm, Unit
from tests.binding import coders
from tests.subject import tiny

FAMILIES = ("gpt2", "neox", "llama")
EVERYWHERE = ("blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.ln*.hook_normalized")


@cache
def measured(family: str) -> tuple[Subject, Crosscoder, Tokens, Interactions]:
    """Of a family, or of a parallel model with one norm before both units of a block."""
    subject = tiny.subject(family) if family in FAMILIES else shared_norm()
    sites = [pattern for pattern in EVERYWHERE if subject_has(subject, pattern)]
    coder, tokens = coders.on(subject, *sites), tiny.some_tokens(family if family in FAMILIES else "neox")
    return subject, coder, tokens, xp.interactions(subject, coder, tokens, ["directed"])


def shared_norm() -> Subject:
    """Units as such a model has them; nothing else of it is looked at."""
    subject = copy(tiny.subject("neox"))
    subject.units = tuple(
        replace(unit, input_site=f"blocks.{unit.layer}.ln1.hook_normalized") if isinstance(unit, MLP) else unit
        for unit in subject.units
    )
    return subject


def subject_has(subject: Subject, pattern: str) -> bool:
    return any(site.endswith(pattern.rsplit(".", 1)[1].lstrip("*")) for site in subject.sites)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_units_come_in_order_of_computation_with_their_kinds(family: str) -> None:
    subject, _, _, found = measured(family)
    assert found.account is not None
    blocks = [f"blocks.{layer}.{part}" for layer in range(subject.n_layers) for part in ("ln1", "attn", "ln2", "mlp")]
    assert list(found.account.units.unit) == blocks
    assert list(found.account.units.kind) == ["norm", "attention", "norm", "mlp"] * subject.n_layers
    assert (found.account.units.per_token > 0).all()
    assert (found.account.units.written > 0).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_unit_is_the_sum_of_its_pairs_and_of_its_tokens(family: str) -> None:
    _, coder, tokens, found = measured(family)
    account = found.account
    assert account is not None
    n = coder.config.features
    i, j = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    by_pair = account.pairs(top=n * n)
    each = torch.zeros(len(account.names), dtype=torch.float64)
    for a, b in zip(i.flatten().tolist(), j.flatten().tolist(), strict=True):
        each += torch.tensor(account.pair(a, b)["forth"].to_numpy())
    per_token = torch.tensor(account.units.per_token.to_numpy())
    torch.testing.assert_close(each, per_token, rtol=1e-4, atol=1e-9)
    assert by_pair.total.sum() == pytest.approx(float(per_token.sum()), rel=1e-4)
    assert by_pair.total.is_monotonic_decreasing
    for kind in ("mlp", "attention", "norm"):
        of_kind = account.units[account.units.kind == kind].per_token.sum()
        assert by_pair[kind].sum() == pytest.approx(of_kind, rel=1e-4)
    assert int(account.tokens.sum()) == tokens.n_kept


@pytest.mark.parametrize("family", FAMILIES)
def test_a_texts_tokens_have_the_scores_of_the_account(family: str) -> None:
    subject, coder, _, _ = measured(family)
    text = "w1 w2 w3 w1 w2 w3 w4"
    found = xp.interactions(subject, coder, subject.tokens([text]), ["directed"])
    assert found.account is not None
    table = found.tokens(text)
    names = list(found.account.names)
    assert table[names].sum(axis=1).tolist() == pytest.approx(table.score.tolist())
    assert table[names].mean().tolist() == pytest.approx(found.account.units.per_token.tolist(), rel=1e-4)
    active = encode(subject, coder, subject.tokens([text])).codes.dense() > 0
    for position, row in table.iterrows():
        if row.unit is None or pd.isna(row.unit):
            continue
        assert 0 < row.pair_score <= row[row.unit] * (1 + 1e-9)
        assert active[position, row.i]
        if not str(row.unit).endswith("attn"):
            assert active[position, row.j]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_strongest_pairs_of_heads_are_the_largest_entries_of_their_tables(family: str) -> None:
    account = measured(family)[3].account
    assert account is not None
    entries = [
        (-float(value), name, head, place // 20, place % 20)
        for name, table in account.across_tokens.items()
        for head, entries in enumerate(table)
        for place, value in enumerate(entries.flatten().tolist())
        if value > 0
    ]
    expected = sorted(entries, key=lambda entry: entry[0])
    rows = account.heads(top=15)
    assert rows.per_token.tolist() == pytest.approx([-entry[0] for entry in expected[:15]])
    for row in rows.itertuples():
        assert float(account.across_tokens[row.unit][row.head, row.query, row.key]) == row.per_token
    assert len(account.heads(top=10**6)) == len(entries)
    with pytest.raises(CrossproofError, match="at least 1"):
        account.heads(0)


@pytest.mark.parametrize("family", [*FAMILIES, "shared norm"])
def test_what_units_write_is_measured_on_what_they_read_without_their_bias(family: str) -> None:
    subject, coder, tokens, found = measured(family)
    assert found.account is not None
    expected = {}
    for unit in subject.units:
        if isinstance(unit, Attention | MLP | GatedMLP):
            part = "attn" if isinstance(unit, Attention) else "mlp"
            out = unit.to(torch.float32)(reconstructed(subject, coder, tokens, unit.input_site))
            out = out - (unit.b_O if isinstance(unit, Attention) else unit.b_out).float()
            expected[f"blocks.{unit.layer}.{part}"] = float(out[tokens.keep].norm(dim=1).mean())
    for norm in (unit for unit in subject.units if isinstance(unit, Norm)):
        heard = [unit for unit in subject.units if not isinstance(unit, Norm) and unit.input_site == norm.output_site]
        names = [
            f"blocks.{u.layer}.{'attn' if isinstance(u, Attention) else 'mlp'}" for u in heard if hasattr(u, "layer")
        ]
        expected[norm.output_site.removesuffix(".hook_normalized")] = sum(expected[name] for name in names)
    rows = found.account.units
    assert rows.written.tolist() == pytest.approx([expected[name] for name in rows.unit], rel=1e-4)
    assert rows.relative.tolist() == pytest.approx((rows.per_token / rows.written).tolist())


@pytest.mark.parametrize("family", [*FAMILIES, "shared norm"])
def test_norms_are_heard_by_all_units_that_they_feed(family: str) -> None:
    subject, coder, tokens, found = measured(family)
    account = found.account
    assert account is not None
    codes = encode(subject, coder, tokens).codes
    norms = [unit.to(torch.float32) for unit in subject.units if isinstance(unit, Norm)]
    norms = [norm for norm in norms if norm.output_site.removesuffix(".hook_normalized") in account.kinds]
    assert len(norms) == subject.n_layers * (1 if family == "shared norm" else 2)
    for norm in norms:
        readers = [unit for unit in subject.units if unit.input_site == norm.output_site]
        assert len(readers) == (2 if family == "shared norm" else 1)
        listeners = [listener(subject, coder, tokens, unit.to(torch.float32)) for unit in readers]
        site = coder.sites.index(norm.input_site)
        directions, bias = coder.decoder.detach()[:, site], coder.decoder_bias.detach()[site]
        features = norm_features(
            norm, directions, bias, heard=lambda v, all_of=listeners: torch.stack([each(v) for each in all_of]).sum(0)
        )
        score = norm_pairs(codes, [features], CoActive.of(codes))[0].score
        row = account.names.index(norm.output_site.removesuffix(".hook_normalized"))
        assert float(account.by_text[:, row].sum()) == pytest.approx(float(score.sum()), rel=1e-4)


def reconstructed(subject: Subject, coder: Crosscoder, tokens: Tokens, site: str) -> Tensor:
    """What a unit reads at each position of each text: the model's own where nothing is kept."""
    x, at = subject.cache(tokens, [site])[site].float(), coder.sites.index(site)
    x[tokens.keep] = encode(subject, coder, tokens).codes.dense() @ coder.decoder.detach()[:, at]
    x[tokens.keep] += coder.decoder_bias.detach()[at]
    return x


def listener(subject: Subject, coder: Crosscoder, tokens: Tokens, unit: Unit) -> Listener:
    """How loudly a unit hears directions, as docs/interactions.md says it."""
    if isinstance(unit, Attention):
        group = len(unit.W_Q) // len(unit.W_V)
        through = [unit.W_V[head // group] @ W_O for head, W_O in enumerate(unit.W_O)]
        return lambda v: torch.stack([(v @ W).norm(dim=1) for W in through]).sum(0)
    assert isinstance(unit, MLP | GatedMLP)
    loudness = unit.W_out.norm(dim=1)
    if isinstance(unit, MLP):
        return lambda v: (v @ unit.W_in).abs() @ loudness
    x, activation = reconstructed(subject, coder, tokens, unit.input_site)[tokens.keep], ACTIVATIONS[unit.activation]
    value, gate = unit.value(x).abs().mean(0), activation.function(unit.gate(x)).abs().mean(0)
    return lambda v: (
        activation.lipschitz * (v @ unit.W_gate).abs() @ (loudness * value) + (v @ unit.W_in).abs() @ (loudness * gate)
    )


def test_several_units_hear_as_loudly_as_all_of_them_together() -> None:
    v = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    one, two = (lambda d: d.norm(dim=1)), (lambda d: 7 * d.abs().sum(1))
    torch.testing.assert_close(_together([one, two])(v), one(v) + two(v))
    torch.testing.assert_close(_together([two])(v), two(v))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_one_of_several_texts_have_its_part_of_the_account(family: str) -> None:
    subject, coder, _, _ = measured(family)
    texts = ["w1 w2 w3 w1 w2 w3 w4", "w5 w9 w9 w7"]
    found = xp.interactions(subject, coder, subject.tokens(texts), ["directed"])
    account = found.account
    assert account is not None
    for text, part in zip(texts, account.by_text, strict=True):
        assert found.tokens(text)[list(account.names)].sum().tolist() == pytest.approx(part.tolist(), rel=1e-4)
    alone = xp.token_interactions(subject, coder, texts[0])[list(account.names)].sum().tolist()
    assert (alone != pytest.approx(account.by_text[0].tolist(), rel=1e-4)) == (family == "llama")


def test_both_ways_of_a_feature_with_itself_are_one() -> None:
    account = measured("gpt2")[3].account
    assert account is not None
    strongest = next(iter(account.heads(10**6).query("query == key").itertuples()))
    own, other = account.pair(strongest.query, strongest.query), account.pair(*account.pairs(1)[["i", "j"]].iloc[0])
    assert own["sum"].sum() > 0
    assert own["sum"].tolist() == own["forth"].tolist() == own["back"].tolist()
    assert other["sum"].tolist() == (other["forth"] + other["back"]).tolist()


def test_one_text_has_no_standard_error() -> None:
    subject, coder, tokens, _ = measured("gpt2")
    found = xp.interactions(subject, coder, tokens[:1], ["directed"])
    assert found.account is not None
    assert found.account.units.per_token_se.isna().all()
    assert (found.account.units.per_token > 0).all()


def test_standard_errors_are_over_texts() -> None:
    _, _, tokens, found = measured("gpt2")
    account = found.account
    assert account is not None
    totals, n = account.by_text, account.tokens.double()
    mean = totals.sum(0) / n.sum()
    k = len(n)
    expected = ((totals - n[:, None] * mean).square().sum(0) / (k * (k - 1))).sqrt() / n.mean()
    torch.testing.assert_close(torch.tensor(account.units.per_token_se.to_numpy()), expected)
    assert k == int(tokens.keep.any(1).sum())


def test_the_account_has_the_kinds_that_were_asked_for_or_those_that_are_there() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    everywhere, mlps = coders.on(subject, *EVERYWHERE), coders.on(subject)
    for coder, include, expected in (
        (everywhere, None, {"mlp", "attention", "norm"}),
        (everywhere, (), {"mlp"}),
        (everywhere, "mlp", {"mlp"}),
        (everywhere, ["attention"], {"mlp", "attention"}),
        (everywhere, ["norm"], {"mlp", "norm"}),
        (mlps, None, {"mlp"}),  # MLP inputs alone: neither heads nor norms
    ):
        account = xp.interactions(subject, coder, tokens, ["directed"], include=include).account
        assert account is not None
        assert set(account.units.kind) == expected
        assert expected == {"mlp", "attention", "norm"} & set(account.pairs(3))
        assert str(len(account.kinds)) in repr(account)
        assert "<table" in account._repr_html_()
        assert len(repr(account)) < 5000
        for i, j in ((-1, 0), (0, 20)):
            with pytest.raises(CrossproofError, match="features 0 to 19"):
                account.pair(i, j)


def test_a_kind_that_does_not_exist_or_whose_inputs_are_no_sites_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    monkeypatch.setattr(subject, "run", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(CrossproofError, match="'attn'; there are mlp, attention, norm"):
        xp.interactions(subject, coders.on(subject), tokens, include=["attn"])
    with pytest.raises(MismatchError, match=r"kind attention \(blocks\.0\.ln1\.hook_normalized"):
        xp.interactions(subject, coders.on(subject), tokens, include=["attention"])
    with pytest.raises(MismatchError, match=r"kind norm \(blocks\.0\.hook_resid_pre"):
        xp.interactions(subject, coders.on(subject), tokens, include=["norm"])


def test_an_account_survives_its_files_and_is_refused_when_they_were_changed(tmp_path: Path) -> None:
    _, _, _, found = measured("llama")
    found.save(tmp_path / "found")
    again = xp.Interactions.load(tmp_path / "found")
    assert found.account is not None
    assert again.account is not None
    pd.testing.assert_frame_equal(again.account.units, found.account.units)
    pd.testing.assert_frame_equal(again.account.pairs(50), found.account.pairs(50))
    pd.testing.assert_frame_equal(again.account.heads(50), found.account.heads(50))
    file = tmp_path / "found" / "account.safetensors"
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 1
    file.write_bytes(bytes(broken))
    with pytest.raises(BadFile, match=r"account\.safetensors"):
        xp.Interactions.load(tmp_path / "found")
    file.unlink()
    with pytest.raises(BadFile, match=r"account\.safetensors is missing"):
        xp.Interactions.load(tmp_path / "found")


def test_tables_of_heads_survive_whether_few_or_most_pairs_meet(tmp_path: Path) -> None:
    found = measured("gpt2")[3]
    assert found.account is not None
    for share in (0.95, 0.05):
        kept = {
            name: table * (torch.rand(table.shape, generator=torch.Generator().manual_seed(0)) < share)
            for name, table in found.account.across_tokens.items()
        }
        found.account = replace(found.account, across_tokens=kept)
        found.save(tmp_path / f"{share}")
        again = xp.Interactions.load(tmp_path / f"{share}").account
        assert again is not None
        for name, table in kept.items():
            assert torch.equal(again.across_tokens[name], table)
    sizes = [(tmp_path / f"{share}" / "account.safetensors").stat().st_size for share in (0.05, 0.95)]
    assert sizes[0] < sizes[1]


def test_a_dictionary_that_never_fires_has_an_account_of_nothing() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, *EVERYWHERE)
    with torch.no_grad():
        coder.b_enc -= 1e6
    assert isinstance(encode(subject, coder, tokens).codes, Codes)
    found = xp.interactions(subject, coder, tokens, ["directed"])
    assert found.account is not None
    assert (found.account.units.per_token == 0).all()
    assert len(found.account.pairs(5)) == 0
