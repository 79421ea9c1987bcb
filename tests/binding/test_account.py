"""One account of all units: it adds up over pairs, tokens and texts, whatever the architecture, and survives files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import crossproof as xp
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError
from crossproof.interaction.result import Interactions
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from tests.binding import coders
from tests.subject import tiny

FAMILIES = ("gpt2", "neox", "llama")
EVERYWHERE = ("blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.ln*.hook_normalized")


def measured(family: str) -> tuple[Subject, Crosscoder, Tokens, Interactions]:
    subject = tiny.subject(family)
    sites = [pattern for pattern in EVERYWHERE if subject_has(subject, pattern)]
    coder, tokens = coders.on(subject, *sites), tiny.some_tokens(family)
    return subject, coder, tokens, xp.interactions(subject, coder, tokens, ["directed"])


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


def test_without_anything_included_there_is_no_account_and_an_unknown_kind_is_refused() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject)
    assert xp.interactions(subject, coder, tokens, ["directed"], include=()).account is None
    with pytest.raises(CrossproofError, match="'attn'; there are attention, norm"):
        xp.interactions(subject, coder, tokens, include=["attn"])
    found = xp.interactions(subject, coder, tokens, ["directed"])  # MLP inputs alone: neither heads nor norms
    assert found.account is not None
    assert set(found.account.units.kind) == {"mlp"}
    for i, j in ((-1, 0), (0, 20)):
        with pytest.raises(CrossproofError, match="features 0 to 19"):
            found.account.pair(i, j)


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
