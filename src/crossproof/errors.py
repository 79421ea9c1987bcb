"""Errors that users can act on.

Every error says what is wrong, where it is wrong and what to do. They share one base class, so that the command line
can print them without a traceback and a notebook can catch them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CrossproofError(Exception):
    """Something the user can fix: the message says what, where and how."""


class UnknownSite(CrossproofError, KeyError):
    """A hook name or pattern that matches no site of the model."""

    def __str__(self) -> str:  # KeyError would show the message quoted and escaped
        return str(self.args[0])


class UnsupportedModel(CrossproofError):
    """A model with a block this library cannot describe."""


class MismatchError(CrossproofError):
    """Two things that do not fit together: a crosscoder and a subject, a batch and a config."""


class BadFile(CrossproofError):
    """A file that is truncated, edited, foreign or of another version."""


class NonFinite(CrossproofError):
    """A number that is not a number, where it was first seen."""


def nearest(name: str, known: Iterable[str], count: int = 5) -> str:
    """The known names closest to `name`, ready to print, or an empty string when nothing is close."""
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.3)
    return ", ".join(close)
