"""A run that measures a span: its folder, its summary and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from crossproof import runs
from crossproof.binding import measure_span as module
from crossproof.binding import spans
from crossproof.binding.measure_span import KIND, SHOWN, SpanConfig, SpanStudy, measure_span, summary
from crossproof.binding.spans import SpanInteractions, span_interactions
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import MismatchError
from crossproof.subject.subject import Subject
from tests.binding import coders
from tests.subject import tiny

FROM, TO = "blocks.0.ln2.hook_normalized", "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All settings of a small run but its folder."""
    folder = tmp_path_factory.mktemp("inputs")
    coders.on(tiny.subject("gpt2", torch.float32), features=12).save_pretrained(folder / "coder")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(" ".join(f"w{(place * step) % 50}" for place in range(1, 7)) for step in range(1, 41)))
    return {
        "subject": str(tiny.folder("gpt2")), "coder": str(folder / "coder"), "input_site": FROM, "output_site": TO,
        "tokens": 4, "orders": 3, "texts": 100, "data": texts, "seed": 5,
    }  # fmt: skip


def strictly(text: str) -> Any:
    """JSON as the standard has it, without NaN and infinities."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    return json.loads(text, parse_constant=refuse)


def test_a_run_holds_what_was_measured(options: dict[str, Any], tmp_path: Path) -> None:
    found = measure_span(SpanConfig(out=tmp_path / "run", **options))
    subject, coder = Subject.load(options["subject"]), Crosscoder.from_pretrained(options["coder"])
    # two of the forty are held out, and none is read twice
    tokens = subject.source("validation", options["data"]).tokens(0, 2)
    assert len(tokens.ids.unique(dim=0)) == 2
    again = span_interactions(subject, coder, tokens, FROM, TO, sample=4, orders=3, seed=5)
    assert found == summary(again, subject.name, 5)
    folder = tmp_path / "run"
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "span" / "pairs.parquet"), again.pairs)
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "span" / "tokens.parquet"), again.tokens)
    assert {file.name for file in folder.iterdir()} == {"run.json", "done.jsonl", "results.json", "span"}
    assert SpanStudy.model_validate(strictly((folder / "results.json").read_text())) == found
    run = runs.read(folder)
    assert (run.kind, run.finished) == (KIND, True)
    assert SpanConfig.model_validate(strictly((folder / "run.json").read_text())["config"]) == SpanConfig(
        out=folder, **options
    )


def test_a_stopped_run_goes_on_after_its_last_token_and_finds_the_same(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measure_span(SpanConfig(out=tmp_path / "whole", **options))
    calls, real = [], spans.span_game

    def stops(*arguments: Any, **named: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **named)

    monkeypatch.setattr(spans, "span_game", stops)
    config = SpanConfig(out=tmp_path / "stopped", **options)
    with pytest.raises(KeyboardInterrupt):
        measure_span(config)
    assert not runs.read(config.out).finished
    assert measure_span(config) == whole
    assert len(calls) == 3 + 2  # two of four tokens were done
    for name in ("pairs", "tokens"):
        files = [tmp_path / run / "span" / f"{name}.parquet" for run in ("whole", "stopped")]
        pd.testing.assert_frame_equal(*map(pd.read_parquet, files))


def test_a_finished_run_is_read_and_an_unfinished_one_is_measured_again(
    options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SpanConfig(out=tmp_path / "run", **options)
    runs.begin(config.out, KIND, config)
    found = measure_span(config)
    assert runs.read(config.out).finished

    def measured(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "span_interactions", measured)
    assert measure_span(config) == found
    moved = config.out.rename(tmp_path / "elsewhere")
    assert measure_span(SpanConfig(out=moved, **options)) == found
    with pytest.raises(AssertionError, match="measured again"):
        measure_span(config)


def test_a_run_with_other_settings_or_of_another_kind_is_refused_by_name(
    options: dict[str, Any], tmp_path: Path
) -> None:
    for kind, name in ((KIND, "span"), ("units", "units")):
        runs.begin(tmp_path / name, kind, SpanConfig(out=tmp_path / name, **options))
    with pytest.raises(MismatchError, match="tokens was 4, now 7"):
        measure_span(SpanConfig(out=tmp_path / "span", **{**options, "tokens": 7}))
    with pytest.raises(MismatchError, match="keep_error was False, now True"):
        measure_span(SpanConfig(out=tmp_path / "span", **options, keep_error=True))
    with pytest.raises(MismatchError, match="a run of `units`, not of `span`"):
        measure_span(SpanConfig(out=tmp_path / "units", **options))


def test_what_cannot_be_measured_leaves_no_folder(options: dict[str, Any], tmp_path: Path) -> None:
    for name, value in (("tokens", 0), ("orders", 1), ("texts", 0), ("seed", -1), ("sead", 1)):
        with pytest.raises(ValidationError, match=name):
            SpanConfig(out=tmp_path / "run", **{**options, name: value})
    with pytest.raises(MismatchError, match=TO):
        measure_span(SpanConfig(out=tmp_path / "run", **{**options, "input_site": TO, "output_site": "logits"}))
    assert not (tmp_path / "run").exists()


def made_up(change: list[float], together: list[float]) -> SpanInteractions:
    n = len(change)
    tokens = {"features": range(2, 2 + n), "estimated": [True] + [False] * (n - 1), "change": change}
    pairs = {"i": range(30), "j": range(30, 60), "strength": np.linspace(9, 1, 30), "count": 2, "score": 0.5}
    both = {"together": together, "sizes": [3.0 * x for x in together]}
    return SpanInteractions(FROM, TO, pd.DataFrame(pairs), pd.DataFrame({**tokens, **both}))


def test_the_summary_pools_tokens_and_its_interval_is_of_tokens_drawn_anew() -> None:
    change, together = [1.0, 10.0, 3.0, 0.5, 2.0], [0.9, 1.0, 2.0, 0.0, 2.0]
    found = summary(made_up(change, together), "toy", seed=3)
    draws = np.random.default_rng(3).integers(0, 5, (1000, 5)).tolist()
    shares = sorted(sum(together[place] for place in drawn) / sum(change[place] for place in drawn) for drawn in draws)

    def quantile(share: float) -> float:
        below = int(share * 999)
        return shares[below] + (share * 999 - below) * (shares[below + 1] - shares[below])

    assert found.together_share == pytest.approx(5.9 / 16.5)
    assert found.together_share_low == pytest.approx(quantile(0.025))
    assert found.together_share_high == pytest.approx(quantile(0.975))
    assert (found.tokens, found.estimated, found.features, found.pairs) == (5, 1, 4.0, 30)
    assert found.change == pytest.approx(16.5 / 5)
    assert found.sizes == pytest.approx(3 * 5.9 / 5)
    assert [pair.i for pair in found.strongest] == list(range(SHOWN))


def test_where_nothing_changes_there_is_no_share() -> None:
    found = summary(made_up([0.0] * 3, [0.0] * 3), "toy", seed=0)
    assert (found.together_share, found.together_share_low, found.together_share_high) == (None, None, None)
    assert strictly(found.model_dump_json())["change"] == 0


def test_tokens_where_nothing_changes_leave_the_interval_finite() -> None:
    found = summary(made_up([0.0, 2.0], [0.0, 1.0]), "toy", seed=0)
    assert (found.together_share, found.together_share_low, found.together_share_high) == (0.5, 0.0, 0.5)
