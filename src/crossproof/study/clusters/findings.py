"""What the numbers of the study of clusters say, in words, figures and tables."""

from __future__ import annotations

from crossproof.findings import Cell, Claim, Figure, Findings, Grid, Series, Table, Verdict
from crossproof.interaction.result_view import three_digits
from crossproof.study.clusters.algorithms import AFFINITY_PROPAGATION, ALGORITHMS
from crossproof.study.clusters.judge import CHANCE
from crossproof.study.clusters.measured import ACTIVE, DEALS, NEAR
from crossproof.study.clusters.records import Row
from crossproof.study.clusters.results import ClustersStudy
from crossproof.study.clusters.similarities import ACTIVATIONS, DIRECTED, INTERACTION, MATRICES
from crossproof.study.estimates import ENOUGH, Estimate

QUESTION = (
    "Do features that interact mean related things, and is that more than features that are active together do? A "
    "member of a cluster is held out, and a judge assigns it to one of five clusters by what is true of the tokens it "
    "fires on."
)


def findings_of(found: ClustersStudy) -> Findings:
    return Findings(
        title="Clusters of interacting features",
        question=QUESTION,
        answer=_answer(found),
        claims=(_meaning(found), _baseline(found)),
        figures=(
            *(_by_size(found, algorithm) for algorithm in ALGORITHMS),
            _overall(found),
            *(_agreement(found, algorithm) for algorithm in ALGORITHMS),
        ),
        tables=(*_accuracies(found), _differences(found), *_clusters(found), _matrices(found), _dictionaries(found)),
        notes=_notes(found),
    )


def _meaning(found: ClustersStudy) -> Claim:
    its = found.row(DIRECTED)
    accuracy, above = its.accuracy, its.above
    verdict: Verdict = "cannot tell"
    if accuracy is not None and above is not None:
        if accuracy.low > CHANCE and above.low > 0:
            verdict = "holds"
        elif accuracy.high <= CHANCE or above.high <= 0:
            verdict = "does not hold"
    return Claim(
        id="clusters.meaning",
        claim="Clusters of features that interact are semantically meaningful.",
        paper="66 % of held-out members assigned right (chance 20 %); 50 % in the authors' own re-run",
        measure="share of held-out members assigned to their cluster among five, "
        f"{AFFINITY_PROPAGATION} on the {DIRECTED} metric" + _which(found),
        ours=None if accuracy is None else accuracy.value,
        low=None if accuracy is None else accuracy.low,
        high=None if accuracy is None else accuracy.high,
        verdict=verdict,
        why=f"Holds if the whole interval lies above chance, {CHANCE:g}, and so does, above 0, that of the difference "
        f"to clusters of the same sizes whose members are exchanged for others as frequent: {_text(above)}. Does not "
        "hold if the whole of either lies at or below.",
    )


def _baseline(found: ClustersStudy) -> Claim:
    against = found.against(ACTIVATIONS)
    its = against.difference
    return Claim(
        id="clusters.baseline",
        claim="They are more so than clusters of features that are active together.",
        paper="66 % by the metric; in the authors' own re-run 50 %, against 54 % by the cosine of activations",
        measure=f"difference of that share to clusters by the cosine of {ACTIVATIONS}, the same features held out of "
        "clusters of like size" + _which(found),
        ours=None if its is None else its.value,
        low=None if its is None else its.low,
        high=None if its is None else its.high,
        verdict=_sign(its),
        why="Holds if the whole interval lies above 0, does not hold if the whole of it lies at or below 0. "
        f"{against.features} features are in clusters of like size of both"
        + ("." if its is not None else ", too few to compare."),
    )


def _sign(its: Estimate | None) -> Verdict:
    if its is None or its.low <= 0 < its.high:
        return "cannot tell"
    return "holds" if its.low > 0 else "does not hold"


def _answer(found: ClustersStudy) -> str:
    its, base = found.row(DIRECTED), found.row(ACTIVATIONS)
    sentences = [
        f"By the {DIRECTED} metric{_which(found)}, {AFFINITY_PROPAGATION} makes {its.clusters:.0f} clusters, and "
        f"{_text(its.accuracy)} of held-out members are assigned right among five; with members exchanged for others "
        f"as frequent, {_text(its.exchanged)}. By the cosine of activations it makes {base.clusters:.0f}, with "
        f"{_text(base.accuracy)}."
    ]
    for baseline in (matrix for matrix in found.matrices if matrix not in INTERACTION):
        against = found.against(baseline)
        gained, difference = against.difference, _text(against.difference)
        if gained is None:
            sentences.append(f"They cannot be compared with clusters by {baseline}: too few are of like size.")
        elif gained.low <= 0 <= gained.high:
            sentences.append(f"At like sizes they cannot be told from clusters by {baseline}: {difference}.")
        else:
            word = "more" if gained.low > 0 else "less"
            sentences.append(f"At like sizes they are {word} often right than clusters by {baseline}: {difference}.")
    near = found.agreement(DIRECTED, ACTIVATIONS)
    if near is not None:
        sentences.append(
            f"The adjusted mutual information of the clusters by interaction and those by activations is {near:.2f} "
            "(1: the same clusters, 0: as alike as by chance)."
        )
    return " ".join(sentences)


def _by_size(found: ClustersStudy, algorithm: str) -> Figure:
    rows = [found.row(matrix, algorithm) for matrix in found.matrices]
    sizes = max(([its.sizes for its in row.by_size] for row in rows), key=len)
    series = [_of_sizes(row, row.matrix, sizes) for row in rows]
    series.append(_of_sizes(rows[0], f"{rows[0].matrix}, members exchanged", sizes, exchanged=True))
    series.append(Series(name="chance", x=tuple(sizes), y=(CHANCE,) * len(sizes)))
    return Figure(
        id=f"clusters.by-size.{_slug(algorithm)}",
        title=f"Held-out members assigned right, by the size of their cluster: {algorithm}",
        kind="lines",
        x="features in the cluster",
        y="share assigned right among five",
        series=tuple(series),
        note="Intervals resample clusters; none where fewer than three are so large. Members exchanged: others as "
        "frequent stand in their places." + _about_group(found),
    )


def _of_sizes(row: Row, name: str, sizes: list[str], exchanged: bool = False) -> Series:
    by = {its.sizes: its for its in row.by_size}
    points = [by.get(size) for size in sizes]
    at = [None if its is None else its.exchanged if exchanged else its.accuracy for its in points]
    return Series(
        name=name,
        x=tuple(sizes),
        y=tuple(None if its is None else its.value for its in at),
        low=tuple(None if its is None else its.low for its in at),
        high=tuple(None if its is None else its.high for its in at),
        words=tuple("" if its is None else f"{its.members} members" for its in points),
    )


def _overall(found: ClustersStudy) -> Figure:
    series = []
    for algorithm in ALGORITHMS:
        rows = [found.row(matrix, algorithm) for matrix in found.matrices]
        at = [row.accuracy for row in rows]
        series.append(
            Series(
                name=algorithm,
                x=tuple(found.matrices),
                y=tuple(None if its is None else its.value for its in at),
                low=tuple(None if its is None else its.low for its in at),
                high=tuple(None if its is None else its.high for its in at),
                words=tuple(
                    f"{row.clusters:.0f} clusters with {row.coverage:.0%} of the features; members exchanged: "
                    f"{_text(row.exchanged)}"
                    for row in rows
                ),
            )
        )
    return Figure(
        id="clusters.accuracy",
        title="Held-out members assigned right, clusters of all sizes",
        kind="bars",
        x="clusters made by",
        y=f"share assigned right among five (chance {CHANCE:g})",
        series=tuple(series),
        note="Sizes differ between bars: only the comparison at like sizes is fair." + _about_group(found),
    )


def _agreement(found: ClustersStudy, algorithm: str) -> Figure:
    names = tuple(found.matrices)
    values = tuple(tuple(1.0 if a == b else found.agreement(a, b, algorithm) for b in names) for a in names)
    return Figure(
        id=f"clusters.agreement.{_slug(algorithm)}",
        title=f"Whether different matrices give the same clusters: {algorithm}",
        kind="grid",
        x="",
        y="",
        grid=Grid(rows=names, columns=names, values=values, measure="adjusted mutual information"),
        note="1: the same clusters, 0: as alike as by chance; over the features that are in a cluster of both."
        + _about_group(found),
    )


def _accuracies(found: ClustersStudy) -> list[Table]:
    tables = []
    for group in found.groups:
        rows: list[dict[str, Cell]] = [
            {
                "clusters by": its.matrix,
                "algorithm": its.algorithm,
                "clusters": round(its.clusters, 1),
                "features in one": f"{its.coverage:.0%}",
                "median size": its.median_size,
                "assigned right": _text(its.accuracy),
                "members exchanged": _text(its.exchanged),
                "difference": _text(its.above),
                "with a near-duplicate": f"{its.duplicates:.0%}",
                "right without one": _text(its.apart),
                "right, words not told": _text(its.wordless),
            }
            for its in found.rows
            if its.group == group
        ]
        note = (
            "A near-duplicate is another member of the cluster whose activations have a cosine of "
            f"{NEAR:g} or more with it. Words not told: the judge uses none of the labels that only say which word a "
            "token is or which stands before it. – where there are too few clusters."
        )
        tables.append(Table.of(f"{found.subject}: {group}", rows, note))
    return tables


def _differences(found: ClustersStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "dictionaries": its.group,
            "algorithm": its.algorithm,
            "clusters by": its.matrix,
            "against": its.baseline,
            "features": its.features,
            "difference": _text(its.difference),
            "words not told": _text(its.wordless),
        }
        for its in found.differences
    ]
    note = "The same features held out of clusters of both that are of like size, the same power of two."
    return Table.of("Interaction against each baseline, at like sizes", rows, note)


def _clusters(found: ClustersStudy) -> list[Table]:
    its = found.dictionaries[0]
    tables = []
    for matrix in dict.fromkeys(cluster.matrix for cluster in its.shown):
        rows: list[dict[str, Cell]] = [
            {
                "assigned right": round(cluster.right, 2),
                "size": cluster.size,
                "its labels": cluster.about,
                "members": " · ".join(cluster.members) + (" · …" if len(cluster.members) < cluster.size else ""),
                "interaction inside": three_digits(cluster.inside),
                "outside": three_digits(cluster.outside),
            }
            for cluster in its.shown
            if cluster.matrix == matrix
        ]
        note = (
            f"Of {its.coder.coder}: those whose members were assigned right most often, and the largest. A member is "
            "its number, the words it is strongest on and the label that its firing correlates with most. Interaction "
            "is the mean of a pair of members, and of a member and a feature outside."
        )
        tables.append(Table.of(f"Clusters by {matrix} interaction, {AFFINITY_PROPAGATION}", rows, note))
    return tables


def _matrices(found: ClustersStudy) -> Table:
    rows: list[dict[str, Cell]] = [{"clusters by": its, "similarity": MATRICES[its]} for its in found.matrices]
    return Table.of("What clusters are made of", rows)


def _dictionaries(found: ClustersStudy) -> Table:
    rows: list[dict[str, Cell]] = [
        {
            "crosscoder": its.coder.coder,
            "trained": its.coder.group,
            "seed": its.coder.seed,
            "unexplained": its.coder.unexplained,
            "features clustered": its.features,
            "too rare": its.left_out,
        }
        for its in found.dictionaries
    ]
    return Table.of("dictionaries", rows, f"Too rare: active, but on fewer than {ACTIVE} tokens of a half.")


def _notes(found: ClustersStudy) -> tuple[str, ...]:
    resampled = "clusters" + (
        f", and dictionaries where {ENOUGH} or more were trained alike"
        if max(sum(its.coder.group == group for its in found.dictionaries) for group in found.groups) >= ENOUGH
        else ", the dictionaries held fixed"
    )
    return (
        f"{found.texts} held-out texts, {found.tokens:,} tokens: clusters are made and described on the first half of "
        f"the texts, and their members judged on the other. {found.labels} labels are true of some tokens of both.",
        "The judge is no language model: it compares which labels of the tokens a feature's firing correlates with.",
        "Only each feature's order of the others counts, the same for all matrices, and the algorithms' settings are "
        "the same: neither was chosen by what came of it.",
        f"Against which four other clusters a member stands is not drawn: the number is the mean over all draws. "
        f"Members are exchanged {DEALS} times for others as frequent.",
        f"Intervals are 95 % and resample {resampled}. The texts are held fixed.",
    )


def _which(found: ClustersStudy) -> str:
    return f" ({found.groups[0]} dictionaries)" if len(found.groups) > 1 else ""


def _about_group(found: ClustersStudy) -> str:
    return f" Dictionaries: {found.groups[0]}." if len(found.groups) > 1 else ""


def _slug(algorithm: str) -> str:
    return algorithm.lower().replace(" ", "-")


def _text(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"
