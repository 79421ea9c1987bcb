"""Comparing clusters, showing them, and the whole study of clusters."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from crossproof.codes import Codes
from crossproof.errors import BadFile, CrossproofError
from crossproof.findings import Findings
from crossproof.study.clusters import measured as measuring
from crossproof.study.clusters import study as studying
from crossproof.study.clusters.algorithms import AFFINITY_PROPAGATION, ALGORITHMS
from crossproof.study.clusters.compare import difference, row
from crossproof.study.clusters.config import ClustersConfig
from crossproof.study.clusters.findings import _sign
from crossproof.study.clusters.measured import agreements, often_active
from crossproof.study.clusters.records import Clustering, DictionaryRecord, Difference, MeanAgreement, Row
from crossproof.study.clusters.results import ClustersStudy
from crossproof.study.clusters.shown import Words, shown
from crossproof.study.clusters.study import in_two, run
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import Estimate
from crossproof.study.token_labels import TokenLabels
from crossproof.subject.tokens import Tokens
from tests.binding import coders
from tests.study.planted_clusters import planted, random_profiles
from tests.subject import tiny

# -- comparing -----------------------------------------------------------------------------------------------------


def clustering(cluster: list[int], right: list[float], matrix: str = "directed") -> Clustering:
    zeros = [0.0] * len(cluster)
    lists = {"right": right, "wordless": right, "exchanged": zeros, "apart": [r > 0.5 for r in right]}
    return Clustering(matrix=matrix, algorithm="Louvain", cluster=cluster, **lists)


def test_a_row_counts_members_and_bins_sizes_by_powers_of_two() -> None:
    cluster = [0] * 3 + [1] * 3 + [2] * 3 + [3] * 4 + [4] * 7 + [5] * 5 + [6] * 8 + [-1] * 3
    right = [1.0] * 9 + [0.5] * 16 + [0.0] * 11
    found = row("plain", [clustering(cluster, right)], seed=0)
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx((9 + 8) / 33)
    assert found.accuracy.low < found.accuracy.value < found.accuracy.high
    assert (found.clusters, found.median_size, found.coverage) == (7, 4, pytest.approx(33 / 36))
    assert [(its.sizes, its.members) for its in found.by_size] == [("3", 9), ("4–7", 16), ("8–15", 8)]
    assert [its.accuracy and its.accuracy.value for its in found.by_size] == [1.0, 0.5, None]
    assert found.duplicates == pytest.approx(24 / 33)
    assert found.apart is not None
    assert found.apart.value == 1


def test_two_matrices_are_compared_on_the_features_whose_clusters_are_of_like_size() -> None:
    first = [k for k in range(10) for _ in range(4)] + [10] * 8
    second = [k for k in range(10) for _ in range(4)] + [10, 10, 10, 11, 11, 11, -1, -1]
    one, other = clustering(first, [0.75] * 48), clustering(second, [0.25] * 40 + [1.0] * 8, "PMI")
    found = difference("plain", [(one, other)], seed=0)
    assert (found.features, found.matrix, found.baseline) == (40, "directed", "PMI")
    assert found.difference is not None
    assert (found.difference.low, found.difference.value, found.difference.high) == (0.5, 0.5, 0.5)
    assert difference("plain", [(one, one)], seed=0).difference == found.difference.model_copy(
        update={"value": 0, "low": 0, "high": 0, "each": [0]}
    )
    few = clustering(first[:20], [1.0] * 20)
    assert difference("plain", [(few, few)], seed=0).difference is None
    none = one.model_copy(update={"right": None, "wordless": None, "exchanged": None})
    assert difference("plain", [(one, none), (one, other)], seed=0).difference == found.difference
    assert row("plain", [none], seed=0).accuracy is None


def test_the_interval_resamples_the_clusters_of_whichever_side_makes_it_wider() -> None:
    features = 48
    first = [i // 4 for i in range(features)]
    second = [i % 12 for i in range(features)]
    right = [1.0 if i // 4 < 6 else 0.0 for i in range(features)]  # all or none of each of the first's clusters
    found = difference("plain", [(clustering(first, right), clustering(second, [0.0] * features, "PMI"))], seed=0)
    turned = difference("plain", [(clustering(second, [0.0] * features), clustering(first, right, "PMI"))], seed=0)
    assert found.difference is not None
    assert turned.difference is not None
    assert found.difference.low < 0.3
    assert found.difference.high > 0.7
    assert (turned.difference.low, turned.difference.high) == pytest.approx(
        (-found.difference.high, -found.difference.low), abs=0.09
    )


def judged_study(accuracy: Estimate | None, above: Estimate | None) -> ClustersStudy:
    numbers = {"clusters": 9.0, "coverage": 1.0, "median_size": 4.0, "duplicates": 0.0, "by_size": []}
    estimates = {"accuracy": accuracy, "above": above, "exchanged": None, "apart": None, "wordless": None}
    rows = [
        Row(group="plain", matrix=matrix, algorithm=algorithm, **numbers, **estimates)
        for matrix in ("directed", "activations")
        for algorithm in ALGORITHMS
    ]
    pair = {"group": "plain", "algorithm": AFFINITY_PROPAGATION, "matrix": "directed"}
    against = Difference(**pair, baseline="activations", features=9, difference=above, wordless=None)
    agreements = [
        MeanAgreement(group="plain", algorithm=algorithm, matrix="directed", other="activations", value=0.5)
        for algorithm in ALGORITHMS
    ]
    coder = CoderRecord(coder="c", penalty="plain", seed=0, unexplained=None)
    dictionary = DictionaryRecord(coder=coder, features=40, left_out=2, shown=[])
    return ClustersStudy(
        subject="s",
        texts=4,
        tokens=40,
        labels=5,
        dictionaries=[dictionary],
        rows=rows,
        differences=[against],
        agreements=agreements,
    )


def between(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high, each=[(low + high) / 2])


@pytest.mark.parametrize(
    ("accuracy", "above", "verdicts"),
    [
        (between(0.3, 0.5), between(0.1, 0.2), ("holds", "holds")),
        (between(0.3, 0.5), between(-0.1, 0.2), ("cannot tell", "cannot tell")),
        (between(0.3, 0.5), between(-0.2, 0.0), ("does not hold", "does not hold")),
        (between(0.3, 0.5), between(-0.2, -0.1), ("does not hold", "does not hold")),
        (between(0.3, 0.5), between(0.0, 0.0), ("does not hold", "does not hold")),
        (between(0.1, 0.2), between(0.1, 0.2), ("does not hold", "holds")),
        (between(0.15, 0.3), between(0.1, 0.2), ("cannot tell", "holds")),
        (None, None, ("cannot tell", "cannot tell")),
    ],
)
def test_claims_are_chance_members_exchanged_and_the_baseline(
    accuracy: Estimate | None, above: Estimate | None, verdicts: tuple[str, str]
) -> None:
    said = judged_study(accuracy, above).findings()
    assert tuple(claim.verdict for claim in said.claims) == verdicts
    assert said.claims[0].ours == (accuracy and accuracy.value)
    assert said.claims[1].ours == (above and above.value)
    word = (
        "cannot be"
        if above is None or above.low <= 0 <= above.high
        else "more often"
        if above.low > 0
        else "less often"
    )
    assert word in said.answer


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [(0.1, 0.2, "holds"), (-0.1, 0.1, "cannot tell"), (-0.2, 0.0, "does not hold"), (0.0, 0.1, "cannot tell")],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, verdict: str) -> None:
    assert _sign(Estimate(value=(low + high) / 2, low=low, high=high, each=[])) == verdict
    assert _sign(None) == "cannot tell"


def test_clusters_are_shown_with_their_words_labels_and_interaction() -> None:
    subject, tokens = tiny.subject("gpt2"), tiny.some_tokens("gpt2")
    draw = torch.Generator().manual_seed(0)
    f = torch.rand(tokens.n_kept, 20, generator=draw) * (torch.rand(tokens.n_kept, 20, generator=draw) < 0.3)
    f[:, 0] = 0
    f[3, 0] = 1
    names = [f"label {k}" for k in range(5)]
    its = random_profiles(20)
    words = Words.of(subject, tokens, Codes.from_dense(f), torch.arange(20) + 100, its, names)
    pieces = [subject.tokenizer.decode([id_]) for id_ in tokens.ids[tokens.keep].tolist()]
    assert words.member(0) == f"100: “{pieces[3]}” ({names[int(its[0].argmax())]})"
    for place in range(1, 20):
        total: dict[str, float] = {}
        for row_, piece in enumerate(pieces):
            total[piece] = total.get(piece, 0) + float(f[row_, place])
        best = sorted((p for p in total if total[p] > 0), key=lambda p: -total[p])[:3]
        assert words.member(place).startswith(f"{100 + place}: " + ", ".join(f"“{p}”" for p in best) + " (")
    cluster = [-1, 0, 0, 0, 1, 1, 1, 1] + [2] * 12
    right = [0.0] + [0.5] * 3 + [1.0] * 4 + [0.25] * 12
    similarity = planted(0, (20,))[0]
    found = shown(clustering(cluster, right), similarity, words)
    assert [(one.size, one.right) for one in found] == [(4, 1), (3, 0.5), (12, 0.25)]
    for one, members in zip(found, (range(4, 8), range(1, 4), range(8, 20)), strict=True):
        inside = [float(similarity[a, b]) for a in members for b in members if a != b]
        outside = [float(similarity[a, b]) for a in members for b in range(20) if b not in members]
        assert one.inside == pytest.approx(sum(inside) / len(inside))
        assert one.outside == pytest.approx(sum(outside) / len(outside))
        assert {name.split(":")[0] for name in one.members} <= {str(100 + place) for place in members}
        assert one.about.split("; ")[0] == names[int(its[list(members)].sum(0).argmax())]
    assert shown(clustering(cluster, right).model_copy(update={"right": None}), similarity, words) == []


def test_clusterings_agree_over_the_features_that_both_cluster() -> None:
    one = torch.tensor([0, 0, 0, 1, 1, 1, -1, -1, -1])
    other = torch.tensor([1, 1, 1, 0, 0, 0, 0, 2, 2])
    nowhere = torch.full((9,), -1)
    all_three = {("directed", "Louvain"): one, ("PMI", "Louvain"): other, ("mass", "HDBSCAN"): one}
    (found,) = agreements(all_three)
    assert (found.matrix, found.other, found.algorithm, found.value) == ("directed", "PMI", "Louvain", 1)
    assert agreements({("directed", "Louvain"): one, ("PMI", "Louvain"): nowhere})[0].value is None


def test_features_must_be_active_often_in_both_halves() -> None:
    first, second = torch.zeros(20, 4), torch.zeros(20, 4)
    first[:10, :2] = 1
    second[:10, 1:3] = 1
    first[:9, 3] = second[:20, 3] = 1
    assert often_active(Codes.from_dense(first), Codes.from_dense(second)).tolist() == [1]


# -- the whole -----------------------------------------------------------------------------------------------------


def test_the_halves_share_no_text_and_have_the_same_labels() -> None:
    keep = torch.ones(5, 8, dtype=torch.bool)
    keep[1, 3:] = False
    tokens = Tokens(torch.arange(40).reshape(5, 8), keep, torch.full((5, 8), -100))
    values = torch.zeros(35, 3, dtype=torch.bool)
    values[:, 0] = True
    values[5:20, 1] = True
    values[:6, 2] = True  # in the first half alone
    first, second = in_two(tokens, TokenLabels(("a", "b", "c"), values))
    assert first.labels.names == second.labels.names == ("a", "b")
    assert len(first.tokens) + len(second.tokens) == 5
    assert torch.equal(torch.cat([first.tokens.ids, second.tokens.ids]), tokens.ids)
    assert torch.equal(torch.cat([first.labels.values, second.labels.values]), values[:, :2])
    assert (len(first.labels.values), len(second.labels.values)) == (first.tokens.n_kept, second.tokens.n_kept)
    with pytest.raises(CrossproofError, match="Give more texts"):
        in_two(tokens[:1], TokenLabels(("a",), values[:8, :1]))


@pytest.fixture
def config(tmp_path: Path) -> ClustersConfig:
    draw = torch.Generator().manual_seed(0)
    lines = [" ".join(f"w{int(k)}" for k in torch.randint(0, 9, (20,), generator=draw)) for _ in range(240)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    coder = coders.on(tiny.subject("gpt2", torch.float32), features=40)
    coder.save_pretrained(tmp_path / "coder")
    return ClustersConfig(
        subject=str(tiny.folder("gpt2")),
        coders=(str(tmp_path / "coder"),) * 2,
        out=tmp_path / "run",
        texts=12,
        data=tmp_path / "texts.txt",
    )


def test_a_run_says_what_it_found_goes_on_where_it_stopped_and_is_read_again(
    config: ClustersConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measuring.measured
    calls: list[int] = []

    def dies_the_second_time(*args: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*args)

    monkeypatch.setattr(studying, "measured", dies_the_second_time)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    found = run(config)
    assert len(calls) == 3  # the first dictionary is not measured again
    assert run(config) == found
    assert len(calls) == 3
    said = Findings.model_validate_json((config.out / "findings.json").read_text())
    assert said == found.findings()
    assert [claim.id for claim in said.claims] == ["clusters.meaning", "clusters.baseline"]
    assert len({figure.id for figure in said.figures}) == len(said.figures) == 7
    accuracy = found.row("directed").accuracy
    assert accuracy is None or accuracy.each[0] == accuracy.each[1]
    assert found.agreement("directed", "PMI") == found.agreement("PMI", "directed")
    assert all(its.shown for its in found.dictionaries) == (accuracy is not None)


def test_what_cannot_be_clustered_is_refused_by_name(config: ClustersConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossproofError, match="coders: none"):
        run(config.model_copy(update={"coders": ()}))
    assert not config.out.exists()
    monkeypatch.setattr(measuring, "MOST", 16)
    with pytest.raises(CrossproofError, match="at most 16"):
        run(config)
    monkeypatch.setattr(measuring, "ACTIVE", 10**6)
    with pytest.raises(CrossproofError, match="0 features are active on 1000000 or more"):
        run(config)
    (config.out / "parts").mkdir()
    (config.out / "parts" / "0.json").write_text("{}")
    with pytest.raises(BadFile, match=r"0.json does not hold"):
        run(config)
