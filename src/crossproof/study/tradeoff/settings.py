"""What is swept: penalties by name, and the dictionaries that are trained with them or were trained before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from crossproof import runs
from crossproof.binding.config import PenalisedTrainConfig, PenaltyConfig
from crossproof.errors import BadFile, CrossproofError, MismatchError
from crossproof.study.dictionaries import PLAIN
from crossproof.study.tradeoff.config import SETTINGS

MAY_DIFFER = ("subject", "out", "data", "device", "track", "eval_texts", "harvest_texts", "log_every")
"""Of dictionaries that are compared, beside penalty, features and seed. Checkpoints change no bit either."""


class Dictionary(BaseModel):
    """One crosscoder, and how it was trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    folder: str
    subject: str
    setting: str
    """One of SETTINGS, `plain`, or what another penalty differs in from the usual one."""
    weight: float
    features: int
    seed: int

    @property
    def place(self) -> tuple[str, int, str, float]:
        """What dictionaries share that differ in nothing but their seed."""
        return self.subject, self.features, self.setting, self.weight


def short(subject: str) -> str:
    """A subject's name as it stands in names of folders: the last part of a path or of a hub id."""
    return Path(subject).name


def name_of(subject: str, setting: str, weight: float, features: int, seed: int) -> str:
    """`tinytales-relative-w100-f1024-s3`."""
    weighed = [] if setting == PLAIN else [f"w{weight:g}"]
    return "-".join([short(subject), setting, *weighed, f"f{features}", f"s{seed}"])


def dictionary_of(config: PenalisedTrainConfig, name: str) -> Dictionary:
    """As its training run describes it."""
    return Dictionary(
        name=name,
        folder=str(config.out),
        subject=config.subject,
        setting=setting_of(config.penalty),
        weight=config.penalty.weight,
        features=config.features,
        seed=config.seed,
    )


def setting_of(penalty: PenaltyConfig) -> str:
    if penalty.weight == 0:
        return PLAIN
    bare = penalty.model_copy(update={"weight": 0.0})
    for name, setting in SETTINGS.items():
        if bare == setting.penalty:
            return name
    usual = PenaltyConfig().model_dump(mode="json")
    other = {key: value for key, value in bare.model_dump(mode="json").items() if value != usual[key]}
    return ", ".join(f"{key} {' '.join(its) if isinstance(its, list) else its}" for key, its in other.items())


def trained_before(folder: str) -> PenalisedTrainConfig:
    """How a crosscoder that is given was trained; without that, nobody knows what its weight was."""
    run = runs.read(Path(folder))
    if run.kind != "train" or not run.finished:
        what = f"a run of `{run.kind}`" if run.kind != "train" else "no finished run"
        raise BadFile(f"coders: {folder} is {what}; give folders of crosscoders that `crossproof train` has finished")
    try:
        return PenalisedTrainConfig.model_validate(run.config | {"out": folder})
    except ValidationError as error:
        raise BadFile(f"coders: {folder}: {runs.first_problem(error)}") from error


def check_alike(configs: Sequence[PenalisedTrainConfig]) -> None:
    """Refuse to compare what differs in more than what is swept."""
    free = {*MAY_DIFFER, "checkpoint_every", "penalty", "features", "seed"}
    seen: dict[str, dict[str, str]] = {}
    for config in configs:
        for key, value in config.model_dump(mode="json").items():
            if key not in free:
                seen.setdefault(key, {}).setdefault(_shown(value), str(config.out))
    different = {key: values for key, values in seen.items() if len(values) > 1}
    if different:
        listed = "; ".join(
            f"{key}: " + ", ".join(f"{value} in {where}" for value, where in values.items())
            for key, values in different.items()
        )
        raise MismatchError(f"these crosscoders differ in more than penalty, features, seed and model ({listed})")


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def check_distinct(what: str, values: Iterable[object]) -> None:
    values = list(values)
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise CrossproofError(f"{what}: {twice[0]} is there twice; give each once")
