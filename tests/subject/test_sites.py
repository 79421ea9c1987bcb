"""A site holds what its name says, and writing it has the effect that computing by hand has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from crossproof.errors import MismatchError, UnknownSite, UnsupportedModel
from crossproof.subject.patch import splice, splice_sites
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens
from tests.subject.tiny import BLOCKS, FAMILIES, SEQUENTIAL, WIDTH, hugging_face, some_tokens, subject, tolerance

LAYER = 1
PARTS = {
    "gpt2": ("transformer.h", "ln_1", "ln_2"),
    "neo": ("transformer.h", "ln_1", "ln_2"),
    "neox": ("gpt_neox.layers", "input_layernorm", "post_attention_layernorm"),
    "neox-sequential": ("gpt_neox.layers", "input_layernorm", "post_attention_layernorm"),
    "llama": ("model.layers", "input_layernorm", "post_attention_layernorm"),
    "mistral": ("model.layers", "input_layernorm", "post_attention_layernorm"),
}


def block(family: str, layer: int = LAYER) -> Any:
    return hugging_face(family).get_submodule(f"{PARTS[family][0]}.{layer}")


def norm(family: str, which: int) -> Any:
    return getattr(block(family), PARTS[family][which])


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def noise_like(value: Tensor) -> Tensor:
    return torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)


def patched(family: str, site: str) -> tuple[Tensor, Tensor]:
    """The logits when noise is written at a site, and the noise."""
    tokens = some_tokens(family)
    noise = noise_like(subject(family).cache(tokens, [site])[site])
    return subject(family).logits(tokens, {site: lambda value: noise}), noise


def first(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def like(output: Any, new: Tensor) -> Any:
    return (new, *output[1:]) if isinstance(output, tuple) else new


def by_hand(family: str, module: nn.Module, replace: Any) -> Tensor:
    """The logits of the Hugging Face model when `replace` computes a module's output from its input and output."""
    handle = module.register_forward_hook(lambda _, inputs, output: like(output, replace(inputs, first(output))))
    try:
        return hugging_face(family)(some_tokens(family).ids).logits
    finally:
        handle.remove()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_the_one_hugging_face_runs(family: str) -> None:
    tokens = some_tokens(family)
    assert relative(subject(family).logits(tokens), hugging_face(family)(tokens.ids).logits) < tolerance(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("which", [1, 2])
def test_writing_a_norm_output_is_what_the_next_weights_multiply(family: str, which: int) -> None:
    ours, noise = patched(family, f"blocks.{LAYER}.ln{which}.hook_normalized")
    assert relative(ours, by_hand(family, norm(family, which), lambda inputs, output: noise)) < tolerance(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_norm_output_is_read_after_gain_and_bias(family: str) -> None:
    tokens, seen = some_tokens(family), []
    by_hand(family, norm(family, 2), lambda inputs, output: seen.append(output) or output)
    site = f"blocks.{LAYER}.ln2.hook_normalized"
    assert relative(subject(family).cache(tokens, [site])[site], seen[0]) < tolerance(family)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", ["pre", "post"])
def test_writing_the_residual_stream_between_blocks_reaches_both_paths(family: str, end: str) -> None:
    ours, noise = patched(family, f"blocks.{LAYER if end == 'pre' else LAYER - 1}.hook_resid_{end}")
    assert relative(ours, by_hand(family, block(family, LAYER - 1), lambda inputs, output: noise)) < tolerance(family)


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_writing_the_residual_stream_inside_a_block_reaches_mlp_and_skip_path(family: str) -> None:
    ours, noise = patched(family, f"blocks.{LAYER}.hook_resid_mid")
    after = noise + block(family).mlp(norm(family, 2)(noise))
    assert relative(ours, by_hand(family, block(family), lambda inputs, output: after)) < tolerance(family)


@pytest.mark.parametrize("family", SEQUENTIAL)
def test_patches_act_in_order_of_computation_and_are_read_as_patched(family: str) -> None:
    tokens, model = some_tokens(family), subject(family)
    mid, attention, pre = (f"blocks.{LAYER}.hook_{end}" for end in ("resid_mid", "attn_out", "resid_pre"))
    patch = {mid: lambda value: 2 * value, attention: lambda value: value + 1, pre: lambda value: -value}
    seen = model.cache(tokens, [pre, mid], {pre: patch[pre], attention: patch[attention]})
    both = model.cache(tokens, [pre, mid], patch)
    assert torch.equal(both[pre], seen[pre])
    torch.testing.assert_close(both[mid], 2 * seen[mid])


def doubled_in_place(value: Tensor) -> Tensor:
    return value.mul_(2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patch_in_place_does_what_a_patch_out_of_place_does_and_changes_no_site_before_it(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    sites = model.find_sites([*model.default_sites(), "blocks.*.hook_attn_out", "blocks.*.hook_mlp_out", "*resid_post"])
    base = model.cache(tokens, sites)
    for index, site in enumerate(sites):
        logits, values = model.run(tokens, sites, {site: lambda value: 2 * value})
        in_place, seen = model.run(tokens, sites, {site: doubled_in_place})
        assert torch.equal(in_place, logits), site
        for number, other in enumerate(sites):
            assert torch.equal(seen[other], values[other]), (site, other)
            # The end of one block and the beginning of the next are one value under two names.
            if number < index:
                assert torch.equal(seen[other], base[other]), (site, other)


def test_a_patch_that_returns_nothing_is_named() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    for site in ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_mid"):
        with pytest.raises(MismatchError, match=rf"a patch at {site} must return.*NoneType"):
            model.logits(tokens, {site: lambda value: None})


@pytest.mark.parametrize("family", FAMILIES)
def test_writing_its_own_value_at_every_site_changes_no_bit(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    sites = model.find_sites(model.default_sites())
    values = torch.stack([value[tokens.keep] for value in model.cache(tokens, sites).values()], dim=1)
    assert torch.equal(model.logits(tokens, splice_sites(tokens, sites, values)), model.logits(tokens))


def test_a_splice_changes_kept_positions_only() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    site = "blocks.0.hook_resid_mid"
    before = model.cache(tokens, [site])[site]
    rows = noise_like(before[tokens.keep])
    after = model.cache(tokens, [site], {site: splice(tokens, rows)})[site]
    assert torch.equal(after[~tokens.keep], before[~tokens.keep])
    torch.testing.assert_close(after[tokens.keep], rows)
    scaled = model.cache(tokens, [site], {site: splice(tokens, lambda old: 2 * old)})[site]
    torch.testing.assert_close(scaled[tokens.keep], 2 * before[tokens.keep])


def test_a_patch_or_splice_of_the_wrong_shape_is_named() -> None:
    model, tokens = subject("gpt2"), some_tokens("gpt2")
    site = "blocks.0.hook_resid_pre"
    with pytest.raises(MismatchError, match=site):
        model.logits(tokens, {site: lambda value: value[:, 1:]})
    with pytest.raises(MismatchError, match="a row per kept position"):
        model.logits(tokens, {site: splice(tokens, torch.zeros(2, WIDTH))})
    with pytest.raises(MismatchError, match="made for texts"):
        model.logits(tokens[:2], {site: splice(tokens, torch.zeros(tokens.n_kept, WIDTH))})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_recipe_has_the_sites_of_the_paper(family: str) -> None:
    model, blocks = subject(family), BLOCKS.get(family, 2)
    sites = model.find_sites(model.default_sites())
    assert len(sites) == (4 if family in SEQUENTIAL else 3) * blocks + 1
    assert sites[-1] == f"blocks.{blocks - 1}.hook_resid_post"
    assert {model.width(site) for site in sites} == {WIDTH}


def test_sites_are_found_in_order_of_computation_and_once() -> None:
    model = subject("gpt2")
    found = model.find_sites(["blocks.1.*", "blocks.0.hook_resid_*", "blocks.*.hook_resid_mid"])
    assert list(found) == sorted(found, key=model.sites.index)
    assert len(found) == len(set(found))
    assert found[:3] == tuple(f"blocks.0.hook_resid_{end}" for end in ("pre", "mid", "post"))


def test_an_unknown_site_names_the_nearest_and_how_to_see_all() -> None:
    for ask in (
        lambda: subject("gpt2").find_sites(["blocks.0.ln2.hook_normalised"]),
        lambda: subject("gpt2").cache(some_tokens("gpt2"), ["blocks.0.ln2.hook_normalised"]),
        lambda: subject("gpt2").logits(some_tokens("gpt2"), {"blocks.0.ln2.hook_normalised": torch.neg}),
    ):
        with pytest.raises(UnknownSite, match=r"blocks\.0\.ln2\.hook_normalized.*`Subject\.sites` lists all"):
            ask()


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("family", FAMILIES)
def test_every_site_that_can_be_written_reaches_the_logits(family: str) -> None:
    model, tokens = subject(family), some_tokens(family)
    base = model.logits(tokens)
    refused = []
    for site in model.find_sites([f"blocks.{LAYER}.*", "ln_final.*", "hook_*"]):
        try:
            changed = model.logits(tokens, {site: lambda value: value + 0.3 * noise_like(value)})
        except UnsupportedModel:
            refused.append(site.split(".")[-1])
        else:
            assert not torch.equal(changed, base), site
    assert refused == (["hook_pattern", "hook_attn_scores"] if family == "neo" else [])


class Gain(nn.Module):
    """A norm in the style of HookedTransformer's RMSNorm: its hook shows the value before the gain."""

    def __init__(self, gain: float) -> None:
        super().__init__()
        self.hook_normalized = HookPoint()
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.hook_normalized(x / x.square().mean(-1, keepdim=True).sqrt()) * self.gain


class OneNorm(HookedRootModule):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.ln_final = Gain(gain)
        self.setup()

    def forward(self, ids: Tensor) -> Tensor:
        return self.ln_final(self.embed(ids))


def test_a_norm_seen_only_before_its_gain_is_refused_by_name() -> None:
    site = "ln_final.hook_normalized"
    ids = torch.zeros(1, 3, dtype=torch.long)
    tokens = Tokens(ids, ids == 0, torch.full_like(ids, NO_TARGET))
    assert Subject.wrap(OneNorm(gain=1.0), "folded").harvest(tokens, [site]).shape == (3, 1, 4)
    unfolded = Subject.wrap(OneNorm(gain=2.0), "unfolded")
    for use in (
        lambda: unfolded.harvest(tokens, [site]),
        lambda: unfolded.run(tokens, [site]),
        lambda: unfolded.logits(tokens, {site: torch.neg}),
    ):
        with pytest.raises(UnsupportedModel, match=f"{site}.*before the norm's gain"):
            use()
