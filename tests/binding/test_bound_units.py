"""Which site feeds which attention layer and which norm."""

from __future__ import annotations

import pytest

from crossproof.binding.bound_units import bound_attention, bound_norms
from crossproof.errors import MismatchError
from crossproof.units import MLP, Attention, GatedMLP, Unembedding
from tests.binding import coders
from tests.subject import tiny

ALL = ("blocks.*.hook_resid_*", "blocks.*.ln?.hook_normalized", "ln_final.hook_normalized")


@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_each_is_bound_to_the_site_it_reads_and_named_after_its_block(family: str) -> None:
    subject = tiny.subject(family)
    coder = coders.on(subject, *ALL)
    attention, norms = bound_attention(subject, coder), bound_norms(subject, coder)
    layers = range(subject.n_layers)
    assert [its.name for its in attention] == [f"blocks.{layer}.attn" for layer in layers]
    of_blocks = [f"blocks.{layer}.{norm}" for layer in layers for norm in ("ln1", "ln2")]
    assert [its.name for its in norms] == [*of_blocks, "ln_final"]
    for bound in (*attention, *norms):
        assert coder.sites[bound.site] == bound.unit.input_site
    assert {coder.sites[its.site] for its in attention} == {f"blocks.{layer}.ln1.hook_normalized" for layer in layers}
    second = "hook_resid_pre" if family == "neox" else "hook_resid_mid"  # neox works in parallel
    assert [coder.sites[its.site] for its in norms[:2]] == ["blocks.0.hook_resid_pre", f"blocks.0.{second}"]
    assert coder.sites[norms[-1].site] == f"blocks.{subject.n_layers - 1}.hook_resid_post"


@pytest.mark.parametrize(("family", "mlp"), [("gpt2", MLP), ("neox", MLP), ("llama", GatedMLP)])
def test_a_norm_feeds_what_reads_its_output(family: str, mlp: type[MLP] | type[GatedMLP]) -> None:
    subject = tiny.subject(family)
    norms = bound_norms(subject, coders.on(subject, *ALL))
    kinds = [Attention, mlp] * subject.n_layers + [Unembedding]
    assert [[type(unit) for unit in norm.feeds] for norm in norms] == [[kind] for kind in kinds]
    assert all(unit.input_site == norm.unit.output_site for norm in norms for unit in norm.feeds)


def test_only_those_whose_input_the_crosscoder_has_are_bound() -> None:
    subject = tiny.subject("gpt2")
    coder = coders.on(subject, "blocks.2.hook_resid_mid", "blocks.1.ln1.hook_normalized")
    assert [its.name for its in bound_attention(subject, coder)] == ["blocks.1.attn"]
    assert [its.name for its in bound_norms(subject, coder)] == ["blocks.2.ln2"]
    without = coders.on(subject, coders.MLP_INPUTS)
    assert (bound_attention(subject, without), bound_norms(subject, without)) == ((), ())


def test_a_crosscoder_of_another_model_is_refused() -> None:
    foreign = coders.on(tiny.subject("gpt2"))
    for bound in (bound_attention, bound_norms):
        with pytest.raises(MismatchError, match="has no site blocks"):
            bound(tiny.subject("llama"), foreign)
