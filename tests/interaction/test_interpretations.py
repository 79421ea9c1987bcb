"""The theorems T1 to T5 on interpretations, attacked: ties, zeros, one feature, none, huge and tiny magnitudes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import combinations
from math import comb

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import MismatchError, UnsupportedModel
from crossproof.interaction.interpretations import (
    Additive,
    Block,
    Dominant,
    Gate,
    GatedBlock,
    Interpretation,
    Mass,
    PlainBlock,
)
from crossproof.units import ACTIVATIONS

NASTY = [0.0, 0.0, 1.0, -1.0, 0.75, -0.75, 1e8, -1e8, 1e-8, -1e-8]
DTYPES = (torch.float32, torch.float64)


@st.composite
def blocks(
    draw: st.DrawFn,
    gated: bool,
    activations: Iterable[str] = tuple(ACTIVATIONS),
    dtypes: Iterable[torch.dtype] = DTYPES,
    slots: int = 6,
) -> Block:
    """Two tokens, a few slots and neurons, of ordinary numbers, of nasty ones or of both."""
    dtype, activation = draw(st.sampled_from(list(dtypes))), ACTIVATIONS[draw(st.sampled_from(list(activations)))]
    n_slots, n_neurons = draw(st.integers(1, slots)), draw(st.integers(1, 3))
    ordinary = st.floats(-3, 3, width=32, allow_subnormal=False)
    number = draw(st.sampled_from([ordinary, st.sampled_from(NASTY), ordinary | st.sampled_from(NASTY)]))

    def tensor(*shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        return torch.tensor(draw(st.lists(number, min_size=size, max_size=size)), dtype=dtype).reshape(shape)

    def contributions() -> tuple[Tensor, Tensor]:
        return tensor(2, n_slots, n_neurons), tensor(n_neurons)

    return (
        GatedBlock(*contributions(), *contributions(), activation)
        if gated
        else PlainBlock(*contributions(), activation)
    )


def plain(p: list[float], beta: float, activation: str = "relu") -> PlainBlock:
    """One token and one neuron."""
    return PlainBlock(
        torch.tensor(p, dtype=torch.float64)[None, :, None],
        torch.tensor([beta], dtype=torch.float64),
        ACTIVATIONS[activation],
    )


def gated(p_gate: list[float], beta_gate: float, p_value: list[float], beta_value: float) -> GatedBlock:
    gate, value = plain(p_gate, beta_gate), plain(p_value, beta_value)
    return GatedBlock(gate.p, gate.beta, value.p, value.beta, ACTIVATIONS["relu"])


def rounding(block: Block) -> Tensor:
    size = block.magnitude()
    return 64 * torch.finfo(size.dtype).eps * size + 1e-30


def assert_certified(interpretation: Interpretation, block: Block) -> None:
    assert (interpretation.residual(block).abs() <= interpretation.certified(block) + rounding(block)).all()


# -- every interpretation ----------------------------------------------------------------------------------------------

any_plain = st.one_of(
    st.builds(Dominant, st.integers(1, 7)),
    st.just(Additive()),
    st.just(Mass()),
    st.builds(Gate, st.sampled_from([0.0, 1e-8, 0.5, 2.0, 1e8, float("inf")])),
)
any_gated = st.one_of(st.builds(Dominant, st.integers(1, 7)), st.just(Additive()))


@settings(deadline=None, max_examples=200)
@given(any_plain, blocks(gated=False))
def test_no_residual_of_a_plain_mlp_exceeds_its_certified_size(interpretation: Interpretation, block: Block) -> None:
    assert_certified(interpretation, block)


@settings(deadline=None, max_examples=200)
@given(any_gated, blocks(gated=True))
def test_no_residual_of_a_gated_mlp_exceeds_its_certified_size(interpretation: Interpretation, block: Block) -> None:
    assert_certified(interpretation, block)


@pytest.mark.parametrize(
    ("interpretation", "block", "residual"),
    [
        (Dominant(), plain([2.0, 1.0], 0.0), 1.0),
        (Dominant(), gated([2.0, 1.0], 0.0, [1.0, 0.0], 0.0), 1.0),
        (Dominant(), gated([2.0, 0.0], 0.0, [2.0, 1.0], 0.0), 2.0),
        (Additive(), plain([0.75, 0.75], -0.75), 0.75),
        (Additive(), gated([1.0, 0.0], 0.0, [0.0, 1.0], 0.0), 1.0),
        (Additive(), gated([0.75, 0.75], -0.75, [0.0, 0.0], 2.0), 1.5),
        (Mass(), plain([3.0, -2.0], 0.5), -2.0),
        (Gate(2.0), plain([3.0, -2.0], 0.5), -2.0),
        (Gate(1.0), plain([3.0, -2.0], 0.5), 0.0),
    ],
    ids=str,
)
def test_every_certified_size_is_attained(interpretation: Interpretation, block: Block, residual: float) -> None:
    assert interpretation.residual(block).item() == residual
    assert interpretation.certified(block).item() == abs(residual)


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "silu"])
def test_slopes_on_both_sides_of_their_range_bring_the_additive_residual_to_its_certified_size(activation: str) -> None:
    x = torch.linspace(0, 4, 4001, dtype=torch.float64, requires_grad=True)
    (slopes,) = torch.autograd.grad(ACTIVATIONS[activation].function(x).sum(), x)
    steepest = x[slopes.argmax()].item()
    block = plain([2 * steepest, 1e-4], -steepest, activation)  # the second step is up on the right, down on the left
    assert 0.999 < Additive().residual(block).item() / Additive().certified(block).item() < 1


# -- dominant ----------------------------------------------------------------------------------------------------------


def slow_kept(p: Tensor, q: int) -> Tensor:
    kept = torch.zeros_like(p)
    for t in range(p.shape[0]):
        for n in range(p.shape[2]):
            for i in sorted(range(p.shape[1]), key=lambda i: (-abs(p[t, i, n].item()), i))[:q]:
                kept[t, i, n] = p[t, i, n]
    return kept


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False), st.integers(1, 7))
def test_dominant_keeps_the_q_largest_and_of_equals_the_first(block: PlainBlock, q: int) -> None:
    kept = slow_kept(block.p, q)
    account = Dominant(q).account(block)
    assert torch.equal(account.parts, kept)
    assert torch.equal(account.value, block.activation.function(block.beta + kept.sum(1)))
    dropped = (block.p - kept).abs().sum(1)
    torch.testing.assert_close(Dominant(q).penalised(block), dropped)
    torch.testing.assert_close(Dominant(q).certified(block), block.activation.lipschitz * dropped)


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False), blocks(gated=True))
def test_dominant_misses_nothing_where_it_keeps_all_features(of_plain: PlainBlock, of_gated: GatedBlock) -> None:
    for block, q in ((of_plain, of_plain.p.shape[1]), (of_gated, of_gated.p_gate.shape[1])):
        assert not Dominant(q).residual(block).any()
        assert not Dominant(q).certified(block).any()
        assert not Dominant(q).penalised(block).any()


@settings(deadline=None, max_examples=70)
@given(blocks(gated=True), st.integers(1, 3))
def test_dominant_of_a_gated_mlp_is_dominant_in_gate_and_value_apart(block: GatedBlock, q: int) -> None:
    gate, value = slow_kept(block.p_gate, q), slow_kept(block.p_value, q)
    account = Dominant(q).account(block)
    assert torch.equal(account.parts, gate)
    assert account.value_parts is not None
    assert torch.equal(account.value_parts, value)
    φ = block.activation.function(block.beta_gate + gate.sum(1))
    assert torch.equal(account.value, φ * (block.beta_value + value.sum(1)))
    of_gate, of_value = (block.p_gate - gate).abs().sum(1), (block.p_value - value).abs().sum(1)
    torch.testing.assert_close(Dominant(q).penalised(block), of_gate + of_value)
    t5 = block.activation.lipschitz * of_gate * block.value().abs() + φ.abs() * of_value
    torch.testing.assert_close(Dominant(q).certified(block), t5)


# -- additive ----------------------------------------------------------------------------------------------------------


def sum_of_pair_indices(v: Callable[[list[int]], Tensor], players: int) -> Tensor:
    """Σ over pairs of the order-2 Shapley-Taylor index, coalition by coalition."""
    total = torch.zeros_like(v([]))
    for i, j in combinations(range(players), 2):
        others = [k for k in range(players) if k not in (i, j)]
        for size in range(len(others) + 1):
            for coalition in combinations(others, size):
                C = list(coalition)
                second_difference = v([*C, i, j]) - v([*C, i]) - v([*C, j]) + v(C)
                total = total + 2 / players * second_difference / comb(players - 1, size)
    return total


@settings(deadline=None, max_examples=40)
@given(blocks(gated=False, dtypes=[torch.float64], slots=5))
def test_the_additive_residual_is_the_sum_of_all_shapley_taylor_pair_indices(block: PlainBlock) -> None:
    def v(C: list[int]) -> Tensor:
        return block.activation.function(block.beta + block.p[:, C].sum(1))

    difference = Additive().residual(block) - sum_of_pair_indices(v, block.p.shape[1])
    assert (difference.abs() <= 1e-12 * block.magnitude()).all()


@settings(deadline=None, max_examples=40)
@given(blocks(gated=True, dtypes=[torch.float64], slots=4))
def test_so_is_that_of_a_gated_mlp(block: GatedBlock) -> None:
    def v(C: list[int]) -> Tensor:
        gate = block.activation.function(block.beta_gate + block.p_gate[:, C].sum(1))
        return gate * (block.beta_value + block.p_value[:, C].sum(1))

    difference = Additive().residual(block) - sum_of_pair_indices(v, block.p_gate.shape[1])
    assert (difference.abs() <= 1e-12 * block.magnitude()).all()


def test_two_features_of_one_sign_interact_where_the_bias_makes_an_and_of_them() -> None:
    block = plain([0.75, 0.75], -1.0)
    assert Additive().residual(block).item() == 0.5
    assert Additive().penalised(block).item() == 0.5
    suppressed = plain([1.0, -1.0], 0.0)
    assert Additive().residual(suppressed).item() == -1.0
    assert Additive().penalised(suppressed).item() == 1.0
    assert Additive().account(block).parts.flatten().tolist() == [0.0, 0.0]


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False, slots=1), blocks(gated=True, slots=1), st.integers(0, 3))
def test_one_feature_alone_never_interacts(of_plain: PlainBlock, of_gated: GatedBlock, unused: int) -> None:
    def padded(p: Tensor) -> Tensor:
        return torch.cat([p, p.new_zeros(len(p), unused, p.shape[2])], dim=1)

    alone = PlainBlock(padded(of_plain.p), of_plain.beta, of_plain.activation)
    in_both = GatedBlock(
        padded(of_gated.p_gate), of_gated.beta_gate, padded(of_gated.p_value), of_gated.beta_value, of_gated.activation
    )
    for block in (alone, in_both):
        assert (Additive().residual(block).abs() <= rounding(block)).all()
        assert not Additive().certified(block).any()
        assert not Dominant().residual(block).any()


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False, activations=["relu"]), st.sampled_from([1.0, -1.0]))
def test_additive_is_zero_where_the_activation_is_affine_over_the_range(block: PlainBlock, side: float) -> None:
    beta = side * block.p.abs().sum(1).amax(0)
    affine = PlainBlock(block.p, beta, block.activation)
    assert (Additive().residual(affine).abs() <= rounding(affine)).all()


# -- mass and gate -----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False, activations=["relu"]))
def test_the_mass_residual_is_minus_the_smaller_mass(block: PlainBlock) -> None:
    players = torch.cat([block.p, block.beta.expand(len(block.p), 1, -1)], dim=1).double()
    smaller = torch.minimum(players.clamp(min=0).sum(1), -players.clamp(max=0).sum(1))
    assert ((Mass().residual(block) + smaller).abs() <= rounding(block)).all()
    torch.testing.assert_close(Mass().penalised(block).double(), smaller, rtol=1e-5, atol=0)
    assert torch.equal(Mass().certified(block), Mass().penalised(block))
    by_cancellation = (players.abs().sum(1) - players.sum(1).abs()) / 2
    assert ((by_cancellation - smaller).abs() <= rounding(block)).all()


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False), st.sampled_from([1.0, -1.0]))
def test_no_mass_interacts_where_all_signs_agree(block: PlainBlock, sign: float) -> None:
    agreeing = PlainBlock(sign * block.p.abs(), sign * block.beta.abs(), block.activation)
    assert not Mass().penalised(agreeing).any()


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False, dtypes=[torch.float64]))
def test_the_smaller_mass_is_at_most_the_sum_over_pairs_of_opposite_sign(block: PlainBlock) -> None:
    players = torch.cat([block.p, block.beta.expand(len(block.p), 1, -1)], dim=1)
    over_pairs = torch.zeros_like(players[:, 0])
    for i, j in combinations(range(players.shape[1]), 2):
        opposite = players[:, i] * players[:, j] < 0
        over_pairs += torch.where(opposite, torch.minimum(players[:, i].abs(), players[:, j].abs()), 0)
    assert (Mass().penalised(block) <= over_pairs + rounding(block)).all()


def test_the_smaller_mass_survives_where_the_difference_form_loses_it() -> None:
    block = plain([1e8, -1e-8, -1e-8], 0.0)
    assert Mass().penalised(block).item() == 2e-8
    assert ((block.p.abs().sum() - block.pre().abs()) / 2).item() != 2e-8


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False), st.sampled_from([0.0, 0.5, 1e8]), st.lists(st.floats(-1, 1), min_size=2, max_size=2))
def test_no_error_within_the_margin_moves_a_certain_neuron_off_its_gate(
    block: PlainBlock, margin: float, errors: list[float]
) -> None:
    z, certain = block.pre().double(), Gate(margin).certain(block)
    moved = z + margin * torch.tensor(errors, dtype=torch.float64)[:, None]
    on = (z > 0).double()
    assert torch.equal(moved.relu()[certain], (on * moved)[certain])
    assert torch.equal(certain, z.abs() > margin)
    value = Gate(margin).account(block).value
    assert torch.equal(value.double()[certain], (on * z)[certain])
    assert torch.equal(value[~certain], Mass().account(block).value[~certain])
    assert not Gate(margin).penalised(block)[certain].any()
    assert torch.equal(Gate(margin).penalised(block)[~certain], Mass().penalised(block)[~certain])


def test_each_neuron_has_its_own_margin() -> None:
    block = PlainBlock(torch.tensor([[[1.0, 1.0]]]), torch.zeros(2), ACTIVATIONS["relu"])
    assert Gate(torch.tensor([0.5, 2.0])).certain(block).tolist() == [[True, False]]
    with pytest.raises(MismatchError, match=r"shape \(3,\) for 2 neurons"):
        Gate(torch.zeros(3)).certain(block)


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False), st.sampled_from([0.0, 0.5, 1e8]))
def test_background_and_parts_make_up_the_value(block: PlainBlock, margin: float) -> None:
    on, certain = (block.pre() > 0).to(block.beta), Gate(margin).certain(block)
    backgrounds = {
        Additive(): block.activation.function(block.beta),
        Mass(): block.beta.relu(),
        Gate(margin): torch.where(certain, on * block.beta, block.beta.relu()),
    }
    for interpretation, background in backgrounds.items():
        account = interpretation.account(block)
        assert ((background + account.parts.sum(1) - account.value).abs() <= rounding(block)).all()


def test_mass_and_gate_refuse_gated_mlps_and_say_what_there_is_for_them() -> None:
    block = gated([1.0], 0.0, [1.0], 0.0)
    for interpretation in (Mass(), Gate(0.0)):
        for what in (
            interpretation.account,
            interpretation.certified,
            interpretation.penalised,
            interpretation.residual,
        ):
            with pytest.raises(UnsupportedModel, match=rf"{interpretation.name} .*gated MLPs.* additive, dominant"):
                what(block)


# -- change of basis ---------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=70)
@given(blocks(gated=False), st.integers(0, 5))
def test_splitting_a_feature_never_changes_the_mass_residual(block: PlainBlock, which: int) -> None:
    slot = which % block.p.shape[1]
    halves = block.p.clone()
    halves[:, slot] /= 2
    split = PlainBlock(torch.cat([halves, halves[:, slot : slot + 1]], dim=1), block.beta, block.activation)
    assert ((Mass().residual(block) - Mass().residual(split)).abs() <= rounding(block)).all()
    torch.testing.assert_close(Mass().penalised(block), Mass().penalised(split), rtol=1e-5, atol=1e-30)


def test_splitting_a_feature_can_change_the_additive_and_the_dominant_residual() -> None:
    assert Additive().residual(plain([1.5], -1.0)).item() == 0.0
    assert Additive().residual(plain([0.75, 0.75], -1.0)).item() == 0.5
    assert Dominant().residual(plain([1.0], 0.0)).item() == 0.0
    assert Dominant().residual(plain([0.5, 0.5], 0.0)).item() == 0.5


def test_splitting_a_feature_that_dominates_nowhere_leaves_the_dominant_residual() -> None:
    whole, split = plain([10.0, 1.0], 0.0), plain([10.0, 0.5, 0.5], 0.0)
    assert Dominant().residual(whole).item() == Dominant().residual(split).item() == 1.0
    assert Dominant().penalised(whole).item() == Dominant().penalised(split).item() == 1.0
