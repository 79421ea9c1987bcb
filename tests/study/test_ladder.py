from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from crossproof import runs
from crossproof.binding.config import PenalisedTrainConfig
from crossproof.crosscoder import store
from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.ball import exact
from crossproof.proof.check import check
from crossproof.proof.dictionary import Dictionary
from crossproof.proof.provable import Provable
from crossproof.proof.prove import How, Proof, prove
from crossproof.proof.statement import Bounds
from crossproof.proof.statement import Proved as Stated
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.ladder import shown_dictionaries
from crossproof.study.ladder.config import LadderConfig
from crossproof.study.ladder.results import (
    Checked,
    CostsRecord,
    DictionaryRecord,
    LadderStudy,
    Lines,
    Proved,
    SubjectRecord,
)
from crossproof.study.ladder.study import _best, run
from crossproof.subject.zoo.window_model import WindowModel, save
from crossproof.subject.zoo.window_recipes import WindowConfig
from crossproof.subject.zoo.windows import Characters, alphabet


def model_in(folder: Path, **changes: object) -> Path:
    config = WindowConfig.model_validate(
        {"vocabulary": 56, "context": 3, "width": 8, "neurons": 10, "mixing": "sum", "mlps": 1, "norm": False} | changes
    )
    torch.manual_seed(0)
    folder.mkdir()
    save(WindowModel(config, Characters(alphabet())), folder)
    return folder


def climb(tmp_path: Path, *subjects: Path, **changes: object) -> LadderStudy:
    settings = {
        "subjects": [str(subject) for subject in subjects],
        "out": tmp_path / "ladder",
        "characters": 400,
        "read": [0, 2],
        "offsets": 2,
        "additive_steps": 5,
    }
    return run(LadderConfig.model_validate(settings | changes))


def test_every_rung_is_above_the_truth_and_the_best_certificate_is_accepted(tmp_path: Path) -> None:
    found = climb(tmp_path, model_in(tmp_path / "sums"), model_in(tmp_path / "looks", mixing="attention", norm=True))
    assert next(figure.id for figure in found.findings().figures) == "members"
    for its in found.subjects:
        assert {row.rung for row in its.proved} >= {"brute", "masses", "pairs", "uniform"}
        assert all(row.loss is not None and row.loss >= its.truth - 1e-9 for row in its.proved)
        assert its.checked.accepted, its.checked.said
        assert check(tmp_path / "ladder" / "certificates" / Path(its.subject).name)[0]
        telling = [row for row in its.proved if row.rung != "brute" and (row.loss or 0.0) < its.lines.uniform]
        assert its.certified in (telling or its.proved)
        assert its.waterfall is not None


def test_findings_say_what_was_proved_and_a_refused_certificate_proves_nothing(tmp_path: Path) -> None:
    found = climb(tmp_path, model_in(tmp_path / "model"))
    said = found.findings()
    written = json.loads((tmp_path / "ladder" / "findings.json").read_text())
    assert written["answer"] == said.answer
    (its,) = found.subjects
    assert its.certified.name in said.answer
    refused = its.model_copy(update={"checked": its.checked.model_copy(update={"accepted": False})})
    verdicts = {claim.verdict for claim in LadderStudy(subjects=[refused]).findings().claims}
    assert verdicts == {"does not hold"}


def test_a_vacuous_bound_is_said_to_be_vacuous(tmp_path: Path) -> None:
    found = climb(tmp_path, model_in(tmp_path / "model"))
    (its,) = found.subjects
    vacuous = its.model_copy(update={"lines": its.lines.model_copy(update={"uniform": 0.01})})
    said = LadderStudy(subjects=[vacuous]).findings()
    assert "vacuous" in said.answer
    assert said.claims[0].verdict == "does not hold"


def test_subjects_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model = model_in(tmp_path / "model")
    with pytest.raises(CrossproofError, match="twice"):
        climb(tmp_path, model, model)
    with pytest.raises(UnsupportedModel, match="reads windows"):
        climb(tmp_path, Path("tinytales"))
    assert not (tmp_path / "ladder").exists()


# Learned dictionaries


def coder_in(
    folder: Path, *subjects: Path | str, penalty: float | None = 0.0, seed: int = 0, site: str = "hook_resid_mid"
) -> str:
    """Random directions but for feature 0, which writes nothing; with the run that trained it, or no `penalty`."""
    config = CrosscoderConfig(
        sites=tuple(Site(subject=str(subject), hook=f"blocks.0.{site}") for subject in subjects),
        width=8,
        features=6,
        activation="topk",
        k=3,
    )
    coder = Crosscoder(config)
    with torch.no_grad():
        coder.W_dec.copy_(torch.randn(coder.W_dec.shape, generator=torch.Generator().manual_seed(seed)))
        coder.W_dec[0] = 0.0
    store.save(coder, folder / store.IN_RUN)
    if penalty is not None:
        its = {"subject": str(subjects[0]), "out": folder, "seed": seed, "penalty": {"weight": penalty}}
        runs.begin(folder, "train", PenalisedTrainConfig.model_validate(its))
    return str(folder)


def test_dictionaries_are_rungs_of_their_models_and_what_they_cost_is_said_by_feature(tmp_path: Path) -> None:
    sums, looks = model_in(tmp_path / "sums"), model_in(tmp_path / "looks", mixing="attention", norm=True)
    coders = [
        coder_in(tmp_path / "one", looks, penalty=None),
        coder_in(tmp_path / "two", sums),
        coder_in(tmp_path / "three", sums, penalty=30.0, site="hook_mlp_in"),
    ]
    found = climb(tmp_path, sums, looks, coders=coders, offsets=0, vectors=False)
    names = {Path(its.subject).name: [each.name for each in its.dictionaries] for its in found.subjects}
    assert names == {"sums": ["two", "three"], "looks": ["one"]}
    trained = {each.name: each.trained for its in found.subjects for each in its.dictionaries}
    assert trained == {"one": "not known", "two": "plain", "three": "penalty weight 30.0"}
    said = found.findings()
    for its, figure in zip(found.subjects, [f for f in said.figures if f.id.startswith("ladder-")], strict=True):
        of = Provable.open(its.subject, None, 400)
        assert its.checked.accepted, its.checked.said
        assert all(row.loss is not None and row.loss >= its.truth - 1e-9 for row in its.proved)
        (table,) = (table for table in said.tables if table.title == f"What learned dictionaries certify of {of.name}")
        assert table.by_column[0] == ("tokens as they are", *(each.name for each in its.dictionaries))
        for each, row in zip(its.dictionaries, table.rows[1:], strict=True):
            folder = next(coder for coder in coders if Path(coder).name == each.name)
            proof = prove(of.network, of.items, How("masses", 1, 2, 0, Dictionary.open(folder, of.name, of.network)))
            assert each.loss == pytest.approx(proof.proved.loss) == its.row(each.rung).loss
            assert each.operations == sum(proof.operations.values())
            assert (each.features, each.slots, each.tokens) == (6, 3, "masses, 2 read out")
            assert 0 < each.unexplained <= each.worst_part
            rungs = [row.rung for row in its.proved if row.dictionary == each.name]
            assert rungs == ["masses", "masses", "uniform"]
            assert f"directions of {each.name}" in [series.name for series in figure.series]
            assert each.costs is not None
            cost = [paid for *_, paid in each.costs.pairs]
            assert cost == sorted(cost, reverse=True)
            assert 0 < sum(cost) <= each.costs.bound - each.costs.centre + 1e-9
            ends = {end for a, b, _ in each.costs.pairs for end in (a, b)}
            assert "feature 0" not in ends
            assert {f"feature {number}" for number in range(1, 6)} <= ends | {"what the dictionary leaves"}
            assert each.loss in row
    assert {claim.id for claim in said.claims} >= {f"ladder.dictionary.{sums}"}
    assert f"ladder.dictionary.{looks}" not in {claim.id for claim in said.claims}
    best = found.subjects[0].best_dictionary
    assert best is not None
    assert best.loss == min(each.loss for each in found.subjects[0].dictionaries if each.loss is not None)
    assert any(f"Pairs of directions of {best.name}" in table.title for table in said.tables)


def test_coders_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    model, deep = model_in(tmp_path / "model"), model_in(tmp_path / "deep", mlps=2)
    its = coder_in(tmp_path / "its", model)
    with pytest.raises(MismatchError, match=r"its was trained on .*model, and the subjects are .*deep"):
        climb(tmp_path, deep, coders=[its])
    with pytest.raises(UnsupportedModel, match="2 MLPs"):
        climb(tmp_path, deep, coders=[coder_in(tmp_path / "of-deep", deep)])
    with pytest.raises(MismatchError, match="several models"):
        climb(tmp_path, model, coders=[coder_in(tmp_path / "both", model, "tinytales")])
    with pytest.raises(CrossproofError, match="2 of one model are called its"):
        climb(tmp_path, model, coders=[its, coder_in(tmp_path / "other" / "its", model)])
    with pytest.raises(MismatchError, match="hook_resid_mid"):
        climb(tmp_path, model, coders=[coder_in(tmp_path / "elsewhere", model, site="hook_resid_post")])
    with pytest.raises(CrossproofError, match="read"):
        climb(tmp_path, model, coders=[its], read=[])
    assert not (tmp_path / "ladder").exists()


def with_losses(**losses: Sequence[float]) -> SubjectRecord:
    """A record with dictionaries of each penalty, and nothing else that matters."""
    row = Proved(name="masses, 0 read out", rung="masses", loss=2.0, right=0, operations={}, seconds=0)
    dictionaries = [
        DictionaryRecord(
            name=f"{penalty}-{seed}",
            coder=CoderRecord(coder="", penalty=penalty, seed=seed, unexplained=None),
            features=1, slots=1, unexplained=0, worst="", worst_part=0, rung=row.name, tokens=row.name, loss=loss,
            operations=0, costs=None,
        )
        for penalty, each in losses.items() for seed, loss in enumerate(each)
    ]  # fmt: skip
    lines = Lines(uniform=4, unigram=3, additive=None, largest=None, sampled={})
    checked = Checked(rung=row.name, accepted=True, said="", seconds=0)
    return SubjectRecord(
        subject="model", windows=1, contexts=1, truth=1, right=0, cached=1, naive=1, lines=lines, proved=[row],
        checked=checked, waterfall=None, dictionaries=dictionaries,
    )  # fmt: skip


@given(
    plain=st.lists(st.integers(3, 6), min_size=1, max_size=6),
    one=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    two=st.lists(st.integers(1, 6), max_size=6),
)
def test_a_penalty_certifies_more_only_if_all_are_below_and_chance_would_not_do_that(
    plain: list[int], one: list[int], two: list[int]
) -> None:
    (claim,) = shown_dictionaries.claims(with_losses(plain=plain, one=one, two=two))
    assert claim.ours is not None
    assert claim.low is not None
    assert claim.high is not None
    best = min([each for each in (one, two) if each], key=lambda each: sum(each) / len(each))
    assert claim.ours == pytest.approx(sum(best) / len(best) - sum(plain) / len(plain))
    assert claim.low - 1e-9 <= claim.ours <= claim.high + 1e-9
    below = all(ours < theirs for ours in best for theirs in plain)
    assert below == (claim.high < 0)
    enough = len(best) >= 3 and len(plain) >= 3
    unlikely = (1 + bool(two)) / math.comb(len(best) + len(plain), len(best)) <= 0.05
    above = all(ours >= theirs for ours in one + two for theirs in plain)
    expected = "holds" if enough and below and unlikely else "does not hold" if enough and above else "cannot tell"
    assert claim.verdict == expected


@pytest.mark.parametrize(("seeds", "penalties", "verdict"), [(3, 1, "holds"), (3, 2, "cannot tell"), (4, 2, "holds")])
def test_the_more_penalties_there_are_to_choose_from_the_more_seeds_it_takes(
    seeds: int, penalties: int, verdict: str
) -> None:
    several = {f"penalty{number}": [2.0 + number] * seeds for number in range(penalties)}
    (claim,) = shown_dictionaries.claims(with_losses(plain=[5.0] * seeds, **several))
    assert (claim.ours, claim.verdict) == (-3.0, verdict)


def test_claims_are_of_dictionaries_that_are_trained_alike_but_for_a_penalty() -> None:
    assert not list(shown_dictionaries.claims(with_losses(plain=[2.0, 2.0])))
    assert not list(shown_dictionaries.claims(with_losses(one=[2.0, 2.0])))
    its = with_losses(plain=[3.0] * 3, one=[2.0] * 3)
    (claim,) = shown_dictionaries.claims(its)
    assert (claim.ours, claim.verdict) == (-1.0, "holds")
    *rest, last = its.dictionaries
    for change in ({"otherwise": "features 256"}, {"seed": None}):
        other = last.model_copy(update={"coder": last.coder.model_copy(update=change), "loss": 9.0})
        (claim,) = shown_dictionaries.claims(its.model_copy(update={"dictionaries": [*rest, other]}))
        assert (claim.ours, claim.verdict) == (-1.0, "cannot tell")


def test_the_pairs_that_are_shown_are_of_the_dictionary_with_the_lowest_bound() -> None:
    its = with_losses(plain=[3.0, 2.5], one=[2.75])
    costs = CostsRecord(centre=1.0, bound=2.0, drawn=7, pairs=[("feature 3", "feature 5", 0.5)], left=0.25,
                        features=[("feature 3", 0.5)], neurons=[(9, 0.75)])  # fmt: skip
    row = its.proved[0].model_copy(update={"rung": "uniform", "name": "uniform"})
    dictionaries = [each.model_copy(update={"costs": costs}) for each in its.dictionaries]
    rows = [row.model_copy(update={"dictionary": each.name}) for each in dictionaries]
    its = its.model_copy(update={"dictionaries": dictionaries, "proved": [*its.proved, row, *rows]})
    *_, table, alone = shown_dictionaries.tables(its)
    assert alone.rows == (("feature 3", 0.5, 9, 0.75),)
    assert "plain-1" in table.title
    assert table.rows == (("feature 3", "feature 5", 0.5),)
    assert "7 windows drawn" in table.note
    assert "25.0%" in table.note
    assert "plain-1 masses" in shown_dictionaries.answer(its)


def test_what_is_cheap_and_vacuous_is_no_certificate_where_something_can_be_said() -> None:
    def proof(rung: str, loss: float, operations: int) -> Proof:
        bounds = Bounds(exact(torch.tensor([loss])), torch.tensor([False]))
        return Proof(How(rung), {}, bounds, Stated(loss, 0), {"all": operations})

    brute, end = proof("brute", 1.0, 100), proof("uniform", 9.0, 10)
    cheap, tight, dear = proof("pairs", 3.0, 20), proof("masses", 2.0, 24), proof("masses", 1.5, 60)
    assert _best([brute, end, cheap, tight, dear], 25.0, 4.0) is tight
    assert _best([brute, end, dear], 25.0, 4.0) is dear
    assert _best([brute, end, proof("pairs", 5.0, 20)], 25.0, 4.0).how.rung == "pairs"
    assert _best([brute, end], 25.0, 4.0) is end
    assert _best([brute, end], 5.0, 4.0) is end
