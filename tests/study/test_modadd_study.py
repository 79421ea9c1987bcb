"""The study of modular addition on a tiny network: its pairs, what is measured, what is claimed, and its runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from crossproof.binding.bound import neurons_of
from crossproof.binding.encoding import encode
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.findings import Findings
from crossproof.interaction.contributions import PlainNeurons, contributions
from crossproof.study.estimates import Drawn, Estimate
from crossproof.study.modadd import study as studied
from crossproof.study.modadd.claims import claims_of
from crossproof.study.modadd.config import ModaddConfig
from crossproof.study.modadd.measure import Measured, load, measure, right, save
from crossproof.study.modadd.measures import MEASURES
from crossproof.study.modadd.network import network
from crossproof.study.modadd.pairs import PairGrid
from crossproof.study.modadd.results import ModaddStudy, study_of
from crossproof.study.modadd.spectra import DIRECTIONS, spectrum
from crossproof.study.modadd.study import run, trainings_of
from crossproof.study.tradeoff.measure import LARGEST
from crossproof.subject.patch import splice
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens, TokenSource
from crossproof.subject.zoo.recipes import ModAddData
from crossproof.subject.zoo.sources import ModAddSource, build_modadd_tokenizer
from crossproof.units import MLP
from tests.binding import coders
from tests.study.test_modadd import adding_pairs
from tests.subject import tiny

P = 11
DATA = ModAddData(modulus=P, fraction=0.4, seed=0)


class Other(ModAddSource):
    """All texts of a split, changed."""

    def __init__(self, split: str, change: Callable[[Tokens], Tokens]) -> None:
        super().__init__(DATA, split)
        self.change = change

    def tokens(self, start: int, count: int) -> Tokens:
        return self.change(super().tokens(start, count))


@cache
def model() -> Subject:
    """A network that reads `a b =` modulo 11, with random weights."""
    torch.manual_seed(0)
    words = build_modadd_tokenizer(P)
    config = GPT2Config(
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_inner=24,
        n_positions=3,
        vocab_size=P + 3,
        activation_function="relu",
        bos_token_id=P + 1,
        eos_token_id=P + 1,
    )
    net = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    with tempfile.TemporaryDirectory() as folder:
        net.save_pretrained(folder)
        words.save_pretrained(folder)
        return Subject.load(folder, prepend_bos=False)


def adding(source: Callable[[str], TokenSource] = lambda split: ModAddSource(DATA, split)) -> Subject:
    return Subject.wrap(model().model, "adds", model().tokenizer, source, prepend_bos=False)


def coder() -> Crosscoder:
    return coders.on(adding(), "blocks.*.hook_resid_mid", "blocks.*.ln2.hook_normalized", features=12)


# -- pairs, network, dictionaries --------------------------------------------------------------------------------------


def test_held_out_pairs_are_unlike_training_pairs_in_either_order() -> None:
    pairs = PairGrid.of(adding())
    train = {(int(its) // P, int(its) % P) for its in pairs.train}
    held_out = [(int(its) // P, int(its) % P) for its in pairs.held_out]
    assert len(train) == int(0.4 * P**2)
    rest = {(a, b) for a in range(P) for b in range(P)} - train
    assert sorted(held_out) == sorted((a, b) for a, b in rest if (b, a) not in train)
    assert torch.equal(pairs.coordinates, adding_pairs(P))
    assert pairs.tokens.keep.sum(1).tolist() == [1] * P**2
    number = dict(zip(held_out, pairs.unordered(pairs.held_out).tolist(), strict=True))
    assert all(number[a, b] == number[b, a] for a, b in held_out)
    assert sorted(set(number.values())) == list(range(len({frozenset(its) for its in held_out})))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda its: Tokens(its.ids[:, [1, 0, 2]], its.keep, its.targets), "in the order of a, then b"),
        (lambda its: Tokens(its.ids, its.keep, its.targets.clamp(max=3)), "a . b modulo p"),
        (lambda its: Tokens(its.ids, its.keep, torch.full_like(its.targets, NO_TARGET)), "a . b modulo p"),
        (lambda its: its[slice(0, P**2 - 1)], "not every pair"),
    ],
)
def test_texts_that_are_no_sums_are_refused(change: Callable[[Tokens], Tokens], why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        PairGrid.of(adding(lambda split: Other(split, change)))


def test_models_of_other_texts_and_without_any_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="does not add two numbers"):
        PairGrid.of(tiny.subject("gpt2"))
    same = ModAddSource(DATA, "train")
    with pytest.raises(UnsupportedModel, match="fewer than two"):
        PairGrid.of(adding(lambda split: ModAddSource(DATA, "all") if split == "all" else same))


def test_the_stages_of_a_network_are_the_spectra_of_what_is_there() -> None:
    subject, pairs = adding(), PairGrid.of(adding())
    found = network(subject, pairs)
    every = subject.source("all").tokens(0, P**2)
    logits, values = subject.run(every, ["blocks.0.ln2.hook_normalized", "blocks.0.mlp.hook_post"])
    answers = logits[:, -1, :P]
    assert found.right == pytest.approx(float((answers.argmax(1) == every.targets[:, -1]).double().mean()))
    stages = {stage.name: stage for stage in found.stages}
    assert list(stages) == [
        "embedding of a",
        "what the MLP reads",
        "neurons of the MLP",
        "what the MLP writes",
        "logits",
    ]
    assert stages["embedding of a"].directions == pytest.approx([1, 0, 0, 0], abs=1e-6)
    for name, at in (
        ("what the MLP reads", values["blocks.0.ln2.hook_normalized"][:, -1]),
        ("neurons of the MLP", values["blocks.0.mlp.hook_post"][:, -1]),
        ("logits", answers - answers.mean(1, keepdim=True)),
    ):
        expected = spectrum(at, P).pooled().shares[0]
        assert stages[name].directions == pytest.approx(expected.sum(1).tolist(), abs=1e-4)
        assert stages[name].frequencies == pytest.approx(expected.sum(0).tolist(), abs=1e-4)
        assert stages[name].rest == pytest.approx(1 - float(expected.sum()), abs=1e-4)
    logits_stage = found.stages[-1]
    assert found.used == [k for k in range(1, 6) if logits_stage.frequencies[k - 1] > sum(logits_stage.frequencies) / 5]


def test_answers_are_those_of_the_model_with_the_mlp_replaced() -> None:
    subject, its, pairs = adding(), coder(), PairGrid.of(adding())
    tokens = pairs.these(pairs.held_out[:20])
    found = right(subject, its, tokens, seed=0)
    (mlp,) = [unit for unit in subject.units if isinstance(unit, MLP)]
    (of_mlp,) = neurons_of(subject, its)
    assert isinstance(of_mlp, PlainNeurons)
    p = encode(subject, its, tokens).codes.dense()[:, :, None] * of_mlp.pre.A
    largest = p.gather(1, p.abs().argmax(1, keepdim=True))
    for name, contributed in (("all", p.sum(1)), (LARGEST, largest.sum(1))):
        wrote = torch.relu(contributed + of_mlp.pre.beta) @ mlp.W_out + mlp.b_out
        said = subject.logits(tokens, {mlp.output_site: splice(tokens, wrote)})[:, -1].argmax(1)
        assert found[name].tolist() == (said == tokens.targets[:, -1]).tolist()
    assert found["model"].tolist() == (subject.logits(tokens)[:, -1].argmax(1) == tokens.targets[:, -1]).tolist()


@cache
def measured() -> Measured:
    pairs = PairGrid.of(adding())
    return measure(adding(), coder(), pairs, pairs.held_out, seed=0)


def test_a_dictionary_is_described_by_what_it_does_at_the_answer(tmp_path: Path) -> None:
    subject, its, pairs, found = adding(), coder(), PairGrid.of(adding()), measured()
    f = encode(subject, its, pairs.tokens).codes.dense().double()
    asked, loud = f[pairs.held_out], (its.decoder * its.site_scales[:, None]).double().square().sum((1, 2)).detach()
    variance = ((asked - asked.mean(0)).square() * loud).sum(1)
    assert found.sums["variance"].tolist() == pytest.approx(variance.tolist(), rel=1e-5)
    one = contributions(
        next(unit for unit in subject.units if isinstance(unit, MLP)), its.decoder[:, 1].detach(), name="mlp"
    )
    assert isinstance(one, PlainNeurons)
    p = (asked[:, :, None] * one.pre.A.double()).abs()
    interaction = ((p.sum(1) - p.amax(1)) * one.loudness).mean(1)
    assert found.sums["interaction"].tolist() == pytest.approx(interaction.tolist(), rel=1e-4)
    assert found.sums["interaction"].tolist() == pytest.approx((found.usual.score[:, 0] / 24).tolist(), rel=1e-4)
    shares = spectrum(f, P).shares
    for feature in found.said.features:
        assert feature.directions == pytest.approx(shares[feature.feature].sum(1).tolist(), abs=1e-6)
        assert feature.active == pytest.approx(float((f[:, feature.feature] > 0).double().mean()))
    assert sum(feature.written for feature in found.said.features) == pytest.approx(1)
    strongest = found.said.features[0]
    picture = torch.tensor(found.said.examples[0].values)
    place = [number * strongest.frequency % P for number in range(P)]
    for a in range(P):
        for b in range(P):
            assert float(picture[place[a], place[b]]) == pytest.approx(
                float(f[a * P + b, strongest.feature]), rel=1e-2, abs=1e-6
            )
    save(found, tmp_path / "one")
    read = load(tmp_path / "one")
    assert read is not None
    assert read.said == found.said
    assert all(torch.equal(read.sums[name], values) for name, values in found.sums.items())
    assert torch.equal(read.usual.patched, found.usual.patched)
    assert load(tmp_path / "none") is None


# -- results and claims ------------------------------------------------------------------------------------------------


def test_where_waves_would_explain_no_more_than_chance_nothing_is_on_the_way_to_them() -> None:
    """Less than chance would else count as further than the whole way."""
    weights = torch.ones(3, len(measured().sums["variance"]), dtype=torch.float64)
    chance = MEASURES["pure_chance"].of(measured(), weights).value

    def along(cut: float) -> Drawn:
        its = replace(measured(), said=measured().said.model_copy(update={"cut": cut}))
        return MEASURES["pure_above_chance"].of(its, weights)

    assert along(chance + 0.5).known
    for cut in (chance, chance - 0.5):
        assert not along(cut).known


@cache
def some_results() -> ModaddStudy:
    pairs = PairGrid.of(adding())
    by_seed = dict.fromkeys(range(5), measured())
    found = {"plain": by_seed, "penalty 10": by_seed}
    return study_of("adds", network(adding(), pairs), pairs, pairs.held_out, found, seed=0)


def test_dictionaries_against_themselves_differ_in_nothing() -> None:
    plain, same = some_results().kinds
    assert same.measures == plain.measures
    for change in (same.against_first["pure"], same.against_first["share"]):
        assert change is not None
        assert change.value == change.low == change.high == 0
    unexplained = same.against_first["unexplained"]
    assert unexplained is not None
    assert (unexplained.low, unexplained.high) == pytest.approx((1, 1))
    assert sum(same.features) + same.nameless == pytest.approx(len(measured().said.features))
    pure = plain.measures["pure"]
    assert pure is not None
    sums = measured().sums
    assert pure.value == pytest.approx(1 - float(sums["impure"].sum() / sums["variance"].sum()))
    assert pure.low < pure.value < pure.high


def test_a_pair_and_its_mirror_image_are_resampled_together() -> None:
    pairs, one = PairGrid.of(adding()), measured()
    a, b = pairs.held_out // P, pairs.held_out % P
    same = torch.where(a < b, 0.2, torch.where(a > b, 0.8, 0.5)).double()
    sums = one.sums | {"interaction": torch.ones_like(same), "same": same}
    (kind,) = study_of(
        "adds", network(adding(), pairs), pairs, pairs.held_out, {"plain": {0: replace(one, sums=sums)}}, 0
    ).kinds
    share = kind.measures["same"]
    assert share is not None
    assert (share.low, share.value, share.high) == pytest.approx((0.5, 0.5, 0.5))


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high, each=[value])


@pytest.mark.parametrize(
    ("share", "unexplained", "lost", "verdict"),
    [
        ((0.1, 0.05, 0.2), (1.05, 1.0, 1.09), (-0.01, -0.015, 0.0), "holds"),
        ((0.1, -0.05, 0.2), (1.05, 1.0, 1.09), (-0.01, -0.015, 0.0), "cannot tell"),
        ((-0.1, -0.2, -0.05), (1.05, 1.0, 1.09), (-0.01, -0.015, 0.0), "does not hold"),
        ((0.1, 0.05, 0.2), (1.2, 1.15, 1.3), (-0.01, -0.015, 0.0), "does not hold"),
        ((0.1, 0.05, 0.2), (1.1, 1.05, 1.3), (-0.01, -0.015, 0.0), "cannot tell"),
        ((0.1, 0.05, 0.2), (1.05, 1.0, 1.09), (-0.1, -0.2, -0.05), "does not hold"),
        ((0.1, 0.05, 0.2), None, (-0.01, -0.015, 0.0), "cannot tell"),
    ],
)
def test_the_share_must_rise_at_little_cost(
    share: tuple[float, ...], unexplained: tuple[float, ...] | None, lost: tuple[float, ...], verdict: str
) -> None:
    found = some_results().model_copy(deep=True)
    its = found.kinds[1].against_first
    its["share"], its["fidelity"] = estimate(*share), estimate(*lost)
    its["unexplained"] = estimate(*unexplained) if unexplained else None
    claim = claims_of(found)[0]
    assert (claim.verdict, claim.ours, claim.low, claim.high) == (verdict, *share)


@pytest.mark.parametrize(
    ("ratio", "reached", "verdict"),
    [
        ((2.0, 1.5, 2.5), 0.0, "holds"),
        ((2.0, 1.5, 2.5), 0.2, "cannot tell"),
        ((2.0, 0.9, 2.5), 0.0, "cannot tell"),
        ((0.8, 0.7, 0.9), 1.0, "does not hold"),
    ],
)
def test_interaction_in_a_frequency_must_beat_random_deals(
    ratio: tuple[float, ...], reached: float, verdict: str
) -> None:
    found = some_results().model_copy(deep=True)
    found.kinds[0].measures["same_over_chance"] = estimate(*ratio)
    for deal in found.kinds[0].shuffled:
        deal.reached = 0.0
    found.kinds[0].shuffled[-1].reached = reached
    assert claims_of(found)[1].verdict == verdict


@pytest.mark.parametrize(
    ("change", "of_cut", "above_chance", "verdict"),
    [
        ((0.0, -0.01, 0.01), (0.7, 0.6, 0.8), (0.65, 0.55, 0.75), "holds"),
        ((0.0, -0.03, 0.01), (0.7, 0.6, 0.8), (0.65, 0.55, 0.75), "cannot tell"),
        ((-0.1, -0.2, -0.05), (0.7, 0.6, 0.8), (0.65, 0.55, 0.75), "does not hold"),
        ((0.1, 0.05, 0.2), (0.4, 0.3, 0.45), (0.3, 0.2, 0.35), "does not hold"),
        ((0.1, 0.05, 0.2), (0.55, 0.52, 0.6), (0.45, 0.4, 0.48), "cannot tell"),  # whether chance counts decides
        ((0.1, 0.05, 0.2), (0.5, 0.4, 0.6), (0.4, 0.3, 0.55), "cannot tell"),
    ],
)
def test_features_must_stay_waves(
    change: tuple[float, ...], of_cut: tuple[float, ...], above_chance: tuple[float, ...], verdict: str
) -> None:
    found = some_results().model_copy(deep=True)
    found.kinds[1].against_first["pure"] = estimate(*change)
    found.kinds[1].measures["pure_of_cut"] = estimate(*of_cut)
    found.kinds[1].measures["pure_above_chance"] = estimate(*above_chance)
    assert claims_of(found)[2].verdict == verdict


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_run_trains_measures_goes_on_and_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = adding()
    monkeypatch.setattr(Subject, "load", classmethod(lambda cls, name, **more: subject))
    monkeypatch.setattr("crossproof.crosscoder.train.SAMPLE_TOKENS", 500)
    monkeypatch.setattr(studied, "BUFFER_TOKENS", 500)
    sizes: dict[str, Any] = {"features": 16, "k": 4, "steps": 12, "batch_tokens": 32, "pairs": 20, "seeds": 1}
    sizes["weights"] = (10.0,)
    config = ModaddConfig(out=tmp_path / "run", **sizes)
    calls: list[object] = []

    def killed(*given: object) -> Measured:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measure(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(studied, "measure", killed)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    found = run(config)
    assert len(calls) == 2 + 2  # the one that was done is not measured again
    assert [kind.name for kind in found.kinds] == ["plain", "penalty 10", "control 10"]
    assert [kind.seeds for kind in found.kinds] == [[0]] * 3
    assert run(config) == found
    said = Findings.model_validate_json((tmp_path / "run" / "findings.json").read_text())
    assert said == found.findings()
    assert [claim.id for claim in said.claims] == ["modadd.share", "modadd.frequency", "modadd.features"]
    assert {figure.kind for figure in said.figures} == {"bars", "points", "grid"}
    given = {
        kind: [Crosscoder.from_pretrained(its.out) for its in by.values()] for kind, by in trainings_of(config).items()
    }
    monkeypatch.setattr(studied, "measure", measure)
    assert studied.study(config, subject, given) == found
    with pytest.raises(CrossproofError, match="there twice"):
        run(ModaddConfig(out=tmp_path / "other", **{**sizes, "weights": (1.0, 1.0)}))
    assert not (tmp_path / "other").exists()


def test_directions_have_names_for_all_coordinates() -> None:
    assert len(DIRECTIONS) == len(PairGrid.of(adding()).coordinates)
