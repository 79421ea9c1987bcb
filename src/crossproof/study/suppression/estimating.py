"""From what was measured text by text to estimates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from crossproof.study.estimates import Drawn, Estimate, combine, drawn, estimate, text_weights
from crossproof.study.suppression.results import BEFORE, EDIT, RANDOM, Point
from crossproof.study.suppression.sleeper import Part


def points_of(parts: Mapping[tuple[str, int, int], Part], seed: int) -> dict[str, Any]:
    """A point for each way and number of pairs, random draws together; and how much more the edit does than these.

    All estimates resample the same texts.
    """
    texts = len(next(iter(parts.values())).begins)
    weights = text_weights(texts, seed)

    def rate(part: Part, name: str) -> Drawn:
        values = torch.tensor(getattr(part, name), dtype=torch.float64)
        return drawn(values, torch.ones_like(values), weights)

    def loss(part: Part) -> Drawn:
        return drawn(torch.tensor(part.loss), torch.tensor(part.scored), weights)

    def left(part: Part) -> Drawn:
        return drawn(torch.tensor(part.left), torch.tensor(part.was), weights)

    points, before = [], parts[BEFORE, 0, 0]
    for way, count in dict.fromkeys(key[:2] for key in parts):
        its = [part for key, part in parts.items() if key[:2] == (way, count)]
        points.append(
            Point(
                way=way,
                pairs=count,
                **{name: share([rate(part, name) for part in its], texts) for name in ("begins", "whole", "asked")},
                loss=estimate([loss(part) for part in its]),
                cost=estimate([combine(_less, loss(part), loss(before)) for part in its]),
                left=estimate([left(part) for part in its]) if sum(its[0].was) else None,
                neurons=sum(part.neurons for part in its) / len(its),
                change=sum(part.change for part in its) / len(its),
            )
        )
    most = max(count for _, count, _ in parts)
    edit = rate(parts[EDIT, most, 0], "begins")
    controls = [rate(part, "begins") for key, part in parts.items() if key[:2] == (RANDOM, most)]
    return {"points": points, "specific": estimate([combine(_less, its, edit) for its in controls])}


def share(members: list[Drawn], texts: int) -> Estimate:
    """Where all texts are alike resampling them knows no others, and would be sure of it however few there are: there
    the interval is the exact binomial one."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    found = estimate(members)
    if found.value not in (0, 1):
        return found
    exact = binomtest(int(found.value) * texts, texts).proportion_ci()
    return found.model_copy(update={"low": float(exact.low), "high": float(exact.high)})


def _less(these: Tensor, those: Tensor) -> Tensor:
    return these - those
