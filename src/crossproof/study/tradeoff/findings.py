"""What the trade-off says, in words that follow from the numbers."""

from __future__ import annotations

from crossproof.findings import Findings
from crossproof.study.estimates import ENOUGH
from crossproof.study.tradeoff.claims import claims_of, derived_setting, named, primary
from crossproof.study.tradeoff.config import PRIMARY, SETTINGS
from crossproof.study.tradeoff.figures import figures_of
from crossproof.study.tradeoff.results import Comparison, TradeoffStudy
from crossproof.study.tradeoff.settings import short
from crossproof.study.tradeoff.tables import BETTER_HIGH, favours, published, shown, tables_of


def findings_of(found: TradeoffStudy) -> Findings:
    return Findings(
        title="What a penalty on interactions buys, and what it costs",
        question="Does the dominant share rise with the penalty's weight, and interaction fall? And does the derived "
        "penalty do something that a generic one of the same cost does not?",
        answer=" ".join(sentence for subject in found.subjects for sentence in _sentences(found, subject)),
        claims=tuple(claim for subject in found.subjects for claim in claims_of(found, subject)),
        figures=figures_of(found),
        tables=(*tables_of(found), published()),
        notes=_notes(found),
    )


def _sentences(found: TradeoffStudy, subject: str) -> list[str]:
    derived = derived_setting(found, subject)
    said = [f"{short(subject)}:"]
    if derived is not None:
        plain, last = found.frontier(subject, derived)[0], found.frontier(subject, derived)[-1]
        its, times = last.measures, last.against_plain
        said.append(
            f"with {derived} at weight {last.weight:g} the dominant share is {shown(its['share'])} instead of "
            f"{shown(plain.measures['share'])}, mean pairwise interaction {shown(times['pairwise'])} times and "
            f"Σ|p| − max|p| {shown(times['others'])} times as large, at {shown(times['reconstruction'])} times the "
            f"reconstruction loss, with Φ(all) {shown(its['fidelity'])} instead of {shown(plain.measures['fidelity'])}."
        )
    first, cost, control = primary(found, subject), next(iter(found.costs.values())), SETTINGS[PRIMARY].against[0]
    if first is None or first.difference is None:
        said.append(f"Whether {PRIMARY} does more than {control} at the same cost cannot be told here.")
    else:
        verdict = {"penalty": "less than", "control": "more than", "nobody": "no different from"}[favours(first)]
        said.append(
            f"At {cost.words}, {PRIMARY} leaves {shown(first.difference)} times the Σ|p| − max|p| that the matched "
            f"control {control} leaves: {verdict} a generic penalty of the same cost, as far as this interval says."
        )
    others = _secondary(found, subject)
    if others:
        whom = [favours(one) for one in others]
        said.append(
            f"Of {len(others)} secondary comparisons at equal cost {whom.count('penalty')} favour the penalty and "
            f"{whom.count('control')} the control; were there no differences, about {len(others) / 20:.0f} would "
            "favour one of the two by chance."
        )
    return said


def _secondary(found: TradeoffStudy, subject: str) -> list[Comparison]:
    """All other comparisons of this model."""
    first = primary(found, subject)
    its = [one for one in found.comparisons if one.subject == subject and one is not first]
    return [one for one in its if one.measure in BETTER_HIGH and one.difference is not None]


def _notes(found: TradeoffStudy) -> tuple[str, ...]:
    notes = [
        f"Measured on {found.texts} held-out texts ({found.tokens:,} tokens of {short(found.subjects[0])}); "
        "crosscoders were trained on others. Φ: one MLP's output replaced, the residual stream beside it the model's "
        "own.",
        f"{named(found)} Primary: {PRIMARY} against {SETTINGS[PRIMARY].against[0]} in "
        f"Σ|p| − max|p| at {next(iter(found.costs.values())).words}. All others are secondary and not corrected for "
        "their number.",
        f"Intervals resample texts, and dictionaries where there are {ENOUGH} or more; of so few, such intervals are "
        "somewhat too narrow.",
        "At equal cost: for each seed cost and number go straight between the weights that were trained (ratios on a "
        "logarithmic scale), the last weight at which the cost is reached counts, and nothing is said beyond the "
        "dictionaries that there are.",
        "Mean pairwise interaction and Σ|p| − max|p| are one quantity but for the loudness of neurons and the size of "
        "the dictionary; both fall when less is written at the MLPs' inputs (Σ|p|), the dominant share does not.",
    ]
    return (*notes, *(f"Left out: {what}." for what in found.left_out))
