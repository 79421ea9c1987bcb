"""The crosscoders of the study, each a training run of its own in the study's folder: a killed study goes on with them.

crosscoders/pair-0          base and tuned model, on the texts of the tuned one
crosscoders/null-0          base and null, on the same texts
stages/start                the base on its own texts; from there, one thing changed at a time:
stages/same                 nothing
stages/data                 the texts are the tuned model's;       stages/data-model    and now the model too
stages/model                the model is the tuned one;            stages/model-data    and now the texts too
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossproof.crosscoder.config import TrainConfig
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.train import train

if TYPE_CHECKING:
    from crossproof.study.diffing.config import DiffingConfig

CHUNK_TOKENS = 65_536
EVAL_TEXTS = 8
STAGES = {"same": "start", "data": "start", "data-model": "data", "model": "start", "model-data": "model"}
"""Each stage, and the one that it goes on from."""


def pair_folder(config: DiffingConfig, seed: int) -> Path:
    return config.out / "crosscoders" / f"pair-{seed}"


def pairs(config: DiffingConfig, lender: str | None) -> list[tuple[TrainConfig, TrainConfig]]:
    """Of each seed, the comparison of the two models and that of the base with the null."""
    return [
        (
            _settings(config, lender, pair_folder(config, seed), compare=config.tuned, seed=config.seed + seed),
            _settings(
                config,
                lender,
                config.out / "crosscoders" / f"null-{seed}",
                compare=config.null or config.base,
                seed=config.seed + seed,
            ),
        )
        for seed in range(config.seeds)
    ]


def stages(config: DiffingConfig) -> dict[str, TrainConfig]:
    """The start, and what is trained on from it."""
    made = {"start": _settings(config, config.base, config.out / "stages" / "start")}
    for number, (name, before) in enumerate(STAGES.items(), 1):
        done = (*before.split("-"), name.split("-")[-1])
        made[name] = _settings(
            config,
            config.tuned if "data" in done else config.base,
            config.out / "stages" / name,
            subject=config.tuned if "model" in done else config.base,
            start_from=config.out / "stages" / before,
            steps=config.stage_steps,
            # the order of the texts is drawn anew, or `same` would see what `start` has seen
            seed=config.seed + number,
        )
    return made


def trained(config: TrainConfig) -> Crosscoder:
    """Trained now, or read where it is."""
    train(config)
    return Crosscoder.from_pretrained(Path(config.out))


def _settings(config: DiffingConfig, lender: str | None, out: Path, **changes: Any) -> TrainConfig:
    """How one crosscoder is trained; `lender` is the model whose texts are read."""
    steps = changes.get("steps", config.steps)
    shared = {
        "subject": config.base,
        "out": out,
        "sites": config.sites,
        "data": config.data,
        "texts_of": lender,
        "features": config.features,
        "k": config.k,
        "steps": steps,
        "batch_tokens": config.batch_tokens,
        "buffer_tokens": _buffer(steps, config.batch_tokens),
        "eval_texts": EVAL_TEXTS,
        "seed": config.seed,
    }
    return TrainConfig.model_validate(shared | changes)


def _buffer(steps: int, batch: int) -> int:
    """Whole chunks of batches, none larger than need be and as good as none harvested in vain."""
    chunks = -(-steps * batch // max(CHUNK_TOKENS, batch))
    return -(-steps // chunks) * batch
