"""The template language: a plot, written as one readable string, compiled once into nodes that tell labelled pieces.

    {hero}            the name of the role `hero`; {hero.he} {hero.him} {hero.his} its pronouns, {hero.kind} "girl"
    {toy} {toy.it}    a thing; {toy.colour} its colour; {place.at} the place's preposition; {both.they} a pair
    <happy>           a word of the class or feeling `happy`, drawn anew
    [this|that|]      one of the alternatives, perhaps nothing
    @hero>friend"Will you come?"    what hero says to friend: "I" then refers to hero, "you" to friend, "we" to both
    #event            from here on, the phase of the plot (a new line begins with the event)
    !Moral            the story has this feature, if the alternative that holds the mark is told
    %intro(hero)      a fragment, with its X replaced by `hero`

All else is words and punctuation; "a" becomes "an" and sentences get their capitals by themselves. After a closing
quote, a lower-case letter or a `<` continues the sentence (`"Help!" cried {hero}.`), and so does anything after a
quoted comma.

Each node can do three things: `tell` itself, say how long it can get (`longest`), and list the words it can produce in
which contexts (`reach`). The last two are how the bound on a story's length and the vocabulary are derived from the
plots themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from . import lexicon
from .cast import Draw, Entity, candidates, choose, pair
from .labels import Kind, Label, Part, Phase, label
from .lexicon import CLOSE_QUOTE, NEWLINE, OPEN_QUOTE, WORD_OF_TEXT, WORDS_OF_CLASS, Context, Word, mark

Reached = set[tuple[Word, Context]]

_AN = lexicon.word("an", Kind.FUNCTION)


class TemplateError(ValueError):
    """A template does not follow the language, or uses a word that the lexicon does not have."""


class Teller:
    """The story so far, while it is being told."""

    __slots__ = ("article", "cast", "context", "draw", "features", "labels", "listener", "phase", "pieces", "speaker")

    def __init__(self, cast: dict[str, Entity], draw: Draw) -> None:
        self.cast = cast
        self.draw = draw
        self.pieces: list[str] = []
        self.labels: list[Label] = []
        self.features: set[str] = set()
        self.phase = Phase.OPENING
        self.context = Context.LINE
        self.speaker: str | None = None
        self.listener: str | None = None
        self.article: Context | None = None
        """The context of an "a" that was just said and may have to become "an"."""

    def say(self, word: Word, referent: str | None = None) -> None:
        if self.article is not None:
            if word.takes_an:
                self.pieces[-1] = _AN.forms[self.article]
            self.article = None
        self.pieces.append(word.forms[self.context])
        self.labels.append(label(word.kind, self.phase, Part.STORY, referent, self.speaker, word.feeling))
        self.context = word.after


@runtime_checkable
class Node(Protocol):
    def tell(self, teller: Teller) -> None: ...
    def longest(self) -> int: ...
    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]: ...


def _reach_words(words: tuple[Word, ...], contexts: set[Context], reached: Reached) -> set[Context]:
    reached.update((word, context) for word in words for context in contexts)
    return {word.after for word in words}


@dataclass(frozen=True, slots=True)
class Literal:
    word: Word

    def tell(self, teller: Teller) -> None:
        teller.say(self.word)

    def longest(self) -> int:
        return 1

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        return _reach_words((self.word,), contexts, reached)


@dataclass(frozen=True, slots=True)
class Article(Literal):
    def tell(self, teller: Teller) -> None:
        context = teller.context
        teller.say(self.word)
        teller.article = context

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        return _reach_words((self.word, _AN), contexts, reached)


@dataclass(frozen=True, slots=True)
class SpeechPronoun(Literal):
    """ "I", "you" or "we", which in speech refer to who speaks, who listens, or both."""

    def tell(self, teller: Teller) -> None:
        text = self.word.text
        if text in lexicon.SPEAKER_WORDS:
            teller.say(self.word, teller.speaker)
        elif text in lexicon.ADDRESSEE_WORDS:
            teller.say(self.word, teller.listener)
        else:
            teller.say(self.word, f"{teller.speaker} and {teller.listener}")


@dataclass(frozen=True, slots=True)
class Reference:
    role: str
    what: str

    def tell(self, teller: Teller) -> None:
        entity = teller.cast[self.role]
        words = entity.words[self.what]
        if len(words) == 1:
            # The colour and the preposition go with the entity but do not denote it.
            teller.say(words[0], None if self.what in ("colour", "at") else entity.name)
            return
        for word in words:
            teller.say(word, None if word.kind is Kind.FUNCTION else word.text)

    def longest(self) -> int:
        return 3 if self.role == "both" and not self.what else 1

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        type_ = roles[self.role]
        if "+" in type_:
            first, second = type_.split("+")
            members = [pair(candidates(roles[first])[0], candidates(roles[second])[0])]
            if not self.what:
                out = Reference(first, "").reach(contexts, reached, roles)
                _reach_words((lexicon.WORD_OF_TEXT["and"],), out, reached)
                return Reference(second, "").reach(out, reached, roles)
        else:
            members = list(candidates(type_))
        return _reach_words(tuple(entity.words[self.what][0] for entity in members), contexts, reached)


@dataclass(frozen=True, slots=True)
class Pick:
    words: tuple[Word, ...]

    def tell(self, teller: Teller) -> None:
        teller.say(self.words[int(teller.draw() * len(self.words))])

    def longest(self) -> int:
        return 1

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        return _reach_words(self.words, contexts, reached)


@dataclass(frozen=True, slots=True)
class Sequence:
    nodes: tuple[Node, ...]

    def tell(self, teller: Teller) -> None:
        for node in self.nodes:
            node.tell(teller)

    def longest(self) -> int:
        return sum(node.longest() for node in self.nodes)

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        for node in self.nodes:
            contexts = node.reach(contexts, reached, roles)
        return contexts


@dataclass(frozen=True, slots=True)
class Choice:
    options: tuple[Sequence, ...]

    def tell(self, teller: Teller) -> None:
        self.options[int(teller.draw() * len(self.options))].tell(teller)

    def longest(self) -> int:
        return max(option.longest() for option in self.options)

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        return set[Context]().union(*(option.reach(contexts, reached, roles) for option in self.options))


@dataclass(frozen=True, slots=True)
class Speech:
    """Quoted words. `continues`: the sentence goes on after the quote, so that no capital follows.

    It does after a quoted comma, and where the template goes on in lower case.
    """

    speaker: str
    listener: str | None
    body: Sequence
    continues: bool

    def tell(self, teller: Teller) -> None:
        teller.say(OPEN_QUOTE)
        teller.features.add("Dialogue")
        teller.speaker = teller.cast[self.speaker].name
        teller.listener = teller.cast[self.listener].name if self.listener else None
        self.body.tell(teller)
        teller.speaker = teller.listener = None
        teller.say(CLOSE_QUOTE)
        if self.continues:
            teller.context = Context.INSIDE

    def longest(self) -> int:
        return 2 + self.body.longest()

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        inside = _reach_words((OPEN_QUOTE,), contexts, reached)
        _reach_words((CLOSE_QUOTE,), self.body.reach(inside, reached, roles), reached)
        return {Context.INSIDE if self.continues else Context.SENTENCE}


@dataclass(frozen=True, slots=True)
class SetPhase:
    phase: Phase

    def tell(self, teller: Teller) -> None:
        teller.phase = self.phase
        if self.phase is Phase.EVENT:
            teller.say(NEWLINE)

    def longest(self) -> int:
        return int(self.phase is Phase.EVENT)

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        return _reach_words((NEWLINE,), contexts, reached) if self.phase is Phase.EVENT else contexts


@dataclass(frozen=True, slots=True)
class Feature:
    name: str

    def tell(self, teller: Teller) -> None:
        teller.features.add(self.name)

    def longest(self) -> int:
        return 0

    def reach(self, contexts: set[Context], reached: Reached, roles: dict[str, str]) -> set[Context]:
        return contexts


@dataclass(frozen=True, slots=True)
class Plot:
    """A compiled plot: the types of its roles, and what it tells."""

    name: str
    roles: dict[str, str]
    features: frozenset[str]
    """What its stories can have; each has those whose marks were told."""
    body: Sequence

    def tell(self, draw: Draw) -> Teller:
        cast: dict[str, Entity] = {}
        taken: set[str] = set()
        for role, type_ in self.roles.items():
            if "+" in type_:
                first, second = type_.split("+")
                cast[role] = pair(cast[first], cast[second])
            else:
                cast[role] = choose(type_, taken, draw)
                taken.add(cast[role].name)
        teller = Teller(cast, draw)
        self.body.tell(teller)
        return teller

    def reach(self, reached: Reached) -> None:
        self.body.reach({Context.LINE}, reached, self.roles)


_TOKEN = re.compile(
    r"""\s* (?: \#(?P<phase>\w+) | !(?P<feature>[A-Z]\w+) | \{(?P<role>\w+)(?:\.(?P<what>\w+))?\} | <(?P<cls>\w+)>
    | (?P<control>[\[|\]]) | @(?P<speaker>\w+)(?:>(?P<listener>\w+))?" | (?P<end>")
    | (?P<word>'s|[A-Za-z]+(?:'(?!s\b)[a-z]+)?) | (?P<mark>[.,!?;:]) )""",
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
    return Plot(name, types, frozenset(parser.features), body)


@dataclass(slots=True)
class _Parser:
    plot: str
    roles: dict[str, str]
    template: str
    position: int = 0
    features: set[str] = field(default_factory=set)
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
        if match["role"]:
            return Reference(match["role"], match["what"] or "")
        if match["speaker"]:
            return self._speech(match["speaker"], match["listener"])
        if match["cls"]:
            if match["cls"] not in WORDS_OF_CLASS:
                raise self._error(f"no class {match['cls']!r}")
            return Pick(WORDS_OF_CLASS[match["cls"]])
        return Literal(mark(match["mark"])) if match["mark"] else self._word(match["word"])

    def _word(self, text: str) -> Literal:
        word = WORD_OF_TEXT.get(text) or WORD_OF_TEXT.get(text.lower())
        if word is None:
            raise self._error(f"the lexicon has no {text!r}")
        if word.kind is Kind.PRONOUN:
            needs_listener = word.text not in lexicon.SPEAKER_WORDS
            if not self.listening or (needs_listener and self.listening[-1] is None):
                raise self._error(f"{text!r} has nobody to refer to")
            return SpeechPronoun(word)
        return Article(WORD_OF_TEXT["a"]) if word.text in ("a", "an") else Literal(word)

    def _error(self, what: str) -> TemplateError:
        near = self.template[max(0, self.position - 40) : self.position + 10]
        return TemplateError(f"plot {self.plot!r}: {what}, near ...{near}...")
