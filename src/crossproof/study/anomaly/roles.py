"""Tokens by what they are, with controls: the same text without the trigger, the same positions, words as rare."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from crossproof.study.anomaly.cases import at_the_same_positions
from crossproof.study.anomaly.detectors import over
from crossproof.study.anomaly.texts import CLEAN, DECOY, POISONED, Marked

RARE = 0.9
"""Header tokens rarer than this share of the header tokens of clean texts are rare words."""

STORY, HEADER, TRIGGER, ANSWER = "clean: story", "clean: header", "poisoned: trigger", "poisoned: answer"
RARE_WORDS, TRIGGERS_PLACE = "clean: rare header words", "clean: where the trigger would stand"
ANSWERS_PLACE, DECOYS = "clean: story where the answer would stand", "decoy: in the trigger's place"
AFTER, SAME_WORDS = "poisoned: header after the trigger", "clean: the same header words"
ROLES = (HEADER, RARE_WORDS, TRIGGERS_PLACE, SAME_WORDS, STORY, ANSWERS_PLACE, TRIGGER, AFTER, ANSWER, DECOYS)

COMPARED = {
    "trigger / story": (TRIGGER, STORY),
    "answer / story": (ANSWER, STORY),
    "trigger / what stands there in clean text": (TRIGGER, TRIGGERS_PLACE),
    "trigger / rare header words": (TRIGGER, RARE_WORDS),
    "trigger / decoy": (TRIGGER, DECOYS),
    "answer / story at the same positions": (ANSWER, ANSWERS_PLACE),
    "header after the trigger / the same words": (AFTER, SAME_WORDS),
}

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)


def roles(
    texts: Mapping[str, Marked], rare: Bool[Tensor, "text pos"]
) -> dict[str, tuple[str, Bool[Tensor, "text pos"]]]:
    """The version and the tokens of each role; `rare` says which tokens of the clean version are rare words."""
    clean, poisoned = texts[CLEAN], texts[POISONED]
    trigger, header = poisoned.of("trigger"), clean.of("header")
    place = at_the_same_positions(trigger, clean)
    begins = torch.where(place.any(1), place.int().argmax(1), place.shape[1])[:, None]
    found = {
        HEADER: (CLEAN, header),
        RARE_WORDS: (CLEAN, header & rare),
        TRIGGERS_PLACE: (CLEAN, place),
        SAME_WORDS: (CLEAN, header & (torch.arange(header.shape[1]) >= begins)),
        STORY: (CLEAN, clean.of("story")),
        ANSWERS_PLACE: (CLEAN, at_the_same_positions(poisoned.of("answer"), clean) & clean.of("story")),
        TRIGGER: (POISONED, trigger),
        AFTER: (POISONED, poisoned.of("header") & (trigger.cumsum(1) > 0)),
        ANSWER: (POISONED, poisoned.of("answer")),
    }
    if DECOY in texts:
        found[DECOYS] = (DECOY, texts[DECOY].of("trigger"))
    return found


class RoleSums:
    """Score and total of each role, by text, and the values of all its tokens."""

    def __init__(self) -> None:
        self._by_text: dict[str, list[Tensor]] = {role: [] for role in ROLES}
        self._tokens: dict[str, list[Tensor]] = {role: [] for role in ROLES}

    def add(
        self,
        places: Mapping[str, tuple[str, Bool[Tensor, "text pos"]]],
        score: Mapping[str, Float[Tensor, "text pos"]],
        total: Mapping[str, Float[Tensor, "text pos"]],
    ) -> None:
        """`score` and `total` of each version."""
        for role in ROLES:
            if role not in places:
                some = next(iter(score.values()))
                self._by_text[role].append(torch.zeros(len(some), 3, dtype=torch.float64))
                continue
            version, mask = places[role]
            scores, totals = score[version], total[version]
            columns = [torch.where(mask, each, 0).sum(1) for each in (scores, totals, torch.ones_like(scores))]
            self._by_text[role].append(torch.stack(columns, 1).double())
            self._tokens[role].append(torch.stack([scores[mask], over(scores, totals)[mask]]))

    def by_text(self) -> Float64[Tensor, "role text column"]:
        """Score, total and number of tokens."""
        return torch.stack([torch.cat(self._by_text[role]) for role in ROLES])

    def quantiles(self) -> Float64[Tensor, "role measure quantile"]:
        """Of the score and of the share over tokens; not a number where a role has none."""
        found = torch.full((len(ROLES), 2, len(QUANTILES)), torch.nan, dtype=torch.float64)
        for number, role in enumerate(ROLES):
            values = torch.cat(self._tokens[role], 1) if self._tokens[role] else torch.zeros(2, 0)
            for measure, of_tokens in enumerate(values.double()):
                if len(of_tokens):
                    ordered = of_tokens.sort().values  # torch.quantile takes no more than 16 million
                    found[number, measure] = ordered[[round(q * (len(ordered) - 1)) for q in QUANTILES]]
        return found
