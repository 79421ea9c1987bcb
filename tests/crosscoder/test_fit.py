"""The training loop: resuming, files, and what happens when something goes wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from crossproof.crosscoder import checkpoint
from crossproof.crosscoder.config import FitConfig
from crossproof.crosscoder.fit import fit
from crossproof.crosscoder.losses import Batch
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training, clip_gradients, default_terms, schedule
from crossproof.errors import BadFile, CrossproofError, MismatchError, NonFinite
from crossproof.files import read_jsonl
from tests.crosscoder import toys

CONFIG = FitConfig(steps=60, batch_tokens=32, log_every=10, checkpoint_every=20, dead_after=200)


class Stream:
    """Batch i is the same whenever it is asked for; `until` stops it as an interrupted process would."""

    def __init__(self, until: int | None = None, poison: int | None = None) -> None:
        self.i, self.until, self.poison = 0, until, poison

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        if self.i == self.until:
            raise KeyboardInterrupt
        batch = toys.sparse_data(32, seed=self.i)
        if self.i == self.poison:
            batch[3, 1, 2] = torch.inf
        self.i += 1
        return batch

    def state(self) -> dict[str, int]:
        return {"i": self.i}

    def restore(self, state: dict[str, int]) -> None:
        self.i = state["i"]


def same_bits(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
@pytest.mark.parametrize("stop", [1, 25, 40, 59])
def test_an_interrupted_run_ends_with_the_same_bits_and_metrics(tmp_path: Path, activation: str, stop: int) -> None:
    whole = fit(toys.crosscoder(activation), Stream(), CONFIG, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(toys.crosscoder(activation), Stream(until=stop), CONFIG, tmp_path / "broken")
    resumed = fit(toys.crosscoder(activation), Stream(), CONFIG, tmp_path / "broken")
    assert same_bits(whole, resumed)
    assert read_jsonl(tmp_path / "whole" / "metrics.jsonl") == read_jsonl(tmp_path / "broken" / "metrics.jsonl")


def test_a_killed_process_resumes_to_the_same_bits(tmp_path: Path) -> None:
    program = (
        "import sys, time, torch; from pathlib import Path; from tests.crosscoder import test_fit, toys;"
        "s = test_fit.Stream(); n = s.__class__.__next__;"
        "s.__class__.__next__ = lambda self: (time.sleep(0.02), n(self))[1];"
        "test_fit.fit(toys.crosscoder(), s, test_fit.CONFIG, Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "killed")])
    deadline = time.monotonic() + 60
    while not checkpoint.exists(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    whole = fit(toys.crosscoder(), Stream(), CONFIG, tmp_path / "whole")
    resumed = fit(toys.crosscoder(), Stream(), CONFIG, tmp_path / "killed")
    assert same_bits(whole, resumed)


def test_the_same_seed_gives_the_same_bits(tmp_path: Path) -> None:
    runs = [fit(toys.crosscoder(), Stream(), CONFIG, tmp_path / name) for name in ("a", "b")]
    assert same_bits(*runs)


def test_non_finite_activations_stop_training_and_keep_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match=r"batch 31 are not finite at site1; the last good checkpoint is kept"):
        fit(toys.crosscoder(), Stream(poison=30), CONFIG, tmp_path)
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert state["step"] == 20
    resumed = toys.crosscoder()
    checkpoint.restore(tmp_path, Training(resumed, default_terms(resumed, CONFIG), CONFIG))
    assert all(bool(torch.isfinite(value).all()) for value in resumed.state_dict().values())


def test_a_diverging_loss_says_at_which_step(tmp_path: Path) -> None:
    coder = toys.crosscoder()
    with torch.no_grad():
        coder.W_dec.fill_(1e30)
    with pytest.raises(NonFinite, match=r"not finite at step 1 .*reconstruction inf.*no checkpoint"):
        fit(coder, Stream(), CONFIG, tmp_path)


def test_a_stream_that_ends_says_how_far_it_got(tmp_path: Path) -> None:
    batches = iter([toys.sparse_data(32, seed=i) for i in range(5)])
    with pytest.raises(CrossproofError, match="ended after 5 of 60 steps"):
        fit(toys.crosscoder(), batches, CONFIG, tmp_path)


def test_a_stream_that_cannot_go_back_is_not_resumed_on_other_data(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match="ended after 25"):
        fit(toys.crosscoder(), iter([toys.sparse_data(32, seed=i) for i in range(25)]), CONFIG, tmp_path)
    with pytest.raises(CrossproofError, match="cannot be repositioned"):
        fit(toys.crosscoder(), iter([toys.sparse_data(32, seed=i) for i in range(60)]), CONFIG, tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(toys.crosscoder(), Stream(until=30), CONFIG, tmp_path)
    before = (tmp_path / "checkpoint" / "state.safetensors").read_bytes()

    # a limit on the size of files is as good as a full disk, and real
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
    try:
        with pytest.raises(OSError, match=r"state\.safetensors could not be written .*intact"):
            fit(toys.crosscoder(), Stream(), CONFIG, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert (tmp_path / "checkpoint" / "state.safetensors").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["checkpoint", "metrics.jsonl"]


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(toys.crosscoder(), Stream(until=30), CONFIG, tmp_path)
    path = tmp_path / "checkpoint" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadFile, match=r"state\.safetensors is not a complete safetensors file"):
        fit(toys.crosscoder(), Stream(), CONFIG, tmp_path)


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(toys.crosscoder(), Stream(until=30), CONFIG, tmp_path)
    with pytest.raises(MismatchError, match=r"crosscoder\.features was 24, now 25"):
        fit(toys.crosscoder(features=25), Stream(), CONFIG, tmp_path)


def test_how_often_metrics_are_written_changes_nothing_else(tmp_path: Path) -> None:
    often = CONFIG.model_copy(update={"log_every": 1})
    fit(toys.crosscoder(), Stream(), CONFIG, tmp_path / "seldom")
    fit(toys.crosscoder(), Stream(), often, tmp_path / "often")
    states = [(tmp_path / run / "checkpoint" / "state.safetensors").read_bytes() for run in ("seldom", "often")]
    assert states[0] == states[1]


def test_every_named_term_is_part_of_the_loss() -> None:
    coder = toys.crosscoder("relu")
    config = FitConfig(l1_weight=0.1, dead_after=1, sparsity_warmup=0)
    training = Training(coder, default_terms(coder, config), config)
    training.tokens_since_fired.fill_(5)
    numbers = training.advance(toys.sparse_data(32))
    assert {"reconstruction", "aux", "l1"} <= set(numbers)
    assert float(numbers["aux"]) > 0
    assert float(numbers["l1"]) > 0
    parts = numbers["reconstruction"] + numbers["aux"] + numbers["l1"]
    torch.testing.assert_close(numbers["loss"], parts)


def test_the_learning_rate_rises_stays_and_falls() -> None:
    config = FitConfig(steps=100, warmup=0.1, decay=0.2)
    rates = [schedule(step, config) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[50] == rates[80] == 1.0
    assert rates[90] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.05)
    with pytest.raises(ValueError, match="exceed the whole run"):
        FitConfig(warmup=0.6, decay=0.6)


def test_clipping_scales_the_whole_gradient_and_only_when_needed() -> None:
    p = torch.nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    assert float(clip_gradients([p], 10.0)) == 5.0
    assert p.grad.tolist() == [3.0, 4.0]
    clip_gradients([p], 1.0)
    torch.testing.assert_close(p.grad, torch.tensor([0.6, 0.8]))


class Spread:
    """A term of somebody else's, with a gradient to the decoder alone."""

    def __init__(self, weight: float, name: str = "spread") -> None:
        self.weight, self.name = weight, name

    def __call__(self, batch: Batch) -> Tensor:
        return self.weight * batch.coder.W_dec.square().sum()


def test_a_term_of_ones_own_is_logged_added_and_trained(tmp_path: Path) -> None:
    plain = fit(toys.crosscoder(), Stream(), CONFIG, tmp_path / "plain")
    pulled = fit(toys.crosscoder(), Stream(), CONFIG, tmp_path / "pulled", extra_terms=[Spread(10.0)])
    assert float(pulled.W_dec.detach().norm()) < float(plain.W_dec.detach().norm())
    line = read_jsonl(tmp_path / "pulled" / "metrics.jsonl")[-1]
    assert line["loss"] == pytest.approx(line["reconstruction"] + line["aux"] + line["spread"], rel=1e-5)


@pytest.mark.parametrize("name", ["spread", "reconstruction", "l0", "loss"])
def test_two_columns_of_one_name_are_refused(name: str) -> None:
    coder = toys.crosscoder()
    terms = [*default_terms(coder, CONFIG), Spread(1.0), Spread(2.0, name)]
    with pytest.raises(CrossproofError, match=f"would be called '{name}'"):
        Training(coder, terms, CONFIG)


def test_a_run_is_not_resumed_under_other_settings_or_without_its_terms(tmp_path: Path) -> None:
    fit(toys.crosscoder(), Stream(), CONFIG, tmp_path, extra_terms=[Spread(1.0)])
    with pytest.raises(MismatchError, match="terms was"):
        fit(toys.crosscoder(), Stream(), CONFIG, tmp_path)
    with pytest.raises(MismatchError, match=r"lr was 0\.001, now 0\.5"):
        fit(toys.crosscoder(), Stream(), CONFIG.model_copy(update={"lr": 0.5}), tmp_path, extra_terms=[Spread(1.0)])


class Cliff:
    """A finite loss whose gradient is not: the derivative of a square root at 0."""

    name = "cliff"

    def __call__(self, batch: Batch) -> Tensor:
        zero = batch.coder.W_dec.sum() * 0
        return zero.sqrt() if batch.progress > 0.6 else zero


def test_a_gradient_that_is_not_finite_never_reaches_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(NonFinite, match="gradient"):
        fit(toys.crosscoder(), Stream(), CONFIG.model_copy(update={"checkpoint_every": 1}), tmp_path, [Cliff()])
    assert all(bool(value.isfinite().all()) for value in load_file(tmp_path / "checkpoint/state.safetensors").values())


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "batchtopk"])
def test_gradients_have_the_same_bits_every_time_with_two_threads(activation: str) -> None:
    coder = toys.crosscoder(activation, features=512, width=32)
    config = FitConfig(
        l1_weight=1.0 if activation == "relu" else 0.0, l0_weight=1.0 if activation == "jumprelu" else 0.0
    )
    start = {name: value.clone() for name, value in coder.state_dict().items()}
    batch = toys.sparse_data(600, width=32)  # more than 100,000 entries when codes are dense
    torch.set_num_threads(2)
    try:
        results = []
        for _ in range(4):
            coder.load_state_dict(start)
            training = Training(coder, default_terms(coder, config), config)
            for _ in range(2):
                training.advance(batch)
            results.append({name: value.clone() for name, value in coder.state_dict().items()})
    finally:
        torch.set_num_threads(1)
    for result in results[1:]:
        assert all(torch.equal(result[name], results[0][name]) for name in start)


def test_batches_without_tokens_and_weights_that_are_all_zero_are_refused(tmp_path: Path) -> None:
    coder = toys.crosscoder()
    training = Training(coder, default_terms(coder, CONFIG), CONFIG)
    with pytest.raises(CrossproofError, match="batch 1 has no tokens"):
        training.advance(torch.zeros(0, 3, 8))
    with pytest.raises(CrossproofError, match="call initialise"):
        fit(Crosscoder(toys.config()), Stream(), CONFIG, tmp_path)


def test_activations_in_half_precision_train_as_well() -> None:
    coder = toys.crosscoder()
    training = Training(coder, default_terms(coder, CONFIG), CONFIG)
    assert float(training.advance(toys.sparse_data(32).bfloat16())["loss"]) > 0


@pytest.mark.parametrize("edit", ["missing", "steps", "json"])
def test_an_edited_checkpoint_is_named(tmp_path: Path, edit: str) -> None:
    fit(toys.crosscoder(), Stream(), CONFIG, tmp_path)
    folder = tmp_path / "checkpoint"
    if edit == "missing":
        tensors = load_file(folder / "state.safetensors")
        del tensors["tokens_since_fired"]
        save_file(tensors, folder / "state.safetensors")
    else:
        state = json.loads((folder / "state.json").read_text())
        state |= {"optimiser_steps": [1.0]} if edit == "steps" else {"step": "many"}
        (folder / "state.json").write_text(json.dumps(state))
    message = {
        "missing": "tokens_since_fired missing",
        "steps": "optimiser_steps has 1",
        "json": r"state\.json cannot be read",
    }
    with pytest.raises(BadFile, match=message[edit]):
        fit(toys.crosscoder(), Stream(), CONFIG, tmp_path)
