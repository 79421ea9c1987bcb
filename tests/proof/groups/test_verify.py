import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.proof.arithmetic.spectral import eigenvectors
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.groups.brute import cached
from crossproof.proof.groups.find import anchored_dictionary, find, find_claims, worst_groups
from crossproof.proof.groups.verify import Certified, operations, verify, window_bounds
from tests.proof.groups.models import balls, model, truth

KINDS = ("exact", "anchored", "random features", "random codes")
few = settings(max_examples=12, deadline=None)


def dictionary(kind: str, state: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """From none and one that is right for sums to one that has nothing to do with the model."""
    if kind == "exact":
        return {}
    if kind == "anchored":
        return anchored_dictionary(state["W_E"])
    positions, tokens, width = state["W_E"].shape
    generator = torch.Generator().manual_seed(seed)
    features, k = width + 2, min(width, 3)
    atoms = torch.randn(features, width, generator=generator, dtype=torch.float64)
    order = torch.rand(positions, tokens, features, generator=generator).argsort(2)
    support, bias = order[..., :k], state["W_E"].double().mean((0, 1))
    codes = torch.randn(positions, tokens, k, generator=generator, dtype=torch.float64)
    if kind == "random features":
        rest = (state["W_E"].double() - bias)[..., None]
        codes = torch.linalg.lstsq(atoms[support].mT, rest).solution[..., 0]
    return {"dictionary": atoms, "bias": bias, "support": support, "codes": codes}


def holds(state: dict[str, Tensor], witness: dict[str, Tensor]) -> Certified:
    """Every window's loss is within its group's bound, and what is proved follows from the groups."""
    context, vocabulary, _ = state["W_E"].shape
    losses, right = truth(state)
    certified = verify(balls(state), witness)
    bounds = window_bounds(certified, witness["bands"], context)
    assert not bounds.isnan().any()
    assert ((losses <= bounds) | (losses - bounds < 1e-12 * (1 + losses))).all()
    assert int(certified.size.sum()) == vocabulary**context
    assert certified.proved.right == int(certified.right.sum()) <= int(right.sum())
    assert float(losses.mean()) * (1 - 1e-12) <= certified.proved.loss
    if len(witness["escalated"]) == 0:
        mean = float((certified.bound * certified.size).sum()) / vocabulary**context
        assert mean == math.inf or math.isclose(certified.proved.loss, mean, rel_tol=1e-12)
    return certified


@few
@given(
    st.integers(0, 10**6),
    st.sampled_from([(4, 3), (5, 3), (6, 2), (4, 4)]),
    st.sampled_from([0.3, 0.7, 1.5]),
    st.sampled_from(KINDS),
    st.integers(1, 3),
)
def test_no_window_has_a_loss_above_the_bound_of_its_group(seed, size, scale, kind, bands):
    vocabulary, context = size
    state = model(seed, vocabulary, context, 3, scale)
    holds(state, find(state, dictionary(kind, state, seed), bands=bands, rounds=3))


@few
@given(st.integers(0, 10**6), st.sampled_from([0.3, 1.5]))
def test_where_every_token_is_a_band_the_bound_is_the_loss(seed, scale):
    state = model(seed, 4, 3, 3, scale)
    claims = torch.zeros(4, 4, 4)
    singles = {"bands": torch.arange(4).expand(4, 4), "claims": claims, "escalated": torch.tensor([])}
    certified = verify(balls(state), singles)
    bounds = window_bounds(certified, singles["bands"], 3)
    assert torch.allclose(bounds, truth(state)[0], rtol=1e-9, atol=1e-9)


@few
@given(st.integers(0, 10**6), st.sampled_from(KINDS[2:]), st.sampled_from([1e-3, 1.0, 30.0, 1e3]))
def test_no_witness_makes_the_bound_false(seed, kind, wild):
    state = model(seed, 4, 3, 3, 0.8)
    generator = torch.Generator().manual_seed(seed + 1)
    witness = {
        **dictionary(kind, state, seed),
        "bands": torch.randint(-2, 3, (4, 4), generator=generator),
        "claims": torch.randn(4, 4, 4, generator=generator, dtype=torch.float64) * wild,
        "escalated": torch.randint(-5, 60, (4,), generator=generator),
        "eigenvectors": torch.randn(3, 3, generator=generator, dtype=torch.float64),
    }
    holds(state, witness)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_claims_that_are_found_prove_more_than_others(kind):
    state = model(3, 5, 3, 4, 0.8)
    witness = find(state, dictionary(kind, state, 0))
    found = verify(balls(state), witness).proved.loss
    for wrong in (-3.0, 3.0):
        assert verify(balls(state), {**witness, "claims": witness["claims"] + wrong}).proved.loss > found


def test_a_claim_that_is_too_low_by_a_little_costs_a_little():
    state = model(3, 5, 3, 4, 0.8)
    witness = find(state, {})
    proved = [
        verify(balls(state), {**witness, "claims": witness["claims"] - less}).proved.loss for less in (0.0, 1e-9, 1e-6)
    ]
    assert 0 < abs(proved[2] - proved[0]) < 1e-4


def test_groups_that_are_escalated_are_as_bad_as_the_model_and_no_worse():
    state = model(5, 4, 3, 3, 0.8)
    witness = find(state, dictionary("random features", state, 1), bands=1)
    before = verify(balls(state), witness)
    worst = worst_groups(before, float(before.bound.median()))
    after = holds(state, {**witness, "escalated": worst})
    assert after.proved.loss < before.proved.loss
    assert (after.right >= before.right).all()
    every = holds(state, {**witness, "escalated": torch.arange(len(before.bound)).repeat(2)})
    brute, _ = cached(balls(state))
    assert math.isclose(every.proved.loss, brute.loss, rel_tol=1e-9)
    assert every.proved.right == brute.right


@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("escalated", [[], [0, 3, 20]])
def test_verifying_without_numbers_counts_the_same(kind, escalated):
    state = model(1, 5, 3, 4)
    witness = find(state, dictionary(kind, state, 2), rounds=2)
    witness["escalated"] = torch.tensor(escalated, dtype=torch.long)
    with tallied() as tally:
        verify(balls(state), witness)
    assert operations(balls(state), witness).parts == tally.parts


def test_operations_are_those_of_the_description():
    """Counted by hand from the docstring of verify.py for the parts that every group or token pays."""
    T, V, d, bands = 3, 4, 3, 2  # a band of the rest, and the largest
    state = model(1, V, T, d)
    witness = find(state, {}, bands=1, rounds=2)
    parts = operations(balls(state), witness).parts
    M = 2 * d**3 + 1 + d * d
    values, queries = 2 * d**3 + 2 * d * d * V, 2 * V * d * d
    scores, own = 2 * V * (T - 1) * V * d, 2 * V * d
    shift = 2 * V * (T - 1) * V + V
    assert parts["tables"] == M + values + queries + scores + own + shift + 2 * T * V * d * V + 2 * V * d * V
    # with 0 as the largest there is one band and one group
    blocks = [(1, bands**2)] + [(y, bands**2 - 1) for y in range(1, V)] + [(1, bands**2) for y in range(1, V)]
    blocks[0] = (1, 1)
    partial = [queries * (1 if i == 0 else bands) for i, (queries, _) in enumerate(blocks)]
    groups = [queries * number for queries, number in blocks]
    others = V - 1
    a_sum = sum(partial) + sum(groups)
    assert parts["groups"] == a_sum * (others + 2) + sum(groups) * (2 + 4 * others)
    assert parts["losses"] == sum(groups) * (2 * others + 1 + 1 + 1 + T - 2)
    assert parts["mean"] == 2 * sum(groups) + 1


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bands", torch.zeros(3, 3, dtype=torch.long), "bands"),
        ("claims", torch.zeros(4, 4, 3), "claims"),
        ("claims", torch.full((4, 4, 4), math.nan), "not finite"),
        ("support", torch.full((3, 4, 3), 99), "support"),
        ("codes", torch.zeros(3, 4, 2), "codes"),
        ("dictionary", torch.zeros(5, 7), "dictionary"),
        ("eigenvectors", torch.zeros(2, 2), "eigenvectors"),
    ],
)
def test_a_witness_that_does_not_fit_is_refused_by_name(name, value, message):
    state = model(0, 4, 3, 3)
    witness = find(state, dictionary("random features", state, 0), rounds=2)
    with pytest.raises(CrossproofError, match=message) as caught:
        verify(balls(state), {**witness, name: value})
    assert isinstance(caught.value, MismatchError) or "finite" in message


def test_scores_too_large_for_float64_prove_nothing():
    state = model(0, 4, 3, 3)
    state["attn.W_Q"] = state["attn.W_Q"] * 1e30
    witness = {**find(model(0, 4, 3, 3), {}, rounds=2)}
    certified = verify(balls(state), witness)
    assert certified.proved.loss == math.inf or certified.proved.loss >= 0
    assert not certified.bound.isnan().any()


def test_more_bands_prove_more():
    state = model(4, 6, 3, 4, 0.6)
    proved = [verify(balls(state), find(state, {}, bands=bands)).proved.loss for bands in (1, 2, 3)]
    assert proved[0] > proved[1] > proved[2]


def test_the_eigenvectors_of_the_witness_are_those_the_verifier_needs():
    state = model(4, 6, 3, 4)
    M = state["attn.W_Q"].double() @ state["attn.W_K"].double().T
    witness = find(state, anchored_dictionary(state["W_E"]), rounds=2)
    assert torch.equal(witness["eigenvectors"], eigenvectors(M))
    assert torch.equal(witness["claims"], find_claims(state, witness, 2))
