"""The study of leads: pairs are what they are said to be, inputs meet by what is measured, and nothing else decides."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.findings import FINDINGS, Findings
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.weights import typical_strengths
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.leads import pairs
from crossproof.study.leads import search as its
from crossproof.study.leads.config import LeadsConfig
from crossproof.study.leads.pairs import LENGTHS, PLACES, REST, Half, find
from crossproof.study.leads.results import DictionaryRecord, LeadRecord, Losses, Searched, _estimate, _verdict, study_of
from crossproof.study.leads.search import Trials, read, search, second_difference_at
from crossproof.study.leads.study import losses, run
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import MLP
from tests.binding import coders
from tests.subject import tiny

TEXTS = [" ".join(f"w{(i * 7 + k * (3 + i % 5)) % 50}" for k in range(23)) for i in range(24)]


def sparse(subject: Subject, features: int = 60) -> Crosscoder:
    """With few active features a token, so that there are pairs that never meet."""
    coder = coders.on(subject, features=features)
    with torch.no_grad():
        coder.b_enc.sub_(3.5)
    return coder


@pytest.fixture(scope="module")
def scene() -> tuple[Subject, Crosscoder, Half]:
    subject = tiny.subject("gpt2", torch.float32)
    coder = sparse(subject)
    tokens = subject.tokens(TEXTS)
    return subject, coder, Half(tokens, codes_of(subject, coder, tokens).active())


def test_leads_never_meet_are_disjoint_and_have_more_potential_than_their_matches(
    scene: tuple[Subject, Crosscoder, Half],
) -> None:
    subject, coder, half = scene
    found = find(neurons_of(subject, coder), half, 3)
    assert found.leads
    used = [feature for lead in found.leads for feature in (lead.host, lead.guests[0])]
    assert len(set(used)) == len(used)
    on = half.codes.dense() > 0
    for lead in found.leads:
        assert len(lead.guests) == len(set(lead.guests)) == 1 + pairs.MATCHES
        for guest in lead.guests:
            assert not bool((on[:, lead.host] & on[:, guest]).any())
            assert len({int(half.where[row, 0]) for row in (on[:, guest] & half.inner).nonzero()}) >= pairs.TEXTS
        assert pairs.LITTLE * lead.potentials[0] >= max(lead.potentials[1:])
    strongest = [lead.potentials[0] for lead in found.leads]
    assert strongest == sorted(strongest, reverse=True)


def test_every_window_and_the_rest_after_it_fit_where_pairs_are_tried(scene: tuple[Subject, Crosscoder, Half]) -> None:
    *_, half = scene
    for row, (text, position) in enumerate(half.where.tolist()):
        kept = half.tokens.keep[text].nonzero().squeeze(1)
        fits = position + min(PLACES) - max(LENGTHS) + 1 >= kept[0] and position + max(PLACES) + REST <= kept[-1]
        assert bool(half.inner[row]) == bool(fits)


def test_the_best_input_does_bring_the_two_together(scene: tuple[Subject, Crosscoder, Half]) -> None:
    subject, coder, half = scene
    typical = typical_strengths(half.codes)
    together = CoActive.of(half.codes)
    rarely = (together.count <= 3) & (together.firing[together.i] > 20) & (together.firing[together.j] > 20)
    for i, j in zip(together.i[rarely].tolist(), together.j[rarely].tolist(), strict=True):
        again, close = read(subject, coder, half.tokens, [i, j], typical)
        (trials,), best = search(subject, coder, again, close, i, (j,), typical, 64, 0)
        met = trials.met
        assert (best is not None) == bool(met.any())
        assert torch.equal(trials.interaction.isfinite(), met)
        assert not bool((met & trials.apart).any())
        # a margin above 0 is what being active is
        assert torch.equal(trials.near > 0, met)
        if best is not None:
            break
    assert best is not None
    tokens = Tokens(best[None], torch.ones(1, len(best), dtype=torch.bool), best[None])
    weaker = (codes_of(subject, coder, tokens).dense()[:, [i, j]] / typical[[i, j]]).amin(1)
    assert bool(torch.isclose(weaker, trials.strength.max(), rtol=1e-3).any())


def test_a_window_that_changes_nothing_costs_nothing(scene: tuple[Subject, Crosscoder, Half]) -> None:
    subject, coder, half = scene
    same = Tokens(
        half.tokens.ids[:1].repeat(6, 1), half.tokens.keep[:1].repeat(6, 1), half.tokens.targets[:1].repeat(6, 1)
    )
    again, _ = read(subject, coder, same, [0, 1], torch.ones(60, dtype=torch.float64))
    row = int(again.inner.nonzero()[0])
    text, position = again.where[row].tolist()
    made = its._made(same, 0, (text, position), 4, 0, (1, position))
    original = {text: subject.token_losses(same[:1])[0].double()}
    trials = its._tried(subject, coder, [made], (0, 1), torch.ones(60, dtype=torch.float64), original)
    assert float(trials.after[0]) == pytest.approx(0, abs=1e-5)
    other = its._made(half.tokens, 0, (0, position), 4, 0, (1, position))
    trials = its._tried(subject, coder, [other], (0, 1), torch.ones(60, dtype=torch.float64), original)
    full = subject.token_losses(Tokens(other.ids[None], same.keep[:1], _targets(other.ids)))[0].double()
    rest = slice(other.end, other.end + REST)
    assert float(trials.after[0]) == pytest.approx(float((full - original[0])[rest].mean()), abs=1e-4)
    assert abs(float(trials.after[0])) > 1e-3


def _targets(ids: torch.Tensor) -> torch.Tensor:
    return torch.cat([ids[1:], torch.tensor([-100])])[None]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_second_difference_is_that_of_four_runs_of_the_unit(family: str) -> None:
    subject = tiny.subject(family, torch.float64)
    coder = coders.on(subject, features=6).double()
    mlp, neurons = bound_mlps(subject, coder)[0], neurons_of(subject, coder, torch.float64)[0]
    x, f = torch.randn(5, subject.d_model, dtype=torch.float64), torch.rand(5, 2, dtype=torch.float64)
    found = second_difference_at(mlp, neurons, x, f, (1, 4))
    d = coder.decoder[:, mlp.site].detach()
    function = (
        torch.nn.functional.silu if family == "llama" else lambda z: torch.nn.functional.gelu(z, approximate="tanh")
    )
    unit = mlp.unit

    def v(one: float, other: float) -> torch.Tensor:
        at = x - one * f[:, :1] * d[1] - other * f[:, 1:] * d[4]
        return function(unit.pre(at)) if isinstance(unit, MLP) else function(unit.gate(at)) * unit.value(at)

    each = (v(0, 0) - v(1, 0) - v(0, 1) + v(1, 1)).abs()
    expected = (each * unit.W_out.norm(dim=1)).mean(1)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-9, atol=1e-12)


def trials(cell: list[int], met: list[bool], apart: list[bool], after: list[float]) -> Trials:
    on = torch.tensor(met).double()
    values = torch.tensor(after, dtype=torch.float64)
    return Trials(torch.tensor(cell), on, torch.tensor(apart), on, values, values.where(on > 0, torch.nan), on)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_leads_are_compared_within_cells_and_only_what_met_or_was_apart_counts(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def some() -> Trials:
        kind = torch.randint(3, (12,), generator=draw)
        after = torch.randn(12, generator=draw).tolist()
        return trials(
            torch.randint(4, (12,), generator=draw).tolist(), (kind == 0).tolist(), (kind == 1).tolist(), after
        )

    lead, one, two = some(), some(), some()
    found = losses(lead, [one, two], "after")

    def mean(values: list[float]) -> float | None:
        return sum(values) / len(values) if values else None

    for field, which in (("together", "met"), ("apart", "apart")):
        over = []
        for cell in range(4):
            mine = mean([float(a) for c, m, a in zip(lead.cell, lead.met, lead.after, strict=True) if c == cell and m])
            theirs = mean([
                float(a)
                for its in (one, two)
                for c, m, a in zip(its.cell, getattr(its, which), its.after, strict=True)
                if c == cell and m
            ])  # fmt: skip
            if mine is not None and theirs is not None:
                over.append(mine - theirs)
        expected, value = mean(over), getattr(found, f"over_{field}")
        assert (value is None) == (expected is None)
        assert value is None or value == pytest.approx(expected)
    assert losses(lead, [one, two], "next").over_apart is None


def test_an_effect_that_is_planted_is_found_and_one_that_is_not_is_not_claimed() -> None:
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(60, generator=draw)
    planted, none = _estimate([(noise + 1).tolist()], 0), _estimate([(noise - noise.mean()).tolist()], 0)
    assert planted is not None
    assert none is not None
    assert _verdict(planted.low, planted.high, 0.0) == "holds"
    assert _verdict(none.low, none.high, 0.0) == "cannot tell"
    assert _verdict(-2.0, -1.0, 0.0) == "does not hold"
    assert _estimate([[1.0, 2.0]], 0) is None
    assert _verdict(None, None, 0.0) == "cannot tell"


def test_leads_that_could_not_be_tried_and_dictionaries_with_too_few_leads_are_not_counted() -> None:
    def lead(tried: int, met: int, more: float | None) -> LeadRecord:
        pair = Searched(guest=1, potential=9.0, by_themselves=0, tried=tried, met=met, strength=None, interaction=None)
        loss = Losses(lead=more, together=more, over_together=more, apart=None, over_apart=None)
        return LeadRecord(host=7, lead=pair, matches=[], after=loss, next=loss, passage=None)

    def dictionary(name: str, leads: list[LeadRecord]) -> DictionaryRecord:
        return DictionaryRecord(
            coder=CoderRecord(coder=name, penalty="plain", seed=0, unexplained=None), n_pairs=9, leads=leads
        )

    many = dictionary("many", [lead(4, 2, 1.0 + number) for number in range(6)])
    few = dictionary("few", [lead(4, 2, 90.0), lead(4, 0, None), lead(0, 0, None)])
    group = study_of("s", 2, 2, [many, few], 0).groups[0]
    assert (group.leads_met.met, group.leads_met.of) == (7, 8)
    estimate = group.losses["after.over_together"]
    assert estimate is not None
    assert estimate.value == 3.5
    assert group.counts["after.over_together"] == 6
    alone = study_of("s", 2, 2, [few], 0).groups[0]
    assert alone.losses["after.over_together"] is None
    assert alone.counts["after.over_together"] == 1
    untried = study_of("s", 2, 2, [dictionary("none", [lead(0, 0, None)])], 0)
    assert untried.findings().claims[0].ours is None


def test_the_study_goes_on_where_it_was_killed_and_is_read_when_it_is_finished(tmp_path: Path) -> None:
    subject = tiny.subject("gpt2", torch.float32)
    sparse(subject).save_pretrained(tmp_path / "coder")
    data = tmp_path / "texts.txt"
    data.write_text("\n".join(f"{TEXTS[i % 24]} w{i // 24}" for i in range(24 * 20)))
    config = LeadsConfig(
        subject=str(tiny.folder("gpt2")), coders=(str(tmp_path / "coder"),), out=tmp_path / "run", texts=24, pairs=2,
        tries=16, data=data,
    )  # fmt: skip
    part = tmp_path / "run" / "parts" / "0" / "0.json"
    found = run(config)
    said = Findings.model_validate_json((tmp_path / "run" / FINDINGS).read_text())
    assert [claim.id for claim in said.claims] == ["leads.meet", "leads.fail"]
    assert run(config) == found
    first = LeadRecord.model_validate_json(part.read_text())
    assert found.dictionaries[0].leads[0] == first

    # what a killed run had finished is taken as it stands
    none = Losses(lead=None, together=None, over_together=None, apart=None, over_apart=None)
    told = Searched(guest=1, potential=9.0, by_themselves=0, tried=3, met=0, strength=None, interaction=None)
    odd = LeadRecord(host=7, lead=told, matches=[], after=none, next=none, passage=None)
    part.write_text(odd.model_dump_json())
    record = tmp_path / "run" / "run.json"
    record.write_text(record.read_text().replace('"finished": true', '"finished": false'))
    assert run(config).dictionaries[0].leads == [odd, *found.dictionaries[0].leads[1:]]

    with pytest.raises(CrossproofError, match="texts"):
        run(config.model_copy(update={"out": tmp_path / "few", "data": _short(tmp_path)}))
    with pytest.raises(MismatchError):
        run(config.model_copy(update={"out": tmp_path / "unlike", "subject": str(tiny.folder("llama"))}))


def _short(folder: Path) -> Path:
    path = folder / "short.txt"
    path.write_text("\n".join(f"w{i} w{i + 1}" for i in range(30)))
    return path
