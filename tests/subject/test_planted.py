"""The planted model is what its ground truth says: judged by switching features on and off in the model itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crossproof.errors import CrossproofError, UnknownSite
from crossproof.subject.subject import Subject
from crossproof.subject.zoo.planted import build_planted, describe, ground_truth, load_planted, planted_source
from crossproof.subject.zoo.planted_model import PlantedModel
from crossproof.subject.zoo.planted_oracle import (
    end_to_end_game,
    neuron_game,
    output_game,
    second_difference,
    shapley_taylor,
)
from crossproof.subject.zoo.planted_truth import GroundTruth, Pair

EXACT = 1e-12
BLOCKS = (0, 1)
TRUTH = ground_truth()
GADGET_PAIRS = [pair for pair in TRUTH.pairs if pair.gadget]
COMPANIONS = [pair for pair in TRUTH.pairs if pair.kind == "companions"]


def label(pair: Pair) -> str:
    return f"{'-'.join(pair.names)}-{pair.kind}"


@pytest.fixture(scope="module")
def model() -> PlantedModel:
    return build_planted(dtype=torch.float64)


def tokens_showing(model: PlantedModel, pair: Pair) -> Tensor:
    """Strengths at every token where a pair, and what it requires, is active."""
    wanted = [pair.i, pair.j, *(TRUTH.index(name) for name in pair.requires)]
    return model.codes[(model.codes[:, wanted] > 0).all(1)]


def forced(pair: Pair) -> Tensor:
    """Strengths of a token that the vocabulary does not have: only this pair is active."""
    strengths = torch.zeros(1, len(TRUTH.features), dtype=torch.float64)
    strengths[:, [pair.i, pair.j]] = 1.2
    return strengths


def meetings(model: PlantedModel, features: Iterable[int], each: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of these features that meets, with the strengths at the first tokens where it does, a row each."""
    first, second, rows = [], [], []
    for i, j in combinations(features, 2):
        shown = ((model.codes[:, i] > 0) & (model.codes[:, j] > 0)).nonzero()[:each, 0]
        first += [i] * len(shown)
        second += [j] * len(shown)
        rows.append(model.codes[shown])
    return torch.tensor(first), torch.tensor(second), torch.cat(rows)


# -- the pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", [p for p in GADGET_PAIRS if p.interacts], ids=label)
def test_a_pair_that_interacts_does_so_at_every_token_with_the_declared_sign_in_the_declared_neurons(model, pair):
    out = model.directions(f"blocks.{pair.block}.hook_mlp_out")[TRUTH.index(pair.gadget)]
    shown = forced(pair) if pair.potential else tokens_showing(model, pair)
    assert len(shown)
    neurons = second_difference(neuron_game(model, pair.block), shown, pair.i, pair.j)
    moved = torch.zeros(neurons.shape[1], dtype=torch.bool)
    moved[list(pair.neurons)] = True
    assert torch.equal(neurons.abs() > EXACT, moved.expand_as(neurons))
    effect = second_difference(output_game(model, pair.block), shown, pair.i, pair.j)
    # The output of the exclusive or is the only one that comes near 0.
    assert (pair.sign * (effect @ out)).min() > (1e-6 if "xor" in pair.names else 0.2 - EXACT)
    assert torch.allclose(effect, (effect @ out)[:, None] * out, atol=EXACT)


@pytest.mark.parametrize("pair", [p for p in GADGET_PAIRS if not p.interacts], ids=label)
def test_a_pair_that_only_shares_neurons_does_not_interact(model, pair):
    shown = tokens_showing(model, pair)
    assert len(shown)
    weights = model.blocks[pair.block].mlp
    contributions = (model.directions(f"blocks.{pair.block}.hook_mlp_in") @ weights.W_in)[[pair.i, pair.j]]
    assert (contributions.abs() > EXACT).all(0).nonzero()[:, 0].tolist() == list(pair.neurons)
    assert second_difference(neuron_game(model, pair.block), shown, pair.i, pair.j).abs().max() < EXACT


@pytest.mark.parametrize("pair", COMPANIONS, ids=label)
def test_companions_fire_together_often_and_interact_in_no_block(model, pair):
    assert pair.together > 0.04
    for block in BLOCKS:
        game = neuron_game(model, block)
        assert second_difference(game, tokens_showing(model, pair), pair.i, pair.j).abs().max() < EXACT


def test_a_triple_does_not_interact_without_its_third(model):
    pair = next(pair for pair in TRUTH.pairs if pair.requires)
    assert second_difference(output_game(model, 0), forced(pair), pair.i, pair.j).abs().max() < EXACT


@pytest.mark.parametrize("block", BLOCKS)
def test_pairs_that_are_not_declared_do_not_interact_where_both_are_active(model, block):
    i, j, strengths = meetings(model, range(len(TRUTH.features)))
    largest = second_difference(neuron_game(model, block), strengths, i, j).abs().amax(1)
    moved = set(zip(i[largest > EXACT].tolist(), j[largest > EXACT].tolist(), strict=True))
    assert moved == TRUTH.interacting(block) & set(zip(i.tolist(), j.tolist(), strict=True))


@pytest.mark.parametrize("block", BLOCKS)
def test_features_reach_exactly_the_neurons_whose_gadget_reads_them(model, block):
    contributions = model.directions(f"blocks.{block}.hook_mlp_in") @ model.blocks[block].mlp.W_in
    declared = torch.zeros_like(contributions)
    owners = [neuron for gadget in TRUTH.gadgets if gadget.block == block for neuron in gadget.neurons]
    for n, neuron in enumerate(owners):
        for name, weight in neuron.reads.items():
            declared[TRUTH.index(name), n] = weight
    assert torch.allclose(contributions, declared, atol=EXACT)


def test_end_to_end_exactly_the_declared_pairs_of_embedding_features_interact_among_those_that_meet(model):
    i, j, strengths = meetings(model, [i for i, feature in enumerate(TRUTH.features) if feature.gadget is None])
    largest = second_difference(end_to_end_game(model), strengths, i, j).abs().amax(1)
    moved = set(zip(i[largest > 1e-9].tolist(), j[largest > 1e-9].tolist(), strict=True))
    assert moved == TRUTH.end_to_end() & set(zip(i.tolist(), j.tolist(), strict=True))


def test_a_site_without_a_true_decoder_is_named(model):
    with pytest.raises(UnknownSite, match="hook_pre"):
        model.directions("blocks.0.mlp.hook_pre")


@pytest.mark.parametrize("block", BLOCKS)
def test_shapley_taylor_is_zero_for_undeclared_pairs_and_has_the_declared_sign_for_others(model, block):
    declared = {(pair.i, pair.j): pair for pair in TRUTH.pairs if pair.block == block and pair.interacts}
    directions, game = model.directions(f"blocks.{block}.hook_mlp_out"), output_game(model, block)
    exists = torch.tensor([feature.block is None or feature.block < block for feature in TRUTH.features])
    codes = model.codes * exists
    sizes = (codes > 0).sum(1)
    for strengths in codes[(sizes >= 2) & (sizes <= 6)][:25]:
        index = shapley_taylor(game, strengths)
        for (i, j), value in index.items():
            pair = declared.get((i, j))
            if pair is None:
                assert value.abs().max() < EXACT
            elif all(strengths[TRUTH.index(name)] > 0 for name in pair.requires):
                assert pair.sign * float(value @ directions[TRUTH.index(pair.gadget)]) > 1e-6
        # T12: the value of all is the value of none, what each adds to nothing, and the indices of all pairs.
        alone = game(torch.diag(strengths)[strengths > 0])
        none, whole = game(torch.stack([torch.zeros_like(strengths), strengths]))
        total = none + (alone - none).sum(0) + torch.stack(list(index.values())).sum(0)
        assert torch.allclose(total, whole, atol=1e-10)


@pytest.mark.parametrize("gadget", [g for g in TRUTH.gadgets if not g.affine], ids=lambda g: g.name)
def test_an_output_fires_exactly_when_its_kind_says(model, gadget):
    a, b, *rest = [model.codes[:, TRUTH.index(name)] > 0 for name in gadget.reads]
    expected = {
        "conjunction": lambda: a & b,
        "minimum": lambda: a & b,
        "triple": lambda: a & b & rest[0],
        "splitting": lambda: (a | b) & rest[0],
        "exclusive or": lambda: a | b,
        "inhibition": lambda: a & ~b,
        "damping": lambda: a,
    }[gadget.kind]()
    assert torch.equal(model.codes[:, TRUTH.index(gadget.name)] > 0, expected)


# -- the dictionary ------------------------------------------------------------------------------------------------


def test_the_true_dictionary_reconstructs_every_site_exactly(model):
    _, cache = model.run_with_cache(torch.arange(TRUTH.vocabulary)[None])
    sites = [name for name in cache if "mlp.hook" not in name]
    assert set(TRUTH.sites) < set(sites)
    for site in sites:
        reconstruction = model.decoder_bias(site) + model.codes @ model.directions(site)
        assert torch.allclose(reconstruction, cache[site][0], atol=EXACT), site


def test_embedding_directions_are_orthonormal_but_for_the_two_children(model):
    names = [feature.name for feature in TRUTH.features if feature.gadget is None]
    directions = model.directions("hook_embed")[: len(names)]
    gram = directions @ directions.T
    expected = torch.eye(len(names), dtype=torch.float64)
    first, second = names.index("split.child1"), names.index("split.child2")
    expected[first, second] = expected[second, first] = 0.9
    assert torch.allclose(gram, expected, atol=EXACT)


def test_an_output_has_no_direction_before_the_block_that_writes_it(model):
    for feature in TRUTH.features:
        norms = [model.directions(site)[TRUTH.index(feature.name)].norm() for site in TRUTH.sites]
        if feature.block is None:
            assert norms[0] > 0.99
        else:
            resid = (norms[0], norms[2], norms[4])
            assert [float(norm) > 0.99 for norm in resid] == [block > feature.block for block in range(3)]


# -- the data ------------------------------------------------------------------------------------------------------


def test_texts_show_each_cluster_as_often_as_declared():
    codes = load_planted().codes
    ids = planted_source("train").tokens(0, 400).ids
    for population, size in ((codes, len(codes)), (codes[ids.flatten()], len(codes))):
        # Texts repeat the ids of a vocabulary that was itself drawn: that draw bounds the accuracy of both.
        for cluster in TRUTH.clusters:
            fires = population[:, [TRUTH.index(name) for name in cluster.members]] > 0
            for active, probability in cluster.patterns:
                wanted = torch.tensor([name in active for name in cluster.members])
                share = float((fires == wanted).all(1).double().mean())
                assert abs(share - probability) < 5 * math.sqrt(2 * probability * (1 - probability) / size)


def test_firing_probabilities_are_those_declared(model):
    shares = (model.codes > 0).double().mean(0)
    for feature, share in zip(TRUTH.features, shares.tolist(), strict=True):
        assert share == feature.frequency
        if feature.probability is not None:
            deviation = math.sqrt(feature.probability * (1 - feature.probability) / TRUTH.vocabulary)
            assert abs(share - feature.probability) < 4.5 * deviation


def test_pairs_declared_unseen_never_meet_and_all_others_do(model):
    unseen = [pair for pair in TRUTH.pairs if not pair.seen_together]
    assert {pair.kind for pair in unseen} == {"splitting", "conjunction", "inhibition"}
    for pair in TRUTH.pairs:
        meets = (model.codes[:, [pair.i, pair.j]] > 0).all(1)
        assert bool(meets.any()) == pair.seen_together
        assert float(meets.double().mean()) == pair.together


def test_strengths_lie_in_their_range_and_a_token_has_a_handful_of_features(model):
    embedded = model.codes[:, [i for i, feature in enumerate(TRUTH.features) if feature.gadget is None]]
    positive = embedded[embedded > 0]
    assert positive.min() >= TRUTH.weakest
    assert positive.max() <= TRUTH.strongest
    assert 3 < float((embedded > 0).sum(1).double().mean()) < 6
    assert (model.codes >= 0).all()


def test_a_text_is_the_same_whoever_asks_and_splits_differ():
    train = planted_source("train")
    together, alone = train.tokens(3, 5), planted_source("train").tokens(6, 1)
    assert torch.equal(together.ids[3:4], alone.ids)
    assert torch.equal(together.targets[3:4], alone.targets)
    assert together.keep.all()
    assert together.ids.shape == (5, 32)
    assert not torch.equal(train.tokens(0, 4).ids, planted_source("validation").tokens(0, 4).ids)
    counts = torch.bincount(train.tokens(0, 4096).ids.flatten(), minlength=TRUTH.vocabulary)
    assert 0.9 < float(counts.double().var() / counts.double().mean()) < 1.1
    with pytest.raises(CrossproofError, match="validation"):
        planted_source("test")


def test_the_model_predicts_its_targets_well_and_not_perfectly_and_is_calibrated():
    model = load_planted()
    tokens = planted_source("validation").tokens(0, 300)
    with torch.no_grad():
        logits = model(tokens.ids).flatten(0, 1)
    targets = tokens.targets.flatten()
    logs = logits.log_softmax(1)
    entropy = float(-(logs.exp() * logs).sum(1).mean())
    loss = float(torch.nn.functional.cross_entropy(logits, targets))
    assert abs(loss - entropy) < 0.05
    assert 0.4 < loss < 1.2
    assert 0.7 < float((logits.argmax(1) == targets).double().mean()) < 0.9
    assert loss < 0.4 * math.log(len(TRUTH.outcomes))


# -- the model -----------------------------------------------------------------------------------------------------


def test_hooks_see_what_the_forward_pass_computes(model):
    ids = planted_source("train").tokens(0, 2).ids
    logits, cache = model.run_with_cache(ids)
    assert torch.equal(logits, model(ids))
    for block in BLOCKS:
        residual = cache[f"blocks.{block}.hook_resid_pre"] + cache[f"blocks.{block}.hook_mlp_out"]
        assert torch.equal(residual, cache[f"blocks.{block}.hook_resid_post"])
    silenced = model.run_with_hooks(ids, fwd_hooks=[("blocks.1.hook_mlp_out", lambda x, hook: x * 0)])
    expected = cache["blocks.0.hook_resid_post"] @ model.W_U + model.b_U
    assert torch.allclose(silenced, expected)


def test_its_units_recompute_what_it_computes(model):
    logits, cache = model.run_with_cache(torch.arange(256)[None])
    *mlps, unembedding = model.units()
    assert [unit.layer for unit in mlps] == list(BLOCKS)
    for unit in mlps:
        assert torch.equal(unit(cache[unit.input_site]), cache[unit.output_site])
    assert torch.equal(unembedding(cache[unembedding.input_site]), logits)


def test_a_subject_reads_patches_and_scores_it_with_the_true_dictionary():
    subject = Subject.wrap(load_planted(), "planted", source={"train": planted_source("train")})
    tokens = subject.texts(20, "train")
    codes = subject.model.codes[tokens.ids]
    site = "blocks.0.hook_resid_post"
    decoded = codes @ subject.model.directions(site) + subject.model.decoder_bias(site)
    assert 0.4 < subject.loss(tokens) < 1.2
    assert subject.loss(tokens, {site: lambda value: decoded}) == pytest.approx(subject.loss(tokens), abs=1e-4)
    assert subject.loss(tokens, {site: torch.zeros_like}) > 2
    assert len(subject.units) == len(BLOCKS) + 1
    assert all(subject.model.directions(found).any() for found in subject.find_sites(subject.default_sites()))


def test_a_seed_gives_the_same_bits_and_another_seed_others():
    from crossproof.subject.zoo.planted_build import plan

    first, again, other = plan(0), plan.__wrapped__(0), plan(1)
    assert first.truth == again.truth
    for name in ("codes", "W_E", "W_U", "b_U", "targets"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    for block, same in zip(first.blocks, again.blocks, strict=True):
        assert all(torch.equal(getattr(block, name), getattr(same, name)) for name in vars(block))
    assert not torch.equal(first.W_E, other.W_E)
    assert not torch.equal(first.blocks[0].W_in, other.blocks[0].W_in)


def test_changing_a_model_leaves_the_next_one_as_it_was():
    changed = build_planted(dtype=torch.float64)
    with torch.no_grad():
        changed.blocks[0].mlp.W_in.zero_()
        changed.codes.zero_()
    fresh = build_planted(dtype=torch.float64)
    assert fresh.blocks[0].mlp.W_in.abs().max() > 0
    assert fresh.codes.max() > 0


def test_the_ground_truth_survives_json():
    assert GroundTruth.model_validate_json(TRUTH.model_dump_json()) == TRUTH


def test_the_page_shows_the_table_as_the_command_prints_it():
    page = Path(__file__).parents[2] / "docs" / "planted.md"
    assert describe(TRUTH) in page.read_text(encoding="utf-8")
