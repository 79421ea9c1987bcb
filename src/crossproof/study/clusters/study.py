"""Whether features that interact belong together (the paper's fourth claim).

The texts are cut in two. On the first half the similarity of any two features is measured, by interaction and by the
baselines (`similarities.py`), clusters are made of each (`algorithms.py`), and described by what is true of the tokens
on which their members fire. On the second half one member after the other is held out, and a judge who knows only the
labels of the tokens it fires on assigns it to one of five clusters (`judge.py`). `compare.py` has the intervals.

run.json  parts/  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError

from crossproof.binding.bound import bound_mlps
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_json, write_text
from crossproof.progress import progress
from crossproof.study.base import once
from crossproof.study.clusters.algorithms import need_sklearn
from crossproof.study.clusters.config import ClustersConfig
from crossproof.study.clusters.measured import Half, measured
from crossproof.study.clusters.records import Measured
from crossproof.study.clusters.results import ClustersStudy, study_of
from crossproof.study.dictionaries import described
from crossproof.study.token_labels import TokenLabels, labels_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "clusters"
HEARD = 5
"""A label counts if it is true of so many tokens of each half."""


def run(config: ClustersConfig) -> ClustersStudy:
    """Study, and write the run folder; a run that is finished is read, one that was stopped goes on."""

    def prepare() -> Callable[[], ClustersStudy]:
        if not config.coders:
            raise CrossproofError("coders: none; name at least one crosscoder")
        need_sklearn()
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        for coder in coders:
            bound_mlps(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        halves = in_two(tokens, labels_of(subject, tokens, data=config.data))
        return lambda: _study(config, subject, coders, halves, config.out / "parts")

    return once(config.out, KIND, config, ClustersStudy, prepare)


def study(config: ClustersConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens) -> ClustersStudy:
    """On these texts, the subject's first held-out ones or those of `config.data`; no file is read or written."""
    return _study(config, subject, coders, in_two(tokens, labels_of(subject, tokens, data=config.data)), None)


def in_two(tokens: Tokens, labels: TokenLabels) -> tuple[Half, Half]:
    """The first half of the texts and the second, with the labels that are true of some tokens in both."""
    middle = len(tokens) // 2
    first, second = tokens[:middle], tokens[middle:]
    if first.n_kept == 0 or second.n_kept == 0:
        raise CrossproofError(
            f"{len(tokens)} texts: clusters are made on one half of them and judged on the other, and none of the "
            "positions of one half is kept. Give more texts"
        )
    values = labels.values[: first.n_kept], labels.values[first.n_kept :]
    counts = (torch.from_numpy(its.numpy().sum(0)) for its in values)  # torch takes twenty times as long to count
    heard = torch.stack([its >= HEARD for its in counts]).all(0)
    names = tuple(labels.names[number] for number in heard.nonzero().squeeze(1).tolist())
    if not names:
        raise CrossproofError(
            f"no label is true of {HEARD} tokens of each half of these texts: there is nothing to describe clusters "
            "by. Give more texts"
        )
    return Half(first, TokenLabels(names, values[0][:, heard])), Half(second, TokenLabels(names, values[1][:, heard]))


def _study(
    config: ClustersConfig,
    subject: Subject,
    coders: Sequence[Crosscoder],
    halves: tuple[Half, Half],
    parts: Path | None,
) -> ClustersStudy:
    found = []
    with progress("clusters", len(coders), "dictionaries") as bar:
        for number, coder in enumerate(coders):
            file = None if parts is None else parts / f"{number}.json"
            if file is not None and file.exists():
                its = _read(file)
            else:
                its = measured(subject, coder, *halves, config.seed)
                if file is not None:
                    write_text(file, its.model_dump_json())
            found.append(its)
            bar(1)
    records = described(config.coders)
    return study_of(subject.name, halves, list(zip(records, found, strict=True)), config.seed)


def _read(file: Path) -> Measured:
    try:
        return Measured.model_validate(read_json(file))
    except ValidationError as error:
        raise BadFile(f"{file} does not hold what this version writes: delete it to measure it again") from error
