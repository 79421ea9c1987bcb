"""Two small models, a crosscoder of both, texts: what the tests of model diffing share."""

from __future__ import annotations

from pathlib import Path

import torch

from crossproof.crosscoder.config import CrosscoderConfig, Site
from crossproof.crosscoder.model import Crosscoder
from crossproof.study.diffing.config import DiffingConfig
from crossproof.study.diffing.measure import Compared, compared
from crossproof.study.diffing.texts import Texts, texts_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from tests.binding import coders
from tests.subject import tiny

HOOKS = ("blocks.*.hook_resid_pre", coders.MLP_INPUTS)
FEATURES = 14


def copy_of(name: str) -> Subject:
    other = Subject.load(str(tiny.folder("gpt2")))
    other.name = name
    return other


def many_tokens(subject: Subject, texts: int = 8) -> Tokens:
    words = [f"w{(11 * index + 5) % 50}" for index in range(60)]
    return subject.tokens([" ".join(words[3 * text : 3 * text + 6 + text % 3]) for text in range(texts)])


def coder_of(base: Subject, tuned: Subject, alike: bool = True) -> Crosscoder:
    """Features with the same directions in both models, or with others."""
    hooks = base.find_sites(HOOKS)
    sites = tuple(Site(subject=model.name, hook=hook) for model in (base, tuned) for hook in hooks)
    coder = Crosscoder(CrosscoderConfig(sites=sites, width=base.width(hooks[0]), features=FEATURES, activation="relu"))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in coder.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
        coder.b_enc -= 0.5
        if alike:
            half = coder.W_dec.shape[1] // 2
            coder.W_dec[:, half:] = coder.W_dec[:, :half]
            coder.b_dec[half:] = coder.b_dec[:half]
    return coder


def texts_without_labels(subject: Subject, tokens: Tokens) -> Texts:
    return texts_of(subject, tokens, None)


def config(out: Path, **changes: object) -> DiffingConfig:
    return DiffingConfig.model_validate({"out": out, "features": FEATURES, "k": 4, "texts": 8} | changes)


def of(base: Subject, tuned: Subject, coder: Crosscoder, null: Crosscoder, again: Subject) -> Compared:
    tokens = many_tokens(base)
    texts = texts_without_labels(base, tokens)
    with torch.no_grad():
        return compared(config(Path("none")), (base, tuned), (base, again), coder, null, tokens, texts)
