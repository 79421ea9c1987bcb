"""A unit recomputes its block from the value at its input site, in the model of every family."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from crossproof.errors import UnsupportedModel
from crossproof.subject.subject import Subject
from crossproof.units import ACTIVATIONS, LOGITS, MLP, Attention, GatedMLP, Norm, Rotary, Unembedding, Unit
from tests.subject.tiny import BLOCKS, FAMILIES, SEQUENTIAL, WIDTH, folder, some_tokens, subject, tolerance


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def attentions(model: Subject) -> list[Attention]:
    return [unit for unit in model.units if isinstance(unit, Attention)]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_unit_recomputes_its_output_site_from_its_input_site(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    ends = {site for unit in model.units for site in (unit.input_site, unit.output_site)} - {LOGITS}
    logits, values = model.run(tokens, sorted(ends))
    for unit in model.units:
        ours = unit(values[unit.input_site])
        theirs = logits if unit.output_site == LOGITS else values[unit.output_site]
        assert relative(ours, theirs) < tolerance(family), unit.output_site


@pytest.mark.parametrize("family", FAMILIES)
def test_units_come_in_order_of_computation(family: str) -> None:
    mlp = GatedMLP if family in ("llama", "mistral") else MLP
    expected = [Norm, Attention, Norm, mlp] * BLOCKS.get(family, 2) + [Norm, Unembedding]
    assert [type(unit) for unit in subject(family).units] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_and_patterns_are_those_of_the_model(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    for unit in attentions(model):
        pattern, scores = (f"blocks.{unit.layer}.attn.{hook}" for hook in ("hook_pattern", "hook_attn_scores"))
        _, values = model.run(tokens, [unit.input_site, pattern])
        x = values[unit.input_site]
        assert relative(unit.pattern(x), values[pattern]) < tolerance(family)
        if family != "neo":  # which reports no scores
            seen = unit.mask(x.shape[1])
            theirs = model.run(tokens, [scores])[1][scores]
            assert relative(unit.scores(x)[..., seen], theirs[..., seen]) < tolerance(family)


def test_windows_are_per_layer() -> None:
    assert [unit.window for unit in attentions(subject("neo"))] == [None, 4]
    assert [unit.window for unit in attentions(subject("mistral"))] == [4, 4]
    mask = attentions(subject("neo"))[1].mask(10)
    assert mask.sum(1).tolist() == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]
    assert mask.diagonal().all()


def test_only_gpt_neo_leaves_its_scores_unscaled() -> None:
    assert {unit.scale for unit in attentions(subject("neo"))} == {1.0}
    assert {unit.scale for unit in attentions(subject("gpt2"))} == {8**-0.5}


def test_key_value_heads_and_rotary_dimensions_are_the_models_own() -> None:
    llama, neox = attentions(subject("llama"))[0], attentions(subject("neox"))[0]
    assert (len(llama.W_Q), len(llama.W_K), len(llama.W_V)) == (4, 2, 2)
    assert llama.rotary is not None
    assert llama.rotary.dim == 8
    assert neox.rotary is not None
    assert neox.rotary.dim == 4
    assert attentions(subject("gpt2"))[0].rotary is None


def test_a_norm_keeps_its_gain_and_bias() -> None:
    for family, kind in (("gpt2", "layer"), ("llama", "rms")):
        norm = subject(family).units[0]
        assert isinstance(norm, Norm)
        assert norm.kind == kind
        assert not torch.equal(norm.gain, torch.ones(WIDTH))
        assert bool(norm.bias.any()) == (kind == "layer")


@pytest.mark.parametrize("family", ["neox", *SEQUENTIAL])
def test_the_second_norm_reads_what_the_mlp_path_starts_from(family: str) -> None:
    norms = [unit for unit in subject(family).units if isinstance(unit, Norm) and unit.layer == 0]
    assert norms[1].input_site == f"blocks.0.hook_resid_{'pre' if family == 'neox' else 'mid'}"


def test_rotation_preserves_norms_and_scores_depend_on_distance_alone() -> None:
    x = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 6, 8)
    for adjacent in (False, True):
        turned = Rotary(torch.tensor([1.0, 0.3, 0.1]), adjacent)(x)
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
        scores = (turned @ turned.mT)[0]
        torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1], rtol=1e-6, atol=1e-6)
        assert torch.equal(turned[..., 6:], x[..., 6:])
        assert torch.equal(turned[:, 0], x[:, 0])


def test_adjacent_and_half_split_pairs_are_the_same_rotation_of_permuted_coordinates() -> None:
    x, frequencies = torch.randn(2, 5, 6), torch.tensor([1.0, 0.3, 0.1])
    permuted = torch.tensor([0, 3, 1, 4, 2, 5])
    half_split, adjacent = Rotary(frequencies)(x), Rotary(frequencies, adjacent=True)(x[..., permuted])
    torch.testing.assert_close(half_split[..., permuted], adjacent)


def test_a_unit_moves_to_another_dtype_whole() -> None:
    for unit in subject("llama", torch.float32).units:
        double = unit.to(torch.float64)
        x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
        assert double(x).dtype == torch.float64
        torch.testing.assert_close(unit(x.float()).double(), double(x), rtol=1e-3, atol=1e-4)


def test_every_activation_is_monotone_far_out_and_zero_at_zero() -> None:
    for activation in ACTIVATIONS.values():
        assert activation.function(torch.zeros(1)).item() == 0
        torch.testing.assert_close(
            activation.function(torch.tensor([30.0, -30.0])), torch.tensor([30.0, 0.0]), atol=1e-6, rtol=0
        )


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_constants_of_an_activation_bound_its_slopes_and_its_distance_from_relu(name: str) -> None:
    function, lipschitz, gap = ACTIVATIONS[name]
    x = torch.linspace(-12, 12, 480_001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(function(x).sum(), x)
    assert float(slope.max()) <= lipschitz <= float(slope.max()) + 1e-4
    assert float(slope.min()) >= 1 - lipschitz
    apart = float((function(x) - x.relu()).abs().max())
    assert apart <= gap <= apart + 1e-4


def test_an_unknown_activation_is_refused_by_name() -> None:
    W, b = torch.zeros(2, 2), torch.zeros(2)
    with pytest.raises(UnsupportedModel, match=r"'mish'.*relu"):
        MLP(input_site="x", output_site="y", layer=0, W_in=W, b_in=b, activation="mish", W_out=W, b_out=b)


def test_a_mixture_of_experts_is_refused_with_its_block_and_class() -> None:
    model = Subject.load(str(folder("mixtral")))
    assert model.harvest(model.tokens(["w1 w2"]), ["blocks.0.ln2.hook_normalized"]).shape == (2, 1, WIDTH)
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.mlp is a Mixtral"):
        _ = model.units


class Own(HookedRootModule):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.hook_embed = HookPoint()
        self.setup()

    def forward(self, ids: Tensor) -> Tensor:
        return self.hook_embed(self.embed(ids)) @ self.embed.weight.T


class Described(Own):
    def units(self) -> list[Unit]:
        W_U = self.embed.weight.detach().T
        return [Unembedding(input_site="hook_embed", output_site=LOGITS, W_U=W_U, b_U=torch.zeros(5))]


def test_a_model_that_is_no_bridge_describes_its_units_itself_or_is_refused() -> None:
    assert isinstance(Subject.wrap(Described(), "described").units[0], Unembedding)
    with pytest.raises(UnsupportedModel, match=r"a Own, whose blocks are not known.*`units\(\)`"):
        _ = Subject.wrap(Own(), "own").units
