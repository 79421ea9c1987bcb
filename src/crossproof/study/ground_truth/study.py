"""How well each metric finds the interactions that were planted, with the true dictionary and with learned ones.

Every pair of features that fire, that a block's MLP reads and of which the truth is known gets a score from every
metric (`scores.py`). The planted interacting pairs are to stand at the top. The reference is the
Shapley-Taylor index itself. What comes out, and its tables, is in `results.py`.

run.json  learned/<seed>/{checkpoint/, crosscoder/, metrics.jsonl}  results.json
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field

from crossproof import runs
from crossproof.crosscoder.config import Count, FitConfig, Strict
from crossproof.progress import progress
from crossproof.study.ground_truth.dictionaries import (
    PlantedDictionary,
    learned_shape,
    matched,
    tokens_of,
    train_dictionary,
    true_dictionary,
)
from crossproof.study.ground_truth.results import (
    DictionaryName,
    GroundTruthStudy,
    KindScore,
    Learned,
    Score,
    merged,
    summarised,
)
from crossproof.study.ground_truth.scores import score_block
from crossproof.subject.zoo.planted import POSITIONS, build_planted

KIND = "ground-truth"


class GroundTruthConfig(Strict):
    """Score every pairwise metric on the pairs planted in `planted`."""

    out: Path
    """The run folder."""
    seeds: Count = 5
    """How many dictionaries to train, and on how many sets of held-out tokens to score the true one."""
    tokens: Annotated[int, Field(ge=POSITIONS)] = 8_000
    """Held-out tokens of each set, which the metrics see."""
    reference_tokens: Count = 2_000
    """How many of them the Shapley-Taylor index is averaged over."""
    features: Count = 128
    """Size of the learned dictionaries."""
    k: Count = 6
    """Active features per token in the learned dictionaries, on average."""
    steps: Count = 3_000
    """Training steps of the learned dictionaries, 512 tokens each."""


def run(config: GroundTruthConfig) -> GroundTruthStudy:
    """Train the learned dictionaries, score them and the true one, and write the run folder."""

    def work() -> GroundTruthStudy:
        with one_thread():
            return study(config)

    return runs.once(config.out, KIND, config, GroundTruthStudy, lambda: work)


@contextmanager
def one_thread() -> Iterator[None]:
    """Tensors here are tiny: a second thread only costs, on a busy machine most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def study(config: GroundTruthConfig) -> GroundTruthStudy:
    model = build_planted(0, torch.float64)
    learned: list[Learned] = []
    scores: list[Score] = []
    kinds: list[KindScore] = []
    with progress("ground truth", config.seeds * 4, "tables") as bar:
        for seed in range(config.seeds):
            texts = config.tokens // POSITIONS
            ids = tokens_of(model, "validation", seed * texts, texts)
            loop = FitConfig(steps=config.steps, lr=2e-3, dead_after=20_000, seed=seed)
            shape = learned_shape(model, config.features, config.k)
            coder = train_dictionary(model, shape, loop, config.out / "learned" / str(seed))
            of_learned, recovery = matched(model, coder, ids, seed)
            learned.append(recovery)
            both: dict[DictionaryName, PlantedDictionary] = {"true": true_dictionary(model, ids), "learned": of_learned}
            for name, dictionary in both.items():
                for block in range(model.cfg.n_layers):
                    table = score_block(model, dictionary, block, config.reference_tokens, seed)
                    scores += table.scores(name, seed)
                    kinds += table.of_kinds(name)
                    bar(1)
    return GroundTruthStudy(
        scores=tuple(scores), summary=summarised(scores), kinds=merged(kinds, config.seeds), learned=tuple(learned)
    )
