"""From what was measured with each crosscoder to estimates over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crossproof.study.diffing import shown
from crossproof.study.diffing.features import CHANGED, KINDS
from crossproof.study.diffing.measure import GROUPS, Compared, Followed, GroupDrawn
from crossproof.study.diffing.results import (
    ComparisonRecord,
    FiringRecord,
    GroupRecord,
    StagesRecord,
)
from crossproof.study.diffing.stages import MODEL_STEPS
from crossproof.study.diffing.texts import Texts
from crossproof.study.estimates import Drawn, Estimate, combine, estimate

if TYPE_CHECKING:
    pass


def comparison(seed: int, unexplained: float | None, found: Compared) -> ComparisonRecord:
    live, its, strict = found.pair.live, found.pair.found, found.strict
    inside = (its.ratio >= strict.ratio_low) & (its.ratio <= strict.ratio_high) & (its.cosine >= strict.cosine)
    return ComparisonRecord(
        seed=seed,
        unexplained=unexplained,
        live=int(live.sum()),
        kinds={name: int(((found.kind == number) & live).sum()) for number, name in enumerate(KINDS)},
        in_null=int((inside & live).sum()),
        null_ratio=(strict.ratio_low, strict.ratio_high),
        null_cosine=strict.cosine,
    )


def firing(found: Sequence[Compared]) -> list[FiringRecord]:
    """By kind, and of all changed kinds together."""
    if not found[0].at_trigger:
        return []
    counts: dict[str, list[int]] = {
        name: [int(((its.kind == number) & its.pair.live).sum()) for its in found] for number, name in enumerate(KINDS)
    }
    counts["changed"] = [sum(each) for each in zip(*(counts[name] for name in CHANGED), strict=True)]
    return [
        FiringRecord(kind=name, features=counts[name], at_trigger=known([its.at_trigger[name] for its in found]))
        for name in found[0].at_trigger
    ]


def more_than_unchanged(found: Sequence[Compared]) -> Estimate | None:
    both = [(its.at_trigger.get("changed"), its.at_trigger.get("unchanged")) for its in found]
    return known([None if a is None or b is None else combine(torch.sub, a, b) for a, b in both])


def groups(found: Sequence[Compared]) -> list[GroupRecord]:
    """In every metric."""
    return [_group(number, [its.groups for its in found]) for number in range(len(found[0].groups))]


def beyond_null(found: Sequence[Compared]) -> Estimate | None:
    """Of all change, what lies between unchanged features beyond the part of their interaction that the null has."""

    def beyond(change: Tensor, interaction: Tensor, null: Tensor, of: Tensor, *every: Tensor) -> Tensor:
        return _of_positive(change - null / of * interaction, torch.stack(every).sum(0))

    each = []
    for its in found:
        directed = [group for group in its.groups if group.metric == "directed"]
        first = directed[GROUPS.index("both unchanged")]
        parts = first.found[1], first.found[0], first.null[1], first.null[0], *(group.found[1] for group in directed)
        each.append(_defined(beyond, *parts) if first.found[0].value > 0 else None)
    return known(each)


def by_weights(found: Sequence[Compared]) -> Estimate | None:
    """Between unchanged features, what exchanged MLPs do, over that and what exchanged directions do."""
    each = []
    for its in found:
        first = next(group for group in its.groups if (group.metric, group.group) == ("directed", "both unchanged"))
        assert first.by_weights is not None
        assert first.by_directions is not None
        each.append(_defined(lambda one, other: _of_positive(one, one + other), first.by_weights, first.by_directions))
    return known(each)


def stages(found: Followed, texts: Texts) -> StagesRecord:
    turns, live = found.turns, found.live
    first, second = (turns.by_stage[stage][live] for stage in MODEL_STEPS)
    return StagesRecord(
        least=turns.least,
        turned_by={stage: int((its[live] < turns.least).sum()) for stage, its in turns.by_stage.items()},
        turned=int((turns.turned & live).sum()),
        agreement=_spearman(first, second),
        null_agreement=_spearman(first, turns.by_stage["same"][live]),
        at_trigger=known([found.at_trigger[0]]),
        others_at_trigger=known([found.at_trigger[1]]),
        features=shown.turned(found, texts),
    )


def known(each: Sequence[Drawn | None]) -> Estimate | None:
    """Over the crosscoders where it is defined, and does not hang on a few texts."""
    defined = [drawn for drawn in each if drawn is not None and drawn.known]
    return estimate(defined) if defined else None


def _group(number: int, found: Sequence[Sequence[GroupDrawn]]) -> GroupRecord:
    its = [each[number] for each in found]
    metric = its[0].metric
    every = [[group for group in each if group.metric == metric] for each in found]

    def share(part: int) -> Estimate | None:
        return known(
            [
                _defined(lambda one, *all_of: one / sum(all_of), each.found[part], *(o.found[part] for o in others))
                for each, others in zip(its, every, strict=True)
            ]
        )

    def over(change: Callable[[GroupDrawn], Drawn | None]) -> Estimate | None:
        ratios = []
        for each in its:
            changed = change(each)
            ratios.append(None if changed is None else _defined(torch.div, changed, each.found[0]))
        return known(ratios)

    noise = [each.noise / each.found[0].value for each in its if each.found[0].value > 0]
    return GroupRecord(
        metric=metric,
        group=its[0].group,
        share_of_interaction=share(0),
        share_of_change=share(1),
        change=over(lambda each: each.found[1]),
        null=known([_defined(torch.div, each.null[1], each.null[0]) for each in its]),
        by_weights=over(lambda each: each.by_weights),
        by_directions=over(lambda each: each.by_directions),
        noise=sum(noise) / len(noise) if noise else None,
    )


def _defined(function: Callable[..., Tensor], *parts: Drawn) -> Drawn | None:
    """Of these parts, unless it is not a number: nothing over nothing."""
    made = combine(function, *parts)
    return made if bool(torch.isfinite(torch.tensor(made.value))) else None


def _of_positive(part: Tensor, whole: Tensor) -> Tensor:
    """Changes have signs: of a sum that is none, or goes the other way, nothing is a share."""
    return torch.where(whole > 0, part / whole, torch.nan)


def _spearman(a: Tensor, b: Tensor) -> float | None:
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    if len(a) < 3:
        return None
    found = float(spearmanr(a.numpy(), b.numpy()).statistic)
    return found if found == found else None
