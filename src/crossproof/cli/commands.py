"""The commands that are functions: their arguments are the options, and they return what they found.

Nothing heavy is imported before a command runs, and no help needs torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro

from crossproof.cli import outcomes
from crossproof.cli.outcomes import Outcome
from crossproof.errors import CrossproofError


def show(folder: Annotated[Path, tyro.conf.Positional]) -> Outcome:
    """Print what a run found.

    Args:
        folder: The run folder.
    """
    return outcomes.of_run(folder)


def interactions(
    subject: Annotated[str, tyro.conf.Positional],
    coder: str,
    texts: int = 100,
    metrics: tuple[str, ...] = (),
    include: tuple[str, ...] | None = None,
    data: Path | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> Outcome:
    """Measure how the features of a crosscoder interact in a model's units.

    Args:
        subject: A zoo name, a local folder or a hub id.
        coder: The crosscoder: its folder, the folder of the run that trained it, or a hub id.
        texts: Held-out texts to measure on.
        metrics: Of directed, mass, cross, ratio, chance and correlation, in MLPs. Default: all that these have.
        include: Which units to account for beside the MLPs, of attention and norm, or none: heads with rotary positions
            take most of the time. Default: those whose inputs the crosscoder has.
        data: Where they come from, a .txt or .jsonl file. Zoo models bring their own.
        out: The run folder to write tables and matrices to.
        device: cpu, cuda or cuda:N.
    """
    from crossproof.binding.measure import MeasureConfig, measure

    if texts < 1:
        raise CrossproofError(f"--texts {texts} leaves nothing to measure on: give at least 1")
    options = {"texts": texts, "metrics": metrics, "include": include, "data": data, "device": device}
    return outcomes.interactions(measure(MeasureConfig(subject=subject, coder=coder, **options), out))


def attention(
    subject: Annotated[str, tyro.conf.Positional],
    coder: str,
    text: str,
    layer: int | None = None,
    head: int | None = None,
    query: str | None = None,
    key: str | None = None,
    out: Path | None = None,
    device: str = "cpu",
) -> Outcome:
    """Show one attention head on one text: its pattern, the parts of its scores, the features that meet there.

    Args:
        subject: A zoo name, a local folder or a hub id.
        coder: The crosscoder: its folder, the folder of the run that trained it, or a hub id.
        text: What the head reads.
        layer: Which attention layer. Default, as for head and query: where interaction is largest.
        head: Which of its heads.
        query: The word that looks, or its position.
        key: The word that it looks at, or its position. Default: where its features do most to the attention.
        out: The run folder to write the page and the arrays to.
        device: cpu, cuda or cuda:N.
    """
    if out is not None:
        from crossproof.report.page import need_plotly

        need_plotly()
    from crossproof.binding.attention_view import AttentionConfig, attend

    options = {"layer": layer, "head": head, "query": query, "key": key, "device": device}
    found = attend(AttentionConfig(subject=subject, coder=coder, text=text, **options), out)
    if out is not None:
        from crossproof.report.attention_page import write_attention_page

        write_attention_page(out)
    return outcomes.attention(found, out)


def span(
    subject: Annotated[str, tyro.conf.Positional],
    coder: str,
    input_site: Annotated[str, tyro.conf.arg(name="from")],
    output_site: Annotated[str, tyro.conf.arg(name="to")],
    out: Path,
    tokens: int = 50,
    orders: int = 16,
    texts: int = 100,
    keep_error: bool = False,
    data: Path | None = None,
    seed: int = 0,
) -> Outcome:
    """Measure by Shapley-Taylor values how features interact between any two sites of a model.

    At a token with ten active features or fewer all coalitions are visited, up to 1,024 forward passes; with more,
    random orders are: sixteen orders of sixteen features take 3,800 passes, some ten seconds on a small model. A run
    that is stopped goes on after its last token.

    Args:
        subject: A zoo name, a local folder or a hub id.
        coder: The crosscoder: its folder, the folder of the run that trained it, or a hub id.
        input_site: Where features are switched on and off: a site of the crosscoder.
        output_site: Where it is seen what they do: any site after that, or `logits`.
        out: The run folder.
        tokens: At how many tokens.
        orders: Random orders at tokens with more than ten active features.
        texts: Held-out texts that the tokens are drawn from.
        keep_error: Keep what the crosscoder does not explain at the input site in every coalition.
        data: Where the texts come from, a .txt or .jsonl file. Zoo models bring their own.
        seed: Draws tokens and orders.
    """
    from crossproof.binding.measure_span import SpanConfig, measure_span

    _at_least(1, tokens=tokens, texts=texts)
    _at_least(2, orders=orders)
    _at_least(0, seed=seed)
    options = {"tokens": tokens, "orders": orders, "texts": texts, "keep_error": keep_error, "data": data, "seed": seed}
    sites = {"input_site": input_site, "output_site": output_site}
    return outcomes.span(measure_span(SpanConfig(subject=subject, coder=coder, out=out, **sites, **options)))


def units(
    subject: Annotated[str, tyro.conf.Positional],
    coders: tuple[str, ...],
    out: Path,
    texts: int = 100,
    tokens: int = 100,
    data: Path | None = None,
    seed: int = 0,
) -> Outcome:
    """Say which units of a model interact most, with dictionaries trained with and without a penalty.

    Args:
        subject: A zoo name, a local folder or a hub id.
        coders: Folders of the runs that trained them. Those trained alike, but for their seeds, are pooled.
        out: The run folder.
        texts: Held-out texts that are accounted for.
        tokens: At how many of their tokens features are removed, in pairs: seconds each.
        data: Where the texts come from, a .txt or .jsonl file. Zoo models bring their own.
        seed: Draws the tokens and the bootstrap.
    """
    from crossproof.study.units.study import UnitsConfig, run

    _at_least(2, texts=texts, tokens=tokens)
    _at_least(0, seed=seed)
    options = {"texts": texts, "tokens": tokens, "data": data, "seed": seed}
    return outcomes.units(run(UnitsConfig(subject=subject, coders=coders, out=out, **options)))


def planted_units(out: Path, seeds: int = 5) -> Outcome:
    """Score metrics on gated MLPs, heads and norms made by hand, whose interactions are known.

    Args:
        out: The run folder. A finished run found there is read.
        seeds: How often to draw codes and strengths anew.
    """
    from crossproof.study.planted_units.study import PlantedUnitsConfig, run

    _at_least(1, seeds=seeds)
    return outcomes.planted_units(run(PlantedUnitsConfig(out=out, seeds=seeds)))


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
        from crossproof.proof.training.build import build
        from crossproof.subject.zoo.build import rebuild as build_all

        verdicts = build_all(rebuild, out or zoo.MODELS, check, build)
        differs = check and not all(verdict["same"] for verdict in verdicts)
        return Outcome(verdicts, (outcomes.table("rebuilt", verdicts),), status=1 if differs else 0)
    rows = zoo.table()
    shown = {"name": "name", "size": "size", "MB": "megabytes", "loss": "loss"}
    shown |= {"1-gram": "unigram", "2-gram": "bigram", "3-gram": "trigram", "success": "success"}
    shown |= {"certificate": "certificate"}
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

    _at_least(2, texts=texts)
    _at_least(1, tokens=tokens, seen=seen)
    _at_least(0, seed=seed)
    options = {"texts": texts, "tokens": tokens, "seen": seen, "data": data, "seed": seed}
    return outcomes.ranking(run(RankingConfig(subject=subject, coder=coder, out=out, **options)))


def unit_ranking(
    subject: Annotated[str, tyro.conf.Positional],
    coder: str,
    out: Path,
    texts: int = 100,
    queries: int = 100,
    data: Path | None = None,
    seed: int = 0,
) -> Outcome:
    """Score how well each metric of attention and of norms ranks pairs as Shapley-Taylor values do.

    Args:
        subject: A zoo name, a local folder or a hub id.
        coder: The crosscoder: its folder, the folder of the run that trained it, or a hub id.
        out: The run folder.
        texts: Held-out texts that the metrics look at.
        queries: At how many of their tokens Shapley-Taylor values are computed: seconds each.
        data: Where the texts come from, a .txt or .jsonl file. Zoo models bring their own.
        seed: Draws the tokens, the key features, the random metric and the bootstrap.
    """
    from crossproof.study.unit_ranking.study import UnitRankingConfig, run

    _at_least(2, texts=texts)
    _at_least(1, queries=queries)
    _at_least(0, seed=seed)
    options = {"texts": texts, "queries": queries, "data": data, "seed": seed}
    return outcomes.unit_ranking(run(UnitRankingConfig(subject=subject, coder=coder, out=out, **options)))


def _at_least(least: int, **options: int) -> None:
    for option, value in options.items():
        if value < least:
            raise CrossproofError(f"--{option} {value}: give at least {least}")


COMMANDS: dict[str, Callable[..., Outcome]] = {
    "interactions": interactions,
    "attention": attention,
    "span": span,
    "units": units,
    "ground-truth": ground_truth,
    "planted-units": planted_units,
    "ranking": ranking,
    "unit-ranking": unit_ranking,
    "show": show,
    "doctor": doctor,
    "zoo": zoo,
}
