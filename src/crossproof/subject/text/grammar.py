"""The template language: a plot, written as one readable string, is read once into nodes that tell labelled pieces.

    {hero}            the name of the role `hero`; {hero.he} {hero.him} {hero.his} its pronouns, {hero.kind} "girl"
    {toy} {toy.it}    a thing; {toy.colour} its colour; {place.at} the place's preposition; {both.they} a pair
    cross:verb        a word of another kind than the lexicon gives this spelling
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

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from crossproof.subject.text import lexicon
from crossproof.subject.text.cast import Draw, Entity, candidates, choose, pair, together
from crossproof.subject.text.labels import Kind, Label, Part, Phase, label
from crossproof.subject.text.lexicon import CLOSE_QUOTE, NEWLINE, OPEN_QUOTE, Context, Word

Reached = set[tuple[Word, Context]]

_AN = lexicon.word("an", Kind.FUNCTION)


class Teller:
    """The story so far, while it is being told."""

    __slots__ = (
        "article",
        "cast",
        "content",
        "context",
        "draw",
        "features",
        "labels",
        "listener",
        "phase",
        "pieces",
        "speaker",
    )

    def __init__(self, cast: dict[str, Entity], draw: Draw) -> None:
        self.cast = cast
        self.draw = draw
        self.pieces: list[str] = []
        self.labels: list[Label] = []
        self.content: list[int] = []
        """The positions of the words that the header may ask for."""
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
        if word.in_headers:
            self.content.append(len(self.pieces))
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
            teller.say(self.word, together(teller.cast, {teller.speaker, teller.listener}).name)


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
                cast[role] = together(cast, {cast[member].name for member in type_.split("+")})
            else:
                cast[role] = choose(type_, taken, draw)
                taken.add(cast[role].name)
        teller = Teller(cast, draw)
        self.body.tell(teller)
        return teller

    def reach(self, reached: Reached) -> None:
        self.body.reach({Context.LINE}, reached, self.roles)
