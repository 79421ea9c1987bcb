"""What features are, and what interacts, in a network whose algorithm is known (the paper's Fig 10).

The zoo's `modadd` adds two numbers modulo 113, by a few Fourier frequencies; which, is computed from it. Crosscoders
are trained on it without a penalty, with the penalty, and with a generic regulariser of the same magnitude; then it is
said of every feature which waves its strength is made of, and of every two whether they share a frequency.

Crosscoders are trained on all three positions of the training pairs. Everything is measured at the last, which says the
answer, on pairs of which neither they nor their mirror images are training pairs. Spectra are of all pairs: they
describe, and nothing is fitted to them.

run.json  crosscoders/NAME/…  measured/NAME/…  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crossproof.binding.bound import bound_mlps
from crossproof.binding.config import PenalisedTrainConfig, PenaltyConfig
from crossproof.binding.train import train
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.progress import progress
from crossproof.study.base import once
from crossproof.study.dictionaries import PLAIN
from crossproof.study.modadd.config import ModaddConfig
from crossproof.study.modadd.measure import Measured, load, measure, save
from crossproof.study.modadd.network import network
from crossproof.study.modadd.pairs import PAIRS_PER_PASS, PairGrid, Pairs
from crossproof.study.modadd.results import ModaddStudy, study_of
from crossproof.subject.subject import Subject

KIND = "modadd"
CONTROL = "l1_contributions"
EVAL_TEXTS = 8
"""For the evaluation at the end of each training, which nothing is made of: the study measures by itself."""
BUFFER_TOKENS = 2**14
"""All training pairs of the zoo's network, and more."""


def run(config: ModaddConfig) -> ModaddStudy:
    """Train what is not trained, measure what is not measured; a run that is finished is read."""

    def prepare() -> Callable[[], ModaddStudy]:
        if len(set(config.weights)) < len(config.weights):
            raise CrossproofError(f"weights: one of {', '.join(map(str, config.weights))} is there twice")
        subject = Subject.load(config.subject)
        pairs = PairGrid.of(subject)
        trainings = trainings_of(config)
        return lambda: _trained_and_measured(config, subject, pairs, trainings)

    return once(config.out, KIND, config, ModaddStudy, prepare)


def study(config: ModaddConfig, subject: Subject, coders: Mapping[str, Sequence[Crosscoder]]) -> ModaddStudy:
    """Of crosscoders that are there: kind → one for each seed. The first kind is what the others are held against, and
    of the second claims are made."""
    pairs = PairGrid.of(subject)
    held_out = pairs.held_out[: config.pairs]
    for coder in (coder for its in coders.values() for coder in its):
        bound_mlps(subject, coder)
    found = {
        name: {number: measure(subject, coder, pairs, held_out, config.seed) for number, coder in enumerate(its)}
        for name, its in coders.items()
    }
    return study_of(subject.name, network(subject, pairs), pairs, held_out, found, config.seed)


def trainings_of(config: ModaddConfig) -> dict[str, dict[int, PenalisedTrainConfig]]:
    """Kind → seed → how to train it."""
    kinds = {PLAIN: PenaltyConfig()}
    for weight in config.weights:
        kinds[f"penalty {weight:g}"] = PenaltyConfig(weight=weight)
        kinds[f"control {weight:g}"] = PenaltyConfig(weight=weight, control=CONTROL)
    return {
        kind: {
            seed: PenalisedTrainConfig(
                subject=config.subject,
                out=config.out / "crosscoders" / _folder(kind, seed),
                features=config.features,
                k=config.k,
                steps=config.steps,
                batch_tokens=config.batch_tokens,
                seed=seed,
                eval_texts=EVAL_TEXTS,
                buffer_tokens=BUFFER_TOKENS,
                harvest_texts=PAIRS_PER_PASS,
                penalty=penalty,
            )
            for seed in range(config.seeds)
        }
        for kind, penalty in kinds.items()
    }


def _folder(kind: str, seed: int) -> str:
    return f"{kind.replace(' ', '-')}-s{seed}"


def _trained_and_measured(
    config: ModaddConfig,
    subject: Subject,
    pairs: PairGrid,
    trainings: Mapping[str, Mapping[int, PenalisedTrainConfig]],
) -> ModaddStudy:
    held_out: Pairs = pairs.held_out[: config.pairs]
    of_network = network(subject, pairs)
    found: dict[str, dict[int, Measured]] = {}
    with progress("dictionaries", sum(map(len, trainings.values())), "dictionaries") as bar:
        # seed by seed: what was stopped early has as many of every kind
        for seed in range(config.seeds):
            for kind, by_seed in trainings.items():
                bar(0, note=f"{kind}, seed {seed}")
                place = config.out / "measured" / _folder(kind, seed)
                measured = load(place)
                if measured is None:
                    train(by_seed[seed])
                    coder = Crosscoder.from_pretrained(by_seed[seed].out)
                    measured = measure(subject, coder, pairs, held_out, config.seed)
                    save(measured, place)
                found.setdefault(kind, {})[seed] = measured
                bar(1)
    return study_of(subject.name, of_network, pairs, held_out, found, config.seed)
