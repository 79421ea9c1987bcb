"""Who and what a story is about: the entities that its roles stand for, and the words that can refer to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from crossproof.subject.text import lexicon
from crossproof.subject.text.labels import Kind
from crossproof.subject.text.lexicon import Word, word

Draw = Callable[[], float]
"""A uniform draw from [0, 1): `random.Random.random` of the story's generator."""


@dataclass(frozen=True, slots=True, eq=False)
class Entity:
    """One person, animal, thing or place; there is one object for each, which is its identity.

    `words` maps what follows the dot in `{role.what}` ("" for `{role}`) to what it says.
    """

    name: str
    words: dict[str, tuple[Word, ...]]


@cache
def entities(type_: str) -> tuple[Entity, ...]:
    """Everybody or everything that a role of this type can be."""
    if type_ == "child":
        return tuple(_person(name, who) for who in ("girl", "boy") for name in lexicon.NAMES[who].split())
    if type_ == "animal":
        names = f"{lexicon.NAMES['female animal']} {lexicon.NAMES['male animal']}".split()
        return tuple(_person(name, species, Kind.ANIMAL) for name in names for species in lexicon.SPECIES.split())
    if type_ == "elder":
        return tuple(Entity(name, _refer(name, word(name, Kind.PERSON))) for name in lexicon.ELDERS)
    if type_ == "place":
        return tuple(
            Entity(name, _refer(name, word(name, Kind.PLACE)) | {"at": (word(preposition, Kind.FUNCTION),)})
            for name, preposition in lexicon.PLACES.items()
        )
    kind, names_ = lexicon.THINGS[type_]
    colours = lexicon.WORDS_OF_CLASS["colour"] if kind is Kind.OBJECT else ()
    plain = tuple(Entity(name, _refer(name, word(name, kind))) for name in names_.split())
    if not colours:
        return plain
    return tuple(Entity(e.name, e.words | {"colour": (colour,)}) for e in plain for colour in colours)


@cache
def pair(first: Entity, second: Entity) -> Entity:
    """Two people together: "Lily and Tom", "they"."""
    name = f"{first.name} and {second.name}"
    named = (*first.words[""], word("and", Kind.FUNCTION), *second.words[""])
    return Entity(name, {"": named} | _pronouns("they"))


def together(cast: dict[str, Entity], names: set[str | None]) -> Entity:
    """The pair of these two of the cast, in its order: so a pair has one name, whoever speaks."""
    first, second = (entity for entity in cast.values() if entity.name in names)
    return pair(first, second)


def choose(type_: str, taken: set[str], draw: Draw) -> Entity:
    """An entity of this type whose name is not taken; the caller's draws settle which."""
    if type_ == "any":
        type_ = "child" if draw() < 0.65 else "animal"
    choices = entities(type_)
    while True:
        entity = choices[int(draw() * len(choices))]
        if entity.name not in taken:
            return entity


def candidates(type_: str) -> tuple[Entity, ...]:
    """All that `choose` can return."""
    return entities("child") + entities("animal") if type_ == "any" else entities(type_)


def _person(name: str, noun: str, kind: Kind = Kind.PERSON) -> Entity:
    return Entity(name, _refer(name, word(name, Kind.NAME)) | {"kind": (word(noun, kind),)})


def _refer(name: str, itself: Word) -> dict[str, tuple[Word, ...]]:
    return {"": (itself,)} | _pronouns(lexicon.gender(name))


def _pronouns(gender: str) -> dict[str, tuple[Word, ...]]:
    return {key: (word(form, Kind.PRONOUN),) for key, form in lexicon.PRONOUNS[gender].items()}
