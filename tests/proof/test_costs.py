from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.proof import costs as module
from crossproof.proof.costs import costs
from crossproof.proof.dictionary import Dictionary
from crossproof.proof.network import Network
from crossproof.proof.prove import How, Proof, prove
from crossproof.proof.rungs import masses
from crossproof.proof.statement import Items, Witness, proved
from crossproof.subject.zoo.window_recipes import EPS
from tests.proof.small import C, D, M, V, features_of, items_of, state_of

DIRECTIONS = 5
LEFT = DIRECTIONS
"""The last index: what the dictionary leaves."""
KINDS = [(False, False), (False, True), (True, False), (True, True)]  # attention, norm


def dictionary(seed: int, directions: int = DIRECTIONS, slots: int = 3) -> Dictionary:
    generator = torch.Generator().manual_seed(seed)
    return Dictionary("random", torch.randn(directions, D, generator=generator), slots)


def proof_with(network: Network, items: Items, witness: Witness) -> Proof:
    """Of a witness that was made by hand."""
    witness = {"read": torch.zeros(len(items.contexts), 0, dtype=torch.uint8)} | dict(witness)
    bounds = masses.verify(network, items, witness)
    return Proof(How("masses"), witness, bounds, proved(bounds, items), {})


def by_hand(seed: int, network: Network, items: Items, read: int = 0, loud: float = 1.0) -> Proof:
    """Any directions and strengths at all, one of them in several slots, and any neurons read out."""
    generator = torch.Generator().manual_seed(seed)
    features = features_of(network, items, {})
    return proof_with(
        network,
        items,
        {
            "directions": loud * torch.randn(DIRECTIONS, D, generator=generator),
            "active": torch.randint(DIRECTIONS, (features, 3), generator=generator, dtype=torch.int32),
            "strength": torch.rand(features, 3, generator=generator),
            "read": torch.stack([torch.randperm(M, generator=generator)[:read].sort().values for _ in items.contexts]),
        },
    )


# A reference, window by window and neuron by neuron


def parts_of(
    weights: dict[str, Tensor], norm: bool, window: Tensor, witness: Witness
) -> tuple[Tensor, Tensor, list[int]]:
    """What the stream says to the logits, every family's parts and rest at the neurons, and what each is of."""
    x = [weights["W_E"][place, token] for place, token in enumerate(window)]

    def centred(each: Tensor) -> Tensor:
        return each - each.mean() if norm else each

    def normalised(each: Tensor) -> Tensor:
        return centred(each) / (centred(each).square().mean() + EPS).sqrt() if norm else each

    features, alphas, atoms = [place * V + int(token) for place, token in enumerate(window)], [1.0] * C, x
    if "attn.W_Q" in weights:
        query = normalised(x[-1]) @ weights["attn.W_Q"]
        scores = torch.stack([query @ (normalised(each) @ weights["attn.W_K"]) for each in x]) / D**0.5
        features, alphas = [*features, C * V + int(window[-1])], [*scores.softmax(0).tolist(), 1.0]
        atoms = [normalised(each) @ weights["attn.W_V"] @ weights["attn.W_O"] for each in x] + [x[-1]]
    stream = torch.stack([alpha * atom for alpha, atom in zip(alphas, atoms, strict=True)]).sum(0)
    W_in, b_in = weights["mlps.0.W_in"], weights["mlps.0.b_in"]
    said = [centred(atom) @ W_in for atom in atoms]
    if norm:
        scale = float((centred(stream).square().mean() + EPS).sqrt())
        said.append(b_in)
        features.append(len(witness["active"]) - 1)
        alphas = [*(alpha / scale for alpha in alphas), 1.0]
    else:
        said[-1] = said[-1] + b_in
    parts, who = [], list[int]()
    for feature, alpha, its in zip(features, alphas, said, strict=True):
        along = [
            strength * (witness["directions"][where].double() @ W_in)
            for where, strength in zip(witness["active"][feature], witness["strength"][feature].double(), strict=True)
        ]
        parts += [alpha * part for part in [*along, its - torch.stack(along).sum(0)]]
        who += [*witness["active"][feature].tolist(), LEFT]
    return (stream + weights["mlps.0.b_out"]) @ weights["W_U"], torch.stack(parts), who


def slowly(state: dict[str, Tensor], norm: bool, items: Items, proof: Proof) -> tuple[Tensor, Tensor, float]:
    weights, witness = {name: value.double() for name, value in state.items()}, proof.witness
    to_logits = weights["mlps.0.W_out"] @ weights["W_U"]
    pairs, neurons = defaultdict[tuple[int, int], float](float), torch.zeros(M, dtype=torch.float64)
    centre = 0.0
    for item in range(len(items.target)):
        at, target, count = int(items.context[item]), int(items.target[item]), int(items.count[item])
        logits, parts, who = parts_of(weights, norm, items.contexts[at].long(), witness)
        positive, negative = parts.clamp(min=0).sum(0), (-parts).clamp(min=0).sum(0)
        left = torch.minimum(positive, negative)
        logits = logits + positive @ to_logits
        for neuron in witness["read"][at].tolist():
            logits = logits - left[neuron] * to_logits[neuron]
            left[neuron] = 0.0
        size = left.norm().requires_grad_()
        apart = torch.stack([(to_logits[:, target] - to_logits[:, v]).clamp(min=0).norm() for v in range(V)])
        centre += count * float((logits - logits[target]).logsumexp(0)) / items.windows
        (slope,) = torch.autograd.grad((logits - logits[target] + size * apart).logsumexp(0), size)
        for neuron in range(M):
            if left[neuron] == 0:
                continue
            each = count * float(slope * left[neuron] ** 2 / left.norm()) / items.windows
            neurons[neuron] += each
            side = 1.0 if positive[neuron] <= negative[neuron] else -1.0
            for i, small in zip(who, (side * parts[:, neuron]).tolist(), strict=True):
                for j, large in zip(who, (-side * parts[:, neuron]).tolist(), strict=True):
                    if small > 0 and large > 0:
                        all_of_it = float(torch.maximum(positive, negative)[neuron])
                        pairs[i, j] += each * small / float(left[neuron]) * large / all_of_it
    table = torch.zeros(LEFT + 1, LEFT + 1, dtype=torch.float64)
    for (i, j), cost in pairs.items():
        table[i, j] = cost
    share = (proof.proved.loss - centre) / max(float(neurons.sum()), 1e-300)
    return table * share, neurons * share, centre


@settings(deadline=None, max_examples=24)
@given(seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS), read=st.sampled_from([0, 3, M]))
def test_costs_are_those_of_a_program_written_down_slowly(seed: int, kind: tuple[bool, bool], read: int) -> None:
    attention, norm = kind
    state, items = state_of(seed, attention), items_of(seed, 12)
    network = Network.of(state, norm)
    proof = by_hand(seed, network, items, read)
    found, (pairs, neurons, centre) = costs(network, items, proof), slowly(state, norm, items, proof)
    assert found.centre == pytest.approx(centre, abs=1e-9)
    torch.testing.assert_close(found.pairs, pairs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.neurons, neurons, rtol=1e-9, atol=1e-9)


# What holds whatever the model


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(KINDS),
    magnitude=st.sampled_from([0.0, 1e-6, 1.0, 3.0]),
    ties=st.booleans(),
    loud=st.sampled_from([0.0, 1e-6, 1.0, 100.0]),
    read=st.integers(0, M),
    windows=st.sampled_from([1, 40]),
)
def test_costs_add_up_to_the_bound_and_none_is_negative(
    seed: int, kind: tuple[bool, bool], magnitude: float, ties: bool, loud: float, read: int, windows: int
) -> None:
    attention, norm = kind
    network, items = Network.of(state_of(seed, attention, 1, magnitude, ties), norm), items_of(seed, windows)
    proof = by_hand(seed, network, items, read, loud)
    found = costs(network, items, proof)
    slack = found.bound - found.centre
    near = pytest.approx(slack, rel=1e-9, abs=1e-9)
    assert slack >= -1e-12
    assert found.bound == proof.proved.loss
    for its in (found.pairs, found.neurons, found.directions):
        assert bool((its >= 0).all())
        assert float(its.sum()) == near
    top = found.top(10_000)
    assert sum(cost for _, _, cost in top) == near
    assert [cost for *_, cost in top] == sorted((cost for *_, cost in top), reverse=True)
    both = found.pairs + found.pairs.mT * (1 - torch.eye(LEFT + 1))
    assert all(i <= j and float(both[i, j]) == pytest.approx(cost) for i, j, cost in top)
    assert set(found.top(10_000, known=True)) == {(i, j, cost) for i, j, cost in top if LEFT not in (i, j)}
    left = sum(cost for i, j, cost in top if LEFT in (i, j))
    assert found.left == pytest.approx(left, rel=1e-9, abs=1e-9)
    assert not bool(found.pairs[:LEFT, :LEFT].any()) or loud > 0  # directions of no length say nothing
    if read == M:
        assert slack == pytest.approx(0.0, abs=1e-9 * (1 + found.bound))


@pytest.mark.parametrize("kind", KINDS)
def test_windows_that_are_drawn_say_what_all_say_and_the_same_each_time(
    kind: tuple[bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    attention, norm = kind
    network, items = Network.of(state_of(2, attention), norm), items_of(2, 200)
    proof = by_hand(2, network, items, 1)
    every = costs(network, items, proof)
    assert every.drawn is None
    assert every.directions.shape == (LEFT + 1,)
    monkeypatch.setattr(module, "MOST", 100)
    one, again, other = (costs(network, items, proof, seed) for seed in (0, 0, 1))
    assert one.drawn == 100
    assert torch.equal(one.pairs, again.pairs)
    assert not torch.equal(one.pairs, other.pairs)
    torch.testing.assert_close(one.neurons, every.neurons)
    assert float(one.pairs.sum()) == pytest.approx(float(every.pairs.sum()), abs=1e-9)
    many = torch.stack([costs(network, items, proof, seed).pairs for seed in range(40)]).mean(0)
    assert float((many - every.pairs).abs().sum()) < 0.05 * float(every.pairs.sum())


# Cases where the answer is known


def planted(a: float, b: float) -> tuple[Network, Items, Proof]:
    """Tokens at position 0 write along direction 0, those at position 1 along direction 1. Neuron 2 alone hears both,
    with opposite signs; neurons 0 and 1 hear one each."""
    state, items = state_of(0), items_of(0)
    state["W_E"] = torch.zeros(C, V, D)
    state["W_E"][0, :, 0], state["W_E"][1, :, 1] = a, b
    state["mlps.0.W_in"], state["mlps.0.b_in"] = torch.zeros(D, M), torch.zeros(M)
    state["mlps.0.W_in"][0, [0, 2]] = 1.0
    state["mlps.0.W_in"][1, [1, 2]] = torch.tensor([1.0, -1.0])
    active, strength = torch.zeros(C * V, 1, dtype=torch.int32), torch.zeros(C * V, 1)
    active[V : 2 * V], strength[:V], strength[V : 2 * V] = 1, a, b
    network = Network.of(state)
    return network, items, proof_with(network, items, {"directions": torch.eye(D)[:3], "active": active,
                                                       "strength": strength})  # fmt: skip


@pytest.mark.parametrize(("a", "b", "pair"), [(1.0, 2.0, (0, 1)), (3.0, 0.5, (1, 0))])
def test_two_directions_that_alone_conflict_pay_all_of_it(a: float, b: float, pair: tuple[int, int]) -> None:
    found = costs(*planted(a, b))
    slack = found.bound - found.centre
    assert slack > 1e-3
    assert [(i, j) for i, j, _ in found.top(10)] == [(0, 1)]
    assert float(found.pairs[pair]) == pytest.approx(slack, abs=1e-9)
    assert float(found.neurons[2]) == pytest.approx(slack, abs=1e-9)
    assert found.directions.tolist() == pytest.approx([slack / 2, slack / 2, 0.0, 0.0], abs=1e-9)
    assert found.left == 0.0


def test_what_a_dictionary_does_not_know_is_paid_by_what_it_leaves() -> None:
    network, items, proof = planted(1.0, 2.0)
    blind = proof_with(network, items, proof.witness | {"strength": torch.zeros(C * V, 1)})
    found = costs(network, items, blind)
    assert [(i, j) for i, j, _ in found.top(10)] == [(3, 3)]
    assert found.left == pytest.approx(found.bound - found.centre, abs=1e-9) == float(found.pairs.sum())


def test_nothing_that_meets_costs_nothing() -> None:
    network, items, proof = planted(1.0, 0.0)
    found = costs(network, items, proof)
    assert found.top(10) == []
    assert found.bound == pytest.approx(found.centre, abs=1e-9)


def test_proofs_without_directions_are_refused_by_name() -> None:
    network, items = Network.of(state_of(0)), items_of(0)
    with pytest.raises(MismatchError, match="masses, 0 read out"):
        costs(network, items, prove(network, items, How("masses")))
    with pytest.raises(MismatchError, match="uniform"):
        costs(network, items, prove(network, items, How("uniform", dictionary=dictionary(0))))
    bent = by_hand(0, network, items).witness | {"offset_0": torch.ones(features_of(network, items, {}), M)}
    with pytest.raises(MismatchError, match="offsets"):
        costs(network, items, proof_with(network, items, bent))
    deep = Network.of(state_of(0, mlps=2))
    with pytest.raises(UnsupportedModel, match="one MLP"):
        costs(deep, items, prove(deep, items, How("masses", dictionary=dictionary(0))))


@pytest.mark.parametrize("kind", KINDS)
def test_a_dictionary_that_was_pursued_and_features_of_several_positions(kind: tuple[bool, bool]) -> None:
    attention, norm = kind
    network, items = Network.of(state_of(5, attention), norm), items_of(5)
    proof = prove(network, items, How("masses", 1 if attention else 2, 2, 0, dictionary(5, slots=8)))
    found = costs(network, items, proof)
    assert float(found.pairs.sum()) == pytest.approx(found.bound - found.centre, abs=1e-9)
    assert 0 < found.left < found.bound - found.centre
