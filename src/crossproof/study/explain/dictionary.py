"""One dictionary: its features explained on one half of the texts, and scored on the other beside their controls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.findings import Layer, Passage
from crossproof.study.estimates import text_weights
from crossproof.study.explain import results
from crossproof.study.explain.by_language_model import Asked, Reading, ask_about
from crossproof.study.explain.config import ExplainConfig
from crossproof.study.explain.explanation import Explanation, active_on, explanations_of
from crossproof.study.explain.results import DictionaryRecord, FeatureRecord, Judged, Numbers, Part
from crossproof.study.explain.score import Tally, in_a_ring, measured, tally
from crossproof.study.language_model import LanguageModel
from crossproof.study.token_labels import TokenLabels, labels_of, pieces_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

PASSAGES = 2


@dataclass(frozen=True, eq=False)
class Half:
    """Texts, and what is known of their kept tokens."""

    tokens: Tokens
    labels: TokenLabels
    words: Sequence[str]

    @property
    def text(self) -> Int[Tensor, " token"]:
        return self.tokens.keep.nonzero()[:, 0]


def halves(subject: Subject, tokens: Tokens, seed: int, data: Path | None = None) -> tuple[Half, Half]:
    """The texts that explain, and the others that score, each in their order."""
    labels = labels_of(subject, tokens, data=data)
    drawn = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    text = tokens.keep.nonzero()[:, 0]
    ids = tokens.ids[tokens.keep]
    found = []
    for chosen in (drawn[: len(tokens) // 2], drawn[len(tokens) // 2 :]):
        rows = chosen.sort().values
        its = torch.isin(text, rows)
        of_half = tokens[rows]
        if of_half.n_kept == 0:
            raise CrossproofError(f"no tokens: none of the positions of half of these {len(tokens)} texts is kept")
        found.append(Half(of_half, labels.at(its), pieces_of(subject, ids[its].tolist())))
    explaining, scoring = found
    return explaining, scoring


@torch.no_grad()
def explained(
    config: ExplainConfig,
    subject: Subject,
    coder: Crosscoder,
    explaining: Half,
    scoring: Half,
    model: LanguageModel | None,
) -> Part:
    """One dictionary."""
    first, second = (encode(subject, coder, half.tokens).codes for half in (explaining, scoring))
    own = explanations_of(first, explaining.labels, config.parts)
    count = first.firing_counts().cpu()
    heard = count > 0
    learned = tally(first, explaining.labels, own, explaining.text, len(explaining.tokens))
    scored = tally(second, scoring.labels, own, scoring.text, len(scoring.tokens))
    weights = text_weights(len(scoring.tokens), config.seed)
    fair = heard & scored.scored
    judged = {results.LABELS: judged_by(scored.at(fair), weights, learned.at(fair))}

    ring = in_a_ring(fair.nonzero().squeeze(1).tolist(), config.seed)
    others = [own[ring.get(feature, feature)] for feature in range(len(own))]
    of_others = tally(second, scoring.labels, others, scoring.text, len(scoring.tokens))
    judged[results.OTHER] = judged_by(of_others.at(fair), weights)

    mixed = [_shuffled(half.labels, config.seed) for half in (explaining, scoring)]
    by_chance = explanations_of(first, mixed[0], config.parts)
    of_chance = tally(second, mixed[1], by_chance, scoring.text, len(scoring.tokens))
    judged[results.SHUFFLED] = judged_by(of_chance.at(fair), weights)

    ranked = count.sort(descending=True, stable=True).indices[: int(heard.sum())].tolist()
    asked = None
    if model is not None:
        read = Reading(explaining.words, explaining.text, first)
        judged_on = Reading(scoring.words, scoring.text, second)
        about, texts = evenly(ranked, config.asked), len(scoring.tokens)
        asked = ask_about(model, about, read, judged_on, texts, config.judged, config.seed)
        for name, its in ((results.MODEL, asked.own), (results.MODEL_OTHER, asked.other)):
            judged[name] = judged_by(its.at(its.scored), weights)
    examples = evenly([feature for feature in ranked if bool(fair[feature])], config.examples)
    record = DictionaryRecord(
        features=len(own),
        silent=int((~heard).sum()),
        unheard=int((heard & ~fair).sum()),
        without=sum(not own[feature].parts for feature in fair.nonzero().squeeze(1).tolist()),
        asked=len(asked.features) if asked is not None else 0,
        unanswered=asked.unanswered if asked is not None else 0,
        explained=_features(ranked, own, learned, scored, fair, asked),
        examples=examples,
        passages=[_passage(scoring, second, feature, own[feature]) for feature in evenly(examples, PASSAGES)],
    )
    return Part(dictionary=record, judged=judged)


def judged_by(scored: Tally, weights: Float64[Tensor, "draw text"], learned: Tally | None = None) -> Judged:
    """The features of a tally; all of them are active on some of its tokens, and not on others. A mean that is not
    defined, such as the precision of explanations that say nothing, is left out."""
    once = scored.pooled()
    if once.tokens.shape[1] == 0:
        return Judged(measures={}, confusion=[[0, 0], [0, 0]], spread=[0] * results.BINS)
    hits, missed = once.hits.sum(), (once.active - once.hits).sum()
    false, right = (once.said - once.hits).sum(), (once.tokens - once.active - once.said + once.hits).sum()
    found = measured(scored, learned, weights)
    return Judged(
        measures={name: Numbers.of(its) for name, its in found.items() if math.isfinite(its.value)},
        confusion=[[int(hits), int(missed)], [int(false), int(right)]],
        spread=torch.histc(once.balanced[0], results.BINS, 0, 1).long().tolist(),
    )


def evenly(ranked: Sequence[int], count: int) -> list[int]:
    """So many of them, evenly by rank: of `count` stretches of equal length the middle."""
    count = min(count, len(ranked))
    return [ranked[(2 * number + 1) * len(ranked) // (2 * count)] for number in range(count)]


def _shuffled(labels: TokenLabels, seed: int) -> TokenLabels:
    """Every token's labels at another token."""
    return labels.at(torch.randperm(len(labels.values), generator=torch.Generator().manual_seed(seed)))


def _features(
    ranked: Sequence[int],
    own: Sequence[Explanation],
    learned: Tally,
    scored: Tally,
    fair: Bool[Tensor, " feature"],
    asked: Asked | None,
) -> list[FeatureRecord]:
    past, now = learned.pooled(), scored.pooled()
    told = dict(zip(asked.features, asked.explanations, strict=True)) if asked is not None else {}
    shares, tokens = (past.active / past.tokens)[0].tolist(), now.active[0].long().tolist()
    measures = {name: getattr(now, name)[0].tolist() for name in ("sensitivity", "specificity", "balanced")}
    return [
        FeatureRecord(
            feature=feature,
            explanation=str(own[feature]),
            parts=[list(part) for part in own[feature].parts],
            share=shares[feature],
            tokens=tokens[feature],
            told=told.get(feature),
            **{name: its[feature] if bool(fair[feature]) else None for name, its in measures.items()},
        )
        for feature in ranked
    ]


def _passage(scoring: Half, codes: Codes, feature: int, explanation: Explanation) -> Passage:
    """The first text in which it is active."""
    active = active_on(codes, feature, feature + 1)[0]
    text = scoring.text
    here = text == text[active.nonzero()[0, 0]]
    entries = codes.pattern.features == feature
    strength = torch.zeros(len(text)).index_add_(
        0, codes.pattern.rows[entries].cpu(), codes.values[entries].cpu().float()
    )
    said = explanation.predict(scoring.labels)
    return Passage(
        title=f"Feature {feature}: {explanation}",
        words=tuple(scoring.words[row] for row in here.nonzero().squeeze(1).tolist()),
        layers=(
            Layer(name="strength of the feature", values=tuple(strength[here].tolist())),
            Layer(name="active by its explanation", values=tuple(said[here].float().tolist())),
        ),
        note="The first scoring text in which the feature is active.",
    )
