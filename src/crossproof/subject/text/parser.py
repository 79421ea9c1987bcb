"""Reads a plot, written in the template language of `grammar.py`, into its nodes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from crossproof.subject.text import lexicon
from crossproof.subject.text.grammar import (
    Article,
    Choice,
    Feature,
    Literal,
    Node,
    Pick,
    Plot,
    Reference,
    Sequence,
    SetPhase,
    Speech,
    SpeechPronoun,
)
from crossproof.subject.text.labels import Kind, Phase
from crossproof.subject.text.lexicon import WORD_OF_TEXT, WORDS_OF_CLASS, mark


class TemplateError(ValueError):
    """A template does not follow the language, or uses a word that the lexicon does not have."""


_TOKEN = re.compile(
    r"""\s* (?: \#(?P<phase>\w+) | !(?P<feature>[A-Z]\w+) | \{(?P<role>\w+)(?:\.(?P<what>\w+))?\} | <(?P<cls>\w+)>
    | (?P<control>[\[|\]]) | @(?P<speaker>\w+)(?:>(?P<listener>\w+))?" | (?P<end>")
    | (?P<word>[A-Za-z]+)(?::(?P<kind>[a-z]+))? | (?P<mark>[.,!?;:]) )""",
    re.VERBOSE,
)
_FRAGMENT = re.compile(r"%(\w+)\((\w+)\)")


def expand(template: str, fragments: dict[str, str]) -> str:
    """The template with its `%fragment(role)`s written out, fragments within fragments too."""

    def write_out(match: re.Match[str]) -> str:
        return expand(re.sub(r"\bX\b", match[2], fragments[match[1]]), fragments)

    return _FRAGMENT.sub(write_out, template)


def compile_plot(name: str, roles: str, template: str, fragments: dict[str, str]) -> Plot:
    """`roles` is like "hero:any friend:child both:hero+friend"."""
    types = dict(role.split(":") for role in roles.split())
    parser = _Parser(name, types, expand(template, fragments).strip())
    body = parser.parse()
    if idle := types.keys() - parser.used - {part for type_ in types.values() for part in type_.split("+")}:
        raise TemplateError(f"plot {name!r}: nothing is told of {sorted(idle)}")
    return Plot(name, types, frozenset(parser.features), body)


@dataclass(slots=True)
class _Parser:
    plot: str
    roles: dict[str, str]
    template: str
    position: int = 0
    features: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    listening: list[str | None] = field(default_factory=list)
    """The listeners of the speech being read: empty outside speech."""

    def parse(self) -> Sequence:
        body, stop = self._sequence()
        if stop:
            raise self._error(f"unexpected {stop!r}")
        return body

    def _sequence(self) -> tuple[Sequence, str]:
        """Nodes up to a `|`, `]`, closing quote or the end, and which of them it was ("" for the end)."""
        nodes: list[Node] = []
        while self.position < len(self.template):
            match = _TOKEN.match(self.template, self.position)
            if match is None:
                raise self._error("not in the language")
            self.position = match.end()
            control = match["control"] or match["end"]
            if control == "[":
                nodes.append(self._choice())
            elif control:
                return Sequence(tuple(nodes)), control
            else:
                nodes.append(self._node(match))
        return Sequence(tuple(nodes)), ""

    def _choice(self) -> Choice:
        options: list[Sequence] = []
        stop = "|"
        while stop == "|":
            option, stop = self._sequence()
            options.append(option)
        if stop != "]":
            raise self._error("a [ without its ]")
        return Choice(tuple(options))

    def _speech(self, speaker: str, listener: str | None) -> Speech:
        self.features.add("Dialogue")
        self.listening.append(listener)
        body, stop = self._sequence()
        if stop != '"':
            raise self._error("a quote that is not closed")
        self.listening.pop()
        continues = (
            re.compile(r"\s*[a-z<]").match(self.template, self.position) or self.template[self.position - 2] == ","
        )
        return Speech(speaker, listener, body, bool(continues))

    def _node(self, match: re.Match[str]) -> Node:
        if match["phase"]:
            return SetPhase(Phase(match["phase"]))
        if match["feature"]:
            if match["feature"] not in lexicon.FEATURES:
                raise self._error(f"no feature {match['feature']!r}")
            self.features.add(match["feature"])
            return Feature(match["feature"])
        for role in (match["role"], match["speaker"], match["listener"]):
            if role and role not in self.roles:
                raise self._error(f"no role {role!r}")
            if role:
                self.used.add(role)
        if match["role"]:
            return Reference(match["role"], match["what"] or "")
        if match["speaker"]:
            return self._speech(match["speaker"], match["listener"])
        if match["cls"]:
            if match["cls"] not in WORDS_OF_CLASS:
                raise self._error(f"no class {match['cls']!r}")
            return Pick(WORDS_OF_CLASS[match["cls"]])
        return Literal(mark(match["mark"])) if match["mark"] else self._word(match["word"], match["kind"])

    def _word(self, text: str, kind: str | None) -> Literal:
        word = WORD_OF_TEXT.get(text) or WORD_OF_TEXT.get(text.lower())
        if word is None:
            raise self._error(f"the lexicon has no {text!r}")
        if word.kind is Kind.PRONOUN:
            needs_listener = word.text not in lexicon.SPEAKER_WORDS
            if not self.listening or (needs_listener and self.listening[-1] is None):
                raise self._error(f"{text!r} has nobody to refer to")
            return SpeechPronoun(word)
        if kind:
            if kind not in [known.value for known in Kind]:
                raise self._error(f"no kind {kind!r}")
            return Literal(lexicon.meant_as(word, Kind(kind)))
        return Article(WORD_OF_TEXT["a"]) if word.text in ("a", "an") else Literal(word)

    def _error(self, what: str) -> TemplateError:
        near = self.template[max(0, self.position - 40) : self.position + 10]
        return TemplateError(f"plot {self.plot!r}: {what}, near ...{near}...")
