"""The study of explanations: halves that share no text, groups with their controls, and words that follow from them."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from crossproof import runs
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError
from crossproof.findings import FINDINGS, Findings
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import text_weights
from crossproof.study.explain import study as module
from crossproof.study.explain.by_language_model import EXPLAINER, JUDGE, Reading, ask_about
from crossproof.study.explain.config import ExplainConfig
from crossproof.study.explain.dictionary import evenly, halves, judged_by
from crossproof.study.explain.explanation import explanations_of
from crossproof.study.explain.results import (
    LABELS,
    MODEL,
    MODEL_OTHER,
    OTHER,
    SHUFFLED,
    DictionaryRecord,
    ExplainStudy,
    Part,
    groups_of,
)
from crossproof.study.explain.score import Tally
from crossproof.study.explain.study import run, study
from crossproof.study.language_model import LanguageModel, LanguageModelConfig
from crossproof.study.token_labels import labels_of
from tests.binding import coders
from tests.study.chat import Chat, Reply, chat, saying
from tests.subject import tiny

TEXTS = 12


def coder(bias: float = 0.0) -> Crosscoder:
    its = coders.on(tiny.subject("gpt2", torch.float32), features=14)
    with torch.no_grad():
        its.b_enc += bias
    return its


def settings(folder: Path, **more: Any) -> ExplainConfig:
    """Of a folder with a crosscoder and texts."""
    texts = folder / "texts.txt"
    words = torch.randint(8, (400, 12), generator=torch.Generator().manual_seed(0))
    texts.write_text("\n".join(" ".join(f"w{word}" for word in text) for text in words.tolist()))
    if not (folder / "coder").exists():
        coder().save_pretrained(folder / "coder")
    options = {"subject": str(tiny.folder("gpt2")), "coders": (str(folder / "coder"),), "texts": TEXTS, "data": texts}
    return ExplainConfig(**{**options, "out": folder / "run", **more})


def test_no_text_explains_and_scores_and_explanations_come_from_their_half_alone(tmp_path: Path) -> None:
    config, subject = settings(tmp_path), tiny.subject("gpt2", torch.float32)
    tokens = subject.held_out(TEXTS, config.data)
    explaining, scoring = halves(subject, tokens, 0, config.data)
    rows = [{tuple(row) for row in half.tokens.ids.tolist()} for half in (explaining, scoring)]
    assert not rows[0] & rows[1]
    assert rows[0] | rows[1] == {tuple(row) for row in tokens.ids.tolist()}
    everything = labels_of(subject, tokens, data=config.data)
    for half in (explaining, scoring):
        assert half.labels.names == everything.names
        assert len(half.labels.values) == len(half.words) == half.tokens.n_kept == len(half.text)
        assert half.words == [f"w{id_}" for id_ in half.tokens.ids[half.tokens.keep].tolist()]
        said = half.labels.column("“w3”").tolist()
        assert said == [word == "w3" for word in half.words]
    found = study(config, subject, [coder()], tokens)
    codes = encode(subject, coder(), explaining.tokens).codes
    own = explanations_of(codes, explaining.labels, config.parts)
    record = found.dictionaries[0]
    assert record.explained
    assert record.features == 14 == record.silent + len(record.explained)
    for its in record.explained:
        assert tuple(map(tuple, its.parts)) == own[its.feature].parts
        assert its.share == pytest.approx(float(codes.firing_counts()[its.feature]) / explaining.tokens.n_kept)
    later = encode(subject, coder(), scoring.tokens).codes.firing_counts()
    assert all(its.tokens == later[its.feature] for its in record.explained)
    unscored = [its for its in record.explained if its.tokens in (0, scoring.tokens.n_kept)]
    assert record.unheard == len(unscored) == sum(its.balanced is None for its in record.explained)


def part(hits: float, active: float = 10) -> Part:
    """Of three features in five texts: so many hits of the active tokens, and a control without any."""

    def of(hits: float) -> Tally:
        counts = torch.tensor([100.0, active, 20.0, hits], dtype=torch.float64)[:, None, None]
        return Tally(*counts.expand(4, 5, 3))

    weights = text_weights(5, 0)
    record = DictionaryRecord(
        features=3, silent=0, unheard=0, without=0, asked=0, unanswered=0, explained=[], examples=[], passages=[]
    )
    return Part(
        dictionary=record, judged={LABELS: judged_by(of(hits), weights, of(hits)), OTHER: judged_by(of(2), weights)}
    )


def about(name: str, penalty: str = "plain") -> CoderRecord:
    return CoderRecord(coder=name, penalty=penalty, seed=0, unexplained=None)


def of_groups(**parts: Part) -> ExplainStudy:
    records = [about(name, "plain" if name.startswith("plain") else name) for name in parts]
    groups, same, above = groups_of(list(zip(records, parts.values(), strict=True)))
    return ExplainStudy(
        subject="s", stories=True, labels=9, parts=4, explaining_texts=5, scoring_texts=5, explaining_tokens=500,
        scoring_tokens=500, language_model=None, judged_examples=0, coders=records,
        dictionaries=[its.dictionary for its in parts.values()], groups=groups, same=same, above=above,
    )  # fmt: skip


def test_the_worst_of_several_penalties_is_not_the_worst_of_each_resample() -> None:
    """Penalties that are all alike but for the texts they fail on: none is worse, however many there are."""
    generator, weights = torch.Generator().manual_seed(0), text_weights(40, 0)

    def varied() -> Part:
        hits = 8 + torch.randn(40, 1, generator=generator, dtype=torch.float64)
        hits -= hits.mean() - 8
        counts = [torch.full((40, 1), count, dtype=torch.float64) for count in (100, 10, 20)]
        judged = judged_by(Tally(*counts, hits), weights)
        return part(8).model_copy(update={"judged": {LABELS: judged}})

    found = of_groups(plain=varied(), **{f"penalty {number}": varied() for number in range(12)})
    same = found.same[LABELS]["balanced"]
    assert same.value == pytest.approx(0, abs=1e-9)
    assert same.low < -0.005 < 0.005 < same.high


def test_groups_stand_against_the_plain_one_and_claims_against_the_worst_of_them() -> None:
    found = of_groups(strong=part(7), plain=part(9), plain2=part(8), mild=part(8.5))
    by = {(its.group, its.judge): its for its in found.groups}
    assert [its.group for its in found.of(LABELS)] == ["plain", "strong", "mild"]
    plain = by["plain", LABELS]
    assert plain.measures["sensitivity"].each == pytest.approx([0.9, 0.8])
    assert plain.measures["specificity"].value == pytest.approx((79 / 90 + 78 / 90) / 2)
    assert plain.measures["precision"].value == pytest.approx((9 / 20 + 8 / 20) / 2)
    assert plain.against_plain == {}
    strong, mild = (by[name, LABELS].against_plain["balanced"] for name in ("strong", "mild"))
    expected = (0.7 + 77 / 90) / 2 - (0.85 + 78.5 / 90) / 2
    assert strong.value == pytest.approx(expected)
    assert strong.low == pytest.approx(expected) == strong.high
    assert mild.value == pytest.approx(0)
    assert found.same[LABELS]["balanced"].value == pytest.approx(expected)
    assert found.above[LABELS].value == pytest.approx((0.7 + 77 / 90) / 2 - (0.2 + 72 / 90) / 2)
    information = [by[name, LABELS].measures["information"].value for name in ("strong", "plain")]
    assert found.same[LABELS]["information"].value == pytest.approx(information[0] - information[1])
    same, bits, better = found.findings().claims
    assert (bits.id, bits.verdict) == ("explain.same.bits", "does not hold")
    assert (same.id, same.verdict) == ("explain.same", "does not hold")
    assert "the worst of 2 penalties" in same.measure
    assert (better.id, better.verdict) == ("explain.better_than_chance", "holds")
    assert by["plain", LABELS].confusion == [[135 + 120, 15 + 30], [165 + 180, 1185 + 1170]]


def test_as_explainable_is_what_loses_less_than_the_margin() -> None:
    def verdict(hits: float) -> str:
        return of_groups(plain=part(9), penalised=part(hits)).findings().claims[0].verdict

    # a hit less of ten costs .0555 of balanced accuracy
    assert [verdict(hits) for hits in (9, 9.5, 8.7, 8.5, 5)] == ["holds"] * 3 + ["does not hold"] * 2
    alone = of_groups(plain=part(9)).findings().claims[0]
    assert (alone.ours, alone.low, alone.verdict) == (None, None, "cannot tell")
    assert "no scored dictionaries both with" in alone.why
    worse = of_groups(plain=part(1)).findings().claims[2]
    assert worse.verdict == "does not hold"


def test_a_run_is_read_again_and_one_that_was_killed_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coder(-0.3).save_pretrained(tmp_path / "other")
    config = settings(tmp_path, coders=(str(tmp_path / "coder"), str(tmp_path / "other")))
    explained, done = module.explained, []

    def killed(*args: Any) -> Part:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(args)
        return explained(*args)

    monkeypatch.setattr(module, "explained", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert not runs.read(config.out).finished
    monkeypatch.setattr(module, "explained", lambda *args: done.append(args) or explained(*args))
    found = run(config)
    assert len(done) == 2
    assert run(config) == found
    monkeypatch.setattr(module, "explained", explained)
    assert run(config.model_copy(update={"out": tmp_path / "whole"})) == found
    written = Findings.model_validate(json.loads((config.out / FINDINGS).read_text()))
    assert written == found.findings()
    assert {its.judge for its in found.groups} == {LABELS, OTHER, SHUFFLED}
    (config.out / "parts" / "0.json").write_text("{}")
    subject = tiny.subject("gpt2", torch.float32)
    tokens = subject.held_out(TEXTS, config.data)
    with pytest.raises(BadFile, match=r"0.json is no part of a run \(dictionary"):
        study(config, subject, [coder()], tokens, config.out / "parts")


def test_a_dictionary_without_active_features_is_said_to_have_none(tmp_path: Path) -> None:
    coder(-1e4).save_pretrained(tmp_path / "dead")
    found = run(settings(tmp_path, coders=(str(tmp_path / "dead"),)))
    assert found.dictionaries[0].silent == 14
    said = found.findings()
    assert [claim.verdict for claim in said.claims] == ["cannot tell"] * 3
    assert said.passages == ()
    assert "of no feature" in said.answer


def test_wrong_settings_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for more, why in (
        ({"coders": ()}, "coders: none"),
        ({"language_model": LanguageModelConfig(endpoint="nowhere", model="m")}, "endpoint 'nowhere'"),
    ):
        with pytest.raises(CrossproofError, match=why):
            run(settings(tmp_path, **more))
    few = settings(tmp_path)
    assert few.data is not None
    few.data.write_text("w1 w2\n\nw3 w4\n\nw5 w6")
    with pytest.raises(CrossproofError, match="1 held-out texts: two halves"):
        run(few)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("count", [1, 2, 5, 9, 20])
def test_examples_are_spread_evenly_over_the_ranks(count: int) -> None:
    chosen = evenly(range(9), count)
    assert len(chosen) == len(set(chosen)) == min(count, 9)
    assert chosen == sorted(chosen)
    gaps = [b - a for a, b in pairwise(chosen)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert evenly([], count) == []


def knowing(asked: dict[str, Any], before: int) -> Reply:
    """Says which word is marked, and judges by that word."""
    system, question = (message["content"] for message in asked["messages"][:2])
    if system == EXPLAINER:
        words = set(re.findall("«a(.*?);»", question))
        return saying(f"the word {' and '.join(sorted(words))}")
    assert system == JUDGE
    told, *pieces = question.split("\n\n")
    word = told.removeprefix("The feature is active on: the word ")
    return saying(f"I judge: {json.dumps([int(f'«b{word};»' in piece) for piece in pieces])}")


def readings() -> tuple[Reading, Reading]:
    """Two halves in two languages, `azero;` and `bzero;`; feature k is active on word k."""
    found = []
    for language, seed in (("a", 1), ("b", 2)):
        words = torch.randint(4, (120,), generator=torch.Generator().manual_seed(seed))
        codes = Codes.from_dense(torch.nn.functional.one_hot(words, 5).float() * torch.linspace(1, 2, 120)[:, None])
        spelt = [f"{language}{['zero', 'one', 'two', 'three'][word]};" for word in words.tolist()]
        found.append(Reading(spelt, torch.arange(120) // 12, codes))
    return found[0], found[1]


def asking(server: Chat, folder: Path) -> LanguageModel:
    config = LanguageModelConfig(endpoint=server.endpoint, model="m", key_variable="CROSSPROOF_NO_KEY", retries=0)
    return LanguageModel(config, folder / "answers.jsonl")


def test_a_language_model_explains_from_one_half_and_judges_others_from_the_other(tmp_path: Path) -> None:
    explaining, scoring = readings()
    with chat(knowing) as server:
        found = ask_about(asking(server, tmp_path), [0, 1, 2, 4], explaining, scoring, 10, 8, seed=0)
    assert found.explanations == ("the word zero", "the word one", "the word two", None)
    assert found.unanswered == 0
    own, other = found.own.pooled(), found.other.pooled()
    assert own.tokens[0].tolist() == other.tokens[0].tolist() == [8, 8, 8, 0]
    assert own.active[0].tolist() == own.said[0].tolist() == own.hits[0].tolist() == [4, 4, 4, 0]
    assert other.hits[0].tolist() == [0, 0, 0, 0]
    for its in server.asked:
        system, question = (message["content"] for message in its["messages"])
        pieces = question.split("\n\n")[system == JUDGE :]
        assert len(pieces) == 8
        theirs = explaining if system == EXPLAINER else scoring
        for piece in pieces:
            assert re.sub("[«»…]|^[0-9]*[.] ", "", piece) in "".join(theirs.words)
    assert len(server.asked) == 3 + 6


def test_what_is_judged_is_counted_in_its_text(tmp_path: Path) -> None:
    explaining, scoring = readings()
    everything = lambda asked, before: saying("all" if before == 0 else json.dumps([1] * 6))  # noqa: E731
    with chat(everything) as server:
        found = ask_about(asking(server, tmp_path), [1], explaining, scoring, 10, 6, seed=0)
    judged = server.asked[1]["messages"][1]["content"].split("\n\n")[1:]
    rows = [row for row in range(120) for piece in judged if piece.split(". ", 1)[1] == scoring.shown(row)]
    assert len(rows) >= 6
    assert found.own.tokens.sum() == found.own.said.sum() == 6
    assert found.own.hits.sum() == found.own.active.sum() == 3
    texts = set((scoring.text[torch.tensor(rows)]).tolist())
    assert set(found.own.tokens[:, 0].nonzero().squeeze(1).tolist()) <= texts


@pytest.mark.parametrize("answer", ["yes", "[1, 0]", "[1, 0, 2, 1, 0, 0, 1, 1]", "[[1, 1, 1, 1, 1, 1, 1, 1", '["a"]'])
def test_answers_that_are_no_list_of_judgements_are_counted_and_left_out(tmp_path: Path, answer: str) -> None:
    explaining, scoring = readings()

    def confused(asked: dict[str, Any], before: int) -> Reply:
        return knowing(asked, before) if asked["messages"][0]["content"] == EXPLAINER else saying(answer)

    with chat(confused) as server:
        found = ask_about(asking(server, tmp_path), [0, 1], explaining, scoring, 10, 8, seed=0)
    assert found.unanswered == 4
    assert not found.own.tokens.any()
    assert not found.own.scored.any()


def test_the_study_asks_a_language_model_where_an_endpoint_is_configured(tmp_path: Path) -> None:
    with chat(knowing) as server:
        model = LanguageModelConfig(endpoint=server.endpoint, model="m", key_variable="CROSSPROOF_NO_KEY")
        found = run(settings(tmp_path, language_model=model, asked=5, judged=6))
        questions = len(server.asked)
        again = run(settings(tmp_path, language_model=model, asked=5, judged=6))
    assert again == found
    assert len(server.asked) == questions > 5
    assert found.dictionaries[0].asked == 5
    assert {MODEL, MODEL_OTHER} <= {its.judge for its in found.groups}
    assert sum(its.told is not None for its in found.dictionaries[0].explained) == 5
    ids = [claim.id for claim in found.findings().claims]
    assert ids == [f"explain.{it}" for it in ("same", "same.bits", "better_than_chance")] + [
        f"explain.{it}.language_model" for it in ("same", "better_than_chance")
    ]
