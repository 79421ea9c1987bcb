"""How much of what each MLP does is kept when its neurons hear only some of the features (Figs 2 and 7, MATHS §6).

run.json  results.json  findings.json  losses-*.json

What was measured with each crosscoder is kept in a file of its own, so that a run that was killed goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.files import read_json, write_json
from crossproof.study.base import once
from crossproof.study.dictionaries import described
from crossproof.study.fidelity.config import FidelityConfig, Residual
from crossproof.study.fidelity.measure import Losses, check, losses_of, mlps_with
from crossproof.study.fidelity.records import LARGEST
from crossproof.study.fidelity.results import FidelityStudy, study_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "fidelity"


def run(config: FidelityConfig) -> FidelityStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], FidelityStudy]:
        if not config.coders:
            raise CrossproofError("coders: none; name at least one crosscoder")
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        tokens = subject.held_out(config.texts, config.data)
        _check(config, subject, coders, tokens)
        return lambda: study(config, subject, coders, tokens, config.out)

    return once(config.out, KIND, config, FidelityStudy, prepare)


def study(
    config: FidelityConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens, parts: Path | None = None
) -> FidelityStudy:
    """On these texts. The folder `parts` keeps what was measured with each crosscoder; what is there is read."""
    _check(config, subject, coders, tokens)
    schemes = (*config.schemes, LARGEST)
    measured = []
    for number, coder in enumerate(coders):
        file = parts and parts / f"losses-{number}.json"
        if file and file.exists():
            measured.append(_read(file))
            continue
        measured.append(losses_of(subject, coder, tokens, schemes, config.residuals, config.seed))
        if file:
            _write(file, measured[-1])
    return study_of(subject.name, described(config.coders), measured, config.seed)


def _check(config: FidelityConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens) -> None:
    if len(coders) != len(config.coders):
        raise MismatchError(f"coders: {len(coders)} crosscoders for {len(config.coders)} names")
    twice = sorted({name for name in config.coders if config.coders.count(name) > 1})
    if twice:
        raise CrossproofError(f"coders: {', '.join(twice)} is there twice; one dictionary is no second seed of itself")
    for coder in coders:
        check(subject, coder, tokens, config.schemes, config.residuals)
    for residual in config.residuals:
        first, *others = (mlps_with(subject, coder, residual) for coder in coders)
        for name, mlps in zip(config.coders[1:], others, strict=True):
            if mlps != first:
                raise MismatchError(
                    f"with the {residual} stream {config.coders[0]} reaches {', '.join(first)}, but {name} "
                    f"{', '.join(mlps)}: dictionaries are compared on the same MLPs; study them apart"
                )


def _write(file: Path, measured: dict[Residual, Losses]) -> None:
    write_json(
        file,
        {
            residual: {
                "clean": its.clean.tolist(),
                "targets": its.targets.tolist(),
                "stream": {mlp: values.tolist() for mlp, values in its.stream.items()},
                "patched": {mlp: {s: v.tolist() for s, v in schemes.items()} for mlp, schemes in its.patched.items()},
            }
            for residual, its in measured.items()
        },
    )


def _read(file: Path) -> dict[Residual, Losses]:
    def tensor(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    return {
        residual: Losses(
            tensor(its["clean"]),
            tensor(its["targets"]),
            {mlp: {s: tensor(v) for s, v in schemes.items()} for mlp, schemes in its["patched"].items()},
            {mlp: tensor(values) for mlp, values in its["stream"].items()},
        )
        for residual, its in read_json(file).items()
    }
