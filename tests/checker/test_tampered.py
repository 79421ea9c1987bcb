"""Tampered certificates: hundreds of them, none accepted, each refused with the name of what is wrong."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from crossproof.proof.certificate import CERTIFICATE, DATA, WEIGHTS, WITNESS
from tests.checker.conftest import Made
from tests.checker.made import Case, check, checked, proves, read_claim, rehash, write_claim
from tests.checker.tampering import FILES, Change, all_changes, operations, sizes_of_claims, tensor, tensors, with_entry

VICTIMS = (
    Case("masses", read=3, joined=2),
    Case("masses", read=2, bent=True),
    Case("pairs", attention=True, norm=True),
    Case("vectors", mlps=2, joined=2),
    Case("brute", joined=2, norm=True),
    Case("masses", read=2, attention=True, norm=True, bent=True, directions="random"),
    Case("uniform", joined=2, directions="pursued"),
)


@pytest.fixture(params=VICTIMS, ids=lambda case: case.name)
def victim(request: pytest.FixtureRequest, made: Made) -> Path:
    return made(request.param)[0]


def altered(folder: Path, change: Change, into: Path) -> tuple[bool, str]:
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(folder, into)
    change.alter(into)
    return checked(into)


def check_refused(folder: Path, changes: Iterator[Change], into: Path) -> int:
    """Each refused, in one line that names the culprit."""
    refused = 0
    for change in changes:
        accepted, said = altered(folder, change, into)
        assert not accepted, f"{change.what}: {said}"
        assert change.culprit in said, f"{change.what}: {said}"
        assert "nothing can be derived" not in said, f"{change.what}: {said}"
        assert len(said) < 500, f"{change.what}: {said}"
        refused += 1
    return refused


def test_hundreds_of_tampered_certificates_are_refused_by_name(made: Made, tmp_path: Path) -> None:
    folder, _ = made(VICTIMS[0])
    assert check_refused(folder, all_changes(folder), tmp_path / "it") >= 400


def test_on_every_rung_what_is_stated_counted_or_witnessed_cannot_be_altered(victim: Path, tmp_path: Path) -> None:
    changes = chain(sizes_of_claims(victim), operations(victim), tensors(victim, WITNESS), witness_changes(victim))
    assert check_refused(victim, changes, tmp_path / "it") >= 50


def witness_changes(folder: Path) -> Iterator[Change]:
    """Claims about windows that are not so, with hashes that fit."""
    its = load_file(folder / WITNESS)
    for name, value in its.items():
        if value.dtype.kind == "f":
            continue
        top = np.iinfo(value.dtype).max
        yield tensor(f"{name} beyond all", WITNESS, name, name, lambda x, top=top: with_entry(x, top))
        if value.dtype.kind == "i":
            yield tensor(f"{name} negative", WITNESS, name, name, lambda x: with_entry(x, -1))
        if name.startswith(("code_", "pair")) and name != "pairs":
            yield tensor(f"{name} turned round", WITNESS, name, name, lambda x: x[::-1])
            for index in (0, len(value) // 2, -1):
                yield tensor(f"{name} {index}", WITNESS, name, name, lambda x, i=index: with_entry(x, x.flat[i] ^ 1, i))
        if name == "pairs":
            yield tensor("pairs the other way round", WITNESS, name, "pair", lambda x: x[:, ::-1])
            yield tensor("pairs turned round", WITNESS, name, "pair", lambda x: x[::-1])
        if name.startswith("tuples_"):
            yield tensor(f"{name} turned round", WITNESS, name, f"code_{name[7:]}", lambda x: x[::-1])
        if name == "read":
            yield tensor("a neuron read twice", WITNESS, name, name, lambda x: np.repeat(x[:, :1], x.shape[1], 1))
            yield tensor("read in falling order", WITNESS, name, name, lambda x: x[:, ::-1])
    for name, wrong in (("ratios", 0.0), ("ratios", -1.0), ("scale_0", 0.0), ("scale_0", -2.0)):
        if name in its:
            yield tensor(f"{name} has {wrong}", WITNESS, name, name, lambda x, wrong=wrong: with_entry(x, wrong))
    for name in ("ratios", "scale_0", "offset_0", "directions", "strength"):
        if name in its:
            for wrong in (np.nan, np.inf):
                yield tensor(f"{name} has {wrong}", WITNESS, name, name, lambda x, wrong=wrong: with_entry(x, wrong))
    for cut in (1, 2, 50, 115):
        yield tensor(f"data shorter by {cut}", DATA, "stream", "windows", lambda x, cut=cut: x[:-cut])
    yield tensor("a token of no vocabulary", DATA, "stream", "stream", lambda x: with_entry(x, 5))


def test_offsets_scales_and_directions_are_for_the_rungs_that_know_them(made: Made, tmp_path: Path) -> None:
    """They change what the tables mean: with a small scale the numbers of pairs would seem to bound anything."""
    its = load_file(made(Case("masses", read=2, bent=True))[0] / WITNESS)
    its |= load_file(made(Case("masses", read=2, directions="random"))[0] / WITNESS)
    bends, directions = ["scale_0", "offset_0"], ["directions", "active", "strength"]
    for rung in ("pairs", "vectors", "brute", "uniform"):
        for name in bends + directions * (rung != "uniform"):

            def change(folder: Path, name: str = name) -> None:
                save_file(load_file(folder / WITNESS) | {name: its[name]}, folder / WITNESS)
                rehash(folder)

            assert check_refused(made(Case(rung))[0], iter([Change(name, name, change)]), tmp_path / "it") == 1


def test_numbers_changed_with_fitting_hashes_are_accepted_only_if_the_statement_still_follows(
    victim: Path, tmp_path: Path
) -> None:
    """Another model, other data or another choice of the witness may have a bound that is no worse."""
    outcomes = set()
    for cut in (1, 50):
        if altered(victim, tensor("turned", DATA, "stream", "", lambda x, cut=cut: np.roll(x, cut)), tmp_path / "it")[
            0
        ]:
            follows(tmp_path / "it")
    for file in FILES:
        for name, value in load_file(victim / file).items():
            for index in {0, value.size // 2, value.size - 1}:
                if not value.size:
                    continue

                def alter(x: np.ndarray, index: int = index) -> np.ndarray:
                    return with_entry(x, x.flat[index] * 1.01 if x.dtype.kind == "f" else x.flat[index] ^ 1, index)

                change = tensor(f"{name} {index}", file, name, "", alter)
                accepted, said = altered(victim, change, tmp_path / "it")
                outcomes.add(accepted)
                if accepted:
                    follows(tmp_path / "it")
                else:
                    assert "nothing can be derived" not in said
    assert False in outcomes


def follows(folder: Path) -> None:
    """That the prover derives no less from these files than what they state."""
    stated, (loss, right) = read_claim(folder)["statement"], proves(folder)
    assert loss <= stated["loss"] + 1e-9
    assert right >= stated["right"]


def test_weaker_statements_and_other_words_are_accepted(victim: Path, tmp_path: Path) -> None:
    """They follow; what is nobody's proof (`measured`, `made`, assumptions, the name) is not believed either."""
    shutil.copytree(victim, tmp_path / "it")
    claim = read_claim(tmp_path / "it")
    claim["statement"]["loss"] += 0.5
    claim["statement"]["right"] //= 2
    claim["statement"]["subject"] = 'x\n"REFUSED: no\x1b[2K'
    claim["measured"], claim["made"], claim["assumptions"] = {"loss": 0.0}, {"by": [None]}, ["anything\ngoes"]
    write_claim(tmp_path / "it", claim)
    accepted, said = checked(tmp_path / "it")
    assert accepted, said
    assert str(claim["statement"]["loss"]) in said
    assert "\x1b" not in said
    assert not any(line.startswith(("goes", "REFUSED")) for line in said.splitlines())


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_proves_anything_else(data: st.DataObject, made: Made, tmp_path: Path) -> None:
    victim = made(data.draw(st.sampled_from(VICTIMS)))[0]
    file = data.draw(st.sampled_from([CERTIFICATE, *FILES]))
    content = bytearray((victim / file).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    into = tmp_path / "it"
    shutil.rmtree(into, ignore_errors=True)
    shutil.copytree(victim, into)
    (into / file).write_bytes(content)
    changed = bytes(content) != (victim / file).read_bytes()
    accepted, said = checked(into)
    if accepted:
        before, now = read_claim(victim), read_claim(into)
        assert now["statement"]["loss"] >= before["statement"]["loss"] - 1.1e-9
        assert now["statement"]["right"] <= before["statement"]["right"]
        for name in ("windows", "context", "data"):
            assert now["statement"][name] == before["statement"][name]
        for name in ("hashes", "operations", "brute_force", "model", "rung"):
            assert now[name] == before[name]
    assert not (accepted and changed and file != CERTIFICATE), said
    if file != CERTIFICATE:
        rehash(into)
        if checked(into)[0]:
            follows(into)


def test_only_one_folder_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["a", "b"], [str(tmp_path / "nowhere")], [str(tmp_path)], ["\0"], [""], ["x" * 5000]):
        assert check.main(arguments) == 1
        said = capsys.readouterr().out
        assert said.startswith("REFUSED: ")
        assert said.count("\n") == 1


def test_a_model_that_is_too_loud_is_refused_and_never_given_a_number(tmp_path: Path, made: Made) -> None:
    for case in VICTIMS:
        for factor in (1e10, 1e20, 1e37):
            change = tensor("loud", WEIGHTS, "W_U", "", lambda x, factor=factor: (x * factor).astype(np.float32))
            accepted, said = altered(made(case)[0], change, tmp_path / "it")
            assert not accepted
            assert "W_U" in said or "loss" in said
