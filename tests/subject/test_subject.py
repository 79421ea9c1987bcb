"""Tokens, harvests and losses: which positions count, and that rows are the model's own values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from crossproof.errors import BadFile, CrossproofError, MismatchError, NonFinite, UnsupportedModel
from crossproof.subject.sources import TextSource, read_texts
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens
from tests.subject.tiny import CONTEXT, FAMILIES, WIDTH, folder, some_tokens, subject

BOS = 51


def test_tokens_begin_with_the_special_token_and_are_padded_on_the_right() -> None:
    tokens = subject("gpt2").tokens(["w1 w2 w3", "w4", ""])
    assert tokens.ids.tolist() == [[BOS, 1, 2, 3], [BOS, 4, BOS, BOS], [BOS, BOS, BOS, BOS]]
    assert tokens.keep.tolist() == [[False, True, True, True], [False, True, False, False], [False] * 4]


def test_a_target_is_the_next_id_where_both_are_real_the_first_position_among_them() -> None:
    none = NO_TARGET
    tokens = subject("gpt2").tokens(["w1 w2 w3", "w4", ""])
    assert tokens.targets.tolist() == [[1, 2, 3, none], [4, none, none, none], [none] * 4]


def test_texts_are_cut_to_the_context() -> None:
    text = " ".join(["w1"] * 100)
    assert subject("gpt2").tokens([text]).ids.shape == (1, CONTEXT)
    assert subject("gpt2").tokens([text], context=5).ids.shape == (1, 5)
    assert subject("gpt2").tokens([text], context=500).ids.shape == (1, CONTEXT)


def test_padding_changes_nothing_at_kept_positions() -> None:
    model = subject("gpt2")
    sites = model.find_sites(model.default_sites())
    long = " ".join(["w5"] * 12)
    together = model.harvest(model.tokens(["w1 w2 w3", long]), sites)
    torch.testing.assert_close(together[:3], model.harvest(model.tokens(["w1 w2 w3"]), sites))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_harvest_is_the_kept_rows_of_the_models_own_cache(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    sites = [f"blocks.{layer}.hook_resid_{end}" for layer in (0, 1) for end in ("pre", "post")]
    rows = model.harvest(tokens, sites)
    assert rows.dtype == torch.float32
    assert rows.shape == (tokens.n_kept, 4, WIDTH)
    _, cache = model.model.run_with_cache(tokens.ids)
    for index, site in enumerate(sites):
        assert torch.equal(rows[:, index], cache[site][tokens.keep].float())


def test_sites_of_one_harvest_share_a_width() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    with pytest.raises(MismatchError, match=r"hook_resid_pre': 24, 'blocks.0.mlp.hook_post': 40"):
        model.harvest(tokens, ["blocks.0.hook_resid_pre", "blocks.0.mlp.hook_post"])
    with pytest.raises(MismatchError, match="none at all"):
        model.harvest(tokens, [])


def test_heads_and_patterns_are_sites_but_are_not_harvested() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    for site in ("blocks.0.attn.hook_pattern", "blocks.0.attn.hook_q"):
        assert site in model.sites
        with pytest.raises(MismatchError, match=f"{site} does not hold one vector per position"):
            model.harvest(tokens, [site])


def test_a_number_that_is_none_is_named_with_its_site_and_text() -> None:
    model = Subject.load(str(folder("gpt2")))
    model.model.embed.W_E.data[7] = torch.inf
    tokens = model.tokens(["w1 w2 w3", "w1 w7 w3"])
    with pytest.raises(NonFinite, match=r"blocks\.0\.hook_resid_pre is not finite in text 1, position 2"):
        model.harvest(tokens, ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_mean_cross_entropy_over_targets(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    logits = model.logits(tokens)
    scored = tokens.targets != NO_TARGET
    assert model.loss(tokens) == pytest.approx(F.cross_entropy(logits[scored], tokens.targets[scored]).item())
    per_text = model.losses(tokens)
    assert model.loss(tokens) == pytest.approx(float((per_text * scored.sum(1)).sum() / scored.sum()))
    assert not model.token_losses(tokens)[~scored].any()


def test_a_patched_loss_is_another_loss() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    silent = {"blocks.0.hook_mlp_out": torch.zeros_like}
    assert model.loss(tokens, silent) != model.loss(tokens)
    assert model.loss(tokens, {}) == model.loss(tokens)


def test_a_loss_without_targets_is_an_error() -> None:
    with pytest.raises(CrossproofError, match="no position of these tokens has a target"):
        subject("gpt2").loss(subject("gpt2").tokens([""]))


def test_gradients_flow_through_a_patch_and_never_into_the_model() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    assert not model.logits(tokens).requires_grad
    for site in ("blocks.0.hook_resid_mid", "blocks.1.ln2.hook_normalized"):
        (gradient,) = torch.autograd.grad(
            model.token_losses(tokens, {site: lambda value: scale * value}).sum(), [scale]
        )
        assert gradient.abs() > 0
    assert not any(parameter.requires_grad for parameter in model.model.parameters())


def test_a_file_of_lines_of_json_lines_or_of_divided_texts_is_a_source(tmp_path: Path) -> None:
    lines, rows, divided = tmp_path / "a.txt", tmp_path / "b.jsonl", tmp_path / "c.txt"
    texts = [f"w{index} w{index + 1}" for index in range(40)]
    lines.write_text("\n".join(texts))
    rows.write_text("\n".join(json.dumps({"text": text}) for text in texts) + "\n")
    divided.write_text("<|endoftext|>\n".join(texts))
    assert read_texts(lines) == read_texts(rows) == read_texts(divided) == texts
    source = subject("gpt2").source("train", lines)
    assert source.texts_in_all == 38
    assert torch.equal(source.tokens(38, 3).ids, source.tokens(0, 3).ids)
    held_out = subject("gpt2").source("validation", lines).tokens(0, 2)
    assert held_out.ids[:, 1].tolist() == [19, 39]


def test_a_bad_text_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for content, complaint in (('{"text": "a"}\n{"txt"', "line 2: not JSON"), ('{"txt": "a"}', 'line 1.*"text"')):
        path.write_text(content)
        with pytest.raises(BadFile, match=complaint):
            read_texts(path)
    path.write_text("\n\n")
    with pytest.raises(BadFile, match="no texts"):
        read_texts(path)
    with pytest.raises(BadFile, match="missing"):
        read_texts(tmp_path / "missing.txt")


def test_a_subject_without_texts_or_tokenizer_says_what_to_give() -> None:
    with pytest.raises(CrossproofError, match="brings no texts: give source"):
        subject("gpt2").source()
    bare = Subject(subject("gpt2").model, "bare")
    with pytest.raises(CrossproofError, match=r"no tokenizer: give one to Subject\.wrap"):
        bare.tokens(["w1"])
    with pytest.raises(UnsupportedModel, match="has no run_with_cache"):
        Subject.wrap(torch.nn.Linear(2, 2), "linear")
    with pytest.raises(CrossproofError, match="no split 'test'"):
        TextSource(["a", "b"], subject("gpt2").tokens, "test")


def test_given_sources_serve_their_splits() -> None:
    source = TextSource(["w1", "w2"], subject("gpt2").tokens)
    one = Subject.wrap(subject("gpt2").model, "one", source=source)
    assert one.source("anything") is source
    assert isinstance(one.texts(2, "train"), Tokens)
    two = Subject.wrap(subject("gpt2").model, "two", source={"train": source})
    with pytest.raises(CrossproofError, match="no split 'validation': two has the splits train"):
        two.source("validation")


def test_a_text_of_the_last_token_alone_has_no_mean_loss() -> None:
    losses = subject("gpt2").losses(subject("gpt2").tokens(["w1 w2", ""]))
    assert math.isfinite(losses[0])
    assert losses[1].isnan()


def test_a_path_may_be_a_string_and_a_file_may_come_from_a_spreadsheet(tmp_path: Path) -> None:
    path = tmp_path / "a.JSONL"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"text": "w1"}\n{"text": "w2"}')
    assert read_texts(path) == ["w1", "w2"]
    assert subject("gpt2").source("train", str(path)).tokens(0, 1).ids.tolist() == [[BOS, 1]]
    (tmp_path / "a.csv").write_text("w1\nw2")
    with pytest.raises(BadFile, match=r"a\.csv.*\.txt.*\.jsonl"):
        read_texts(tmp_path / "a.csv")


def test_no_text_is_in_both_splits() -> None:
    texts = [f"w{index % 7}" for index in range(60)]
    splits = [TextSource(texts, subject("gpt2").tokens, split) for split in ("train", "validation")]
    train, validation = ({tuple(row) for row in source.tokens(0, 60).ids.tolist()} for source in splits)
    assert train
    assert validation
    assert not train & validation
    with pytest.raises(CrossproofError, match="1 different texts"):
        TextSource(["w1", "w1"], subject("gpt2").tokens)


def test_texts_in_words_that_the_tokenizer_does_not_have_are_refused() -> None:
    with pytest.raises(CrossproofError, match=r"100% of the tokens.*<unk>.*tokenizer of"):
        subject("gpt2").source("train", ["once upon", "a time"])


def test_no_tokens_and_too_many_are_errors() -> None:
    model = subject("llama")
    site = ["blocks.0.hook_resid_pre"]
    with pytest.raises(CrossproofError, match="no tokens: none of the positions"):
        model.harvest(model.tokens([""]), site)
    with pytest.raises(CrossproofError, match="no tokens: 0 texts"):
        model.logits(some_tokens("llama")[:0])
    with pytest.raises(CrossproofError, match="no tokens: 0 texts were asked for"):
        Subject.wrap(model.model, "one", source=TextSource(["w1", "w2"], model.tokens)).texts(0)
    with pytest.raises(CrossproofError, match="a context of 0"):
        model.tokens(["w1"], context=0)
    long = torch.zeros(1, CONTEXT + 1, dtype=torch.long)
    with pytest.raises(MismatchError, match=f"{CONTEXT + 1} positions long.* {CONTEXT}$"):
        model.logits(Tokens(long, long == 0, long))


def test_the_loss_of_many_texts_is_the_loss_of_all_of_them_at_once() -> None:
    model = subject("gpt2")
    tokens = model.tokens([" ".join(["w1", "w2"] * (1 + index % 5)) for index in range(150)])
    at_once = float(model.token_losses(tokens).sum()) / tokens.n_scored
    assert model.loss(tokens) == pytest.approx(at_once, rel=1e-12)


def test_what_is_wrapped_is_a_module() -> None:
    class Bare:
        def run_with_cache(self) -> None: ...

        def run_with_hooks(self) -> None: ...

    with pytest.raises(UnsupportedModel, match=r"Bare is no torch\.nn\.Module"):
        Subject.wrap(Bare(), "bare")


@pytest.mark.parametrize("texts", [0, 1, 2, 7, 10])
def test_halves_hold_every_text_once_in_order_and_depend_on_the_seed_alone(texts: int) -> None:
    ids = torch.arange(texts)[:, None].expand(-1, 3)
    tokens = Tokens(ids, ids > 0, ids + 1)
    first, second = tokens.halves(3)
    assert (len(first), len(second)) == (texts // 2, texts - texts // 2)
    both = [half.ids[:, 0].tolist() for half in (first, second)]
    assert all(half == sorted(half) for half in both)
    assert sorted(both[0] + both[1]) == list(range(texts))
    assert torch.equal(second.targets, second.ids + 1)
    assert torch.equal(tokens.halves(3)[0].ids, first.ids)
    if texts == 10:
        assert any(tokens.halves(seed)[0].ids.tolist() != first.ids.tolist() for seed in range(5))
