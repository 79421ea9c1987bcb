"""Texts in the features of a crosscoder of two models, and how these features reach the MLPs of each."""

from __future__ import annotations

import pytest
import torch

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import encode
from crossproof.binding.interactions import interactions
from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import harvest
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import GatedNeurons, PlainNeurons
from crossproof.subject.subject import Subject
from tests.binding import coders
from tests.subject import tiny


def two(family: str) -> tuple[Subject, Subject, Crosscoder]:
    """A model, another with other weights, and a crosscoder of both."""
    base = tiny.subject(family)
    tuned = Subject.load(str(tiny.folder(family)), dtype=torch.float64)
    tuned.name = "tuned"
    torch.manual_seed(1)
    for parameter in tuned.model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    one = coders.on(base, "blocks.*.hook_resid_pre", coders.MLP_INPUTS)
    sites = tuple(Site(subject=model.name, hook=hook) for model in (base, tuned) for hook in one.sites)
    coder = Crosscoder(CrosscoderConfig(sites=sites, width=one.config.width, features=20, activation="relu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        coder.scale.copy_(torch.linspace(0.5, 2.0, len(sites)))
    return base, tuned, coder


def test_both_models_read_the_texts_and_the_codes_are_shared() -> None:
    base, tuned, coder = two("gpt2")
    tokens = tiny.some_tokens("gpt2")
    whole = coder.encode(harvest((base, tuned), coder, tokens)).dense()
    torch.testing.assert_close(encode((base, tuned), coder, tokens).codes.dense(), whole)
    torch.testing.assert_close(encode((tuned, base), coder, tokens).codes.dense(), whole)
    site = "blocks.1.hook_resid_pre"
    (given,) = encode((base, tuned), coder, tokens, [site]).given
    torch.testing.assert_close(given, base.cache(tokens, [site])[site][:, 0].float())


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_shared_codes_reach_the_pre_activations_of_each_models_reconstruction(family: str) -> None:
    base, tuned, coder = two(family)
    coder = coder.double()
    codes = coder.encode(harvest((base, tuned), coder, tiny.some_tokens(family)).double())
    f, reconstruction = codes.dense(), coder.decode(codes)
    for model in (base, tuned):
        bound, neurons = bound_mlps(model, coder), neurons_of(model, coder, torch.float64)
        assert len(bound) == model.n_layers
        for mlp, its in zip(bound, neurons, strict=True):
            site = coder.config.sites[mlp.site]
            assert (site.subject, site.hook) == (model.name, mlp.unit.input_site)
            at_input = reconstruction[:, mlp.site]
            if isinstance(its, GatedNeurons):
                torch.testing.assert_close(f @ its.gate.A + its.gate.beta, mlp.unit.gate(at_input))
            else:
                assert isinstance(its, PlainNeurons)
                torch.testing.assert_close(f @ its.pre.A + its.pre.beta, mlp.unit.pre(at_input))


def test_what_needs_one_model_refuses_a_crosscoder_of_two() -> None:
    base, _, coder = two("gpt2")
    with pytest.raises(MismatchError, match=r"several models .* and not .* alone"):
        encode(base, coder, tiny.some_tokens("gpt2"))
    with pytest.raises(MismatchError, match="several models"):
        interactions(base, coder, tiny.some_tokens("gpt2"))
    stranger = Subject.wrap(base.model, "stranger", base.tokenizer)
    with pytest.raises(MismatchError, match="stranger is none of them"):
        bound_mlps(stranger, coder)
