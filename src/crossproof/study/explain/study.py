"""Are features as explainable with a penalty as without: explanations in labels, scored on other texts.

The held-out texts are split in two halves. On one, the best few labels of each feature are searched for; on the other
they are scored. Beside them stand another feature's explanation, explanations searched for on labels that were shuffled
over the tokens, and, if an endpoint is configured, those of a language model.

run.json  results.json  findings.json  parts/ (a dictionary each)  answers.jsonl (of the language model)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import ValidationError

from crossproof.crosscoder.evaluate import check_fits
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_json, write_json
from crossproof.runs import first_problem
from crossproof.study.base import once
from crossproof.study.dictionaries import described
from crossproof.study.explain.config import ExplainConfig
from crossproof.study.explain.dictionary import explained, halves
from crossproof.study.explain.results import ExplainStudy, Part, groups_of
from crossproof.study.language_model import LanguageModel, check
from crossproof.study.token_labels import stories_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "explain"


def run(config: ExplainConfig) -> ExplainStudy:
    """Study, and write the run folder; a run that is finished is read, one that was killed goes on."""

    def prepare() -> Callable[[], ExplainStudy]:
        if not config.coders:
            raise CrossproofError("coders: none; name at least one crosscoder")
        if config.language_model.endpoint is not None:
            check(config.language_model)
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        for coder in coders:
            check_fits(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        if len(tokens) < 4:
            raise CrossproofError(f"{len(tokens)} held-out texts: two halves of at least 2 are needed; give more texts")
        return lambda: study(config, subject, coders, tokens, config.out / "parts")

    return once(config.out, KIND, config, ExplainStudy, prepare)


def study(
    config: ExplainConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens, parts: Path | None = None
) -> ExplainStudy:
    """On the subject's first held-out texts. What `parts` has of dictionaries is taken as it is."""
    explaining, scoring = halves(subject, tokens, config.seed, config.data)
    model = None
    if config.language_model.endpoint is not None:
        model = LanguageModel(config.language_model, config.out / "answers.jsonl")
    found = []
    for number, coder in enumerate(coders):
        file = parts / f"{number}.json" if parts is not None else None
        part = _earlier(file) if file is not None else None
        if part is None:
            part = explained(config, subject, coder, explaining, scoring, model)
            if file is not None:
                write_json(file, part.model_dump(mode="json"))
        found.append(part)
    records = described(config.coders)
    groups, same, above = groups_of(list(zip(records, found, strict=True)))
    return ExplainStudy(
        subject=subject.name,
        stories=config.data is None and stories_of(subject, tokens[:1]) is not None,
        labels=len(explaining.labels.names),
        parts=config.parts,
        explaining_texts=len(explaining.tokens),
        scoring_texts=len(scoring.tokens),
        explaining_tokens=explaining.tokens.n_kept,
        scoring_tokens=scoring.tokens.n_kept,
        language_model=config.language_model.model if model is not None else None,
        judged_examples=config.judged,
        coders=records,
        dictionaries=[part.dictionary for part in found],
        groups=groups,
        same=same,
        above=above,
    )


def _earlier(file: Path) -> Part | None:
    """What a killed run has found of a dictionary."""
    if not file.exists():
        return None
    try:
        return Part.model_validate(read_json(file))
    except ValidationError as error:
        raise BadFile(f"{file} is no part of a run ({first_problem(error)}); remove it") from error
