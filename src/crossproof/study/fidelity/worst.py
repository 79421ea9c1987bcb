"""Groups of dictionaries on their worst blocks: what one feature per neuron keeps, what it gains, what it costs.

Intervals are those of `extremes.py`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from crossproof.study.estimates import Drawn, combine
from crossproof.study.extremes import least
from crossproof.study.fidelity.groups import Group
from crossproof.study.fidelity.records import KEEPS, LOSES, WORSE, GroupRecord


def on_worst_blocks(groups: Mapping[str, Group]) -> list[GroupRecord]:
    """The levels of groups with a penalty allow for choosing one of them."""
    penalised = sum(group.penalised for group in groups.values())
    return [
        _record(group, groups.get(group.records[0].baseline) if group.penalised else None, penalised)
        for group in groups.values()
    ]


def _record(group: Group, base: Group | None, penalised: int) -> GroupRecord:
    chosen_from = penalised if group.penalised else 1
    ratios, fidelity = _ratios(group), _fidelity(group)
    gains, costs, own, times = None, None, group.unexplained(), None
    if base is not None:
        gains, costs = _less(ratios, _ratios(base)), _less(fidelity, _fidelity(base))
        theirs = base.unexplained()
        times = combine(torch.div, own, theirs) if own and theirs and theirs.value > 0 else None
    return GroupRecord(
        group=group.name,
        penalised=group.penalised,
        dictionaries=len(group.losses),
        resampled=group.resampled,
        baseline=base.name if base else None,
        unexplained=own.value if own else None,
        unexplained_ratio=times.value if times else None,
        ratio=least(ratios, chosen_from),
        gain=least(gains, chosen_from) if gains else None,
        cost=least(costs, chosen_from) if costs else None,
        slack=least(_conditions(group, costs, times), chosen_from) if costs else None,
        why=_why(group, base, times),
    )


def _conditions(group: Group, costs: Mapping[str, Drawn | None], times: Drawn | None) -> dict[str, Drawn | None]:
    """The bar, each as what must not be below 0."""
    kept = {f"{mlp}: Φ(only the largest) − {KEEPS:g} Φ(all)": group.mean(group.excess(mlp)) for mlp in group.mlps}
    lost = {
        f"{mlp}: Φ(all) + {LOSES:g} − Φ(all) without the penalty": cost and combine(lambda its: its + LOSES, cost)
        for mlp, cost in costs.items()
    }
    worse = {f"{WORSE:g} − unexplained ratio": times and combine(lambda its: WORSE - its, times)}
    return kept | lost | worse


def _why(group: Group, base: Group | None, times: Drawn | None) -> str:
    whys = [
        f"{its.name}, {mlp}: {why}"
        for its in (group, base)
        if its is not None
        for mlp in its.mlps
        if (why := its.why(mlp))
    ]
    if group.penalised and base is None:
        whys.append(f"no dictionary is of the group “{group.records[0].baseline}”, to compare with")
    elif base is not None and times is None:
        whys.append("the runs that trained them do not say how much variance they leave unexplained")
    return "; ".join(whys)


def _ratios(group: Group) -> dict[str, Drawn | None]:
    return {mlp: group.mean(group.ratio(mlp)) for mlp in group.mlps}


def _fidelity(group: Group) -> dict[str, Drawn | None]:
    return {mlp: group.mean(group.fidelity[mlp, "all"]) for mlp in group.mlps}


def _less(ones: Mapping[str, Drawn | None], others: Mapping[str, Drawn | None]) -> dict[str, Drawn | None]:
    return {
        mlp: combine(torch.sub, one, other) if one and (other := others[mlp]) else None for mlp, one in ones.items()
    }
