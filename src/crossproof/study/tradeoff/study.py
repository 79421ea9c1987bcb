"""What a penalty on interactions buys, and what it costs: dictionaries trained with many penalties, side by side.

Trains crosscoders over penalties × weights × seeds × sizes × models, measures each on texts that none was trained on,
and asks whether the derived penalty does something that a generic regulariser of the same cost does not. A sweep that
was killed goes on where it was: every crosscoder has a run folder of its own, and what was measured of it a file.

run.json  crosscoders/NAME/…  measured/NAME/…  results.json  findings.json
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from crossproof import runs
from crossproof.binding.bound import BoundMLP, bound_mlps
from crossproof.binding.config import PenalisedTrainConfig
from crossproof.binding.penalty_term import PenaltyTerm
from crossproof.binding.train import train
from crossproof.crosscoder import checkpoint
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, UnsupportedModel, nearest
from crossproof.progress import progress
from crossproof.study.base import once
from crossproof.study.dictionaries import PLAIN
from crossproof.study.tradeoff.config import PRIMARY, SETTINGS, TradeoffConfig
from crossproof.study.tradeoff.measure import Measured, load, measure, save
from crossproof.study.tradeoff.results import TradeoffStudy, costs_at, study_of
from crossproof.study.tradeoff.settings import (
    Dictionary,
    check_alike,
    check_distinct,
    dictionary_of,
    name_of,
    short,
    trained_before,
)
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import MLP, GatedMLP

KIND = "tradeoff"
EVAL_TEXTS = 2
"""For the evaluation at the end of each training, which nothing is made of: the study measures by itself."""


def run(config: TradeoffConfig) -> TradeoffStudy:
    """Train what is not trained, measure what is not measured, and compare; a run that is finished is read."""

    def prepare() -> Callable[[], TradeoffStudy]:
        for name in config.settings:
            if name not in SETTINGS:
                close = nearest(name, SETTINGS) or ", ".join(SETTINGS)
                raise CrossproofError(f"settings: no {name!r}; did you mean {close}?")
        for what, values in (("settings", config.settings), ("weights", config.weights), ("features", config.features)):
            check_distinct(what, values)
        check_distinct("subjects", map(short, config.subjects))
        check_distinct("coders", (Path(name).name for name in config.coders))  # by which what is measured is kept
        subjects = {name: Subject.load(name, device=config.device) for name in config.subjects}
        tokens = {name: subject.held_out(config.texts, config.data) for name, subject in subjects.items()}
        for name, texts in tokens.items():
            if int(texts.keep.any(1).sum()) < 2:
                raise CrossproofError(f"texts: {len(texts)} held out for {name}; two are the least to resample")
        wanted, left_out = _to_train(config, subjects)
        before = {Path(name).name: trained_before(name) for name in config.coders}
        given = [dictionary_of(its, name) for name, its in before.items()]
        there = {(*its.place, its.seed) for its in given}
        new = {name: dictionary_of(its, name) for name, its in wanted.items()}
        wanted = {name: its for name, its in wanted.items() if (*new[name].place, new[name].seed) not in there}
        dictionaries = _in_order(config, [*given, *(new[name] for name in wanted)])
        check_alike([*wanted.values(), *before.values()])
        _check_complete(dictionaries, config.subjects)
        for name in config.coders:
            bound_mlps(subjects[before[Path(name).name].subject], Crosscoder.from_pretrained(name))
        return lambda: study(config, subjects, tokens, dictionaries, wanted, left_out)

    return once(config.out, KIND, config, TradeoffStudy, prepare)


def study(
    config: TradeoffConfig,
    subjects: dict[str, Subject],
    tokens: dict[str, Tokens],
    dictionaries: Sequence[Dictionary],
    wanted: dict[str, PenalisedTrainConfig],
    left_out: Sequence[str] = (),
) -> TradeoffStudy:
    """On these texts of each model. Dictionaries that are not `wanted` are there already."""
    found: list[tuple[Dictionary, Measured]] = []
    clock, done = runs.Clock(), 0
    files = {its.name: config.out / "measured" / its.name for its in dictionaries}
    to_do = [its for its in dictionaries if load(files[its.name]) is None]
    with progress("dictionaries", len(to_do), "dictionaries") as bar:
        for its in dictionaries:
            measured = load(files[its.name])
            if measured is None:
                bar(0, note=_how_far(its.name, done, len(to_do), clock.seconds()))
                if its.name in wanted:
                    train(wanted[its.name])
                coder = Crosscoder.from_pretrained(its.folder, device=config.device)
                measured = measure(subjects[its.subject], coder, tokens[its.subject], config.seed)
                save(measured, files[its.name])
                if its.name in wanted:  # nobody resumes it, and it is three times as large as the crosscoder
                    shutil.rmtree(Path(its.folder) / checkpoint.FOLDER, ignore_errors=True)
                done += 1
                bar(1)
            found.append((its, measured))
    return study_of(found, costs_at(config.cost, config.lost), config.seed, left_out)


def _how_far(name: str, done: int, total: int, seconds: float) -> str:
    left = f", about {seconds / done * (total - done) / 60:.0f} min left" if done else ""
    return f"{name} ({done + 1} of {total}{left})"


def _to_train(
    config: TradeoffConfig, subjects: dict[str, Subject]
) -> tuple[dict[str, PenalisedTrainConfig], list[str]]:
    """By name, seed by seed; and what cannot be trained."""
    if not config.settings:
        return {}, []
    ladders: dict[str, list[tuple[str, float]]] = {}
    left_out = []
    for name, subject in subjects.items():
        mlps = _mlps(subject, config.sites)
        ladders[name] = [(PLAIN, 0.0)]
        for setting in config.settings:
            try:
                PenaltyTerm(SETTINGS[setting].penalty, [its.unit for its in mlps], [its.site for its in mlps])
            except UnsupportedModel as error:
                left_out.append(f"{setting} on {short(name)}: {error}")
            else:
                ladders[name] += [(setting, weight) for weight in sorted(config.weights)]
        if len(ladders[name]) == 1:
            why = "; ".join(left_out)
            raise CrossproofError(f"settings: nothing to train on {name} but dictionaries without a penalty ({why})")
    wanted = {}
    for name, ladder in ladders.items():
        for features in config.features:
            for seed in range(config.seeds):
                for setting, weight in ladder:
                    its = name_of(name, setting, weight, features, seed)
                    wanted[its] = _training(config, name, setting, weight, features, seed, its)
    return wanted, left_out


def _training(
    config: TradeoffConfig, subject: str, setting: str, weight: float, features: int, seed: int, name: str
) -> PenalisedTrainConfig:
    penalty = SETTINGS[PRIMARY if setting == PLAIN else setting].penalty.model_copy(update={"weight": weight})
    return PenalisedTrainConfig.model_validate(
        {
            "subject": subject,
            "out": config.out / "crosscoders" / name,
            "features": features,
            "seed": seed,
            "penalty": penalty,
            "eval_texts": EVAL_TEXTS,
        }
        | config.model_dump(include={"steps", "k", "batch_tokens", "buffer_tokens", "sites", "data", "device"})
    )


def _mlps(subject: Subject, patterns: Sequence[str]) -> list[BoundMLP]:
    """The MLPs that a crosscoder with these sites will reach."""
    sites = subject.find_sites(patterns or subject.default_sites())
    units = [unit for unit in subject.units if isinstance(unit, MLP | GatedMLP)]
    bound = [BoundMLP(unit, sites.index(unit.input_site)) for unit in units if unit.input_site in sites]
    if not bound:
        read = ", ".join(unit.input_site for unit in units)
        raise MismatchError(
            f"sites: no MLP of {subject.name} reads one of {', '.join(sites)}: "
            + (f"they read {read}. Name these too" if units else "it has no MLP")
        )
    return bound


def _in_order(config: TradeoffConfig, dictionaries: Sequence[Dictionary]) -> list[Dictionary]:
    """Models and sizes as the config names them, seed by seed."""

    def place(its: Dictionary) -> tuple[int, int, int, int]:
        subject = config.subjects.index(its.subject) if its.subject in config.subjects else len(config.subjects)
        size = config.features.index(its.features) if its.features in config.features else len(config.features)
        return subject, size, its.features, its.seed

    return sorted(dictionaries, key=place)


def _check_complete(dictionaries: Sequence[Dictionary], subjects: Sequence[str]) -> None:
    """Something to compare, and nothing twice."""
    for its in dictionaries:
        if its.subject not in subjects:
            raise MismatchError(
                f"coders: {its.folder} was trained on {its.subject}, which is none of the subjects "
                f"{', '.join(subjects)}; name it too"
            )
    check_distinct("dictionaries", ((*its.place, its.seed) for its in dictionaries))
    check_distinct("coders", (its.name for its in dictionaries))
    places = {(its.subject, its.features) for its in dictionaries}
    plain = {(its.subject, its.features) for its in dictionaries if its.setting == PLAIN}
    for subject, features in sorted(places - plain) or ([] if places else [(subjects[0], 0)]):
        size = f" with {features:,} features" if features else ""
        raise CrossproofError(
            f"coders: there is no dictionary of {subject}{size} that was trained without a penalty, against which the "
            "others are to be held; train one, or name settings to train"
        )
