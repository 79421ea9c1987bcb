"""Every pairwise metric of an MLP, and the baselines they must beat, as one number for each given pair of features.

Larger means that the metric sees more interaction. Pairs that are never active together score 0 wherever a metric
looks at tokens on which they are; `hadamard`, `potential` and the cosine of directions look at weights and score all.
What a metric says of i → j and of j → i is added up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Neurons, PlainNeurons, tables
from crossproof.interaction.cooccurrence import pair_sums
from crossproof.interaction.gated import cross
from crossproof.interaction.pairs import directed, mass, ratio
from crossproof.interaction.probabilistic import gaussian_correlation, pair_kl
from crossproof.interaction.weights import HELD, ROUNDING, hadamard_of_pairs, typical_strengths
from crossproof.units import MLP, GatedMLP

METRICS = {
    "directed": "what each adds to neurons the other dominates, both ways; mean over all tokens (the paper's)",
    "directed, together": "the same, mean over the tokens where both are active",
    "mass": "how much of each other's contributions they cancel; mean over all tokens",
    "mass, together": "the same, mean over the tokens where both are active",
    "ratio": "how alike their contributions to a neuron are, mean over neurons and tokens where both are active",
    "cross": "how much one in the gate and the other in the value add together, both ways; mean over all tokens",
    "cross, together": "the same, mean over the tokens where both are active",
    "hadamard": "norm of the product of what both add to each neuron, from weights alone",
    "hadamard, typical": "the same, each at its typical strength",
    "correlation": "absolute Gaussian correlation of the strengths",
    "pair KL": "bits by which the sum of both, in the neurons, is not as if independent; less what chance has",
    "potential": "second difference of the neurons, both alone at typical strengths",
    "potential, mass": "what they cancel of each other, both alone at typical strengths",
}
ONLY_PLAIN = ("mass", "mass, together", "pair KL", "potential, mass")
ONLY_GATED = ("cross", "cross, together")
BASELINES = {
    "PMI": "log2 of how many times more often than chance they fire together, half a token added to both",
    "count": "tokens on which both are active",
    "cosine of directions": "absolute cosine of the decoder directions",
    "cosine of activations": "cosine of the strengths over tokens, zeros included",
    "random": "a random number",
}
MOST_KL_PAIRS = 5_000
"""Above this many pairs the one metric that takes them one by one is left out."""


def metrics_of(unit: MLP | GatedMLP) -> list[str]:
    """Those of METRICS that are defined for it."""
    without = ONLY_GATED if isinstance(unit, MLP) else ONLY_PLAIN
    return [metric for metric in METRICS if metric not in without]


def pair_scores(
    codes: Codes,
    neurons: Neurons,
    unit: MLP | GatedMLP,
    directions: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " d_model"] | None,
    i: Int[Tensor, " pair"],
    j: Int[Tensor, " pair"],
    seed: int = 0,
) -> dict[str, Float64[Tensor, " pair"]]:
    """`metrics_of(unit)` and BASELINES of these pairs. `neurons` are `contributions(unit, directions, bias)`."""
    n_features = codes.pattern.n_features
    if i.shape != j.shape or bool(((i < 0) | (i >= n_features) | (j < 0) | (j >= n_features) | (i == j)).any()):
        raise MismatchError(f"pairs i, j: expected as many i as j, different, from 0 to {n_features - 1}")
    i, j = torch.minimum(i, j), torch.maximum(i, j)
    pairs, strengths = CoActive.of(codes), typical_strengths(codes)
    on_axis, back = pairs.positions(i, j), pairs.positions(j, i)

    def at(values: Tensor, where: Tensor = on_axis) -> Tensor:
        """The given pairs' values; 0 of those that are not on the axis."""
        return torch.cat([values.double(), values.new_zeros(1, dtype=torch.float64)])[where]

    def both_ways(values: Tensor) -> Tensor:
        return at(values) + at(values, back)

    charged, alike = directed(codes, [neurons], pairs)[0], ratio(codes, [neurons], pairs)[0]
    together = at(pairs.count)
    chance = pairs.firing[i].double() * pairs.firing[j] / max(1, pairs.n_tokens)
    found = {
        "directed": both_ways(charged.mean),
        "directed, together": both_ways(charged.mean_together),
        "ratio": at(alike.mean_together),
        "hadamard": _hadamard(unit, directions, i, j, bias),
        "hadamard, typical": _hadamard(unit, directions, i, j, bias, strengths),
        "correlation": gaussian_correlation(codes)[i, j].abs(),
        "potential": second_difference(neurons, strengths, i, j),
        "PMI": ((together + 0.5) / (chance + 0.5)).log2(),
        "count": together,
        "cosine of directions": torch.cosine_similarity(directions[i].double(), directions[j].double()).abs(),
        "cosine of activations": activation_cosine(codes)[i, j],
        "random": torch.rand(len(i), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(i.device),
    }
    if isinstance(neurons, PlainNeurons):
        cancelled = mass(codes, [neurons], pairs)[0].pairs
        found["mass"], found["mass, together"] = at(cancelled.mean), at(cancelled.mean_together)
        found["potential, mass"] = cancellation(neurons, strengths, i, j)
        if len(i) <= MOST_KL_PAIRS:
            found["pair KL"] = pair_kl(codes, neurons, i, j, shuffles=2, seed=seed).excess
    else:
        crossed = cross(codes, [neurons], pairs)[0].cross
        found["cross"], found["cross, together"] = both_ways(crossed.mean), both_ways(crossed.mean_together)
    return {name: found[name] for name in (*metrics_of(unit), *BASELINES) if name in found}


def second_difference(
    neurons: Neurons, strengths: Float[Tensor, " feature"], i: Int[Tensor, " pair"], j: Int[Tensor, " pair"]
) -> Float64[Tensor, " pair"]:
    """Σ_n (w_n / N) |v(ij) − v(i) − v(j) + v(∅)|, v what the neuron puts out: what a pair alone would do together."""
    φ = neurons.activation.function
    beta, *beta_value = (table.beta.detach().double() for table in tables(neurons))

    def output(p: Tensor, *p_value: Tensor) -> Tensor:
        activated = φ(beta + p)
        return activated * (beta_value[0] + p_value[0]) if p_value else activated

    def of(a: Parts, b: Parts) -> Tensor:
        one, other, empty = output(*a), output(*b), output(*(torch.zeros_like(part) for part in a))
        found = (output(*(x + y for x, y in zip(a, b, strict=True))) - one - other + empty).abs()
        return found.masked_fill(found <= ROUNDING * (one.abs() + other.abs() + empty.abs()), 0)

    return _over_neurons(neurons, strengths, i, j, of)


def cancellation(
    neurons: PlainNeurons, strengths: Float[Tensor, " feature"], i: Int[Tensor, " pair"], j: Int[Tensor, " pair"]
) -> Float64[Tensor, " pair"]:
    """Σ_n (w_n / N) min(|p_i|, |p_j|) over the neurons where the two pull in opposite directions."""

    def of(a: Parts, b: Parts) -> Tensor:
        return torch.minimum(a[0].abs(), b[0].abs()) * (a[0] * b[0] < 0)

    return _over_neurons(neurons, strengths, i, j, of)


Parts = Sequence[Float64[Tensor, "pair neuron"]]
"""What one feature of each pair adds to each of a unit's tables."""


def _over_neurons(
    neurons: Neurons, strengths: Tensor, i: Tensor, j: Tensor, of: Callable[[Parts, Parts], Tensor]
) -> Float64[Tensor, " pair"]:
    p = [strengths.double()[:, None] * table.A.detach().double() for table in tables(neurons)]
    weight = neurons.loudness.detach().double() / len(neurons.loudness)
    some = max(1, HELD // max(1, len(weight)))
    parts = zip(i.split(some), j.split(some), strict=True)
    found = (of([its[a] for its in p], [its[b] for its in p]) @ weight for a, b in parts)
    return torch.cat([weight.new_zeros(0), *found])


def _hadamard(
    unit: MLP | GatedMLP,
    directions: Tensor,
    i: Tensor,
    j: Tensor,
    bias: Tensor | None,
    strengths: Tensor | None = None,
) -> Float64[Tensor, " pair"]:
    forth = hadamard_of_pairs(unit, directions, i, j, bias, strengths).double()
    if isinstance(unit, MLP):  # symmetric
        return forth
    return forth + hadamard_of_pairs(unit, directions, j, i, bias, strengths).double()


def activation_cosine(codes: Codes) -> Float64[Tensor, "feature feature"]:
    """Above the diagonal."""
    squares = torch.zeros(codes.pattern.n_features, dtype=torch.float64, device=codes.values.device)
    squares.index_add_(0, codes.pattern.features, codes.values.detach().double().square())
    norm = squares.sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    return torch.cat([sums / norm[start : start + len(sums), None] / norm for start, sums in pair_sums(codes)])
