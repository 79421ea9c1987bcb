"""The paper's proof of a model's loss from a crosscoder, computed: what it certifies, and where it loses how much.

Each crosscoder is taken through the recursion (`proof/recursion/`) on the same held-out texts, the paper's way and
better ones. Every bound is sound, each token's true loss being checked against it; that ordinary crosscoders certify
nothing of use this way is what the study shows, and term by term why.

run.json  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import part
from crossproof.errors import CrossproofError
from crossproof.proof.recursion.recursion import Recursion, recursion
from crossproof.study.base import once
from crossproof.study.dictionaries import described
from crossproof.study.recursion.config import RecursionConfig
from crossproof.study.recursion.results import RecursionStudy, study_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "recursion"


def run(config: RecursionConfig) -> RecursionStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], RecursionStudy]:
        subject = Subject.load(config.subject)
        coders = [Crosscoder.from_pretrained(name) for name in config.coders]
        for coder in coders:
            part(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        if len(tokens) < 2:
            raise CrossproofError(f"texts: {len(tokens)} held-out ones have no interval; give at least 2")
        return lambda: study(config, subject, coders, tokens)

    return once(config.out, KIND, config, RecursionStudy, prepare)


def study(config: RecursionConfig, subject: Subject, coders: Sequence[Crosscoder], tokens: Tokens) -> RecursionStudy:
    found: list[Recursion] = [recursion(subject, coder, tokens) for coder in coders]
    return study_of(subject.name, list(zip(described(config.coders), found, strict=True)), config.seed)
