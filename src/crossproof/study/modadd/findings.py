"""What the study of modular addition says, in words that follow from the numbers."""

from __future__ import annotations

from crossproof.findings import Findings
from crossproof.study.estimates import ENOUGH
from crossproof.study.modadd.claims import claims_of, shown
from crossproof.study.modadd.figures import figures_of, tables_of
from crossproof.study.modadd.results import Kind, ModaddStudy
from crossproof.study.modadd.spectra import DIRECTIONS


def findings_of(found: ModaddStudy) -> Findings:
    return Findings(
        title="Addition modulo p, where the algorithm is known",
        question="The network adds by Fourier features. Are the features of a crosscoder these, with and without the "
        "penalty; do those interact that the algorithm multiplies; and what does the penalty buy?",
        answer=" ".join([_of_network(found), *(_of_features(kind) for kind in found.kinds[:2]), *_compared(found)]),
        claims=tuple(claims_of(found)),
        figures=figures_of(found),
        tables=tables_of(found),
        notes=_notes(found),
    )


def _of_network(found: ModaddStudy) -> str:
    stages = found.network.stages
    products = next((stage for stage in stages if stage.name.startswith("neurons")), None)
    reads = next(stage for stage in stages if "reads" in stage.name)
    said = (
        f"The network gives {found.network.right:.1%} of all sums rightly. {found.network.on_used(stages[0]):.0%} of "
        f"its embedding's variance is on the {len(found.network.used)} frequencies of its answer; what the MLP reads "
        f"is {sum(reads.directions[:2]):.0%} a sum of waves of a and waves of b; "
    )
    if products is not None:
        said += f"its neurons have {sum(products.directions[2:]):.0%} of theirs in products of the same frequency; "
    along = stages[-1].directions[2]
    return said + f"{along:.0%} of the logits' variance runs along a + b."


def _of_features(kind: Kind) -> str:
    pure, chance, cut, waves = (kind.measures[key] for key in ("pure", "pure_chance", "pure_above_chance", "waves"))
    along = max(zip(kind.directions, DIRECTIONS, strict=True))
    return (
        f"Crosscoders, {kind.name}: one frequency for each feature explains {shown(pure)} of what features write at "
        f"the answer, {shown(cut)} of the way from chance ({shown(chance)}) to what waves as rarely active have; a "
        f"feature has {shown(waves)} frequencies in effect, and the largest part, {along[0]:.0%}, runs along "
        f"{along[1]}."
    )


def _compared(found: ModaddStudy) -> list[str]:
    plain = found.kinds[0]
    said = [
        f"Without a penalty {shown(plain.measures['same'])} of the interaction is between features of the same "
        f"frequency, {shown(plain.measures['same_over_chance'])} times what frequencies dealt out at random would give "
        f"and {shown(plain.measures['same_over_meetings'])} times their part of meetings."
    ]
    if len(found.kinds) > 1:
        its = found.kinds[1]
        said.append(
            f"With {its.name} the dominant share is {shown(its.measures['share'])} instead of "
            f"{shown(plain.measures['share'])}, at {shown(its.against_first['unexplained'])} times the unexplained "
            f"variance; Φ(only the largest) is {shown(its.measures['fidelity_largest'])} instead of "
            f"{shown(plain.measures['fidelity_largest'])}, and Φ(all) {shown(its.measures['fidelity'])} instead of "
            f"{shown(plain.measures['fidelity'])}."
        )
        if len(found.kinds) > 2:
            control = found.kinds[2]
            said.append(
                f"The share rises by {shown(its.against_first['share'])}, and by "
                f"{shown(control.against_first['share'])} with {control.name}, an L1 of the same magnitude at "
                f"{shown(control.against_first['unexplained'])} times."
            )
        said.append(
            f"Right answers with only the largest: {shown(its.measures['right_largest'])} and "
            f"{shown(plain.measures['right_largest'])}."
        )
    return said


def _notes(found: ModaddStudy) -> tuple[str, ...]:
    return (
        f"{found.subject}: crosscoders are trained on all three positions of {found.train_pairs:,} training pairs, "
        f"those the network was trained on too, and measured at the answer to {found.pairs:,} pairs that are held "
        "out, mirror images and all: neither the pair nor (b, a) is a training pair. A pair is resampled together "
        "with its mirror image.",
        "Which frequency a feature follows is found on training pairs and scored on held-out ones. Spectra, "
        "directions and tables of features are of all pairs: they describe, and are neither fitted nor resampled.",
        f"Intervals resample dictionaries too where there are {ENOUGH} or more of a kind; each dictionary's own "
        "value is in `results.json`.",
        "A wave whose strength is never negative and that is active on few pairs has part of its variance on other "
        "frequencies: the yardstick of purity is a cosine cut off from below, as often active as the feature. A "
        "feature that answers to a single number has all frequencies alike.",
        "`control`: an L1 regulariser on contributions, of the penalty's mean magnitude over the first 256 batches.",
        "Right answers: the MLP's output is replaced where the answer is said, the residual stream beside it is the "
        "network's own. Φ likewise.",
    )
