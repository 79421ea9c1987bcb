"""The command line: one command a verb. It parses, calls the library and prints.

A command is a function whose arguments are its options; it returns what it found, as data and as something to look at.
Nothing heavy is imported before the command is known, and no help needs torch.
"""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from crossproof.errors import CrossproofError, nearest

if TYPE_CHECKING:
    from crossproof.binding.config import PenalisedTrainConfig
    from crossproof.crosscoder.evaluate import Evaluation
    from crossproof.interaction.result_view import Summary
    from crossproof.study.ground_truth.results import GroundTruthStudy
    from crossproof.study.ranking.results import RankingStudy

OUT_OF_MEMORY = "out of memory; lower --buffer-tokens first, then --harvest-texts, then --batch-tokens"


@dataclass(frozen=True)
class Outcome:
    """What a command found: data for `--json`, lines or tables to print, and the exit status."""

    data: Any
    shown: tuple[Any, ...]
    status: int = 0


def train(config: PenalisedTrainConfig) -> Outcome:
    """Train a crosscoder on a model, evaluate it and save it in a run folder."""
    from crossproof.binding.train import train

    return _evaluation(config.out, train(config))


def show(folder: Annotated[Path, tyro.conf.Positional]) -> Outcome:
    """Print what a run found.

    Args:
        folder: The run folder.
    """
    from crossproof import runs

    if runs.read(folder).kind == "ground-truth":
        from crossproof.study.ground_truth.results import GroundTruthStudy

        return _ground_truth(runs.read_results(folder, GroundTruthStudy))
    if runs.read(folder).kind == "ranking":
        from crossproof.study.ranking.results import RankingStudy

        return _ranking(runs.read_results(folder, RankingStudy))
    if runs.read(folder).kind == "interactions":
        from crossproof.interaction.result_view import Summary

        return _interactions(runs.read_results(folder, Summary))
    from crossproof.crosscoder.evaluate import Evaluation

    return _evaluation(folder, runs.read_results(folder, Evaluation))


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
        metrics: Of directed, mass and ratio. Default: all that the MLPs have; directed alone is by far the quickest.
        data: Where they come from, a .txt or .jsonl file. Zoo models bring their own.
        out: The run folder to write tables and matrices to.
        device: cpu, cuda or cuda:N.
    """
    from crossproof.binding.measure import MeasureConfig, measure

    if texts < 1:
        raise CrossproofError(f"--texts {texts} leaves nothing to measure on: give at least 1")
    config = MeasureConfig(subject=subject, coder=coder, texts=texts, metrics=metrics, data=data, device=device)
    return _interactions(measure(config, out))


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
    rows = [asdict(check) | {"difference": _finite(check.difference)} for check in checks]
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
        return Outcome(verdicts, (_table("rebuilt", verdicts),), status=1 if differs else 0)
    rows = zoo.table()
    shown = {"name": "name", "size": "size", "MB": "megabytes", "loss": "loss"}
    shown |= {"1-gram": "unigram", "2-gram": "bigram", "3-gram": "trigram", "success": "success"}
    return Outcome(rows, (_table("zoo", [{head: row[column] for head, column in shown.items()} for row in rows]),))


def ground_truth(out: Path, seeds: int = 5) -> Outcome:
    """Score every metric on the interactions planted in `planted`, with true and learned dictionaries.

    Args:
        out: The run folder. An unfinished run found there is resumed.
        seeds: How many dictionaries to learn, and on how many sets of tokens to score.
    """
    from crossproof.study.ground_truth.study import GroundTruthConfig, run

    if seeds < 1:
        raise CrossproofError(f"seeds: {seeds}, but at least 1 dictionary is needed")
    return _ground_truth(run(GroundTruthConfig(out=out, seeds=seeds)))


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
    return _ranking(run(RankingConfig(subject=subject, coder=coder, out=out, **options)))


COMMANDS: dict[str, Callable[..., Outcome]] = {
    "train": train,
    "interactions": interactions,
    "ground-truth": ground_truth,
    "ranking": ranking,
    "show": show,
    "doctor": doctor,
    "zoo": zoo,
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    as_json = "--json" in arguments
    name, *rest = [argument for argument in arguments if argument != "--json"] or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name == "--version":
        from crossproof import __version__

        print(__version__)
        return 0
    if name not in COMMANDS:
        close = nearest(name, COMMANDS)
        print(f"crossproof: no command {name!r}" + (f"; did you mean {close}?" if close else ""), file=sys.stderr)
        print(_usage(), file=sys.stderr)
        return 2
    try:
        outcome = _run(name, rest)
    except CrossproofError as error:
        return _complain(name, str(error))
    except OSError as error:
        return _complain(name, f"{error.filename or ''} {error.strerror or error}".strip())
    except (MemoryError, RuntimeError) as error:
        # torch reports memory that ran out as a RuntimeError, on CPUs and GPUs alike
        if isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error):
            return _complain(name, f"{OUT_OF_MEMORY} ({error})")
        raise
    except KeyboardInterrupt:
        hint = "; repeat the command to go on from the last checkpoint" if name == "train" else ""
        return _complain(name, f"stopped{hint}", status=130)
    _print(outcome, as_json)
    return outcome.status


def _run(name: str, arguments: list[str]) -> Outcome:
    os.environ.setdefault("PYDANTIC_ERRORS_INCLUDE_URL", "0")  # an option's error is no place for a link
    command = COMMANDS[name]
    options: dict[str, Any] = {"prog": f"crossproof {name}", "args": arguments}
    if command is not train:
        return tyro.cli(command, **options)
    from crossproof.binding.config import PenalisedTrainConfig

    return train(tyro.cli(PenalisedTrainConfig, description=train.__doc__, **options))


def _print(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print(json.dumps(outcome.data, indent=2, allow_nan=False))
        return
    from rich.console import Console

    # a pipe or a file has no width of its own: there, a table is as wide as it needs to be
    console = Console() if sys.stdout.isatty() else Console(width=160)
    for part in outcome.shown:
        console.print(part, highlight=False)


def _complain(name: str, problem: str, status: int = 1) -> int:
    print(f"crossproof {name}: {problem}", file=sys.stderr)
    return status


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(
        f"  {name:<{width}}  {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()
    )
    return (
        "usage: crossproof COMMAND [OPTIONS]\n\n"
        "How the features of a crosscoder interact, and what can be proved from them.\n\n"
        f"commands:\n{lines}\n\n"
        "`crossproof COMMAND --help` lists a command's options. --json prints results as JSON, for programs."
    )


def _evaluation(folder: Path, results: Evaluation) -> Outcome:
    summary = (
        f"mean unexplained {_as('{:.2%}', results.mean_unexplained)} · {results.l0:.1f} active features per token · "
        f"{results.dead:.2%} dead\nmodel's loss {results.loss:.4f} on {results.tokens:,} tokens of "
        f"{results.texts} held-out texts"
    )
    # what fits a terminal of 80 columns; the rest is in results.json
    rows = [
        {
            "site": site.site,
            "unexpl.": _as("{:.2%}", site.unexplained),
            "cosine": _as("{:.3f}", site.cosine),
            "spliced": _as("{:.3f}", site.loss_spliced),
            "mean": _as("{:.3f}", site.loss_mean),
            "recov.": _as("{:.1%}", site.loss_recovered),
        }
        for site in results.sites
    ]
    return Outcome(results.model_dump(mode="json"), (_table(str(folder), rows), summary))


def _interactions(found: Summary) -> Outcome:
    summary = (
        f"{found.about}\n{found.tokens:,} tokens · {found.alive:,} of {found.features:,} features alive · "
        f"{found.pairs:,} ordered pairs active together\ndominant share {_as('{:.3f}', found.dominant_share)} · mean "
        f"pairwise interaction {found.mean_pairwise:.3g} ({_as('{:.3g}', found.mean_pairwise_alive)} over pairs of "
        "living features)"
    )
    units = [
        {
            "MLP": unit.unit,
            "neurons": unit.neurons,
            "dominant share": unit.dominant_share,
            "mean pairwise": unit.mean_pairwise,
            "score per token": unit.token_score,
        }
        for unit in found.units
    ]
    pairs = [
        {
            "pair": f"{pair.i} → {pair.j}",
            "MLP": pair.unit,
            "neuron": pair.neuron,
            "its share": _as("{:.0%}", pair.neuron_share),
            "strength": pair.strength,
            "frequency": f"{pair.frequency:.1%}",
            "score": pair.score,
        }
        for pair in found.strongest
    ]
    tables = [_table(title, rows) for title, rows in (("MLPs", units), ("strongest pairs", pairs)) if rows]
    return Outcome(found.model_dump(mode="json"), (summary, *tables))


def _ground_truth(found: GroundTruthStudy) -> Outcome:
    from crossproof.study.ground_truth.results import tables, verdicts

    shown = [_table(title, rows) for title, rows in tables(found).items()]
    return Outcome(found.model_dump(mode="json"), (*shown, *verdicts(found)))


def _ranking(found: RankingStudy) -> Outcome:
    from crossproof.study.ranking.results import summary, tables

    shown = [_table(title, rows) for title, rows in tables(found).items()]
    return Outcome(found.model_dump(mode="json"), (*shown, summary(found)))


def _finite(number: float) -> float | None:
    """JSON has no word for what is not a number."""
    return number if math.isfinite(number) else None


def _as(form: str, number: float | None) -> str:
    return "–" if number is None else form.format(number)


def _table(title: str, rows: list[dict[str, Any]]) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(rows[0]):
        table.add_column(column.replace("_", " "), justify="right" if i else "left", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    sys.exit(main())
