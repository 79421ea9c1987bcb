"""The results of the study of clusters, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

from crossproof.findings import Findings
from crossproof.study.base import StudyResults
from crossproof.study.clusters.algorithms import AFFINITY_PROPAGATION
from crossproof.study.clusters.compare import average, difference, row
from crossproof.study.clusters.measured import Half
from crossproof.study.clusters.records import DictionaryRecord, Difference, MeanAgreement, Measured, Row
from crossproof.study.clusters.similarities import DIRECTED, INTERACTION
from crossproof.study.dictionaries import PLAIN, CoderRecord


class ClustersStudy(StudyResults):
    """`results.json`. Groups of dictionaries are those that were trained alike; the first is what claims are about."""

    subject: str
    texts: int
    tokens: int
    labels: int
    dictionaries: list[DictionaryRecord]
    rows: list[Row]
    differences: list[Difference]
    agreements: list[MeanAgreement]

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(its.group for its in self.rows))

    def row(self, matrix: str, algorithm: str = AFFINITY_PROPAGATION, group: str | None = None) -> Row:
        wanted = (self.groups[0] if group is None else group, matrix, algorithm)
        return next(its for its in self.rows if (its.group, its.matrix, its.algorithm) == wanted)

    def against(self, baseline: str, matrix: str = DIRECTED, algorithm: str = AFFINITY_PROPAGATION) -> Difference:
        """In the first group."""
        wanted = (self.groups[0], algorithm, matrix, baseline)
        return next(d for d in self.differences if (d.group, d.algorithm, d.matrix, d.baseline) == wanted)

    @property
    def matrices(self) -> list[str]:
        return list(dict.fromkeys(its.matrix for its in self.rows))

    def agreement(self, matrix: str, other: str, algorithm: str = AFFINITY_PROPAGATION) -> float | None:
        """In the first group."""
        wanted = (self.groups[0], algorithm, {matrix, other})
        return next(a.value for a in self.agreements if (a.group, a.algorithm, {a.matrix, a.other}) == wanted)

    def findings(self) -> Findings:
        from crossproof.study.clusters.findings import findings_of

        return findings_of(self)


def study_of(
    subject: str, halves: tuple[Half, Half], found: Sequence[tuple[CoderRecord, Measured]], seed: int
) -> ClustersStudy:
    """Plain dictionaries first."""
    found = sorted(found, key=lambda pair: pair[0].penalty != PLAIN)
    groups: dict[str, list[Measured]] = {}
    for record, its in found:
        groups.setdefault(record.group, []).append(its)
    rows, differences, agreements = [], [], []
    for group, members in groups.items():
        for alike in zip(*(its.clusterings for its in members), strict=True):
            rows.append(row(group, alike, seed))
            if alike[0].matrix in INTERACTION:
                differences += [
                    difference(group, list(zip(alike, others, strict=True)), seed)
                    for others in zip(*(its.clusterings for its in members), strict=True)
                    if others[0].algorithm == alike[0].algorithm and others[0].matrix not in INTERACTION
                ]
        for same in zip(*(its.agreements for its in members), strict=True):
            values = [its.value for its in same if its.value is not None]
            agreements.append(
                MeanAgreement(
                    group=group,
                    algorithm=same[0].algorithm,
                    matrix=same[0].matrix,
                    other=same[0].other,
                    value=average(values) if values else None,
                )
            )
    first, second = halves
    return ClustersStudy(
        subject=subject,
        texts=len(first.tokens) + len(second.tokens),
        tokens=first.tokens.n_kept + second.tokens.n_kept,
        labels=len(first.labels.names),
        dictionaries=[
            DictionaryRecord(coder=record, features=its.features, left_out=its.left_out, shown=its.shown)
            for record, its in found
        ],
        rows=rows,
        differences=differences,
        agreements=agreements,
    )
