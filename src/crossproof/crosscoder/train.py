"""Train a crosscoder on a subject: binds the training loop to a model, its text and a run folder.

run.json  metrics.jsonl  checkpoint/  crosscoder/{config.json, model.safetensors}  results.json
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from crossproof import runs
from crossproof.crosscoder import checkpoint
from crossproof.crosscoder.buffer import ActivationStream
from crossproof.crosscoder.config import CrosscoderConfig, Site, TrainConfig
from crossproof.crosscoder.evaluate import Evaluation, evaluate
from crossproof.crosscoder.fit import fit
from crossproof.crosscoder.initialise import continue_from, initialise
from crossproof.crosscoder.losses import Term
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import load_models, open_texts
from crossproof.crosscoder.store import IN_RUN
from crossproof.errors import CrossproofError
from crossproof.subject.subject import Subject
from crossproof.tracking import tracker

SAMPLE_TOKENS = 20_000
"""How many tokens the site scales and the initial weights are made from."""


ExtraTerms = Callable[[Subject, Crosscoder], Sequence[Term]]
"""What a subject (of two, the first) and its crosscoder, still without weights, add to the objective."""


def train(config: TrainConfig, extra_terms: ExtraTerms = lambda subject, coder: ()) -> Evaluation:
    """Train, save and evaluate a crosscoder; a run that was stopped goes on where it was, a finished one is read."""
    clock = runs.Clock()
    earlier = runs.resumable(config.out, "train", config, may_differ=("out", "device", "track"))
    if earlier is not None and earlier.finished:
        return runs.read_results(config.out, Evaluation)
    subjects = load_models(config.subject, config.compare, config.device)
    sites = subjects[0].find_sites(config.sites or subjects[0].default_sites())
    reads = [(subject, subject.find_sites(sites)) for subject in subjects]
    source = open_texts(config, subjects, "train")
    stream = ActivationStream(
        reads, source, config.batch_tokens, config.buffer_tokens, config.harvest_texts, config.seed
    )
    coder = new_crosscoder(config, reads)
    terms = extra_terms(subjects[0], coder)
    if config.start_from is not None:
        continue_from(coder, Crosscoder.from_pretrained(config.start_from, config.device))
    held_out = open_texts(config, subjects, "validation")
    run = earlier or runs.begin(config.out, "train", config)
    if not checkpoint.exists(config.out):
        torch.manual_seed(config.seed)
        if config.start_from is None:
            generator = torch.Generator().manual_seed(config.seed)
            initialise(coder, stream.sample(SAMPLE_TOKENS), config.init, config.decoder_norm, generator)
    with tracker(config) as track:
        fit(coder, stream, config, config.out, terms, track)
    coder.save_pretrained(config.out / IN_RUN)
    # a short file of texts has fewer than were asked for, and begins again after its last
    texts = min(config.eval_texts, held_out.texts_in_all or config.eval_texts)
    results = evaluate(subjects, coder, held_out.tokens(0, texts).to(config.device))
    runs.finish(config.out, run, results, clock.seconds())
    return results


def new_crosscoder(config: TrainConfig, reads: Sequence[tuple[Subject, Sequence[str]]]) -> Crosscoder:
    """A crosscoder of the right shape for these sites of each subject, with weights still zero."""
    sites = [Site(subject=subject.name, hook=site) for subject, its in reads for site in its]
    widths = [subject.width(site) for subject, its in reads for site in its]
    if len(set(widths)) != 1:
        names = [str(site) if len(reads) > 1 else site.hook for site in sites]
        listed = ", ".join(f"{name} {width}" for name, width in zip(names, widths, strict=True))
        raise CrossproofError(f"sites: a crosscoder's sites must share a width, but these differ: {listed}")
    shape = CrosscoderConfig(
        sites=tuple(sites),
        width=widths[0],
        features=config.features,
        activation=config.activation,
        k=config.k if config.activation in ("topk", "batchtopk") else None,
        bandwidth=config.bandwidth if config.activation == "jumprelu" else None,
    )
    return Crosscoder(shape).to(config.device)
