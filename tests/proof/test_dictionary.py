from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.proof.arithmetic.ball import exact
from crossproof.proof.dictionary import Dictionary, pursued, unexplained
from crossproof.proof.explanation import conjunctions, explain, heard, vectors
from crossproof.proof.network import Network
from crossproof.proof.prove import RUNGS, How, operations, prove
from crossproof.proof.rungs import masses, uniform
from crossproof.proof.rungs.parts import masses_of
from crossproof.proof.statement import Items, Witness
from tests.proof.small import D, M, features_of, items_of, state_of, true_losses
from tests.proof.test_rungs import KINDS, holds, kinds


def any_dictionary(network: Network, items: Items, witness: Witness, seed: int, size: float) -> dict[str, Tensor]:
    """Whatever somebody may write into a witness."""
    generator = torch.Generator().manual_seed(seed)
    features, slots, directions = features_of(network, items, witness), seed % 4, 1 + seed % 5
    strength = size * torch.randn(features, slots, generator=generator)
    strength[torch.rand(strength.shape, generator=generator) < 0.2] = 0
    return {
        "directions": torch.randn(directions, D, generator=generator),
        "active": torch.randint(0, directions, (features, slots), generator=generator, dtype=torch.int32),
        "strength": strength,
    }


def nothing_read(items: Items) -> dict[str, Tensor]:
    return {"read": torch.zeros(len(items.contexts), 0, dtype=torch.int32)}


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), kind=kinds, size=st.sampled_from([0.0, 1e-6, 1.0, 1e4]), read=st.sampled_from([0, 2, M])
)
def test_bounds_hold_in_the_directions_of_any_dictionary(
    seed: int, kind: tuple[bool, bool, int, int], size: float, read: int
) -> None:
    attention, norm, mlps, joined = kind
    state, items = state_of(seed, attention, mlps), items_of(seed, 30)
    network, truth = Network.of(state, norm), true_losses(state, norm, items)
    witness = conjunctions(network, items, joined)
    witness |= any_dictionary(network, items, witness, seed, size)
    holds(uniform.verify(network, items, witness), *truth)
    witness["read"] = torch.arange(read).expand(len(items.contexts), read)
    holds(masses.verify(network, items, witness), *truth)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), size=st.sampled_from([0.0, 1e-8, 1.0, 1e6]), ties=st.booleans())
def test_parts_and_rest_are_what_a_feature_says_and_no_mass_is_lost(seed: int, size: float, ties: bool) -> None:
    state, items = state_of(seed, ties=ties), items_of(seed)
    network = Network.of(state)
    its = any_dictionary(network, items, {}, seed, size)
    table = heard(network, explain(network, items, {})).tables[0]
    positive, negative = masses_of(table, network.mlp(0)[0], its)
    # P⁺ − P⁻ is what the feature says, and each is the sum over its parts, one by one in float64
    said = its["directions"].double() @ state["mlps.0.W_in"].double()
    for feature in range(len(table)):
        parts = [
            float(w) * said[a] for a, w in zip(its["active"][feature].long(), its["strength"][feature], strict=True)
        ]
        rest = table.mid[feature] - sum(parts, torch.zeros(M, dtype=torch.float64))
        plus = sum(each.relu() for each in [*parts, rest])
        minus = sum((-each).relu() for each in [*parts, rest])
        scale = 1 + size * 10
        assert bool(((positive.mid[feature] - plus).abs() <= positive.radius[feature] + 1e-12 * scale).all())
        assert bool(((negative.mid[feature] - minus).abs() <= negative.radius[feature] + 1e-12 * scale).all())
    apart = positive - negative - table
    assert bool((apart.mid.abs() <= apart.radius).all())


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from([kind for kind in KINDS if kind[2] == 1]))
def test_a_dictionary_is_one_choice_of_offsets(seed: int, kind: tuple[bool, bool, int, int]) -> None:
    """T13: with t = relu(p) − Σ relu(parts) for each feature, tokens as they are give the same bound."""
    attention, norm, mlps, joined = kind
    state, items = state_of(seed, attention, mlps), items_of(seed, 30)
    network = Network.of(state, norm)
    anchored = conjunctions(network, items, joined)
    read = {"read": torch.arange(2).expand(len(items.contexts), 2)}
    its = anchored | any_dictionary(network, items, anchored, seed, 1.0)
    table = heard(network, explain(network, items, anchored)).tables[0]
    positive, _ = masses_of(table, network.mlp(0)[0], its)
    offset = {"offset_0": table.mid.relu() - positive.mid}
    assert bool((offset["offset_0"] <= 1e-12).all())  # a mass is never smaller than what it is of
    apart = masses.verify(network, items, its | read).loss.mid
    bent = masses.verify(network, items, anchored | read | offset).loss.mid
    # offsets may be of any sign, so the verifier then reads both sides out: never the lower of the two
    assert bool((bent >= apart - 1e-9).all())
    both_sides = masses.verify(network, items, its | read | {"offset_0": torch.zeros_like(table.mid)}).loss.mid
    torch.testing.assert_close(both_sides, bent, rtol=1e-9, atol=1e-9)


def test_a_dictionary_that_says_nothing_changes_nothing() -> None:
    network, items = Network.of(state_of(0)), items_of(0)
    features = features_of(network, items, {})
    for slots in (0, 2):
        its = {
            "directions": torch.ones(1, D),
            "active": torch.zeros(features, slots, dtype=torch.int32),
            "strength": torch.zeros(features, slots),
        }
        without, with_it = (masses.verify(network, items, w | nothing_read(items)).loss.mid for w in ({}, its))
        torch.testing.assert_close(with_it, without, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_counting_with_shapes_gives_what_is_counted_with_numbers(kind: tuple[bool, bool, int, int]) -> None:
    attention, norm, mlps, joined = kind
    network, items = Network.of(state_of(0, attention, mlps), norm), items_of(0)
    dictionary = Dictionary("its", torch.randn(9, D), 3)
    for how in (How("masses", joined, 2, 0, dictionary), How("uniform", joined, dictionary=dictionary)):
        proof = prove(network, items, how)
        assert proof.operations == operations(RUNGS[how.rung].verify, network, items, proof.witness), how


def test_directions_that_are_the_tokens_themselves_leave_nothing_and_cost_nothing() -> None:
    state, items = state_of(4), items_of(4)
    network = Network.of(state)
    exact_one = Dictionary("tokens", vectors(network, items, {}).float(), 1)
    proof = prove(network, items, How("masses", read=1, dictionary=exact_one))
    assert unexplained(network, items, proof.witness).part < 1e-11
    # the bias is said by the last position's tokens, as what they leave over
    plain = prove(network, items, How("masses", read=1)).proved.loss
    state["mlps.0.b_in"] = torch.zeros(M)
    silent = Network.of(state)
    assert prove(silent, items, How("masses", read=1, dictionary=exact_one)).proved.loss == pytest.approx(
        prove(silent, items, How("masses", read=1)).proved.loss, rel=1e-6
    )
    assert proof.proved.loss >= plain - 1e-9


def test_under_a_norm_directions_are_heard_without_their_mean() -> None:
    network, items = Network.of(state_of(4), norm=True), items_of(4)
    stream = Network.of(state_of(4))
    as_written = Dictionary("tokens", vectors(stream, items, {}).float() + 7.0, 1)
    proof = prove(network, items, How("masses", read=1, dictionary=as_written))
    assert unexplained(network, items, proof.witness).part < 1e-9
    tokens = prove(network, items, How("masses", read=1)).proved.loss
    assert proof.proved.loss == pytest.approx(tokens, rel=1e-4)


def test_uniform_is_never_below_masses_costs_less_and_is_exact_where_all_say_no() -> None:
    state, items = state_of(2), items_of(2)
    network = Network.of(state)
    loose, tight = (prove(network, items, how) for how in (How("uniform"), How("masses", read=0)))
    assert bool((loose.bounds.loss.mid >= tight.bounds.loss.mid - 1e-12).all())
    assert sum(loose.operations.values()) < sum(tight.operations.values())
    # where no feature says yes to any neuron there is no positive mass, and nothing is left over
    state["W_E"], state["mlps.0.W_in"] = state["W_E"].abs(), -state["mlps.0.W_in"].abs()
    state["mlps.0.b_in"] = -state["mlps.0.b_in"].abs()
    silent = Network.of(state)
    truth = prove(silent, items, How("brute")).proved.loss
    assert prove(silent, items, How("uniform")).proved.loss == pytest.approx(truth, abs=1e-9)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), slots=st.integers(1, 6), scale=st.sampled_from([1e-4, 1.0, 1e4]))
def test_pursuit_takes_no_direction_twice_never_gains_length_and_finds_what_is_there(
    seed: int, slots: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(8, 8, generator=generator))[0] * scale
    strength = torch.rand(20, 8, generator=generator) + 0.1
    chosen = torch.rand(20, 8, generator=generator).argsort(1)[:, :slots]
    its = torch.einsum("fs,fsd->fd", strength.gather(1, chosen), directions[chosen])
    active, found = pursued(its, directions, slots)
    assert all(len(set(row.tolist())) == slots for row in active)
    assert bool((found >= 0).all())
    torch.testing.assert_close(active.sort(1).values, chosen.sort(1).values)
    back = torch.einsum("fs,fsd->fd", found, directions[active])
    torch.testing.assert_close(back, its, rtol=1e-3, atol=1e-3 * scale)
    anything = torch.randn(20, 8, generator=generator)
    active, found = pursued(anything, directions, slots)
    left = anything - torch.einsum("fs,fsd->fd", found, directions[active])
    assert bool((left.norm(dim=1) <= anything.norm(dim=1) * (1 + 1e-5)).all())


def coder_of(folder: Path, sites: tuple[str, ...], width: int = D, subject: str = "small") -> Path:
    coder = Crosscoder(
        CrosscoderConfig(
            sites=tuple(Site(subject=subject, hook=site) for site in sites),
            width=width,
            features=4,
            activation="topk",
            k=2,
        )
    )
    torch.nn.init.normal_(coder.W_dec, generator=torch.Generator().manual_seed(0))
    coder.save_pretrained(folder)
    return folder


def test_a_crosscoder_gives_its_decoder_rows_where_the_mlp_reads(tmp_path: Path) -> None:
    network = Network.of(state_of(0))
    folder = coder_of(tmp_path / "coder", ("blocks.0.hook_resid_pre", "blocks.0.hook_mlp_in"))
    its = Dictionary.open(str(folder), "small", network)
    torch.testing.assert_close(its.directions, Crosscoder.from_pretrained(folder).decoder[:, 1].detach())
    assert (its.name, its.slots) == ("coder", 2)
    with pytest.raises(MismatchError, match="hook_resid_mid or"):
        Dictionary.open(str(coder_of(tmp_path / "other", ("blocks.0.hook_resid_pre",))), "small", network)
    with pytest.raises(MismatchError, match="5 wide"):
        Dictionary.open(str(coder_of(tmp_path / "narrow", ("blocks.0.hook_mlp_in",), 5)), "small", network)
    with pytest.raises(MismatchError, match="was trained on small, and the model is large"):
        Dictionary.open(str(folder), "large", network)


def test_what_does_not_go_with_a_dictionary_is_refused_by_name() -> None:
    network, items, its = Network.of(state_of(0)), items_of(0), Dictionary("its", torch.randn(3, D), 2)
    with pytest.raises(CrossproofError, match="pairs knows no dictionary"):
        prove(network, items, How("pairs", dictionary=its))
    with pytest.raises(CrossproofError, match="offsets"):
        prove(network, items, How("masses", offsets=5, dictionary=its))
    witness = its.witness(network, items, {})
    for name, wrong in (
        ("active", witness["active"] + 3),
        ("active", witness["active"] - 3),
        ("strength", witness["strength"][:-1]),
    ):
        with pytest.raises(MismatchError, match=name):
            uniform.verify(network, items, witness | {name: wrong})
    with pytest.raises(MismatchError, match="lacks the rest"):
        uniform.verify(network, items, {"active": witness["active"]})
    with pytest.raises(CrossproofError, match="finite"):
        uniform.verify(network, items, witness | {"strength": witness["strength"] * torch.nan})


def test_masses_without_a_dictionary_are_the_two_parts_of_the_table() -> None:
    table = exact(torch.tensor([[1.0, -2.0, 0.0]]))
    positive, negative = masses_of(table, table, {})
    assert positive.mid.tolist() == [[1, 0, 0]]
    assert negative.mid.tolist() == [[0, 2, 0]]
