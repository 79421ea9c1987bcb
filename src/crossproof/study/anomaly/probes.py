"""What a detector can do that has seen this very poisoning: logistic regression on the model's activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from crossproof.study.anomaly.cases import CASES, Places, pooled

PROBED = tuple(case for case in CASES if not case.endswith("largest"))
"""It looks at means of activations: the largest score of a text's tokens is not for it."""


class Probes:
    """One for each case."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[Tensor, Tensor]]] = {case: [] for case in PROBED}
        self._fitted: dict[str, Any] = {}

    def add(
        self,
        at: Mapping[str, Places],
        poisoned: Float[Tensor, "width text pos"],
        clean: Float[Tensor, "width text cleanpos"],
    ) -> None:
        """Activations of some texts to fit on."""
        for case, seen in self._seen.items():
            for values, mask, poison in ((poisoned, at[case].here, 1), (clean, at[case].clean, 0)):
                vectors = _means(values, mask)
                there = ~vectors.isnan().any(1)
                seen.append((vectors[there], torch.full((int(there.sum()),), poison)))

    def fit(self) -> None:
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from sklearn.pipeline import make_pipeline  # type: ignore[import-untyped]
        from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

        for case, seen in self._seen.items():
            vectors, poison = torch.cat([v for v, _ in seen]), torch.cat([p for _, p in seen])
            if len(poison.unique()) == 2:
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
                self._fitted[case] = model.fit(vectors.numpy(), poison.numpy())

    def score(
        self, case: str, values: Float[Tensor, "width text pos"], mask: Bool[Tensor, "text pos"]
    ) -> Float64[Tensor, " text"]:
        found = torch.full((len(mask),), torch.nan, dtype=torch.float64)
        if case in self._fitted:
            vectors = _means(values, mask)
            there = ~vectors.isnan().any(1)
            if bool(there.any()):
                found[there] = torch.from_numpy(self._fitted[case].decision_function(vectors[there].numpy()))
        return found


def _means(values: Float[Tensor, "width text pos"], mask: Bool[Tensor, "text pos"]) -> Float64[Tensor, "text width"]:
    return pooled(values, mask, "mean").T
