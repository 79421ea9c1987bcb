"""The recursion: a bound for every token of every ordinary family of models, and a waterfall that adds up to it."""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest
import torch

from crossproof.binding.bound import neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel
from crossproof.interaction.neurons import dominance
from crossproof.proof.recursion.chain import Chain
from crossproof.proof.recursion.pairs import Pairs
from crossproof.proof.recursion.recursion import Recursion, recursion
from crossproof.proof.recursion.walk import walk
from crossproof.proof.recursion.ways import BALLS, EACH, LAST_READ, MASSES, MODEL_RUN, PAPER, UNITS_RUN, WAYS
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens
from crossproof.units import ACTIVATIONS
from tests.binding import coders
from tests.subject import tiny

SITES = ("blocks.*.hook_resid_pre", "blocks.*.ln1.hook_normalized", "blocks.*.ln2.hook_normalized")
MID = "blocks.*.hook_resid_mid"


def subject(family: str) -> Subject:
    return tiny.subject(family, torch.float32)


def coder(family: str, features: int = 12) -> Crosscoder:
    its = subject(family)
    sites = (*SITES, f"blocks.{its.n_layers - 1}.hook_resid_post")
    return coders.on(its, *sites, *([] if family == "neox" else [MID]), features=features)


def tokens(family: str) -> Tokens:
    return tiny.some_tokens(family, torch.float32)[:2]


@cache
def found(family: str) -> Recursion:
    return recursion(subject(family), coder(family), tokens(family))


@pytest.mark.parametrize("family", ["gpt2", "neo", "neox", "neox-sequential"])
def test_no_token_loses_more_than_any_way_certifies(family: str) -> None:
    its, texts = found(family), tokens(family)
    losses = subject(family).token_losses(texts)
    truth = losses[texts.targets != NO_TARGET]
    assert torch.allclose(its.truth.float(), truth, atol=1e-5)
    for way in its.ways.values():
        assert bool((way.loss >= its.truth - 1e-4).all()), way.way.name
        assert way.loss.shape == its.item_text.shape
        assert way.radius.shape == its.token_text.shape == (texts.n_kept,)


def test_better_units_give_smaller_radii() -> None:
    ways = found("gpt2").ways
    for better, worse in ((BALLS, PAPER), (MASSES, PAPER)):
        assert float(ways[better.name].radius.mean()) < float(ways[worse.name].radius.mean())
    assert ways[LAST_READ.name].mean < ways[PAPER.name].mean


def test_reading_the_last_site_leaves_the_crosscoders_error_alone() -> None:
    its, texts, on = subject("gpt2"), tokens("gpt2"), coder("gpt2")
    rows = its.harvest(texts, on.sites)
    last = list(on.sites).index("blocks.3.hook_resid_post")
    decoded = on.decode(on.encode(rows))[:, last].double()
    error = (rows[:, last].double() - decoded).norm(dim=1)
    size = (decoded - decoded.mean(1, keepdim=True)).norm(dim=1)
    assert torch.allclose(found("gpt2").ways[LAST_READ.name].radius, error / size, rtol=1e-3)


@pytest.mark.parametrize("family", ["gpt2", "neox"])
def test_shares_add_up_to_the_radius_and_no_term_makes_it_smaller(family: str) -> None:
    for way in (PAPER, MASSES):
        its = found(family).ways[way.name]
        radius = float(its.radius.mean())
        assert sum(cost.share or 0.0 for cost in its.terms) == pytest.approx(radius, rel=1e-6)
        assert all(cost.without <= radius * (1 + 1e-9) for cost in its.terms)
        assert all((cost.share is None) == (cost.term.kind == "growth") for cost in its.terms)
        assert all(cost.share >= -1e-9 * radius for cost in its.terms if cost.share is not None)
        kinds = [cost.term.kind for cost in its.terms]
        assert kinds[0] == "reconstruction"
        assert kinds.count("interaction") == subject(family).n_layers
    assert not any(cost.term.kind == "interaction" and cost.size for cost in found(family).ways[UNITS_RUN.name].terms)


def test_what_a_unit_claims_of_the_next_site_is_true_where_the_model_is_read_before_it() -> None:
    for site in found("gpt2").sites:
        assert set(site.claimed) == {way.name for way in EACH}
        assert all(claimed >= site.true * (1 - 1e-9) for claimed in site.claimed.values()), site.site


def test_positions_that_the_crosscoder_does_not_describe_are_run_as_the_model_is() -> None:
    its, texts = found("gpt2"), tokens("gpt2")
    first = torch.nonzero(texts.targets[texts.targets != NO_TARGET] == texts.targets[0, 0])[0, 0]
    assert not bool(texts.keep[0, 0])
    assert int(first) == 0
    for way in its.ways.values():
        assert float(way.loss[0]) == pytest.approx(float(its.truth[0]), abs=1e-3)


def test_pairs_add_up_to_the_papers_term_at_each_mlp() -> None:
    its, on, texts = subject("gpt2"), coder("gpt2"), tokens("gpt2")
    chain, pairs = Chain.of(its, on), Pairs(on.config.features)
    sizes: dict[str, float] = {}
    for text in chain.texts(texts):
        pairs.add(chain, text)
        for term, size in walk(chain, text, PAPER).sizes.items():
            if term.kind == "interaction":
                sizes[term.place] = sizes.get(term.place, 0.0) + float(size.sum())
    scores = dominance(codes_of(its, on, texts), neurons_of(its, on, torch.float64))
    for layer, score in enumerate(scores):
        features, costs = pairs.of(f"blocks.{layer}.hook_mlp_out")
        lipschitz = ACTIVATIONS["gelu_new"].lipschitz
        assert float(costs.sum()) == pytest.approx(float(score.score.sum()) * lipschitz, rel=1e-4)
        assert float(costs.sum()) == pytest.approx(sizes[f"blocks.{layer}.hook_mlp_out"], rel=1e-4)
        assert bool((features[:, 0] != features[:, 1]).all())
        assert bool((costs.diff() <= 0).all())
    ranked = found("gpt2").pairs
    assert [pair.share for pair in ranked] == sorted((pair.share for pair in ranked), reverse=True)


def test_what_ways_have_in_common_is_computed_once_and_counted_for_each() -> None:
    its = found("gpt2").ways
    assert its[PAPER.name].operations["attention"] == its[MASSES.name].operations["attention"] > 0
    assert set(its[MODEL_RUN.name].operations) >= {"MLPs", "attention", "norms", "loss", "decoding"}
    assert len(its) == len(WAYS)


def test_a_model_whose_units_do_not_make_it_up_is_refused() -> None:
    its, on = subject("gpt2"), coder("gpt2")
    chain = Chain.of(its, on)
    steps = list(chain.steps)
    unit = steps[3].unit
    steps[3] = dataclasses.replace(steps[3], unit=dataclasses.replace(unit, b_out=unit.b_out * 1.5))  # type: ignore
    with pytest.raises(UnsupportedModel, match="nat from the model's"):
        next(iter(dataclasses.replace(chain, steps=tuple(steps)).texts(tokens("gpt2"))))


def test_what_the_recursion_cannot_do_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="gated"):
        recursion(subject("llama"), coders.on(subject("llama"), *SITES), tokens("llama"))
    with pytest.raises(MismatchError, match=r"none of them is a residual stream.*blocks\.0\.hook_resid_pre"):
        recursion(subject("gpt2"), coders.on(subject("gpt2")), tokens("gpt2"))
    texts = tokens("gpt2")
    nothing = Tokens(texts.ids, torch.zeros_like(texts.keep), texts.targets)
    with pytest.raises(CrossproofError, match="no tokens"):
        recursion(subject("gpt2"), coder("gpt2"), nothing)
