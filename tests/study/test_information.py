"""The study of information: lengths are those of codes that exist, made on other texts, and the study end to end."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.binding.encoding import codes_of
from crossproof.codes import Codes
from crossproof.errors import CrossproofError
from crossproof.findings import FINDINGS, Claim, Findings
from crossproof.interaction.interpretations.dominant import Dominant
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.information.coding import StrengthCode, SupportCode, bins_of, rounded
from crossproof.study.information.config import InformationConfig
from crossproof.study.information.results import study_of
from crossproof.study.information.study import Level, Measured, measured, run
from tests.binding import coders
from tests.subject import tiny

F = 3


def dense(seed: int, tokens: int, density: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    on = torch.rand(tokens, F, generator=generator) < density
    return torch.rand(tokens, F, generator=generator, dtype=torch.float64).add(0.1) * on


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 12), density=st.sampled_from([0.0, 0.3, 1.0]))
def test_supports_are_encoded_feature_by_feature_given_the_token_before(seed: int, tokens: int, density: float) -> None:
    text = torch.arange(tokens) // 3
    code = SupportCode.fitted(Codes.from_dense(dense(seed, tokens, density)), text)
    scored = dense(seed + 1, tokens)
    bits = code.bits(Codes.from_dense(scored), text)
    for t in range(tokens):
        expected = 0.0
        for i in range(F):
            before = t > 0 and text[t] == text[t - 1] and bool(scored[t - 1, i] > 0)
            p = float((code.after_on if before else code.after_off)[i])
            expected -= math.log2(p if scored[t, i] > 0 else 1 - p)
        assert float(bits[t]) == pytest.approx(expected, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_lengths_of_all_supports_are_those_of_one_distribution(seed: int) -> None:
    code = SupportCode.fitted(Codes.from_dense(dense(seed, 8)), torch.zeros(8, dtype=torch.long))
    before = dense(seed + 1, 1)
    total = 0.0
    for on in product((0.0, 1.0), repeat=F):
        two = Codes.from_dense(torch.cat([before, torch.tensor([on], dtype=torch.float64)]))
        total += 2 ** -float(code.bits(two, torch.zeros(2, dtype=torch.long))[1])
    assert total == pytest.approx(1, rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), magnitude=st.sampled_from([1e-8, 1.0, 1e8]), tokens=st.integers(0, 6))
def test_lengths_of_all_strengths_are_those_of_one_distribution(seed: int, magnitude: float, tokens: int) -> None:
    seen = Codes.from_dense(dense(seed, tokens) * magnitude)
    code = StrengthCode.fitted(seen)
    step = torch.full((F,), 0.05 * magnitude, dtype=torch.float64)
    every = Codes.from_dense(torch.arange(1, 200_000, dtype=torch.float64)[:, None] * step[:1])
    one = StrengthCode(code.mean[:1], code.spread[:1], code.broad_mean, code.broad_spread)
    total = float((-one.bits(every, step[:1]) * math.log(2)).exp().sum())
    assert total <= 1 + 1e-9
    if seen.pattern.n_entries:
        assert total == pytest.approx(1, abs=0.02)


def test_a_feature_that_always_fires_alike_costs_next_to_nothing_and_a_surprise_much() -> None:
    steady = torch.zeros(400, F, dtype=torch.float64)
    steady[:, 0] = 2.0
    text = torch.zeros(400, dtype=torch.long)
    code, strength = SupportCode.fitted(Codes.from_dense(steady), text), StrengthCode.fitted(Codes.from_dense(steady))
    usual = Codes.from_dense(steady[:2])
    assert float(code.bits(usual, text[:2])[1]) < 0.02
    step = torch.full((F,), 0.1, dtype=torch.float64)
    assert float(strength.bits(usual, step)[1]) < 0.1
    odd = steady[:2].clone()
    odd[1] = torch.tensor([0.0, 0.0, 9.0])
    assert float(code.bits(Codes.from_dense(odd), text[:2])[1]) > 15
    assert float(strength.bits(Codes.from_dense(odd), step)[1]) > 8


def test_rounding_never_switches_a_feature_off_and_moves_it_by_half_a_step_at_most() -> None:
    codes = Codes.from_dense(dense(0, 50))
    step = torch.tensor([0.3, 0.01, 5.0], dtype=torch.float64)
    near = rounded(codes, step)
    assert torch.equal(near.pattern.features, codes.pattern.features)
    assert bool((bins_of(codes, step) >= 1).all())
    steps = step[codes.pattern.features]
    large = codes.values > steps / 2
    assert bool(((near.values - codes.values).abs() <= steps / 2 + 1e-12)[large].all())


def test_what_is_measured_is_what_the_definitions_say() -> None:
    subject, tokens = tiny.subject("gpt2", torch.float32), tiny.some_tokens("gpt2", torch.float32)
    coder = coders.on(subject, features=12)
    found = measured(subject, coder, tokens, tokens, (0.1, 1e-6))
    rows = subject.harvest(tokens, coder.sites)
    codes = codes_of(subject, coder, tokens)
    scaled = coder.site_scales[:, None]
    error = ((rows - coder.decode(codes)) * scaled).square().sum().item()
    assert float(found.error.sum()) == pytest.approx(error, rel=1e-4)
    assert float(found.levels[1].error.sum()) == pytest.approx(error, rel=1e-3)
    assert float(found.levels[0].error.sum()) > error
    assert float(found.levels[1].strength_bits.sum()) > float(found.levels[0].strength_bits.sum()) > 0
    assert float(found.active.sum()) == float(codes.firing_counts().sum())
    assert int(found.tokens.sum()) == tokens.n_kept
    assert Dominant().q == 1
    assert bool((found.certified >= 0).all())


def test_the_study_compares_with_dictionaries_trained_alike_and_is_read_when_it_is_finished(tmp_path: Path) -> None:
    folder = tmp_path / "coder"
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject, features=12)
    coder.save_pretrained(folder)
    data = tmp_path / "texts.txt"
    texts = [f"w{i % 50} w{(7 * i) % 50} w{(3 * i + 1) % 50} w{i // 50}" for i in range(200)]
    data.write_text("\n".join(texts))
    config = InformationConfig(
        subject=str(tiny.folder("gpt2")), coders=(str(folder),), out=tmp_path / "run", texts=8, data=data
    )
    found = run(config)
    said = Findings.model_validate_json((tmp_path / "run" / FINDINGS).read_text())
    assert said.claims == ()  # nothing to compare with
    assert len(said.figures) == 2
    assert run(config) == found
    with pytest.raises(CrossproofError, match="texts"):
        run(config.model_copy(update={"out": tmp_path / "other", "data": _short(tmp_path)}))


def _short(folder: Path) -> Path:
    path = folder / "short.txt"
    path.write_text("\n".join(f"w{i} w{i + 1}" for i in range(30)))
    return path


def made(bits: float, certified: float, penalty: str, number: int) -> tuple[CoderRecord, Measured]:
    """Of forty texts alike but for noise."""
    noise = 0.05 * torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(number))
    one = torch.ones(40, dtype=torch.float64)
    level = Level(0.1, bits * one, one)
    its = Measured(one, one, bits * one, one, 2 * one, certified * (one + noise - noise.mean()), one, (level,))
    return CoderRecord(coder=f"{penalty}-{number}", penalty=penalty, seed=0, unexplained=0.1), its


def test_a_penalty_that_is_claimed_because_its_bound_is_tightest_has_an_interval_that_allows_for_the_choice() -> None:
    def claimed(penalties: int) -> Claim:
        others = [made(10.0, 0.975 + 0.01 * n, f"penalty {n}", 1 + n) for n in range(penalties)]
        return study_of("s", [made(10.0, 1.0, "plain", 0), *others], (0.1,), 0).findings().claims[1]

    alone, among = claimed(1), claimed(30)
    assert alone.ours == among.ours == pytest.approx(0.975)
    assert alone.high is not None
    assert among.high is not None
    assert among.high > alone.high + 0.005
    assert "Of 30 penalties" in among.why
    assert (alone.verdict, among.verdict) == ("holds", "cannot tell")
