"""What is kept of one dictionary, so that a run that was stopped goes on, and all results can be worked out from it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import Estimate


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Clustering(Record):
    """One matrix, one algorithm. Lists have one entry for each feature that was clustered."""

    matrix: str
    algorithm: str
    cluster: list[int]
    """−1: in none of three or more."""
    right: list[float] | None
    """How probably it was assigned to its cluster, 0 where it is in none. None: fewer than five clusters."""
    wordless: list[float] | None
    """The same by a judge who is not told which words tokens are: by labels of other kinds alone."""
    exchanged: list[float] | None
    """As `right`, for features that stand in its place and are as frequent."""
    apart: list[bool]
    """Whether none of the other members is a near-duplicate of it."""


class Agreement(Record):
    """Adjusted mutual information of two clusterings, over the features that are in a cluster of both."""

    algorithm: str
    matrix: str
    other: str
    value: float | None


class ShownCluster(Record):
    """For people."""

    matrix: str
    size: int
    right: float
    """The share of its members that were assigned right."""
    about: str
    """The labels that its description holds most of."""
    members: list[str]
    """The most typical first: the words it is strongest on, the label its firing correlates with most."""
    inside: float
    """Mean interaction of a pair inside, and of a pair of a member and another feature."""
    outside: float


class Measured(Record):
    """One dictionary."""

    features: int
    """Clustered."""
    left_out: int
    """Active on fewer tokens of either half."""
    clusterings: list[Clustering]
    agreements: list[Agreement]
    shown: list[ShownCluster]


class BySize(Record):
    """Clusters of these sizes."""

    sizes: str
    members: int
    accuracy: Estimate | None
    """None where fewer than three clusters are so large."""
    exchanged: Estimate | None


class Row(Record):
    """One matrix and algorithm in a group of dictionaries."""

    group: str
    matrix: str
    algorithm: str
    clusters: float
    """Of three or more features; this and the next three are means over dictionaries."""
    coverage: float
    """The share of features that are in one."""
    median_size: float
    duplicates: float
    """The share of these with a near-duplicate in their cluster."""
    accuracy: Estimate | None
    """The share of held-out members that were assigned to their cluster among five. None: fewer than five clusters."""
    exchanged: Estimate | None
    """The same with members exchanged for others as frequent: as it would be if members had nothing in common."""
    above: Estimate | None
    """Their difference, cluster by cluster."""
    apart: Estimate | None
    """The accuracy of members without a near-duplicate in their cluster."""
    wordless: Estimate | None
    """The accuracy of a judge who is not told which words tokens are."""
    by_size: list[BySize]


class Difference(Record):
    """Of two matrices, in the accuracy of the same features at like cluster sizes."""

    group: str
    algorithm: str
    matrix: str
    baseline: str
    features: int
    """In all dictionaries together."""
    difference: Estimate | None
    wordless: Estimate | None
    """The same difference with a judge who is not told which words tokens are."""


class DictionaryRecord(Record):
    coder: CoderRecord
    features: int
    """Clustered."""
    left_out: int
    """Active on the first half, but on too few tokens of either."""
    shown: list[ShownCluster]


class MeanAgreement(Record):
    """Of a group, over its dictionaries."""

    group: str
    algorithm: str
    matrix: str
    other: str
    value: float | None
