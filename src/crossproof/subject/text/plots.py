"""All plots, compiled, and the fragments that they share."""

from __future__ import annotations

from functools import cache

from crossproof.subject.text.grammar import Plot
from crossproof.subject.text.parser import compile_plot
from crossproof.subject.text.plots_away import AWAY
from crossproof.subject.text.plots_friends import FRIENDS
from crossproof.subject.text.plots_home import HOME

FRAGMENTS = {
    "intro": """
        [[Once upon a time|Long ago|Once], there [was|lived] a [<young>|<nice>] {X.kind}
        [named|called] {X}.
        |{X} was a [<young>|<nice>|<young>, <nice>] {X.kind}.|{X} was a <nice> {X.kind}.
        |There once was a <nice> {X.kind} [named|called] {X}.]""",
    "meet": "[a <nice> {X.kind} [named|called] {X}|{X}, a <nice> {X.kind}|a {X.kind} [named|called] {X}]",
    "oneday": "One [<daytime>|<fine> <daytime>],",
    "glad": "[{X} [<smiled>|clapped|cheered]|{X} [was|felt] [<very>|] <happy>|{X} felt <happy> inside]",
    "learned": "!Moral {X} [learned|knew now|understood] that",
    "sadly": "[{X} [was|felt] [<very>|] <sad>|{X} began to cry|{X} <wept>|{X} had tears in {X.his} eyes]",
}
"""`%intro(hero)` in a plot is this text with X replaced by `hero`."""


@cache
def plots() -> tuple[Plot, ...]:
    """Every plot. Compiled when first asked for, so that importing stays quick."""
    sources = HOME | FRIENDS | AWAY
    return tuple(compile_plot(name, roles, body, FRAGMENTS) for name, (roles, body) in sources.items())
