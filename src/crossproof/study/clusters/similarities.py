"""How alike any two features are: by interaction, by the baselines that it must beat, and at random.

No two of these matrices have values of one kind: some are sums over tokens that span many powers of ten and are largest
where features are frequent, others are cosines. One rule makes them comparable, and it has nothing that could be tuned.
Only each feature's own order of the others counts: i ranks the others from the most similar, 1, on, ties in the middle
of the places they share. What i and j are to each other is the geometric mean of the two ranks, their *mutual rank*.

- A matrix says the same whether its values are taken as they are, as logarithms or as quantiles.
- A frequent feature is high in everybody's list, and has room for few in its own: it does not pull everything to it.
- Every matrix has the same ranks in every row, so that one setting of an algorithm means the same with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.interaction.contributions import GatedNeurons, Neurons
from crossproof.interaction.cooccurrence import firing, pair_sums
from crossproof.interaction.result import measure
from crossproof.study.metrics import activation_cosine

DIRECTED, MASS, CROSS = "directed", "mass", "cross"
INTERACTION = {
    DIRECTED: "what each adds to neurons that the other dominates, both ways, all MLPs (the paper's)",
    MASS: "how much of each other's contributions they cancel, all MLPs",
    CROSS: "how much one in the gate and the other in the value add together, both ways, all gated MLPs",
}
ACTIVATIONS, DIRECTIONS, COUNT, PMI, RANDOM = "activations", "directions", "co-occurrence", "PMI", "random values"
BASELINES = {
    ACTIVATIONS: "cosine of their strengths over tokens (the paper's baseline)",
    DIRECTIONS: "cosine of what they write, all sites side by side, each site in its own scale",
    COUNT: "on how many tokens both are active",
    PMI: "how many times more often than chance they are active together, half a token added to both",
    RANDOM: f"the values of {DIRECTED}, dealt out anew to the pairs",
}
MATRICES = INTERACTION | BASELINES

Square = Float64[Tensor, "feature feature"]


def similarities(
    codes: Codes,
    neurons: Sequence[Neurons],
    written: Float[Tensor, "all_features outputs"],
    chosen: Int[Tensor, " feature"],
    seed: int,
) -> dict[str, Square]:
    """Of the chosen features, symmetric. `written`: each feature's directions at all sites, scaled alike."""
    gated = any(isinstance(unit, GatedNeurons) for unit in neurons)
    found = measure(codes, neurons, [CROSS if gated else MASS])
    some = of_features(codes, chosen)
    directed = _both_ways(_dense(found.matrix(DIRECTED), chosen))
    other = _dense(found.matrix(CROSS if gated else MASS), chosen)
    together = _both_ways(torch.cat([sums for _, sums in pair_sums(firing(some))]))
    fires = some.firing_counts().double()
    chance = fires[:, None] * fires / max(1, codes.pattern.n_rows)
    directions = torch.nn.functional.normalize(written[chosen].double(), dim=1)
    return {
        DIRECTED: directed,
        (CROSS if gated else MASS): _both_ways(other) if gated else other,
        ACTIVATIONS: _both_ways(activation_cosine(some)),
        DIRECTIONS: directions @ directions.T,
        COUNT: together,
        PMI: ((together + 0.5) / (chance + 0.5)).log2(),
        RANDOM: dealt_anew(directed, seed),
    }


def mutual_ranks(similarity: Square) -> Square:
    """1 for two that are each other's nearest; 0 for a feature and itself."""
    from scipy.stats import rankdata  # type: ignore[import-untyped]

    least_like = -similarity.clone()
    least_like.fill_diagonal_(torch.inf)  # last, so that it takes no place from the others
    rank = torch.from_numpy(rankdata(least_like.numpy(), axis=1)).double()
    return (rank * rank.T).sqrt().fill_diagonal_(0)


def dealt_anew(similarity: Square, seed: int) -> Square:
    """The same values, each pair's given to another drawn at random."""
    i, j = torch.triu_indices(len(similarity), len(similarity), 1)
    values = similarity[i, j]
    dealt = torch.zeros_like(similarity)
    dealt[i, j] = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
    return _both_ways(dealt)


def of_features(codes: Codes, chosen: Int[Tensor, " feature"]) -> Codes:
    """The codes of some of the features, in this order and numbered by it."""
    pattern = codes.pattern
    number = torch.full((pattern.n_features,), -1, dtype=torch.long, device=pattern.features.device)
    number[chosen] = torch.arange(len(chosen), device=number.device)
    its = number[pattern.features]
    wanted = (its >= 0) & (codes.values > 0)
    flat = (pattern.rows * len(chosen) + its)[wanted]
    order = flat.argsort()
    return Codes(Pattern.from_flat(flat[order], pattern.n_rows, len(chosen)), codes.values.detach()[wanted][order])


def _dense(matrix: Tensor, chosen: Int[Tensor, " feature"]) -> Square:
    """The chosen rows and columns of a sparse matrix."""
    number = torch.full((matrix.shape[0],), -1, dtype=torch.long)
    number[chosen] = torch.arange(len(chosen))
    (i, j), values = number[matrix.indices()], matrix.values().double()
    dense = torch.zeros(len(chosen), len(chosen), dtype=torch.float64)
    wanted = (i >= 0) & (j >= 0)
    dense[i[wanted], j[wanted]] = values[wanted]
    return dense


def _both_ways(matrix: Square) -> Square:
    return matrix + matrix.T
