"""The contribution table and the chunks: every token and every contribution is there exactly once."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.errors import MismatchError, NonFinite, UnsupportedModel
from crossproof.interaction.contributions import GatedNeurons, PlainNeurons, check_codes, chunks, contributions
from crossproof.units import ACTIVATIONS, MLP, GatedMLP

D, F, N = 3, 6, 5


def plain(seed: int = 0) -> MLP:
    draw = torch.Generator().manual_seed(seed)
    shapes = {"W_in": (D, N), "b_in": (N,), "W_out": (N, D), "b_out": (D,)}
    weights = {name: torch.randn(*shape, generator=draw, dtype=torch.float64) for name, shape in shapes.items()}
    return MLP(activation="gelu", output_site="blocks.7.hook_mlp_out", **weights)


def gated() -> GatedMLP:
    value, gate = plain(1), plain(2)
    return GatedMLP(
        W_gate=gate.W_in, b_gate=gate.b_in, W_in=value.W_in, b_in=value.b_in, activation="silu", W_out=value.W_out,
        b_out=value.b_out,
    )  # fmt: skip


def features(seed: int, tokens: int, density: float) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    strengths = torch.rand(tokens, F, generator=draw, dtype=torch.float64) + 0.1
    return strengths * (torch.rand(tokens, F, generator=draw) < density)


batches = st.builds(
    features, seed=st.integers(0, 10**6), tokens=st.integers(0, 7), density=st.sampled_from([0.0, 0.2, 0.6, 1.0])
)


@settings(deadline=None, max_examples=50)
@given(f=batches, budget=st.sampled_from([1, 7, 40, 10**6]))
def test_pre_activations_are_beta_and_the_contributions_of_every_token_in_exactly_one_chunk(
    f: torch.Tensor, budget: int
) -> None:
    unit, d, b = plain(), torch.randn(F, D).double(), torch.randn(D).double()
    seen = contributions(unit, d, b)
    assert isinstance(seen, PlainNeurons)
    codes = Codes.from_dense(f)
    z = torch.full((len(f), N), torch.nan).double()
    for chunk in chunks(codes, N, budget):
        p = chunk.contributions(seen.pre.A)
        assert p.numel() <= budget or len(chunk.tokens) == 1
        assert bool(z[chunk.tokens].isnan().all()), "a token came twice"
        z[chunk.tokens] = seen.pre.beta + p.sum(1)
        for row, token in enumerate(chunk.tokens.tolist()):
            active = f[token].nonzero()[:, 0]
            assert torch.equal(chunk.features[row, : len(active)], active), "slots are in order of the features"
            assert torch.equal(chunk.strengths[row, : len(active)], f[token, active])
            assert not bool(chunk.strengths[row, len(active) :].any())
            assert torch.equal(codes.values[chunk.entries[row, : len(active)]], f[token, active])
    torch.testing.assert_close(z, unit.pre(b + f @ d), rtol=1e-12, atol=1e-12)


def test_a_gated_mlp_has_a_table_for_its_gate_and_one_for_its_value() -> None:
    unit, d, b, f = gated(), torch.randn(F, D).double(), torch.randn(D).double(), features(0, 4, 0.5)
    seen = contributions(unit, d, b)
    assert isinstance(seen, GatedNeurons)
    x = b + f @ d
    torch.testing.assert_close(f @ seen.gate.A + seen.gate.beta, unit.gate(x))
    torch.testing.assert_close(f @ seen.value.A + seen.value.beta, unit.value(x))
    torch.testing.assert_close(seen.loudness, unit.W_out.norm(dim=1))


def test_the_table_carries_gradients_to_directions_and_bias() -> None:
    d, b = torch.randn(F, D).double().requires_grad_(), torch.randn(D).double().requires_grad_()
    seen = contributions(plain(), d, b)
    assert isinstance(seen, PlainNeurons)
    assert seen.name == "blocks.7.hook_mlp_out"
    gradients = torch.autograd.grad(seen.pre.A.sum() + seen.pre.beta.sum(), [d, b])
    assert all(bool(gradient.any()) for gradient in gradients)


def test_without_a_bias_only_the_mlps_own_is_left() -> None:
    seen = contributions(plain(), torch.randn(F, D).double())
    assert isinstance(seen, PlainNeurons)
    assert torch.equal(seen.pre.beta, plain().b_in)


def test_contributions_are_the_same_with_and_without_gradients() -> None:
    codes = Codes.from_dense(features(0, 5, 0.5))
    table = torch.randn(F, N).double()
    for chunk in chunks(codes, N):
        with torch.no_grad():
            without = chunk.contributions(table)
        assert torch.equal(chunk.contributions(table), without)


@settings(deadline=None, max_examples=30)
@given(f=batches)
def test_dense_features_become_codes_and_back(f: torch.Tensor) -> None:
    codes = Codes.from_dense(f)
    assert torch.equal(codes.dense(), f)
    assert codes.pattern.n_entries == int(f.count_nonzero())


def test_the_gradient_of_dense_features_flows_through_their_codes() -> None:
    f = features(0, 4, 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad((Codes.from_dense(f).values ** 2).sum(), f)
    torch.testing.assert_close(gradient, 2 * f.detach())


def test_what_does_not_fit_is_refused_with_its_name_and_axis() -> None:
    with pytest.raises(MismatchError, match=r"directions.*d_model 3.*W_in.*\(6, 2\)"):
        contributions(plain(), torch.zeros(F, 2).double())
    with pytest.raises(MismatchError, match=r"bias: expected the shape \(3,\).*\(2,\)"):
        contributions(plain(), torch.zeros(F, D).double(), torch.zeros(2).double())
    with pytest.raises(MismatchError, match=r"4 features.*6 rows"):
        check_codes(Codes.from_dense(torch.ones(2, 4)), F)
    with pytest.raises(MismatchError, match=r"some are negative \(the least is -1\).*ReLU"):
        Codes.from_dense(torch.tensor([[1.0, -1.0]]))
    with pytest.raises(NonFinite, match="not finite"):
        Codes.from_dense(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(UnsupportedModel, match=r"mish.*relu, gelu, gelu_new, silu.*To add one.*ACTIVATIONS\['mish'\]"):
        MLP(
            W_in=torch.zeros(1, 1),
            b_in=torch.zeros(1),
            activation="mish",
            W_out=torch.zeros(1, 1),
            b_out=torch.zeros(1),
        )
    assert "mish" not in ACTIVATIONS


@pytest.fixture
def as_users_run_it() -> Iterator[None]:
    """Without the shape checks that tests have and users have not."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.usefixtures("as_users_run_it")
def test_weights_of_the_wrong_shape_are_refused_with_their_name_and_axes() -> None:
    right = plain()
    fields = {name: getattr(right, name) for name in ("W_in", "b_in", "W_out", "b_out")}
    with pytest.raises(MismatchError, match=r"W_in: expected \[d_model, neuron\] = \[3, 5\].*not \[5, 3\]; .* x @ W"):
        MLP(activation="relu", **(fields | {"W_in": right.W_in.T}))
    with pytest.raises(MismatchError, match=r"b_out: expected \[d_model\] = \[3\]"):
        MLP(activation="relu", **(fields | {"b_out": right.b_in}))
    with pytest.raises(MismatchError, match=r"values: \(2,\) for the 3 entries"):
        Codes(Codes.from_dense(torch.ones(1, 3)).pattern, torch.ones(2))
    with pytest.raises(NonFinite, match="directions"):
        contributions(right, torch.full((F, D), torch.nan).double())
