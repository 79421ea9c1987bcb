"""Every word the stories may use, with its kind and, where it has one, the feeling it expresses.

To add a word, put it in one of the lists. `{role}` in a plot draws from `THINGS` or the names, `<class>` draws from
`CLASSES` or `FEELINGS`, and a word written out in a plot is looked up in all of them: a word that is in no list is an
error when the plot is compiled, so no token can go without a label. A spelling has the kind of its list; where a plot
means another one it says so (`cross:verb`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from crossproof.subject.text.labels import Kind


class Context(IntEnum):
    """Where a word stands, which settles its leading space and its capital: the index into `Word.forms`."""

    INSIDE = 0
    SENTENCE = 1
    LINE = 2


@dataclass(frozen=True, slots=True)
class Word:
    """A lexical item: its form in each context, and the context in which it leaves the next word."""

    forms: tuple[str, str, str]
    kind: Kind
    feeling: str | None = None
    after: Context = Context.INSIDE
    takes_an: bool = False
    in_headers: bool = False
    """Whether a header may ask for it: its spelling is listed as a content word, whatever it is in this place."""

    @property
    def text(self) -> str:
        return self.forms[Context.INSIDE].strip()


NAMES: dict[str, str] = {
    "girl": "Lily Mia Anna Sue Lucy Emma Rosie Ella Zoe Amy Molly Nina Sara Grace Daisy Jane",
    "boy": "Tom Ben Tim Max Sam Jack Leo Bob Finn Joe Noah Billy Oscar Peter Dan Henry",
    "female animal": "Bella Luna Coco Pearl Hazel Ruby Dot Honey",
    "male animal": "Rex Buddy Spot Fuzzy Hops Rusty Bruno Pip",
}
"""A name settles whether its bearer is a child or an animal, and the gender."""

SPECIES = "rabbit bear fox cat dog mouse frog duck squirrel pig horse turtle owl lion monkey elephant goat panda tiger"

ELDERS = {"mom": "she", "dad": "he", "grandma": "she", "grandpa": "he", "aunt": "she", "uncle": "he"}

PLACES = {
    "park": "at", "garden": "in", "forest": "in", "beach": "at", "lake": "by", "farm": "on", "river": "by",
    "field": "in", "hill": "on", "meadow": "in", "playground": "at", "yard": "in", "pond": "by", "valley": "in",
    "orchard": "in", "village": "in",
}  # fmt: skip
"""Each place with its preposition."""

THINGS: dict[str, tuple[Kind, str]] = {
    "toy": (Kind.OBJECT, "ball doll kite truck robot puzzle drum train car boat whistle puppet balloon rocket scooter"),
    "treasure": (Kind.OBJECT, "ring coin necklace key shell crown watch bracelet button locket gem medal"),
    "clothes": (Kind.OBJECT, "hat scarf cap ribbon crown helmet hood bow"),
    "food": (Kind.OBJECT, "apple cookie cake pie sandwich banana pear peach muffin pancake pizza cupcake donut"),
    "dish": (Kind.OBJECT, "bowl cup plate jar vase lamp mug teapot mirror pot clock"),
    "rope": (Kind.OBJECT, "rope branch stick pole net"),
    "gift": (Kind.OBJECT, "card picture painting necklace crown basket cake scarf poem song"),
    "pet": (Kind.ANIMAL, "kitten puppy hamster bunny chick lamb"),
    "noisy": (Kind.ANIMAL, "cat puppy mouse owl squirrel raccoon frog kitten"),
    "plant": (Kind.OBJECT, "flower rose tree tulip sunflower pumpkin"),
}
"""What a role of the plot can be: one is drawn for each story, and stays the same through it."""

CLASSES: dict[str, tuple[Kind, str]] = {
    "young": (Kind.ADJECTIVE, "little small young"),
    "nice": (Kind.ADJECTIVE, "kind brave clever gentle friendly polite quiet curious funny sweet smart shy"),
    "mean": (Kind.ADJECTIVE, "mean rude bossy selfish unkind"),
    "pretty": (Kind.ADJECTIVE, "shiny pretty new special beautiful lovely fine"),
    "big": (Kind.ADJECTIVE, "big large huge giant"),
    "tasty": (Kind.ADJECTIVE, "tasty sweet yummy delicious fresh warm"),
    "dark": (Kind.ADJECTIVE, "dark deep strange quiet"),
    "loud": (Kind.ADJECTIVE, "loud strange scary odd"),
    "fine": (Kind.WEATHER, "sunny warm bright clear cool breezy"),
    "wild": (Kind.WEATHER, "stormy rainy windy cold"),
    "daytime": (Kind.TIME, "day morning afternoon"),
    "colour": (Kind.COLOUR, "red blue green yellow purple pink orange brown white black golden silver gray"),
    "many": (Kind.NUMBER, "two three four five six seven ten"),
    "very": (Kind.ADVERB, "very so really"),
    "quickly": (Kind.ADVERB, "quickly carefully quietly slowly bravely"),
    "softly": (Kind.ADVERB, "softly gently kindly calmly warmly"),
    "play": (Kind.VERB, "play run jump dance hop sing"),
    "played": (Kind.VERB, "played ran jumped danced hopped sang"),
    "strolled": (Kind.VERB, "walked went wandered hiked skipped"),
    "searched": (Kind.VERB, "looked searched hunted"),
    "found": (Kind.VERB, "found saw spotted noticed"),
    "shouted": (Kind.VERB, "shouted yelled called"),
    "smiled": (Kind.VERB, "smiled laughed grinned giggled"),
    "wept": (Kind.VERB, "cried wept sobbed sighed"),
    "spot": (Kind.OBJECT, "tree bush bench rock log bridge fence"),
    "furniture": (Kind.OBJECT, "bed table chair sofa rug shelf"),
}
"""`<class>`: drawn anew at each place."""

FEELINGS: dict[str, str] = {
    "happy": "happy glad joyful cheerful delighted",
    "sad": "sad unhappy upset gloomy",
    "angry": "angry mad cross furious grumpy",
    "scared": "scared afraid frightened",
    "worried": "worried nervous anxious",
    "proud": "proud",
    "surprised": "surprised amazed shocked",
    "lonely": "lonely",
    "sorry": "sorry ashamed",
    "excited": "excited eager thrilled",
    "jealous": "jealous envious",
    "calm": "calm safe peaceful",
    "grateful": "grateful thankful",
    "bored": "bored",
}
"""Each canonical feeling with the words for it; `<happy>` draws one of them."""

EXPRESSIONS: dict[str, str] = {
    "happy": "smiled laughed grinned giggled cheered clapped laugh joy fun",
    "sad": "cried wept sobbed sighed cry tears sadly",
    "scared": "trembled shivered shook shaking",
    "hatred": "HATE",
}
"""Words of other kinds that show a feeling."""

WRITTEN: dict[Kind, str] = {
    Kind.PRONOUN: "I me my mine myself you your yours we us our YOU",
    Kind.FUNCTION: """
        a an the and but so because that this then when while as at in on by of to for from with into out up
        down over under behind near after before until about inside outside through than not no never is much
        such next onto everything was were are am be had have did do does will would could can cannot may must
        let there here once upon it what who where why how every all some another other both each nobody
        everyone everybody nothing something someone one own too more only just even yes please oh thank now""",
    Kind.TIME: "time day night morning days weeks birthday today dinner lunch times",
    Kind.WEATHER: "rain storm thunder lightning sun clouds rainbow",
    Kind.ADVERB: """
        ago away back home always soon again together suddenly ever everywhere well slowly hard fast high
        alone far first last already long very asleep badly someday anymore also less forever ahead late sadly""",
    Kind.PERSON: "friend friends children family mother baby",
    Kind.ANIMAL: "bird birds",
    Kind.PLACE: "house room world kitchen door path ground water grass mud table floor window stage hole",
    Kind.NOUN: """
        truth game games wish idea party surprise turn race way noise sound monster heart hand hands leg eyes
        stomach head half pieces word words song trick picnic show seed care thing things name magic voice
        kindness practice sharing tears flash light joy lies tricks end stories songs money arm foot""",
    Kind.OBJECT: """
        toy food glue blanket flashlight tree trees ladder cake gift medicine tape coins cakes cookies pies
        muffins rocks berries flowers mushrooms nest""",
    Kind.ADJECTIVE: """
        good bad best greedy new old better great wrong wonderful broken lost gone stuck sick empty full
        hungry cold wet deep kind honest patient careful slow nice warm safe hurt fun easy important sleepy
        silly whole brave mean small tiny scary dear worth strong free soft wise""",
    Kind.VERB: """
        named called lived took carried take ran jumped dropped lose fell came come heard hear looked look
        searched found find hugged learned knew know understood saw see said told tell asked ask wanted want
        need wished loved love liked shared share gave give made make play played walked walk went go stay
        slept sleep woke broke hid got get put kept keep tried try fixed fix felt thought began stopped stop
        opened climbed climb pulled grabbed held threw ate eat cut hurried sat stood waited wait watched watch
        grew grow planted watered dug listen believe happened forgot remember remembered met won win laugh
        tease shining slipped practiced kissed warned whispered sang sing worked swim skate hoped left leave
        missed showed cry help wore baked tasted makes feels telling lifted saved trust forgave clapped
        cheered hit shaking trembled shivered say hurts aches shook thanked touch change trusts worry learn
        teach pick follow brought fallen""",
    Kind.NUMBER: "two hundred",
}
"""Words that plots write out. Auxiliaries and the copula are function words; "it" written out is the empty one."""

SPEAKER_WORDS = frozenset(["I", "me", "my", "mine", "myself"])
ADDRESSEE_WORDS = frozenset(["you", "your", "yours"])
PAIR_WORDS = frozenset(["we", "us", "our"])

PRONOUNS: dict[str, dict[str, str]] = {
    "he": {"he": "he", "him": "him", "his": "his", "himself": "himself"},
    "she": {"he": "she", "him": "her", "his": "her", "himself": "herself"},
    "it": {"it": "it", "its": "its"},
    "they": {"they": "they", "them": "them", "their": "their", "themselves": "themselves"},
}
"""For each gender, what a pronoun written in a plot becomes (`{hero.him}` is "her" for Lily)."""

FEATURES = ("Dialogue", "Moral", "Twist", "Conflict", "BadEnding", "Foreshadowing")
NO_FEATURE = "None"

_CONTENT = frozenset(
    {Kind.OBJECT, Kind.PLACE, Kind.ANIMAL, Kind.ADJECTIVE, Kind.VERB, Kind.FEELING, Kind.NOUN, Kind.WEATHER}
)
_VOWEL_SPELLING_ONLY = ("uni", "use", "one", "once")
_SILENT_H = ("hour", "honest")
_GENDER_OF_NAME = {
    name: "she" if who in ("girl", "female animal") else "he" for who, names in NAMES.items() for name in names.split()
}
_FEELING = {text: feeling for table in (EXPRESSIONS, FEELINGS) for feeling, texts in table.items()
            for text in texts.split()}  # fmt: skip


def word(text: str, kind: Kind) -> Word:
    """The word spelled `text`. A capital in the spelling (names, "I") is kept everywhere."""
    capital = text[0].upper() + text[1:]
    lower = text.lower()
    takes_an = (lower[0] in "aeiou" and not lower.startswith(_VOWEL_SPELLING_ONLY)) or lower.startswith(_SILENT_H)
    forms = (" " + text, " " + capital, capital)
    return Word(forms, kind, _FEELING.get(text), takes_an=takes_an, in_headers=kind in _CONTENT)


def meant_as(word: Word, kind: Kind) -> Word:
    """The word where a plot gives it another kind than its list. A word for a feeling is then none: to "cross" a river.

    Headers go on choosing by the list, so that a better label changes no text.
    """
    return replace(word, kind=kind, feeling=None if word.kind is Kind.FEELING else word.feeling)


def mark(text: str) -> Word:
    """A punctuation mark, which never has a space before it."""
    after = Context.SENTENCE if text in ".!?" else Context.LINE if text == "\n" else Context.INSIDE
    return Word((text, text, text), Kind.PUNCTUATION, None, after)


OPEN_QUOTE = Word((' "', ' "', '"'), Kind.QUOTE, None, Context.LINE)
CLOSE_QUOTE = Word(('"', '"', '"'), Kind.QUOTE, None, Context.SENTENCE)
NEWLINE = mark("\n")


def _classes() -> dict[str, tuple[Word, ...]]:
    classes = {name: tuple(word(text, kind) for text in texts.split()) for name, (kind, texts) in CLASSES.items()}
    classes |= {name: tuple(word(text, Kind.FEELING) for text in texts.split()) for name, texts in FEELINGS.items()}
    return classes


WORDS_OF_CLASS: dict[str, tuple[Word, ...]] = _classes()
"""What `<class>` can become."""


def _written() -> dict[str, Word]:
    """Earlier lists win, so a spelling that has two kinds gets the one of the list that names it first."""
    words: dict[str, Word] = {}
    for kind, texts in WRITTEN.items():
        for text in texts.split():
            words.setdefault(text, word(text, kind))
    for members in WORDS_OF_CLASS.values():
        for member in members:
            words.setdefault(member.text, member)
    for kind, texts in (*THINGS.values(), (Kind.PLACE, " ".join(PLACES))):
        for text in texts.split():
            words.setdefault(text, word(text, kind))
    return words


WORD_OF_TEXT: dict[str, Word] = _written()
"""What a word written out in a plot is."""


def gender(referent: str) -> str:
    """What fits a referent, "he", "she", "it" or "they": its name settles it, so every pronoun can be checked."""
    if " and " in referent:
        return "they"
    return ELDERS.get(referent) or _GENDER_OF_NAME.get(referent, "it")
