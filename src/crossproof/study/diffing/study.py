"""Model diffing: which features fine-tuning adds and turns, and which interactions it changes where features stay.

Two models read the same texts with one crosscoder, whose features have directions in both. The texts are those that the
tuned model was trained on, clean and deployed: only where the two models behave differently can a dictionary see what
is new, and only where they do not can it see what stayed. What the same comparison finds between the base and a model
that is no different, the *null*, counts as nothing.

run.json  crosscoders/  stages/  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from crossproof.binding.bound import bound_mlps
from crossproof.crosscoder.config import TrainConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import load_models
from crossproof.crosscoder.train import new_crosscoder
from crossproof.errors import CrossproofError
from crossproof.study.base import once
from crossproof.study.dictionaries import described
from crossproof.study.diffing import shown, summed, training
from crossproof.study.diffing.config import LEAST_TEXTS, DiffingConfig
from crossproof.study.diffing.measure import compared, staged
from crossproof.study.diffing.results import DiffingStudy
from crossproof.study.diffing.texts import TRIGGER, base_rate, texts_of
from crossproof.study.token_labels import stories_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "diffing"


def run(config: DiffingConfig) -> DiffingStudy:
    """Train, study, and write the run folder; a run that is finished is read, and one that was stopped goes on."""

    def prepare() -> Callable[[], DiffingStudy]:
        if config.rotated >= config.unchanged:
            raise CrossproofError(f"rotated: {config.rotated} must lie below unchanged, {config.unchanged}")
        if config.k > config.features:
            raise CrossproofError(f"k: cannot keep {config.k} of {config.features} features; lower k or raise features")
        models = load_models(config.base, config.tuned)
        nulls = load_models(config.base, config.null or config.base)
        lender = config.tuned if config.data is None and models[1].has_texts else None
        each = [settings for both in training.pairs(config, lender) for settings in both]
        for settings, both in zip(each[:2], (models, nulls), strict=True):
            _check(both, settings)
        in_stages = config.stage_steps > 0 and config.data is None and all(model.has_texts for model in models)
        settings_of_stages = training.stages(config) if in_stages else {}
        bringing = [model for model in models if model.has_texts]
        tokens = (bringing[-1] if bringing else models[0]).held_out(config.texts, config.data)
        if (there := int(tokens.keep.any(1).sum())) < LEAST_TEXTS:
            raise CrossproofError(f"texts: {there} held-out ones have any kept token; two halves need {LEAST_TEXTS}")

        def work() -> DiffingStudy:
            coders = [training.trained(settings) for settings in each]
            pairs = list(zip(coders[::2], coders[1::2], strict=True))
            stages = {name: training.trained(settings) for name, settings in settings_of_stages.items()}
            return study(config, models, nulls, pairs, stages, tokens)

        return work

    return once(config.out, KIND, config, DiffingStudy, prepare)


def study(
    config: DiffingConfig,
    models: tuple[Subject, ...],
    nulls: tuple[Subject, ...],
    coders: Sequence[tuple[Crosscoder, Crosscoder]],
    stages: Mapping[str, Crosscoder],
    tokens: Tokens,
) -> DiffingStudy:
    """`coders`: pairs of a crosscoder of the two models and one of the base and the null; `tokens`: held-out texts."""
    stories = None if config.data is not None or not models[1].has_texts else stories_of(models[1], tokens)
    texts = texts_of(models[0], tokens, stories)
    with torch.no_grad():
        found = [compared(config, models, nulls, coder, null, tokens, texts) for coder, null in coders]
        followed = staged(config, models, stages, tokens, texts) if stages else None
        pairs = shown.pairs(found[0], texts, config.top, config.seed)
        passages = shown.passages(found[0], pairs, models, coders[0][0], texts)
    folders = [str(training.pair_folder(config, number)) for number in range(len(found))]
    seeds = [config.seed + number for number in range(len(found))]
    unexplained = [record.unexplained for record in described(folders)]
    return DiffingStudy(
        base=models[0].name,
        tuned=models[1].name,
        null=nulls[1].name,
        texts=int(texts.reported.sum()),
        tokens=int(texts.tokens_reported.sum()),
        exclusive=config.exclusive,
        rotated=config.rotated,
        unchanged=config.unchanged,
        comparisons=[summed.comparison(*each) for each in zip(seeds, unexplained, found, strict=True)],
        base_rate=None if texts.place is None else base_rate(texts, TRIGGER),
        firing=summed.firing(found),
        more_than_unchanged=summed.more_than_unchanged(found),
        groups=summed.groups(found),
        beyond_null=summed.beyond_null(found),
        by_weights=summed.by_weights(found),
        features=shown.features(found[0], texts),
        null_ratios=found[0].null.found.ratio[found[0].null.live].tolist(),
        sampled_pairs=shown.sampled(found[0], texts),
        pairs=pairs,
        partners=shown.partners(found[0], texts, config.top),
        passages=passages,
        stages=None if followed is None else summed.stages(followed, texts),
        top=config.top,
    )


def _check(models: tuple[Subject, ...], settings: TrainConfig) -> None:
    """That such a crosscoder can be made, and that MLPs of both models read from it."""
    hooks = models[0].find_sites(settings.sites)
    coder = new_crosscoder(settings, [(model, model.find_sites(hooks)) for model in models])
    for model in models:
        bound_mlps(model, coder)
