"""What the numbers of model diffing mean: claims, figures, tables and words, all made from the results."""

from __future__ import annotations

from crossproof.findings import Claim, Findings, Verdict
from crossproof.study.diffing.features import CHANGED
from crossproof.study.diffing.picture import figures, firing_of, group_of, number_or_dash, percent, share, tables
from crossproof.study.diffing.results import DiffingStudy
from crossproof.study.verdicts import above

QUESTION = (
    "Which features does fine-tuning add or turn, on what do they fire, and which interactions does it change where "
    "features stay as they were?"
)


def findings(found: DiffingStudy) -> Findings:
    return Findings(
        title=f"Model diffing: {found.tuned} against {found.base}",
        question=QUESTION,
        answer=" ".join(_answer(found)),
        claims=(_features_claim(found), _interactions_claim(found), _weights_claim(found)),
        figures=tuple(figures(found)),
        tables=tuple(tables(found)),
        passages=tuple(found.passages),
        notes=tuple(_notes(found)),
    )


# -- claims ------------------------------------------------------------------------------------------------------------


def _features_claim(found: DiffingStudy) -> Claim:
    changed, more = firing_of(found, "changed"), found.more_than_unchanged
    its = changed.at_trigger if changed else None
    verdict: Verdict = "cannot tell"
    if its is not None and more is not None:
        if its.low >= 0.5 and more.low > 0:
            verdict = "holds"
        elif its.high < 0.5 or more.high <= 0:
            verdict = "does not hold"
    why = (
        "holds if the whole interval is at least one half and the whole interval of what it has more than unchanged "
        "features lies above 0; does not hold if one of the two is on the other side altogether. "
    )
    if found.base_rate is None:
        why += "These texts have no labels that say where the trigger is"
    elif its is None:
        why += "No feature is of one model alone, and none is rotated"
    else:
        why += f"{percent(found.base_rate)} of the tokens are there; more than unchanged features: {share(more)}"
    return Claim(
        id="diffing.features",
        claim="The features that fine-tuning adds or turns fire on the trigger and its answer.",
        paper="–",
        measure=f"share of the firing of features of kind {', '.join(CHANGED)} at tag and answer",
        ours=None if its is None else its.value,
        low=None if its is None else its.low,
        high=None if its is None else its.high,
        verdict=verdict,
        why=why,
    )


def _interactions_claim(found: DiffingStudy) -> Claim:
    beyond, group = found.beyond_null, group_of(found, "both unchanged")
    verdict = above(beyond, 0.0)
    why = "holds if the whole interval lies above 0, does not hold if none of it does. "
    if beyond is None:
        why += "No two unchanged features interact"
    else:
        why += (
            f"Without taking off what the null has: {share(group.share_of_change)} of all change, where "
            f"{share(group.share_of_interaction)} of all interaction is"
        )
    if _is_itself(found):
        why += ". The null is the base itself: whether it takes this fine-tuning, or any would do, is not asked"
    return Claim(
        id="diffing.interactions",
        claim="Fine-tuning changes interactions between features that it does not change.",
        paper="–",
        measure="share of all change of directed interaction that lies between unchanged features, beyond the null's",
        ours=None if beyond is None else beyond.value,
        low=None if beyond is None else beyond.low,
        high=None if beyond is None else beyond.high,
        verdict=verdict,
        why=why,
    )


def _weights_claim(found: DiffingStudy) -> Claim:
    its, group = found.by_weights, group_of(found, "both unchanged")
    verdict: Verdict = "cannot tell"
    if its is not None:
        verdict = "holds" if its.low > 0.5 else "does not hold" if its.high < 0.5 else "cannot tell"
    why = "holds if the whole interval lies above one half, does not hold if all of it lies below. "
    if its is None:
        why += "Between unchanged features nothing changes"
    else:
        why += (
            f"Of their interaction, the MLPs alone change {share(group.by_weights)} and the directions alone "
            f"{share(group.by_directions)}"
        )
    return Claim(
        id="diffing.weights",
        claim="Between unchanged features it is the MLPs' weights that change interactions, not how far they turned.",
        paper="–",
        measure="change by exchanged MLPs, over that and the change by exchanged directions",
        ours=None if its is None else its.value,
        low=None if its is None else its.low,
        high=None if its is None else its.high,
        verdict=verdict,
        why=why,
    )


def _is_itself(found: DiffingStudy) -> bool:
    """Whether the null is the base (`reading.load_models` names it so)."""
    return found.null == f"{found.base} again"


# -- words -------------------------------------------------------------------------------------------------------------


def _answer(found: DiffingStudy) -> list[str]:
    first, changed, group = found.comparisons[0], firing_of(found, "changed"), group_of(found, "both unchanged")
    said = [
        f"Of {first.live} live features {first.kinds['tuned-only']} are in {found.tuned} alone, "
        f"{first.kinds['base-only']} in {found.base} alone and {first.kinds['rotated']} are rotated; "
        f"{first.kinds['unchanged']} count as unchanged. Within the range of the null itself lie {first.in_null}."
    ]
    if changed is not None and changed.at_trigger is not None and found.base_rate is not None:
        said.append(
            f"Of the firing of those that changed {share(changed.at_trigger)} is at the trigger and its answer, where "
            f"{percent(found.base_rate)} of the tokens are."
        )
    if group.change is not None:
        said.append(
            f"Between unchanged features the directed interaction changes by {share(group.change)} of what it is "
            f"(null: {share(group.null)}; between halves of the texts: {percent(group.noise)}), which is "
            f"{share(group.share_of_change)} of all change; with the MLPs alone exchanged it would be "
            f"{share(group.by_weights)}, with the directions alone {share(group.by_directions)}."
        )
    if found.stages is not None:
        stages = found.stages
        said.append(
            f"Stage by stage, {stages.turned} features turn by the model's change both before and after the texts' "
            f"(Spearman {number_or_dash(stages.agreement)} between the two orders, "
            f"{number_or_dash(stages.null_agreement)} between the first and mere further training); of their firing "
            f"{share(stages.at_trigger)} is at the trigger and its answer, of that of the others "
            f"{share(stages.others_at_trigger)}."
        )
    return said


def _notes(found: DiffingStudy) -> list[str]:
    first = found.comparisons[0]
    said = [
        f"Measured on {found.texts} held-out texts ({found.tokens:,} tokens); what lives and what is shown was chosen "
        "on as many others. Intervals: 95 %, resampled texts, the crosscoders held fixed.",
        f"Unchanged: norm ratio and cosine at least as near to no change as in the null ({found.null}: ratio "
        f"{first.null_ratio[0]:.3f} to {first.null_ratio[1]:.3f}, cosine from {first.null_cosine:.4f}), or ratio "
        f"within .05 of one half and cosine from {found.unchanged:g}. Rotated: cosine up to {found.rotated:g}; of one "
        f"model alone: {found.exclusive:g} of the norm there. Shifted: anything between.",
        "Both models read the same tokens, so a feature of what only one of them does is often shared with what the "
        "other makes of the same tokens: it then shows as rotated and not as of one model alone.",
        "Interactions are means over tokens, and their changes are added up pair by pair, each in the direction that "
        "it has in the other half of the texts, so that noise cancels. Weights and directions are exchanged one at a "
        "time, with the same codes; their parts need not add up.",
    ]
    if _is_itself(found):
        said.append(
            f"The null is {found.base} itself: it takes off what the training of a dictionary leaves unequal, and "
            "nothing else. Fine-tuning on anything moves weights, so a change beyond this null is one of fine-tuning "
            "as such, and not shown to be the trigger's doing. For that the null has to be a base that was fine-tuned "
            "as long on clean texts alone (`null`)."
        )
    if found.base_rate is None:
        said.append("Texts without labels: nobody knows where a trigger is.")
    if found.stages is None:
        said.append("No stages: they were left out, or the two models do not both bring texts of their own.")
    return said
