"""Pairs on text: each token's interaction is the metric's, and pairs are shown where they were not chosen."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossproof.binding.bound import neurons_of
from crossproof.binding.encoding import codes_of
from crossproof.errors import CrossproofError
from crossproof.findings import FINDINGS, Findings
from crossproof.interaction.contributions import PlainNeurons
from crossproof.study.on_text.config import OnTextConfig
from crossproof.study.on_text.study import run, together
from tests.binding import coders
from tests.subject import tiny

FEATURES = 8


def test_at_each_token_it_is_what_either_adds_to_neurons_that_the_other_dominates() -> None:
    subject, tokens = tiny.subject("gpt2", torch.float32), tiny.some_tokens("gpt2", torch.float32)
    coder = coders.on(subject, features=FEATURES)
    codes, unit = codes_of(subject, coder, tokens), neurons_of(subject, coder)[1]
    assert isinstance(unit, PlainNeurons)
    strengths, A = codes.dense().double(), unit.pre.A.double()
    neurons = A.shape[1]
    for i in range(FEATURES):
        for j in range(i + 1, FEATURES):
            found = together(codes, unit, i, j)
            for t in range(len(strengths)):
                p = (strengths[t, :, None] * A).abs()
                expected = 0.0
                if strengths[t, i] > 0 and strengths[t, j] > 0:
                    for n in range(neurons):
                        largest = int(p[:, n].argmax())
                        if largest in (i, j):
                            other = j if largest == i else i
                            expected += float(unit.loudness[n]) * float(p[other, n]) / neurons
                assert float(found[t]) == pytest.approx(expected, rel=1e-4, abs=1e-9)


def test_pairs_share_no_feature_and_are_shown_where_they_interact_most(tmp_path: Path) -> None:
    subject = tiny.subject("gpt2", torch.float32)
    folder, data = tmp_path / "coder", tmp_path / "texts.txt"
    coders.on(subject, features=FEATURES).save_pretrained(folder)
    texts = [f"w{i % 50} w{(7 * i) % 50} w{(3 * i + 1) % 50} w{i // 50} w{(5 * i) % 50}" for i in range(200)]
    data.write_text("\n".join(texts))
    config = OnTextConfig(
        subject=str(tiny.folder("gpt2")), coder=str(folder), out=tmp_path / "run", texts=8, pairs=3, data=data
    )
    found = run(config)
    features = [feature for pair in found.pairs for feature in (pair.i, pair.j)]
    assert len(features) == len(set(features)) == 6
    for pair in found.pairs:
        assert len(pair.words) == len(pair.of_i) == len(pair.of_j) == len(pair.interaction)
        assert pair.strongest_at is not None
        assert pair.interaction[pair.strongest_at] == max(pair.interaction) > 0
        assert pair.of_i[pair.strongest_at] > 0
        assert pair.of_j[pair.strongest_at] > 0
    said = Findings.model_validate_json((tmp_path / "run" / FINDINGS).read_text())
    assert [len(passage.layers) for passage in said.passages] == [3, 3, 3]
    assert run(config) == found
    with pytest.raises(CrossproofError, match="texts"):
        run(config.model_copy(update={"out": tmp_path / "other", "data": _two(tmp_path)}))


def _two(folder: Path) -> Path:
    path = folder / "two.txt"
    path.write_text("w1 w2\nw3 w4")
    return path
