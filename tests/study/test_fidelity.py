"""What a model loses when one MLP hears only some features: against patching by hand, and where the answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossproof import runs
from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.findings import FINDINGS, Findings
from crossproof.interaction.schemes import SCHEMES
from crossproof.study.estimates import text_weights
from crossproof.study.fidelity import measure, study
from crossproof.study.fidelity.config import RESIDUALS, FidelityConfig, Residual
from crossproof.study.fidelity.measure import Losses, fidelity, losses, losses_of
from crossproof.study.fidelity.study import run
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import MLP, GatedMLP
from tests.binding import coders
from tests.subject import tiny

SEQUENTIAL = ("blocks.*.hook_resid_mid", "blocks.*.ln2.hook_normalized")
PARALLEL = ("blocks.*.hook_resid_pre", "blocks.*.ln2.hook_normalized")
STREAM = {"gpt2": "hook_resid_mid", "llama": "hook_resid_mid", "neox": "hook_resid_pre"}


def patterns(family: str) -> tuple[str, ...]:
    return PARALLEL if family == "neox" else SEQUENTIAL


def perfect(subject: Subject, *sites: str) -> Crosscoder:
    """Reconstructs every site exactly: two features for each coordinate of each, one for either sign."""
    found, width = subject.find_sites(sites), subject.d_model
    config = CrosscoderConfig(
        sites=tuple(Site(subject=subject.name, hook=site) for site in found),
        width=width,
        features=2 * width * len(found),
        activation="relu",
    )
    coder = Crosscoder(config)
    both = torch.cat([torch.eye(width * len(found)), -torch.eye(width * len(found))])
    with torch.no_grad():
        coder.W_enc.copy_(both)
        coder.W_dec.copy_(both)
    return coder


def by_hand(subject: Subject, text: Tensor, keep: Tensor, targets: Tensor, rows: dict[str, Tensor]) -> float:
    """The summed loss of one text, with the rows put at its kept positions."""

    def patch(values: Tensor) -> object:
        def replace(old: Tensor) -> Tensor:
            for row, position in enumerate(keep.nonzero()[:, 0].tolist()):
                old[0, position] = values[row]
            return old

        return replace

    tokens = Tokens(text[None], keep[None], targets[None])
    logits = subject.logits(tokens, {name: patch(values) for name, values in rows.items()})[0]  # type: ignore[misc]
    scored = targets >= 0
    return float(-logits.log_softmax(-1)[scored].gather(1, targets[scored][:, None]).sum())


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox"])
def test_losses_are_those_of_a_model_patched_by_hand(family: str) -> None:
    subject, tokens = tiny.subject(family), tiny.some_tokens(family)
    coder = coders.on(subject, *patterns(family))
    found = losses_of(subject, coder, tokens, ["keep 100"], RESIDUALS, seed=0)
    unit = next(its for its in subject.units if isinstance(its, MLP | GatedMLP) and its.layer == 1)
    stream = f"blocks.1.{STREAM[family]}"
    for text in range(len(tokens)):
        one = tokens[text : text + 1]
        rows = coder(subject.harvest(one, coder.sites)).double().detach()
        into = rows[:, coder.sites.index(unit.input_site)]
        beside = {"true": {}, "reconstructed": {stream: rows[:, coder.sites.index(stream)]}}
        nothing = coder.decoder_bias[coder.sites.index(unit.input_site)].detach().double().expand_as(into)
        at = (subject, one.ids[0], one.keep[0], one.targets[0])
        for residual, its in found.items():
            assert float(its.clean[text]) == pytest.approx(by_hand(*at, {}))
            assert float(its.targets[text]) == one.n_scored
            assert float(its.stream["blocks.1.mlp"][text]) == pytest.approx(by_hand(*at, beside[residual]), rel=1e-4)
            for schemes, read in ((("all", "keep 100"), into), (("none",), nothing)):
                expected = by_hand(*at, {**beside[residual], unit.output_site: unit(read)})
                for scheme in schemes:
                    assert float(its.patched["blocks.1.mlp"][scheme][text]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_with_a_perfect_reconstruction_all_features_lose_nothing(family: str) -> None:
    subject, tokens = tiny.subject(family), tiny.some_tokens(family)
    coder = perfect(subject, *patterns(family))
    found = losses_of(subject, coder, tokens, (), RESIDUALS, seed=0)
    for its in found.values():
        for mlp, schemes in its.patched.items():
            torch.testing.assert_close(schemes["all"], its.clean, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(its.stream[mlp], its.clean, rtol=1e-4, atol=1e-4)
            assert float((schemes["none"] - its.clean).abs().sum()) > 0.1


def test_where_one_feature_is_active_it_is_the_largest_and_the_random_one() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, *SEQUENTIAL)
    with torch.no_grad():  # only one feature ever fires
        coder.b_enc[1:] = -1e4
        coder.b_enc[0] = 5
    found = losses(subject, coder, tokens, SCHEMES, "true", seed=0)
    for schemes in found.patched.values():
        for same, as_in in (
            ("keep 1", "all"),
            ("drop largest", "none"),
            ("drop random", "none"),
            ("drop second", "all"),
        ):
            torch.testing.assert_close(schemes[same], schemes[as_in])
        assert not torch.allclose(schemes["all"], schemes["none"])


def test_losses_do_not_depend_on_how_texts_are_batched_nor_on_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, *SEQUENTIAL)
    schemes = ["drop second", "keep 2"]
    whole = losses_of(subject, coder, tokens, schemes, RESIDUALS, seed=0)
    monkeypatch.setattr(measure, "TEXTS_PER_PASS", 1)
    for residual in RESIDUALS:
        single = losses(subject, coder, tokens, schemes, residual, seed=0)
        for mlp, its in whole[residual].patched.items():
            assert list(its) == ["all", "none", *schemes]
            for scheme, values in its.items():
                torch.testing.assert_close(values, single.patched[mlp][scheme])


def test_fidelity_is_one_for_the_model_and_zero_without_features_whatever_is_resampled() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(20, dtype=torch.float64, generator=generator)
    none, half = clean + 1 + clean, clean + 0.5 + clean / 2
    targets = torch.full((20,), 7.0, dtype=torch.float64)
    its = Losses(
        clean,
        targets,
        {"m": {"all": clean, "none": none, "keep 1": half}, "idle": {"none": clean}, "worse": {"none": clean - 1}},
        {},
    )
    weights = text_weights(20, 1)
    for scheme, expected in (("all", 1.0), ("none", 0.0), ("keep 1", 0.5)):
        found = fidelity(its, "m", scheme, weights)
        assert found.value == pytest.approx(expected)
        torch.testing.assert_close(found.draws, torch.full_like(found.draws, expected))
    for undefined in ("idle", "worse"):  # nothing that could be kept
        assert fidelity(its, undefined, "none", weights).draws.isnan().all()


def test_only_blocks_whose_stream_is_a_site_have_a_reconstructed_one() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    coder = coders.on(subject, "blocks.*.ln2.hook_normalized", "blocks.2.hook_resid_mid")
    found = losses_of(subject, coder, tokens, (), RESIDUALS, seed=0)
    assert list(found["true"].patched) == [f"blocks.{layer}.mlp" for layer in range(4)]
    assert list(found["reconstructed"].patched) == ["blocks.2.mlp"]
    with pytest.raises(MismatchError, match="none is the residual stream before an MLP"):
        losses(subject, coders.on(subject), tokens, (), "reconstructed", seed=0)
    nothing = Tokens(tokens.ids, torch.zeros_like(tokens.keep), tokens.targets)
    with pytest.raises(CrossproofError, match="no tokens"):
        losses(subject, coder, nothing, (), "true", seed=0)


def settings(tmp_path: Path, *names: str, residuals: tuple[Residual, ...] = RESIDUALS) -> FidelityConfig:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(["w1 w2 w3 w4 w5 w1 w2", "w3 w2 w1 w4"] * 40))
    subject = tiny.subject("gpt2", torch.float32)
    for number, name in enumerate(names):
        coder = coders.on(subject, *SEQUENTIAL)
        with torch.no_grad():
            coder.W_dec.add_(0.01 * number)
        coder.save_pretrained(tmp_path / name)
    return FidelityConfig(
        subject=str(tiny.folder("gpt2")),
        coders=tuple(str(tmp_path / name) for name in names),
        out=tmp_path / "run",
        texts=4,
        schemes=("drop random", "keep 2"),
        residuals=residuals,
        data=texts,
    )


def test_a_run_that_was_killed_goes_on_and_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(tmp_path, "a", "b")
    at_once = run(config.model_copy(update={"out": tmp_path / "at_once"}))
    done: list[int] = []

    def killed(*args: object) -> dict[Residual, Losses]:
        if done:
            raise KeyboardInterrupt
        done.append(1)
        return losses_of(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(study, "losses_of", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    done.clear()
    again = run(config)  # only the second is measured: another would be killed
    assert done == [1]
    assert again == at_once
    done.append(1)
    assert run(config) == again
    said = Findings.model_validate_json((config.out / FINDINGS).read_text())
    assert said == again.findings()
    assert [claim.id for claim in said.claims] == [
        "fidelity.ratio",
        "fidelity.gain",
        "fidelity.cost",
        "fidelity.frontier",
    ]
    assert {claim.verdict for claim in said.claims} == {"cannot tell"}  # none of them is penalised
    assert {row.scheme for row in again.schemes} == {"all", "none", "drop random", "keep 1", "keep 2"}
    assert runs.read(config.out).kind == "fidelity"


def test_what_cannot_be_studied_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    config = settings(tmp_path, "a", "b")
    few = coders.on(tiny.subject("gpt2", torch.float32), "blocks.0.*_mid", "blocks.0.ln2.hook_normalized")
    few.save_pretrained(tmp_path / "few")
    for update, message in (
        ({"coders": ()}, "coders: none"),
        ({"coders": (config.coders[0], config.coders[0])}, "there twice"),
        ({"coders": (config.coders[0], str(tmp_path / "few"))}, "compared on the same MLPs"),
        ({"schemes": ("drop both",)}, "no scheme 'drop both'"),
    ):
        with pytest.raises(CrossproofError, match=message):
            run(config.model_copy(update=update))
    assert not config.out.exists()


def test_a_text_without_kept_positions_is_the_model_itself() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    keep = tokens.keep.clone()
    keep[1] = False
    some = Tokens(tokens.ids, keep, tokens.targets)
    found = losses(subject, coders.on(subject, *SEQUENTIAL), some, SCHEMES, "true", seed=0)
    for schemes in found.patched.values():
        for values in schemes.values():
            assert float(values[1]) == pytest.approx(float(found.clean[1]))
            assert float(values[0]) != pytest.approx(float(found.clean[0]))
