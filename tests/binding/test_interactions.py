"""Interactions measured on a model: the same as on its bare codes, whatever the batches, with texts and files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

import crossproof as xp
from crossproof.binding import account as account_module
from crossproof.binding import encoding as module
from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.interaction.attention import pairs
from crossproof.interaction.result import measure
from crossproof.interaction.weights import hadamard, typical_strengths
from crossproof.subject.tokens import Tokens
from tests.binding import coders
from tests.subject import tiny

TEXT = "w1 w2 w3 w1 w2 w3 w4"


def some_tokens() -> Tokens:
    """One of the texts has no kept position."""
    tokens = tiny.some_tokens("gpt2")
    keep = tokens.keep.clone()
    keep[1] = False
    return Tokens(tokens.ids, keep, tokens.targets)


def test_what_is_measured_on_a_model_is_what_its_codes_and_neurons_give(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = tiny.subject("gpt2"), some_tokens()
    coder = coders.on(subject)
    codes = coder.encode(subject.harvest(tokens, coder.sites))
    monkeypatch.setattr(module, "TEXTS_PER_PASS", 1)
    batched = codes_of(subject, coder, tokens)
    torch.testing.assert_close(batched.dense(), codes.dense())
    assert batched.pattern.n_rows == tokens.n_kept
    assert not batched.values.requires_grad
    found = xp.interactions(subject, coder, tokens)
    expected = measure(batched, neurons_of(subject, coder))
    for table in ("units", "neurons", "features"):
        pd.testing.assert_frame_equal(getattr(found, table), getattr(expected, table))
    pd.testing.assert_frame_equal(found.pairs.drop(columns="hadamard"), expected.pairs)
    of_all = [
        hadamard(mlp.unit, coder.decoder[:, mlp.site], coder.decoder_bias[mlp.site], typical_strengths(batched))
        for mlp in bound_mlps(subject, coder)
    ]
    i, j = (torch.tensor(found.pairs[side].to_numpy()).long() for side in ("i", "j"))
    torch.testing.assert_close(torch.tensor(found.pairs.hadamard.to_numpy()), sum(of_all)[i, j].detach())
    assert {"mass", "ratio"} <= set(found.pairs)
    assert subject.name in repr(found)


def test_the_tokens_of_a_text_have_their_scores_and_strongest_pairs() -> None:
    subject = tiny.subject("gpt2")
    coder = coders.on(subject)
    tokens = subject.tokens([TEXT])
    found = xp.interactions(subject, coder, tokens)
    table = found.tokens(TEXT)
    assert [word.strip() for word in table.token] == TEXT.split()
    names = list(found.unit_names)
    assert table[names].sum(axis=1).tolist() == pytest.approx(table.score.tolist())
    assert table.score.mean() == pytest.approx(found.units.token_score.sum(), rel=1e-5)
    active = codes_of(subject, coder, tokens).dense() > 0
    for position, row in table.iterrows():
        assert active[position, row.i]
        assert active[position, row.j]
        assert 0 < row.pair_score <= row[row.unit] * (1 + 1e-12)
    pd.testing.assert_frame_equal(table, xp.token_interactions(subject, coder, TEXT))


def test_after_loading_texts_are_read_with_a_model_given_anew(tmp_path: Path) -> None:
    subject = tiny.subject("gpt2")
    found = xp.interactions(subject, coders.on(subject), some_tokens(), ["directed"])
    found.save(tmp_path / "found")
    again = xp.Interactions.load(tmp_path / "found")
    pd.testing.assert_frame_equal(again.pairs, found.pairs)
    with pytest.raises(CrossproofError, match="token_interactions"):
        again.tokens(TEXT)


def test_gated_mlps_have_no_mass_unless_it_is_asked_for() -> None:
    subject = tiny.subject("llama")
    coder, tokens = coders.on(subject), tiny.some_tokens("llama")
    found = xp.interactions(subject, coder, tokens)
    assert "mass" not in found.pairs
    assert set(found.neurons.table) == {"gate", "value"}
    assert found.tokens(TEXT).score.min() > 0
    with pytest.raises(UnsupportedModel, match="mass"):
        xp.interactions(subject, coder, tokens, ["mass"])


def test_tables_of_heads_that_would_not_fit_are_refused_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = tiny.subject("gpt2"), some_tokens()
    coder = coders.on(subject, "blocks.*.ln?.hook_normalized")
    monkeypatch.setattr(pairs, "MOST_BYTES", 8 * 4 * 3 * 20**2 - 1)  # of 4 layers of 3 heads
    with monkeypatch.context() as patch:
        patch.setattr(subject, "run", lambda *_: pytest.fail("the model ran"))
        with pytest.raises(MismatchError, match=r"of 12 heads.*include=\(\"norm\",\)"):
            xp.interactions(subject, coder, tokens, ["directed"])
    without = xp.interactions(subject, coder, tokens, ["directed"], include=()).account
    assert without is not None
    assert not without.across_tokens
    monkeypatch.setattr(pairs, "MOST_BYTES", 8 * 4 * 3 * 20**2)
    account = xp.interactions(subject, coder, tokens, ["directed"]).account
    assert account is not None
    assert len(account.across_tokens) == 4


def test_the_tables_of_contributions_are_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = tiny.subject("gpt2")
    monkeypatch.setattr(account_module, "neurons_of", lambda *_: pytest.fail("made again"))
    xp.interactions(subject, coders.on(subject), some_tokens(), ["directed"])


def test_what_cannot_be_measured_is_refused_before_the_model_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = tiny.subject("gpt2"), some_tokens()
    monkeypatch.setattr(subject, "run", lambda *_: pytest.fail("the model ran"))
    with pytest.raises(CrossproofError, match="did you mean directed"):
        xp.interactions(subject, coders.on(subject), tokens, ["dirceted"])
    with pytest.raises(MismatchError, match="no MLP"):
        xp.interactions(subject, coders.on(subject, "blocks.*.hook_resid_pre"), tokens)
    with pytest.raises(MismatchError, match="has no site"):
        xp.interactions(tiny.subject("llama"), coders.on(subject), tokens)
    with pytest.raises(CrossproofError, match="no tokens"):
        xp.interactions(subject, coders.on(subject), tokens[1:2])
    with pytest.raises(CrossproofError, match="no tokens"):
        xp.interactions(subject, coders.on(subject), tokens[:0])
