"""What is shown of one comparison: its features, the pairs that change most though their features do not, and texts.

Chosen on one half of the texts, measured on the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.findings import Layer, Passage
from crossproof.study.diffing.changes import Table, pair_at_tokens, ways
from crossproof.study.diffing.features import KINDS
from crossproof.study.diffing.measure import GROUPS, Compared, Followed, group_of_pairs
from crossproof.study.diffing.results import FeatureRecord, PairRecord, PartnerRecord, SampledPair, TurnRecord
from crossproof.study.diffing.texts import PLACES, TRIGGER, Texts, shares_at_places, words_of
from crossproof.study.estimates import drawn, estimate, text_weights
from crossproof.subject.subject import Subject

PASSAGES = 3
POINTS = 500
LEAST_TURN = 1e-6
"""Where a feature did not turn at all: for a logarithmic axis."""


def features(found: Compared, texts: Texts) -> list[FeatureRecord]:
    """All that live."""
    codes, its = found.pair.codes, found.pair.found
    places = None if texts.place is None else shares_at_places(codes, texts).tolist()
    return [
        FeatureRecord(
            feature=feature,
            kind=KINDS[int(found.kind[feature])],
            ratio=float(its.ratio[feature]),
            cosine=float(its.cosine[feature]),
            places=None if places is None else dict(zip(PLACES, places[feature], strict=True)),
            words=words_of(feature, codes, texts),
        )
        for feature in found.pair.live.nonzero().squeeze(1).tolist()
    ]


def pairs(found: Compared, texts: Texts, top: int, seed: int) -> list[PairRecord]:
    """Of two unchanged features, those whose interaction changes most."""
    table, codes = found.pair.table, found.pair.codes
    between = group_of_pairs(table, found.kind) == GROUPS.index("both unchanged")
    chosen, reported = texts.tokens * ~texts.reported, texts.tokens * texts.reported
    per_token = {name: table.per_token(name, reported) for name in table.values}
    change = table.per_token("directed tuned", chosen) - table.per_token("directed base", chosen)
    noise = per_token["directed base"] - table.per_token("directed base", chosen)
    weights = text_weights(int(texts.reported.sum()), seed)
    records = []
    for pair in _first(change.abs() * between, top):
        by_text = _by_text(table, "directed tuned", pair, texts) - _by_text(table, "directed base", pair, texts)
        records.append(
            PairRecord(
                i=int(table.i[pair]),
                j=int(table.j[pair]),
                words_i=words_of(int(table.i[pair]), codes, texts),
                words_j=words_of(int(table.j[pair]), codes, texts),
                base=float(per_token["directed base"][pair]),
                tuned=float(per_token["directed tuned"][pair]),
                change=estimate([drawn(by_text, texts.tokens[texts.reported], weights)]),
                by_weights=float(per_token["directed weights"][pair] - per_token["directed base"][pair]),
                by_directions=float(per_token["directed directions"][pair] - per_token["directed base"][pair]),
                noise=float(noise[pair].abs()),
            )
        )
    return records


def sampled(found: Compared, texts: Texts) -> list[SampledPair]:
    """The pairs that interact most in the base, as points."""
    table, tokens = found.pair.table, texts.tokens * texts.reported
    base, tuned = (table.per_token(f"directed {way}", tokens) for way in ("base", "tuned"))
    chosen = table.per_token("directed base", texts.tokens * ~texts.reported)
    turn = 1 - torch.minimum(found.pair.found.cosine[table.i], found.pair.found.cosine[table.j])
    return [
        SampledPair(
            i=int(table.i[pair]),
            j=int(table.j[pair]),
            turn=max(float(turn[pair]), LEAST_TURN),
            change=float((tuned[pair] - base[pair]).abs() / ((tuned[pair] + base[pair]) / 2)),
        )
        for pair in _first(chosen, POINTS)
        if base[pair] + tuned[pair] > 0
    ]


def partners(found: Compared, texts: Texts, top: int) -> list[PartnerRecord]:
    """The features that interact most with changed ones, themselves not changed, in the tuned model."""
    table, changed = found.pair.table, found.changed
    with_changed = {half: _with(table, changed, texts.tokens * half_of) for half, half_of in _halves(texts).items()}
    order = _first(with_changed["chosen"]["directed tuned"] * ~changed, top)
    return [
        PartnerRecord(
            feature=feature,
            kind=KINDS[int(found.kind[feature])],
            words=words_of(feature, found.pair.codes, texts),
            base=float(with_changed["reported"]["directed base"][feature]),
            tuned=float(with_changed["reported"]["directed tuned"][feature]),
        )
        for feature in order
    ]


def passages(
    found: Compared, records: Sequence[PairRecord], models: tuple[Subject, ...], coder: Crosscoder, texts: Texts
) -> list[Passage]:
    """The first pairs, each on the reported text where it changes most."""
    table, units, made = found.pair.table, ways(models[0], models[1], coder), []
    starts = [0, *texts.tokens.cumsum(0).long().tolist()]
    keys = table.i * found.pair.codes.pattern.n_features + table.j
    for record in records[:PASSAGES]:
        pair = int((keys == record.i * found.pair.codes.pattern.n_features + record.j).nonzero())
        by_text = _by_text(table, "directed tuned", pair, texts) - _by_text(table, "directed base", pair, texts)
        text = int(texts.reported.nonzero().squeeze(1)[by_text.abs().argmax()])
        codes = found.pair.codes.rows(starts[text], starts[text + 1])
        at = {way: pair_at_tokens(codes, units[way], record.i, record.j) for way in ("base", "tuned")}
        strengths = codes.dense()[:, [record.i, record.j]].T
        values = {
            f"feature {record.i}": strengths[0],
            f"feature {record.j}": strengths[1],
            f"{record.i} → {record.j} in {models[0].name}": at["base"],
            f"{record.i} → {record.j} in {models[1].name}": at["tuned"],
        }
        made.append(
            Passage(
                title=f"features {record.i} and {record.j}: little changed themselves, their interaction is",
                words=tuple(texts.words[starts[text] : starts[text + 1]]),
                layers=tuple(Layer(name=name, values=tuple(its.tolist())) for name, its in values.items()),
                note=f"{record.i} fires on {record.words_i}, {record.j} on {record.words_j}; the held-out text where "
                "the change is largest",
            )
        )
    return made


def turned(found: Followed, texts: Texts) -> list[TurnRecord]:
    """All that live, those first that the model's change turns most."""
    places = None if texts.place is None else shares_at_places(found.codes, texts)
    trigger = [PLACES.index(place) for place in TRIGGER]
    return [
        TurnRecord(
            feature=feature,
            turns={stage: float(its[feature]) for stage, its in found.turns.by_stage.items()},
            turned=bool(found.turns.turned[feature]),
            at_trigger=None if places is None else float(places[feature, trigger].sum()),
            words=words_of(feature, found.codes, texts),
        )
        for feature in found.turns.most.tolist()
        if bool(found.live[feature])
    ]


def _halves(texts: Texts) -> dict[str, Tensor]:
    return {"chosen": ~texts.reported, "reported": texts.reported}


def _with(table: Table, changed: Tensor, tokens: Float64[Tensor, " text"]) -> dict[str, Float64[Tensor, " feature"]]:
    """Each feature's interaction with all changed ones, in both directions."""
    found = {}
    for name in ("directed base", "directed tuned"):
        its, summed = table.per_token(name, tokens), torch.zeros(len(changed), dtype=torch.float64)
        summed.index_add_(0, table.i, its * changed[table.j])
        found[name] = summed.index_add_(0, table.j, its * changed[table.i])
    return found


def _first(values: Float64[Tensor, " any"], top: int) -> list[int]:
    """Where the largest are, above 0."""
    order: Int[Tensor, " any"] = values.argsort(descending=True, stable=True)[:top]
    return [place for place in order.tolist() if values[place] > 0]


def _by_text(table: Table, name: str, pair: int, texts: Texts) -> Float64[Tensor, " text"]:
    return table.of_texts(name, pair, pair + 1, texts.count)[texts.reported, 0]
