"""The measurements as pandas tables. What their columns mean is in docs/interactions.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.coactive import CoActive, PairSums
from crossproof.interaction.contributions import Neurons
from crossproof.interaction.neurons import Dominance, Dominators
from crossproof.interaction.pairs import mean_pairwise
from crossproof.interaction.probabilistic import Divergence
from crossproof.interaction.weights import SCORES, Potential, typical_strengths

if TYPE_CHECKING:
    import pandas as pd


def pairs(
    i: Int[Tensor, " row"],
    j: Int[Tensor, " row"],
    unit: Int[Tensor, " row"],
    names: Sequence[str],
    neuron: Int[Tensor, " first"],
    share: Float64[Tensor, " first"],
    sums: dict[str, PairSums],
    columns: dict[str, Tensor],
) -> pd.DataFrame:
    """A row for each pair and unit; the first of them with the neuron that carries most."""
    import pandas as pd

    directed, rows = sums["directed"], len(i)
    table: dict[str, Any] = {
        "i": i.int().numpy(),
        "j": j.int().numpy(),
        "unit": pd.Categorical.from_codes(unit.numpy(), list(names)),
        "neuron": _index(neuron, rows),
        "neuron_share": _padded(share, rows, torch.nan).numpy(),
        "strength": directed.mean_together.numpy(),
        "strength_se": directed.standard_error_together.numpy(),
        "frequency": (directed.count.double() / directed.n_tokens).numpy(),
        "score": directed.mean.numpy(),
        "score_se": directed.standard_error.numpy(),
        "count": directed.count.numpy(),
    }
    if "mass" in sums:
        table["mass"] = sums["mass"].mean.numpy()
    if "cross" in sums:
        table["cross"] = sums["cross"].mean.numpy()
    if "ratio" in sums:
        table["ratio"] = sums["ratio"].mean_together.numpy()
    return pd.DataFrame(table | {name: column.numpy() for name, column in columns.items()})


def potential(found: Potential) -> pd.DataFrame:
    """A row for each pair: its scores in all MLPs together, and the one it is ranked by in each."""
    import pandas as pd

    of_units = getattr(found, found.by).cpu().numpy()
    table: dict[str, Any] = {"i": found.i.int().cpu().numpy(), "j": found.j.int().cpu().numpy()}
    table |= {kind: getattr(found, kind).sum(1).cpu().numpy() for kind in SCORES}
    table |= {name: of_units[:, column] for column, name in enumerate(found.units)}
    return pd.DataFrame(table)


def independence(found: dict[str, Divergence]) -> pd.DataFrame:
    """A row for each neuron."""
    import pandas as pd

    tables = [
        pd.DataFrame(
            {
                "unit": name,
                "neuron": range(len(its.kl)),
                "kl_bits": its.kl.cpu().numpy(),
                "by_chance": its.null_mean.cpu().numpy(),
                "by_chance_sd": its.null_sd.cpu().numpy(),
                "excess": its.excess.cpu().numpy(),
            }
        )
        for name, its in found.items()
    ]
    return pd.concat(tables, ignore_index=True)


def units(
    units: Sequence[Neurons], dominated: Sequence[Dominance], directed: Sequence[PairSums], coactive: CoActive
) -> pd.DataFrame:
    """A row for each MLP."""
    import pandas as pd

    rows = []
    for unit, its, sums in zip(units, dominated, directed, strict=True):
        mean = mean_pairwise([sums], coactive)
        rows.append(
            {
                "unit": unit.name,
                "neurons": len(unit.loudness),
                "dominant_share": its.share,
                "counted": its.counted,
                "left_out": its.left_out,
                "mean_pairwise": mean.all_entries,
                "mean_pairwise_alive": mean.alive_pairs,
                "token_score": float(its.neuron_score.sum()),
            }
        )
    return pd.DataFrame(rows)


def neurons(units: Sequence[Neurons], dominated: Sequence[Dominance]) -> pd.DataFrame:
    """A row for each neuron; in a gated MLP one for its gate and one for its value."""
    import pandas as pd

    found = [
        _neurons_of(unit.name, table, its.neuron_score, dominators)
        for unit, its in zip(units, dominated, strict=True)
        for table, dominators in zip(("pre",) if len(its.tables) == 1 else ("gate", "value"), its.tables, strict=True)
    ]
    return pd.concat(found, ignore_index=True)


def _neurons_of(unit: str, table: str, score: Float64[Tensor, " neuron"], its: Dominators) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "unit": unit,
            "table": table,
            "neuron": range(len(score)),
            "dominant": _index(its.feature.cpu()),
            "dominant_share": its.feature_share.cpu().numpy(),
            "runner_up": _index(its.runner_up.cpu()),
            "runner_up_share": its.runner_up_share.cpu().numpy(),
            "margin": its.margin.cpu().numpy(),
            "score": score.cpu().numpy(),
            "tokens": its.tokens.cpu().numpy(),
        }
    )


def features(
    codes: Codes,
    directed: Sequence[PairSums],
    bias: Sequence[PairSums] | None,
    own: Sequence[PairSums],
    coactive: CoActive,
) -> pd.DataFrame:
    """A row for each feature, dead ones too."""
    import pandas as pd

    score = torch.stack([sums.mean for sums in directed]).sum(0)
    none = torch.zeros(coactive.n_features, dtype=torch.float64, device=score.device)
    columns = {
        "frequency": coactive.firing.double() / coactive.n_tokens,
        "strength": typical_strengths(codes).masked_fill(coactive.firing == 0, torch.nan),
        "given": none.index_add(0, coactive.i, score),
        "received": none.index_add(0, coactive.j, score),
    }
    if bias is not None:
        columns["mass_with_bias"] = torch.stack([sums.mean for sums in bias]).sum(0)
    if own:
        columns["own"] = torch.stack([sums.mean for sums in own]).sum(0)
    return pd.DataFrame({name: column.cpu().numpy() for name, column in columns.items()}).rename_axis("feature")


def tokens(words: Sequence[str], names: Sequence[str], found: dict[str, Tensor]) -> pd.DataFrame:
    """A row for each token of a text."""
    import pandas as pd

    by_unit = {name: found["score"][:, column].numpy() for column, name in enumerate(names)}
    at = [names[unit] if unit >= 0 else None for unit in found["unit"].tolist()]
    return pd.DataFrame(
        {
            "token": list(words),
            "score": found["score"].sum(1).numpy(),
            **by_unit,
            "i": _index(found["i"]),
            "j": _index(found["j"]),
            "unit": pd.Categorical(at, categories=list(names)),
            "pair_score": found["pair_score"].numpy(),
        }
    )


def _index(values: Int[Tensor, "..."], rows: int | None = None) -> Any:
    """Indices of which −1, and all beyond the last, are missing."""
    import pandas as pd

    filled = _padded(values, len(values) if rows is None else rows, -1.0)
    return pd.arrays.IntegerArray(filled.numpy(), (filled < 0).numpy())


def _padded(values: Tensor, rows: int, missing: float) -> Tensor:
    return torch.cat([values, values.new_full((rows - len(values),), missing)])
