"""The commands: each a function whose arguments are its options, and which returns what it found.

Nothing heavy is imported before a command runs, and no help needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from crossproof.cli import outcomes
from crossproof.cli.outcomes import Outcome
from crossproof.errors import CrossproofError

if TYPE_CHECKING:
    from crossproof.binding.config import PenalisedTrainConfig


def train(config: PenalisedTrainConfig) -> Outcome:
    """Train a crosscoder on a model, evaluate it and save it in a run folder."""
    from crossproof.binding.train import train

    return outcomes.evaluation(config.out, train(config))


def show(folder: Annotated[Path, tyro.conf.Positional]) -> Outcome:
    """Print what a run found.

    Args:
        folder: The run folder.
    """
    from crossproof import runs

    if runs.read(folder).kind == "ground-truth":
        from crossproof.study.ground_truth.results import GroundTruthStudy

        return outcomes.ground_truth(runs.read_results(folder, GroundTruthStudy))
    if runs.read(folder).kind == "ranking":
        from crossproof.study.ranking.results import RankingStudy

        return outcomes.ranking(runs.read_results(folder, RankingStudy))
    if runs.read(folder).kind == "interactions":
        from crossproof.interaction.result_view import Summary

        return outcomes.interactions(runs.read_results(folder, Summary))
    from crossproof.crosscoder.evaluate import Evaluation

    return outcomes.evaluation(folder, runs.read_results(folder, Evaluation))


def interactions(
    subject: Annotated[str, tyro.conf.Positional],
    coder: str,
    texts: int = 100,
    metrics: tuple[str, ...] = (),
    data: Path | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> Outcome:
    """Measure how the features of a crosscoder interact in a model's MLPs.

    Args:
        subject: A zoo name, a local folder or a hub id.
        coder: The crosscoder: its folder, the folder of the run that trained it, or a hub id.
        texts: Held-out texts to measure on.
        metrics: Of directed, mass, ratio, chance and correlation. Default: all that the MLPs have.
        data: Where they come from, a .txt or .jsonl file. Zoo models bring their own.
        out: The run folder to write tables and matrices to.
        device: cpu, cuda or cuda:N.
    """
    from crossproof.binding.measure import MeasureConfig, measure

    if texts < 1:
        raise CrossproofError(f"--texts {texts} leaves nothing to measure on: give at least 1")
    config = MeasureConfig(subject=subject, coder=coder, texts=texts, metrics=metrics, data=data, device=device)
    return outcomes.interactions(measure(config, out))


def doctor(model: Annotated[str, tyro.conf.Positional], data: Path | None = None, device: str = "cpu") -> Outcome:
    """Test on a model everything that the library relies on.

    Args:
        model: A zoo name, a local folder or a hub id.
        data: Texts to test on, a .txt or .jsonl file. Default: the model's own, or random tokens.
        device: cpu, cuda or cuda:N.
    """
    from crossproof.subject.doctor import describe, examine, table
    from crossproof.subject.subject import Subject

    subject = Subject.load(model, device=device)
    checks = examine(subject, subject.source("validation", data).tokens(0, 4) if data else None)
    passed = all(check.passed for check in checks)
    rows = [asdict(check) | {"difference": outcomes.finite(check.difference)} for check in checks]
    found = describe(subject)
    record = {"model": model, "passed": passed, "found": found, "checks": rows}
    return Outcome(record, (f"[bold]{model}[/]", *found, table(checks)), status=0 if passed else 1)


def zoo(
    rebuild: Annotated[tuple[str, ...], tyro.conf.Positional] = (), out: Path | None = None, check: bool = False
) -> Outcome:
    """List the shipped models with their losses beside n-gram baselines, or train them again.

    Args:
        rebuild: Models to train again, or `all`. None lists what is shipped.
        out: Where to write rebuilt models. Default: in place of the shipped ones.
        check: Keep nothing, but say whether the rebuilt weights are the shipped ones to the bit.
    """
    from crossproof.subject import zoo

    if rebuild:
        from crossproof.subject.zoo.build import rebuild as build

        verdicts = build(rebuild, out or zoo.MODELS, check)
        differs = check and not all(verdict["same"] for verdict in verdicts)
        return Outcome(verdicts, (outcomes.table("rebuilt", verdicts),), status=1 if differs else 0)
    rows = zoo.table()
    shown = {"name": "name", "size": "size", "MB": "megabytes", "loss": "loss"}
    shown |= {"1-gram": "unigram", "2-gram": "bigram", "3-gram": "trigram", "success": "success"}
    return Outcome(
        rows, (outcomes.table("zoo", [{head: row[column] for head, column in shown.items()} for row in rows]),)
    )


def ground_truth(out: Path, seeds: int = 5) -> Outcome:
    """Score every metric on the interactions planted in `planted`, with true and learned dictionaries.

    Args:
        out: The run folder. An unfinished run found there is resumed.
        seeds: How many dictionaries to learn, and on how many sets of tokens to score.
    """
    from crossproof.study.ground_truth.study import GroundTruthConfig, run

    if seeds < 1:
        raise CrossproofError(f"seeds: {seeds}, but at least 1 dictionary is needed")
    return outcomes.ground_truth(run(GroundTruthConfig(out=out, seeds=seeds)))


def ranking(
    subject: Annotated[str, tyro.conf.Positional],
    coder: str,
    out: Path,
    texts: int = 200,
    tokens: int = 300,
    seen: int = 3,
    data: Path | None = None,
    seed: int = 0,
) -> Outcome:
    """Score on a real model how well each metric ranks pairs as Shapley-Taylor values do.

    However few the tokens, the pair KL takes about 0.01 s for each pair in each MLP: of all pairs seen, or, where they
    are more than 5,000, of the ranked ones alone (of none where these are more than 5,000 too).

    Args:
        subject: A zoo name, a local folder or a hub id.
        coder: The crosscoder: its folder, the folder of the run that trained it, or a hub id.
        out: The run folder.
        texts: Held-out texts that the metrics look at.
        tokens: How many of their tokens Shapley-Taylor values are computed at: a second or so each.
        seen: Rank those pairs among all that are active at this many of these tokens.
        data: Where the texts come from, a .txt or .jsonl file. Zoo models bring their own.
        seed: Draws the tokens, the random metric and the bootstrap.
    """
    from crossproof.study.ranking.study import RankingConfig, run

    for option, value, least in (("texts", texts, 2), ("tokens", tokens, 1), ("seen", seen, 1), ("seed", seed, 0)):
        if value < least:
            raise CrossproofError(f"--{option} {value}: give at least {least}")
    options = {"texts": texts, "tokens": tokens, "seen": seen, "data": data, "seed": seed}
    return outcomes.ranking(run(RankingConfig(subject=subject, coder=coder, out=out, **options)))


COMMANDS: dict[str, Callable[..., Outcome]] = {
    "train": train,
    "interactions": interactions,
    "ground-truth": ground_truth,
    "ranking": ranking,
    "show": show,
    "doctor": doctor,
    "zoo": zoo,
}
