"""From a subject to an evaluated crosscoder, on the planted model, whose features are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from crossproof.crosscoder import checkpoint
from crossproof.crosscoder.buffer import ActivationStream
from crossproof.crosscoder.config import CrosscoderConfig, FitConfig, Site, TrainConfig
from crossproof.crosscoder.evaluate import Evaluation, evaluate
from crossproof.crosscoder.initialise import initialise
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training, default_terms
from crossproof.crosscoder.store import IN_RUN
from crossproof.crosscoder.train import train
from crossproof.errors import CrossproofError, MismatchError, NonFinite, UnknownSite
from crossproof.files import read_json, read_jsonl
from crossproof.subject.patch import splice
from crossproof.subject.subject import Subject
from crossproof.subject.text import Stories
from crossproof.subject.tokens import Tokens

SITES = ("blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@pytest.fixture(scope="module")
def planted() -> Subject:
    return Subject.load("planted")


def config(out: Path, **changes: object) -> TrainConfig:
    small = {
        "subject": "planted",
        "out": out,
        "sites": SITES,
        "features": 64,
        "k": 5,
        "steps": 40,
        "batch_tokens": 64,
        "buffer_tokens": 1000,
        "harvest_texts": 8,
        "eval_texts": 4,
        "checkpoint_every": 10,
        "log_every": 10,
    }
    return TrainConfig.model_validate(small | changes)


def true_dictionary(subject: Subject) -> Crosscoder:
    """The planted features as a crosscoder: what it cannot explain, evaluation has made up."""
    directions = torch.stack([subject.model.directions(site) for site in SITES], dim=1)
    bias = torch.stack([subject.model.decoder_bias(site) for site in SITES])
    features = directions.shape[0]
    shape = CrosscoderConfig(
        sites=tuple(Site(subject="planted", hook=site) for site in SITES),
        width=64,
        features=features,
        activation="relu",
    )
    coder = Crosscoder(shape)
    with torch.no_grad():
        coder.W_dec.copy_(directions.flatten(1))
        coder.b_dec.copy_(bias.flatten())
        # read every feature where the last site shows it, through the dual basis
        last = directions[:, -1]
        dual = torch.linalg.pinv(last).T
        coder.W_enc.view(features, len(SITES), 64)[:, -1] = dual
        coder.b_enc.copy_(-(dual @ bias[-1]) - 1e-4)
    return coder


def test_the_true_dictionary_explains_the_planted_model_and_a_random_one_does_not(planted: Subject) -> None:
    tokens = planted.texts(8)
    good = evaluate(planted, true_dictionary(planted), tokens)
    assert good.mean_unexplained < 1e-5
    assert all(site.loss_recovered > 0.999 and site.cosine > 0.999 for site in good.sites)
    codes = planted.model.codes[tokens.ids[tokens.keep]]
    assert good.l0 == pytest.approx(float((codes > 0).sum(1).float().mean()), rel=0.01)
    noise = true_dictionary(planted)
    with torch.no_grad():
        noise.W_dec.copy_(torch.randn(noise.W_dec.shape, generator=torch.Generator().manual_seed(0)))
    bad = evaluate(planted, noise, tokens)
    assert bad.mean_unexplained > 0.5
    assert all(site.loss_recovered < 0.5 for site in bad.sites)


def test_evaluation_agrees_with_its_definitions(planted: Subject) -> None:
    tokens = planted.texts(6)
    coder = true_dictionary(planted)
    with torch.no_grad():
        coder.W_enc.mul_(0.8)
    found = evaluate(planted, coder, tokens, texts_per_pass=4)
    a = planted.harvest(tokens, coder.sites)
    reconstruction = coder(a).detach()
    for v, site in enumerate(found.sites):
        error = (a[:, v] - reconstruction[:, v]).square().sum()
        assert site.unexplained == pytest.approx(float(error / (a[:, v] - a[:, v].mean(0)).square().sum()), rel=1e-3)
        spliced = planted.loss(tokens, {site.site: splice(tokens, reconstruction[:, v])})
        assert site.loss_spliced == pytest.approx(spliced, rel=1e-5)
        mean = planted.loss(tokens, {site.site: splice(tokens, a[:, v].mean(0).expand(len(a), -1))})
        assert site.loss_recovered == pytest.approx((mean - spliced) / (mean - planted.loss(tokens)), rel=1e-3)
    fired = coder.encode(a).firing_counts() > 0
    assert found.dead == pytest.approx(1 - float(fired.float().mean()))
    assert sum(site.decoder_share for site in found.sites) == pytest.approx(1, rel=1e-4)


def test_training_writes_a_run_folder_that_says_everything(tmp_path: Path) -> None:
    results = train(config(tmp_path / "run", steps=300, lr=3e-3))
    folder = tmp_path / "run"
    names = {"run.json", "results.json", "metrics.jsonl", "checkpoint", "crosscoder"}
    assert {path.name for path in folder.iterdir()} == names
    run = read_json(folder / "run.json")
    assert run["finished"]
    assert run["config"]["seed"] == 0
    assert {"torch", "python", "crossproof"} <= set(run["versions"])
    assert Evaluation.model_validate(read_json(folder / "results.json")) == results
    assert results.mean_unexplained < 0.5
    lines = read_jsonl(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(10, 301, 10))
    assert lines[-1]["reconstruction"] < lines[0]["reconstruction"]
    coder = Crosscoder.load(folder)
    assert coder.sites == SITES
    assert coder.config.site_scales is not None


def test_a_training_run_killed_at_the_command_line_resumes_to_the_same_bits(tmp_path: Path) -> None:
    options = ["--subject", "planted", "--sites", *SITES, "--features", "64", "--k", "5", "--steps", "400"]
    options += ["--batch-tokens", "64", "--buffer-tokens", "1000", "--harvest-texts", "8", "--eval-texts", "4"]
    options += ["--checkpoint-every", "10"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def start(out: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "crossproof", "train", "--out", str(tmp_path / out), *options]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)

    whole, killed = start("whole"), start("killed")
    deadline = time.monotonic() + 120
    while not checkpoint.exists(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed" / "results.json").exists()
    assert start("killed").wait() == 0
    assert whole.wait() == 0
    for name in ("crosscoder/model.safetensors", "checkpoint/state.safetensors", "metrics.jsonl", "results.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes(), name


def test_a_finished_run_is_read_and_not_repeated(tmp_path: Path) -> None:
    first = train(config(tmp_path / "run"))
    stamp = (tmp_path / "run" / IN_RUN / "model.safetensors").stat().st_mtime_ns
    assert train(config(tmp_path / "run")) == first
    assert (tmp_path / "run" / IN_RUN / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_run_folder_with_other_settings_is_refused_by_field(tmp_path: Path) -> None:
    train(config(tmp_path / "run"))
    with pytest.raises(MismatchError, match=r"k was 5, now 6.*choose another folder"):
        train(config(tmp_path / "run", k=6))


def test_the_stream_is_shuffled_complete_and_returns_to_any_position(planted: Subject) -> None:
    def stream() -> ActivationStream:
        return ActivationStream([(planted, SITES)], planted.source("train"), 50, 500, texts_per_pass=4, seed=3)

    first = stream()
    chunk = first._filled().clone()
    batches = [next(first) for _ in range(10)]
    seen = torch.cat(batches)
    assert not torch.equal(seen, chunk[: len(seen)])
    rows = {tuple(row.flatten().tolist()) for row in chunk}
    assert all(tuple(row.flatten().tolist()) in rows for row in seen)
    states, later = [], []
    for _ in range(15):
        states.append(first.state())
        later.append(next(first))
    assert states[-1]["first_text"] > 0
    for i in (0, 7, 14):
        again = stream()
        again.restore(states[i])
        assert torch.equal(next(again), later[i])


def test_other_seeds_see_other_orders(planted: Subject) -> None:
    batches = [
        next(ActivationStream([(planted, SITES)], planted.source("train"), 50, 500, texts_per_pass=4, seed=seed))
        for seed in (0, 1)
    ]
    assert not torch.equal(*batches)


def test_one_stream_reads_several_models_on_the_same_tokens(planted: Subject) -> None:
    other = Subject.load("planted")
    with torch.no_grad():
        other.model.blocks[1].mlp.W_out.mul_(2)
    both = ActivationStream(
        [(planted, SITES[:1]), (other, SITES[2:])], planted.source("train"), 50, 500, texts_per_pass=4, seed=0
    )
    alone = ActivationStream([(planted, SITES)], planted.source("train"), 50, 500, texts_per_pass=4, seed=0)
    pair, single = next(both), next(alone)
    assert torch.equal(pair[:, 0], single[:, 0])
    assert not torch.allclose(pair[:, 1], single[:, 2])
    sites = (Site(subject="base", hook=SITES[0]), Site(subject="tuned", hook=SITES[2]))
    coder = Crosscoder(CrosscoderConfig(sites=sites, width=64, features=32, activation="topk", k=4))
    config = FitConfig(steps=20, batch_tokens=50)
    training = Training(coder, default_terms(coder, config), config)
    initialise(coder, both.sample(400), "data", 0.1, torch.Generator().manual_seed(0))
    losses = [float(training.advance(next(both))["loss"]) for _ in range(20)]
    assert losses[-1] < losses[0]


class NoTokens:
    """A source whose texts hold nothing that counts."""

    texts_in_all = None

    def tokens(self, start: int, count: int) -> Tokens:
        ids = torch.zeros(count, 3, dtype=torch.long)
        return Tokens(ids, torch.zeros_like(ids, dtype=torch.bool), ids - 100)


def test_texts_without_tokens_are_refused(planted: Subject) -> None:
    with pytest.raises(CrossproofError, match="no tokens: texts 0 to 4"):
        next(ActivationStream([(planted, SITES)], NoTokens(), 50, 500, texts_per_pass=4, seed=0))
    with pytest.raises(CrossproofError, match="no tokens"):
        evaluate(planted, true_dictionary(planted), NoTokens().tokens(0, 2))


def test_a_buffer_smaller_than_a_batch_is_refused(planted: Subject) -> None:
    with pytest.raises(CrossproofError, match="buffer_tokens: 10 is less than one batch of 50"):
        ActivationStream([(planted, SITES)], planted.source("train"), 50, 10, texts_per_pass=4, seed=0)


def test_non_finite_activations_name_the_site_and_the_texts(planted: Subject) -> None:
    broken = Subject.load("planted")
    with torch.no_grad():
        broken.model.blocks[1].mlp.b_out[3] = torch.inf
    with pytest.raises(NonFinite, match=r"blocks\.1\.hook_resid_post.*texts 0 to 4 of the stream"):
        next(ActivationStream([(broken, SITES)], broken.source("train"), 50, 500, texts_per_pass=4, seed=0))


def test_unknown_sites_and_sites_of_different_widths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownSite, match=r"blocks\.1\.hook_resid_post"):
        train(config(tmp_path / "a", sites=("blocks.1.hook_resid_pots",)))
    with pytest.raises(CrossproofError, match=r"must share a width.*mlp\.hook_pre"):
        train(config(tmp_path / "b", sites=("blocks.0.hook_resid_pre", "blocks.0.mlp.hook_pre")))


def test_a_crosscoder_that_does_not_fit_the_subject_is_refused_by_site_and_size(planted: Subject) -> None:
    tokens = planted.texts(1)
    elsewhere = true_dictionary(planted).config.model_copy(
        update={"sites": (Site(subject="planted", hook="blocks.7.hook_resid_pre"),)}
    )
    with pytest.raises(MismatchError, match=r"planted has no site blocks\.7\.hook_resid_pre"):
        evaluate(planted, Crosscoder(elsewhere), tokens)
    wider = true_dictionary(planted).config.model_copy(update={"width": 65})
    with pytest.raises(MismatchError, match=r"width 64 at blocks\.0\.hook_resid_pre, but .* width 65"):
        evaluate(planted, Crosscoder(wider), tokens)


@pytest.mark.parametrize("activation", ["relu", "topk", "jumprelu"])
def test_every_activation_trains_saves_and_evaluates(tmp_path: Path, activation: str) -> None:
    sparsity = {"relu": {"l1_weight": 0.1}, "jumprelu": {"l0_weight": 0.1}}.get(activation, {})
    results = train(config(tmp_path / "run", activation=activation, **sparsity))
    assert json.loads((tmp_path / "run" / IN_RUN / "config.json").read_text())["activation"] == activation
    assert 0 < results.l0 < 64


def test_a_tracker_is_sent_every_line_of_metrics_and_only_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(config(tmp_path / "quiet"))
    assert not (tmp_path / "quiet" / "wandb").exists()
    summaries: list[dict[str, float]] = []
    finish = wandb.finish
    monkeypatch.setattr(wandb, "finish", lambda: (summaries.append(dict(wandb.run.summary)), finish()))
    train(config(tmp_path / "run", track="wandb"))
    lines = read_jsonl(tmp_path / "run" / "metrics.jsonl")
    # the tracker works in a process of its own and may still be some lines behind
    assert summaries[0]["reconstruction"] in [line["reconstruction"] for line in lines]
    assert wandb.run is None
    assert (tmp_path / "run" / "wandb").is_dir()


def test_a_tracker_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(CrossproofError, match="trackio is not installed"):
        train(config(tmp_path / "run", track="trackio"))


def test_a_corrected_command_goes_on_where_a_mistaken_one_failed(tmp_path: Path) -> None:
    with pytest.raises(UnknownSite):
        train(config(tmp_path / "run", sites=("blocks.*.nothing",)))
    with pytest.raises(CrossproofError, match=r"there is no device 'cuad' here .*try cpu"):
        train(config(tmp_path / "run", device="cuad"))
    assert train(config(tmp_path / "run")).tokens > 0


def test_texts_from_a_file_train_resume_and_are_counted_once(tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    stories = Stories(3)
    texts.write_text("<|endoftext|>".join(stories[i].text for i in range(60)))
    settings = {"subject": "tinytales", "data": texts, "sites": ("blocks.*.hook_resid_post",), "steps": 6, "k": 4}
    settings |= {"checkpoint_every": 2, "eval_texts": 64, "batch_tokens": 256}
    whole = train(config(tmp_path / "whole", **settings))
    assert whole.texts == 3  # every 20th of 60 is held out, and none is counted twice
    broken = config(tmp_path / "broken", **settings)
    stop = ActivationStream.__next__

    def until_the_fourth(stream: ActivationStream) -> torch.Tensor:
        if stream.next_batch == 3:
            raise KeyboardInterrupt
        return stop(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActivationStream, "__next__", until_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            train(broken)
    assert train(broken) == whole


def test_a_crosscoder_of_two_models_is_not_scored_on_one(planted: Subject) -> None:
    sites = (Site(subject="base", hook=SITES[0]), Site(subject="tuned", hook=SITES[0]))
    coder = Crosscoder(CrosscoderConfig(sites=sites, width=64, features=8, activation="relu"))
    with pytest.raises(MismatchError, match=r"several models \(base, tuned\)"):
        evaluate(planted, coder, planted.texts(1))


def test_a_dictionary_whose_features_are_all_dead_is_scored_too(planted: Subject) -> None:
    coder = true_dictionary(planted)
    with torch.no_grad():
        coder.b_enc.fill_(-1e9)
    found = evaluate(planted, coder, planted.texts(1))
    assert found.dead == 1
    assert found.sites[0].decoder_share is None
    assert json.loads(found.model_dump_json())["sites"][0]["decoder_share"] is None


def test_the_program_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    program = page.split("```python\n")[1].split("```")[0].replace("steps=500", "steps=5")
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "docs/training.md", "exec"), {"__name__": "docs"})
    assert Crosscoder.from_pretrained("my-crosscoder").sites == ("early", "late")
