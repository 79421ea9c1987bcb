"""Explanations by a language model: it reads examples from the texts that explain, and judges others from the texts
that score, in a separate question that holds nothing but the explanation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.progress import progress
from crossproof.study.explain.explanation import active_on
from crossproof.study.explain.score import Tally, in_a_ring
from crossproof.study.language_model import LanguageModel

BEFORE, AFTER = 24, 6
"""How many tokens are shown around the one that matters. A model has not read what comes after, a reader may."""
LONGEST = 400
"""Characters of an explanation."""

EXPLAINER = (
    "You study one feature of a small language model. You are shown pieces of text in which the token that the feature "
    "is active on stands between « and ». Say in one short sentence on which tokens the feature is active: what they "
    "have in common that other tokens have not. Answer with that sentence alone."
)
JUDGE = (
    "You are told on which tokens a feature of a language model is active, and shown numbered pieces of text with one "
    "token between « and » in each. Judge of each whether the feature is active on that token. Answer with a JSON list "
    "of one number for each piece of text, in order, 1 for active and 0 for not, and nothing else."
)


@dataclass(frozen=True, eq=False)
class Reading:
    """A half of the texts as it is shown: the kept tokens in words, of which text each is, and the features' codes."""

    words: Sequence[str]
    text: Int[Tensor, " token"]
    codes: Codes

    def shown(self, row: int) -> str:
        """The token in its text."""
        text = self.text[row]
        first, last = (int(torch.searchsorted(self.text, text, side=side)) for side in ("left", "right"))
        before = "".join(self.words[max(first, row - BEFORE) : row])
        after = "".join(self.words[row + 1 : min(last, row + 1 + AFTER)])
        start = "…" if row - BEFORE > first else ""
        return f"{start}{before}«{self.words[row]}»{after}{'…' if row + 1 + AFTER < last else ''}"


@dataclass(frozen=True, eq=False)
class Asked:
    features: tuple[int, ...]
    explanations: tuple[str | None, ...]
    """None where none could be read."""
    own: Tally
    """A column for each of these features: what is said of its examples with its own explanation …"""
    other: Tally
    """… and with that of another of them."""
    unanswered: int
    """Questions to which no answer could be read."""


def ask_about(
    model: LanguageModel,
    features: Sequence[int],
    explaining: Reading,
    scoring: Reading,
    texts: int,
    examples: int,
    seed: int,
) -> Asked:
    """`examples` to explain each feature from, and as many to judge: half of them tokens on which it is active."""
    generator = torch.Generator().manual_seed(seed)
    shown = [_strong_and_weak(explaining, feature, examples) for feature in features]
    judged = [_some_of_both(scoring, feature, examples, generator) for feature in features]
    unanswered = 0
    explanations: list[str | None] = []
    with progress("asking a language model", 3 * len(features), "questions") as bar:
        for rows in shown:
            question = "\n\n".join(explaining.shown(row) for row in rows)
            explanations.append(model.ask(EXPLAINER, question, _sentence) if rows else None)
            unanswered += bool(rows) and explanations[-1] is None
            bar(1)
        tallies = []
        told = [number for number, its in enumerate(explanations) if its is not None]
        for of in ({number: number for number in told}, in_a_ring(told, seed)):
            counts: Float64[Tensor, "count text feature"] = torch.zeros(4, texts, len(features), dtype=torch.float64)
            for number, (feature, rows) in enumerate(zip(features, judged, strict=True)):
                if number in of and rows:
                    question = _pieces(str(explanations[of[number]]), [scoring.shown(row) for row in rows])
                    answers = model.ask(JUDGE, question, _list_of(len(rows)))
                    unanswered += answers is None
                    if answers is not None:
                        counts[:, :, number] = _counted(scoring, feature, rows, answers, texts)
                bar(1)
            tallies.append(Tally(*counts))
    own, other = tallies
    return Asked(tuple(features), tuple(explanations), own, other, unanswered)


def _strong_and_weak(reading: Reading, feature: int, examples: int) -> list[int]:
    """Tokens on which it is active, evenly from the strongest to the weakest."""
    order, starts = reading.codes.pattern.by_feature
    entries = order[int(starts[feature]) : int(starts[feature + 1])]
    entries = entries[reading.codes.values[entries] > 0]
    ranked = entries[reading.codes.values[entries].sort(descending=True, stable=True).indices]
    chosen = torch.linspace(0, len(ranked) - 1, min(examples, len(ranked))).round().long()
    rows: list[int] = reading.codes.pattern.rows[ranked[chosen]].tolist()
    return rows


def _some_of_both(reading: Reading, feature: int, examples: int, generator: torch.Generator) -> list[int]:
    """Tokens drawn from those on which it is active and from the others, shuffled; none if it never is."""
    active = active_on(reading.codes, feature, feature + 1)[0]
    if not active.any():
        return []
    halves = [where.nonzero().squeeze(1) for where in (active, ~active)]
    drawn = [half[torch.randperm(len(half), generator=generator)[: examples // 2]] for half in halves]
    both = torch.cat(drawn)
    rows: list[int] = both[torch.randperm(len(both), generator=generator)].tolist()
    return rows


def _counted(
    reading: Reading, feature: int, rows: Sequence[int], answers: Sequence[bool], texts: int
) -> Float64[Tensor, "count text"]:
    at = torch.tensor(rows)
    active = active_on(reading.codes, feature, feature + 1)[0][at]
    said = torch.tensor(answers)
    each = torch.stack([torch.ones_like(said), active, said, active & said]).double()
    return torch.zeros(4, texts, dtype=torch.float64).index_add_(1, reading.text[at], each)


def _pieces(explanation: str, pieces: Sequence[str]) -> str:
    numbered = "\n\n".join(f"{number}. {piece}" for number, piece in enumerate(pieces, 1))
    return f"The feature is active on: {explanation}\n\n{numbered}"


def _sentence(answer: str) -> str:
    words = " ".join(answer.split())
    if not words:
        raise ValueError("it is empty")
    return words[:LONGEST]


def _list_of(count: int) -> Callable[[str], list[bool]]:
    def read(answer: str) -> list[bool]:
        lists = re.findall(r"\[[^\[\]]*\]", answer)
        if not lists:
            raise ValueError("there is no JSON list in it")
        found = json.loads(lists[-1])
        if len(found) != count:
            raise ValueError(f"the list has {len(found)} numbers for {count} pieces of text")
        if any(number not in (0, 1) for number in found):
            raise ValueError("the list has something that is neither 0 nor 1")
        return [bool(number) for number in found]

    return read
