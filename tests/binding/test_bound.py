"""Which site feeds which MLP, and that the bound neurons are those of the model on the reconstruction."""

from __future__ import annotations

import pytest
import torch

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import GatedNeurons, PlainNeurons
from tests.binding import coders
from tests.subject import tiny


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_features_and_biases_add_up_to_the_pre_activations_of_the_reconstruction(family: str) -> None:
    subject = tiny.subject(family)
    coder = coders.on(subject, "blocks.0.hook_resid_pre", coders.MLP_INPUTS).double()
    x = subject.harvest(tiny.some_tokens(family), coder.sites).double()
    codes = coder.encode(x)
    f, reconstruction = codes.dense(), coder.decode(codes)
    bound, neurons = bound_mlps(subject, coder), neurons_of(subject, coder, torch.float64)
    assert len(bound) == len(neurons) == subject.n_layers
    for layer, (mlp, its) in enumerate(zip(bound, neurons, strict=True)):
        assert coder.sites[mlp.site] == mlp.unit.input_site == f"blocks.{layer}.ln2.hook_normalized"
        assert its.name == mlp.name == f"blocks.{layer}.mlp"
        at_input = reconstruction[:, mlp.site]
        if isinstance(its, GatedNeurons):
            torch.testing.assert_close(f @ its.gate.A + its.gate.beta, mlp.unit.gate(at_input))
            torch.testing.assert_close(f @ its.value.A + its.value.beta, mlp.unit.value(at_input))
        else:
            assert isinstance(its, PlainNeurons)
            torch.testing.assert_close(f @ its.pre.A + its.pre.beta, mlp.unit.pre(at_input))
        assert not its.loudness.requires_grad


def test_neurons_are_in_float32_unless_another_dtype_is_asked_for() -> None:
    subject = tiny.subject("gpt2")
    plain = neurons_of(subject, coders.on(subject))[0]
    assert isinstance(plain, PlainNeurons)
    assert plain.pre.A.dtype == plain.loudness.dtype == torch.float32
    assert not plain.pre.A.requires_grad


def test_only_the_mlps_whose_input_the_crosscoder_has_are_bound() -> None:
    subject = tiny.subject("gpt2")
    coder = coders.on(subject, "blocks.1.ln2.hook_normalized", "blocks.3.*.hook_normalized", "blocks.2.hook_resid_mid")
    assert [mlp.name for mlp in bound_mlps(subject, coder)] == ["blocks.1.mlp", "blocks.3.mlp"]


def test_a_crosscoder_without_any_input_of_an_mlp_is_refused_naming_both_sides() -> None:
    subject = tiny.subject("gpt2")
    with pytest.raises(MismatchError) as refused:
        bound_mlps(subject, coders.on(subject, "blocks.*.hook_resid_pre"))
    assert "blocks.1.hook_resid_pre" in str(refused.value)
    assert "blocks.1.ln2.hook_normalized" in str(refused.value)


def test_a_crosscoder_of_another_model_is_refused() -> None:
    with pytest.raises(MismatchError, match="has no site blocks"):
        bound_mlps(tiny.subject("llama"), coders.on(tiny.subject("gpt2")))
