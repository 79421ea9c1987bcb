"""What the study of explanations says: claims, figures, tables and words that follow from its numbers."""

from __future__ import annotations

from crossproof.findings import Cell, Claim, Figure, Findings, Grid, Series, Table, Verdict
from crossproof.study.dictionaries import PLAIN
from crossproof.study.estimates import Estimate
from crossproof.study.explain.results import (
    BINS,
    CONTROLS,
    LABELS,
    MODEL,
    OTHER,
    SHUFFLED,
    DictionaryRecord,
    ExplainStudy,
    GroupRecord,
)
from crossproof.study.extremes import Bounded

MARGIN = 0.02
"""Penalised features are as explainable if they lose less balanced accuracy than this."""
NO_PAIR = "there are no scored dictionaries both with a penalty and, otherwise trained alike, without"
BARS = {"sensitivity": "sensitivity", "specificity": "specificity", "balanced": "balanced accuracy"}
IN_PAPER = (
    "sensitivity / specificity .895 / .915 at λ = 0, .883 / .917 at λ = 1000, explained and scored on the same examples"
)


def findings_of(found: ExplainStudy) -> Findings:
    judges = [LABELS] + ([MODEL] if found.of(MODEL) else [])
    shown, claims = _shown(found), _claims(found, judges)
    return Findings(
        title="Explanations of features",
        question=(
            "Can what features do be said in words that hold on other texts, and as well of those trained with a "
            "penalty on interactions as of those without?"
        ),
        answer=" ".join([_scores(found), *map(_answer, claims)]),
        claims=tuple(claims),
        figures=(*(_confusion(found, judge) for judge in judges), _bars(found), _spread(found)),
        tables=(_groups(found), _tokens(found), _dictionaries(found), *_examples(found, shown)),
        passages=tuple(found.dictionaries[shown].passages) if shown is not None else (),
        notes=_notes(found),
    )


def _claims(found: ExplainStudy, judges: list[str]) -> list[Claim]:
    claims = []
    for judge in judges:
        end = "" if judge == LABELS else ".language_model"
        by = "few labels of the tokens" if judge == LABELS else "a language model's sentence"
        penalties = sum(bool(its.against_plain) for its in found.of(judge))
        of_them = f", the worst of {penalties} penalties" if penalties > 1 else ""
        groups = len(found.of(judge))
        of_groups = f", the worst of {groups} groups of dictionaries" if groups > 1 else ""
        same = found.same.get(judge, {})
        claims.append(
            _claim(
                id=f"explain.same{end}",
                claim=f"Penalised features are as explainable, by {by}.",
                paper=IN_PAPER,
                measure=f"balanced accuracy on other texts, with penalty less without{of_them}",
                estimate=same.get("balanced"),
                least=-MARGIN,
                otherwise=NO_PAIR,
            )
        )
        if judge == LABELS:
            claims.append(
                _claim(
                    id="explain.same.bits",
                    claim=f"Penalised features are as explainable, by {by}, where what is said wrongly counts in full.",
                    paper="–",
                    measure=f"share of the bits saved on other texts, with penalty less without{of_them}",
                    estimate=same.get("information"),
                    least=-MARGIN,
                    otherwise=NO_PAIR,
                )
            )
        claims.append(
            _claim(
                id=f"explain.better_than_chance{end}",
                claim=f"Features can be explained by {by}.",
                paper="–",
                measure=f"balanced accuracy on other texts, less that with another feature's explanation{of_groups}",
                estimate=found.above.get(judge),
                least=0.0,
                otherwise="no feature could be scored",
            )
        )
    return claims


def _claim(
    id: str, claim: str, paper: str, measure: str, estimate: Bounded | None, least: float, otherwise: str
) -> Claim:
    than = f"{least:g}".replace("-", "−")
    return Claim(
        id=id,
        claim=claim,
        paper=paper,
        measure=measure,
        ours=estimate.value if estimate else None,
        low=estimate.low if estimate else None,
        high=estimate.high if estimate else None,
        verdict=_verdict(estimate, least),
        why=f"holds if the whole interval is above {than}, does not if all of it is below" if estimate else otherwise,
    )


def _verdict(estimate: Bounded | None, least: float) -> Verdict:
    if estimate is None or estimate.low <= least <= estimate.high:
        return "cannot tell"
    return "holds" if estimate.low > least else "does not hold"


def _scores(found: ExplainStudy) -> str:
    scores = [
        f"{its.measures['balanced'].value:.3f} ({its.group}, {its.judge})" for its in found.groups if its.measures
    ]
    return f"Balanced accuracy on other texts: {', '.join(scores) or 'of no feature'}."


def _answer(claim: Claim) -> str:
    said = {"holds": "Yes", "does not hold": "No", "cannot tell": "It cannot be told"}[claim.verdict]
    if claim.ours is None:
        return f"{claim.claim} {said}: {claim.why}."
    return f"{claim.claim} {said} ({claim.measure}: {claim.ours:+.3f} [{claim.low:+.3f}, {claim.high:+.3f}])."


def _confusion(found: ExplainStudy, judge: str) -> Figure:
    control = CONTROLS[judge]
    rows, values = [], []
    for group in found.of(judge) + found.of(control):
        if group.measures:
            of = group.group if group.judge == judge else f"{group.group}, another feature's"
            sensitivity, specificity = (group.measures[name].value for name in ("sensitivity", "specificity"))
            rows += [f"{of}: active", f"{of}: not active"]
            values += [(sensitivity, 1 - sensitivity), (1 - specificity, specificity)]
    return Figure(
        id=f"explain-confusion-{'labels' if judge == LABELS else 'model'}",
        title=f"What is so of a token, and what the explanation says of it ({judge})",
        kind="grid",
        x="what is said",
        y="what is so",
        grid=Grid(
            rows=tuple(rows),
            columns=("active", "not active"),
            values=tuple(values),
            measure="share of the tokens of a row, mean over features",
        ),
    )


def _bars(found: ExplainStudy) -> Figure:
    series = []
    for its in found.groups:
        if its.measures:
            of = [its.measures[name] for name in BARS]
            series.append(
                Series(
                    name=f"{its.group} · {its.judge}",
                    x=tuple(BARS.values()),
                    y=tuple(each.value for each in of),
                    low=tuple(each.low for each in of),
                    high=tuple(each.high for each in of),
                )
            )
    return Figure(
        id="explain-scores",
        title="Explanations on texts that they were not made from, beside their controls",
        kind="bars",
        x="",
        y="mean over features",
        series=tuple(series),
        note="Always, never, or a coin of any weight has a balanced accuracy of 0.5.",
    )


def _spread(found: ExplainStudy) -> Figure:
    centres = tuple((number + 0.5) / BINS for number in range(BINS))
    return Figure(
        id="explain-spread",
        title="How well single features are explained by labels",
        kind="lines",
        x="balanced accuracy on the scoring half",
        y="share of the scored features",
        series=tuple(
            Series(name=f"{its.group} · {its.judge}", x=centres, y=tuple(its.spread))
            for judge in (LABELS, OTHER)
            for its in found.of(judge)
        ),
    )


def _groups(found: ExplainStudy) -> Table:
    return Table.of(
        "Explanations by group of dictionaries and judge",
        [_group_row(its) for its in found.groups],
        note="Means over scored features, in brackets 95 % from resampled texts of the scoring half. precision: of the "
        "tokens that are said to be active, those that are; beside it the share of all that are. bits saved: of those "
        "that it takes to say where all features are active, the share that the explanations save. Few tokens are "
        "active: where a small share of the others is said to be, that costs specificity little and bits much.",
    )


def _group_row(its: GroupRecord) -> dict[str, Cell]:
    (hits, missed), (false, right) = its.confusion
    tokens = hits + missed + false + right
    return {
        "dictionaries": its.group,
        "explained by": its.judge,
        "sensitivity": _text(its.measures.get("sensitivity")),
        "specificity": _text(its.measures.get("specificity")),
        "balanced accuracy": _text(its.measures.get("balanced")),
        "less plain": _text(its.against_plain.get("balanced")),
        "less another's": _text(its.above_other),
        "precision": _text(its.measures.get("precision")),
        "active": (hits + missed) / tokens if tokens else None,
        "bits saved": _text(its.measures.get("information")),
        "bits less plain": _text(its.against_plain.get("information")),
    }


def _tokens(found: ExplainStudy) -> Table:
    names = ("active, and said to be", "active, not said", "not active, but said", "neither")
    rows: list[dict[str, Cell]] = []
    for its in found.groups:
        row: dict[str, Cell] = {"dictionaries": its.group, "explained by": its.judge}
        rows.append(row | dict(zip(names, [count for counts in its.confusion for count in counts], strict=True)))
    return Table.of("Tokens of all scored features together", rows)


def _dictionaries(found: ExplainStudy) -> Table:
    def row(name: str, group: str, its: DictionaryRecord) -> dict[str, Cell]:
        counts: dict[str, Cell] = {
            "dictionary": name,
            "group": group,
            "features": its.features,
            "never active where explained": its.silent,
            "never (or always) active where scored": its.unheard,
            "scored": its.features - its.silent - its.unheard,
            "of them without an explanation": its.without,
        }
        if found.language_model is not None:
            counts |= {"asked of the language model": its.asked, "answers not read": its.unanswered}
        return counts

    pairs = zip(found.coders, found.dictionaries, strict=True)
    return Table.of("Dictionaries", [row(about.coder, about.group, its) for about, its in pairs])


def _shown(found: ExplainStudy) -> int | None:
    """The first dictionary with a penalty, or the first; none that has no scored feature."""
    order = sorted(range(len(found.coders)), key=lambda number: found.coders[number].penalty == PLAIN)
    return next((number for number in order if found.dictionaries[number].examples), None)


def _examples(found: ExplainStudy, number: int | None) -> list[Table]:
    if number is None:
        return []
    dictionary = found.dictionaries[number]
    by_feature = {its.feature: its for its in dictionary.explained}
    rows: list[dict[str, Cell]] = []
    for feature in dictionary.examples:
        its = by_feature[feature]
        row: dict[str, Cell] = {"feature": feature, "active on": its.explanation}
        if found.language_model is not None:
            row["language model"] = its.told
        row |= {
            "share of tokens": its.share,
            "sensitivity": its.sensitivity,
            "specificity": its.specificity,
            "balanced accuracy": its.balanced,
        }
        rows.append(row)
    about = found.coders[number]
    title = f"Explanations of features of {about.coder} ({about.group})"
    note = (
        "Not chosen by hand: evenly by rank of frequency among the scored features, the most frequent first. All are "
        "in results.json."
    )
    return [Table.of(title, rows, note)]


def _notes(found: ExplainStudy) -> tuple[str, ...]:
    what = (
        "the labels of the stories' grammar, and tokens and their places"
        if found.stories
        else "tokens and their places alone, since nothing else is known of these texts"
    )
    notes = [
        f"Explained on {found.explaining_texts} texts ({found.explaining_tokens:,} tokens), scored on "
        f"{found.scoring_texts} others ({found.scoring_tokens:,}), all held out from training. Intervals resample the "
        "texts of the scoring half; dictionaries and explanations are held fixed.",
        f"Labels: {found.labels} of {what}. An explanation has at most {found.parts} parts of one or two labels, "
        "chosen greedily by information gain, less the bits that it takes to name them.",
        f"“{OTHER}”: each feature is scored with the explanation of another, drawn. “{SHUFFLED}”: labels were shuffled "
        "over the tokens, and explanations searched for among them.",
    ]
    if len(found.of(LABELS)) > 1:
        notes.append(
            "The worst of several groups is found on the texts it is reported on; its interval allows for that."
        )
    if found.language_model is not None:
        notes.append(
            f"Language model: {found.language_model}. It saw up to {found.judged_examples} examples of the explaining "
            "half to explain a feature, and in another question judged as many of the scoring half, half of them "
            "tokens on which the feature is active."
        )
    return tuple(notes)


def _text(estimate: Estimate | None) -> str | None:
    return None if estimate is None else f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
