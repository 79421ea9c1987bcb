from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.explanation import conjunctions
from crossproof.proof.network import Network, one_over_root
from crossproof.proof.prove import RUNGS, How, operations, prove
from crossproof.proof.rungs import brute, masses, pairs
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.statement import Bounds, proved
from tests.proof.small import M, features_of, items_of, state_of, true_losses

KINDS = [  # attention, norm, mlps, joined
    (False, False, 1, 1),
    (False, False, 1, 2),
    (False, False, 1, 3),
    (False, True, 1, 2),
    (True, False, 1, 1),
    (True, True, 1, 1),
    (False, False, 2, 1),
    (False, False, 2, 2),
]
kinds = st.sampled_from(KINDS)


def rungs_of(norm: bool, attention: bool, mlps: int) -> list[How]:
    found = [How("brute"), How("masses", read=0), How("masses", read=3), How("masses", read=M)]
    found += [How("uniform")]
    found += [How("pairs")] if mlps == 1 else []
    return found + ([How("vectors")] if not (norm or attention) else [])


def holds(bounds: Bounds, losses: torch.Tensor, right: torch.Tensor) -> None:
    assert bool((bounds.loss.mid >= losses - 1e-9 * (1 + losses.abs())).all())
    assert not bool((bounds.right & ~right).any())


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    kind=kinds,
    magnitude=st.sampled_from([1.0, 1e-6, 3.0, 0.0]),
    ties=st.booleans(),
)
def test_no_rung_bounds_any_item_below_its_loss_or_calls_a_wrong_prediction_right(
    seed: int, kind: tuple[bool, bool, int, int], magnitude: float, ties: bool
) -> None:
    attention, norm, mlps, joined = kind
    state, items = state_of(seed, attention, mlps, magnitude, ties), items_of(seed, 30)
    network, (losses, right) = Network.of(state, norm), true_losses(state, norm, items)
    for how in rungs_of(norm, attention, mlps):
        proof = prove(network, items, How(how.rung, joined, how.read))
        holds(proof.bounds, losses, right)
        mean = float((losses * items.count).sum()) / items.windows
        assert proof.proved.loss >= mean - 1e-9 * (1 + abs(mean))
        if how.rung == "brute" or (how.read == M and mlps == 1):
            # what leaves nothing out is exact, but for rounding
            assert proof.proved.loss == pytest.approx(mean, rel=1e-6, abs=1e-9)
            if magnitude >= 1 and not ties:  # else margins may be too small to be sure of
                assert proof.proved.right == int((items.count * right).sum())


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), kind=kinds, size=st.sampled_from([0.1, 1.0, 100.0]), read=st.integers(0, M))
def test_masses_hold_with_any_offsets_and_scales(
    seed: int, kind: tuple[bool, bool, int, int], size: float, read: int
) -> None:
    attention, norm, mlps, joined = kind
    state, items = state_of(seed, attention, mlps), items_of(seed, 30)
    network = Network.of(state, norm)
    witness = conjunctions(network, items, joined)
    features, generator = features_of(network, items, witness), torch.Generator().manual_seed(seed)
    for index in range(mlps):
        witness[f"offset_{index}"] = size * torch.randn(features, M, generator=generator)
        witness[f"scale_{index}"] = torch.rand(M, generator=generator) + 0.01
    witness["read"] = torch.stack([torch.randperm(M, generator=generator)[:read].sort().values for _ in items.contexts])
    holds(masses.verify(network, items, witness), *true_losses(state, norm, items))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), unit=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_what_an_mlp_leaves_over_is_felt_through_the_next_whatever_unit_its_neurons_have(
    seed: int, unit: float
) -> None:
    state, items = state_of(seed, mlps=2), items_of(seed, 30)
    # the first MLP says nothing to the logits itself: its corrections reach them through the second alone
    away = torch.eye(6).double() - state["W_U"].double() @ torch.linalg.pinv(state["W_U"].double())
    state["mlps.0.W_out"] = (state["mlps.0.W_out"].double() @ away).float()
    network, witness = Network.of(state), {"scale_1": torch.full((M,), unit)}
    plain = Layers.of(network, items, {}).between(0)
    scaled = Layers.of(network, items, witness).between(0)
    torch.testing.assert_close(scaled.mid, plain.mid, rtol=1e-9, atol=1e-12)
    witness["read"] = torch.arange(M).expand(len(items.contexts), M)
    holds(masses.verify(network, items, witness), *true_losses(state, False, items))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), norm=st.booleans())
def test_pairs_hold_with_any_ratios_whichever_is_chosen(seed: int, norm: bool) -> None:
    state, items = state_of(seed, attention=True), items_of(seed, 30)
    network, generator = Network.of(state, norm), torch.Generator().manual_seed(seed)
    witness = pairs.choose(network, items, {}, ratios=(0.01, 0.5, 2.0, 50.0))
    witness["ratio"] = torch.randint(0, 4, witness["ratio"].shape, generator=generator, dtype=torch.uint8)
    holds(pairs.verify(network, items, witness), *true_losses(state, norm, items))


@pytest.mark.parametrize("kind", KINDS)
def test_counting_with_shapes_gives_what_is_counted_with_numbers(kind: tuple[bool, bool, int, int]) -> None:
    attention, norm, mlps, joined = kind
    network, items = Network.of(state_of(0, attention, mlps), norm), items_of(0)
    for how in rungs_of(norm, attention, mlps):
        proof = prove(network, items, How(how.rung, joined, how.read))
        assert proof.operations == operations(RUNGS[how.rung].verify, network, items, proof.witness), how
    naive = operations(brute.naive, network, items, {})
    with tallied() as tally:
        proved(brute.naive(network, items, {}), items)
    assert tally.parts == naive


def test_reading_more_out_never_costs_fewer_operations_and_all_of_it_is_exact() -> None:
    state, items = state_of(3), items_of(3)
    network = Network.of(state)
    proofs = [prove(network, items, How("masses", 2, read)) for read in range(M + 1)]
    totals = [sum(proof.operations.values()) for proof in proofs]
    assert totals == sorted(set(totals))
    brutal = prove(network, items, How("brute"))
    assert proofs[-1].proved.loss == pytest.approx(brutal.proved.loss, abs=1e-9)
    assert proofs[0].proved.loss > brutal.proved.loss + 1e-3


def test_a_model_in_which_no_feature_meets_another_is_certified_at_its_own_loss() -> None:
    state, items = state_of(1), items_of(1)
    state["W_E"][:-1] = 0.0  # only the last position says anything
    network = Network.of(state)
    truth = prove(network, items, How("brute")).proved.loss
    for how in (How("masses"), How("pairs"), How("vectors")):
        assert prove(network, items, how).proved.loss == pytest.approx(truth, abs=1e-9), how


def test_pairs_do_not_bend_their_tables_whatever_else_the_witness_has() -> None:
    state, items = state_of(0), items_of(0)
    network = Network.of(state)
    proof = prove(network, items, How("pairs"))
    bent = proof.witness | {
        "scale_0": torch.full((M,), 1e-9),
        "offset_0": torch.ones(features_of(network, items, {}), M),
    }
    assert torch.equal(pairs.verify(network, items, bent).loss.mid, proof.bounds.loss.mid)


def test_the_root_of_the_width_has_a_radius_where_it_is_no_float() -> None:
    for width in (1, 2, 3, 4, 6, 64, 96, 127):
        its = one_over_root(width)
        square = (its * its * float(width)) - 1.0
        assert abs(float(square.mid)) <= float(square.radius)


def test_one_different_window_is_enough_and_one_family_has_no_pairs() -> None:
    state = state_of(0)
    items = items_of(0, 1)
    network, truth = Network.of(state), true_losses(state, False, items)
    for how in (How("masses", 4), How("pairs", 4), How("vectors", 4)):
        proof = prove(network, items, how)
        holds(proof.bounds, *truth)
        assert proof.proved.loss == pytest.approx(float(truth[0].mean()), abs=1e-9)


def test_what_the_witness_says_of_the_data_is_checked() -> None:
    network, items = Network.of(state_of(0)), items_of(0)
    proof = prove(network, items, How("pairs", 2))
    for name in ("code_0", "pair"):
        wrong = dict(proof.witness)
        wrong[name] = wrong[name].flip(0)
        with pytest.raises(MismatchError, match=name):
            pairs.verify(network, items, wrong)
    read = prove(network, items, How("masses", read=2)).witness["read"]
    for bad in (read.flip(1), read[:, :1].expand(-1, 2)):
        with pytest.raises(MismatchError, match="read"):
            masses.verify(network, items, {"read": bad})
    scales = {"scale_0": torch.zeros(M), "read": read}
    with pytest.raises(MismatchError, match="scale_0"):
        masses.verify(network, items, scales)


def test_what_a_rung_cannot_do_is_refused_by_name() -> None:
    two, attention = Network.of(state_of(0, mlps=2)), Network.of(state_of(0, attention=True))
    with pytest.raises(UnsupportedModel, match="vectors"):
        prove(two, items_of(0), How("pairs"))
    with pytest.raises(UnsupportedModel, match="pairs"):
        prove(attention, items_of(0), How("vectors"))
    with pytest.raises(UnsupportedModel, match="groups"):
        prove(Network.of(state_of(0, mlps=0)), items_of(0), How("masses"))
    with pytest.raises(CrossproofError, match="joined"):
        prove(attention, items_of(0), How("brute", joined=2))
    with pytest.raises(CrossproofError, match=r"mlps\.0\.W_in"):
        Network.of(state_of(0) | {"mlps.0.W_in": torch.full((6, 7), torch.nan)})
