"""How far features are from independent, in themselves and as neurons see them.

`gaussian_correlation` is what lies off the diagonal of a Gaussian fitted to the features' activations.
`independence_kl` asks it of every neuron: how many bits per token separate the distribution of its pre-activation (of
its gate, in a gated MLP) from the one it would have if features were independent. That one is a convolution: each
feature's distribution of strengths, its atom at 0 included, scaled by its entry of the contribution table. `pair_kl`
asks the same of two features alone, over all neurons.

What lies between two cells of a grid is split linearly between them, which keeps every mean. A KL divergence on bins
is finite because the independent distribution is mixed with one token's worth spread evenly over the bins, and it is
biased upward by the finite number of tokens. How far is told by the same figure for tokens shuffled per feature, where
independence holds: its mean and standard deviation over a few shuffles come with every result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.codes import Codes, Pattern, check_features, decode
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import Neurons, check_codes, tables
from crossproof.interaction.cooccurrence import pair_sums
from crossproof.progress import progress

MOST_DENSE = 8192
"""Features in a dense correlation matrix, of half a gigabyte."""
LEVELS = 64
"""Steps from 0 to a feature's largest strength, in the distribution of its strengths."""
PAIR_LEVELS = 32
"""The same for the joint distribution of two features."""
FINER = 4
"""Cells of the grid of the convolution in one bin: splitting widens by up to a cell per feature, so cells are small."""
MARGIN = 8
"""Cells left free on both sides of that grid, for what splitting moves outwards."""
OUTSIDE = 1e-9
"""At most this much of the independent distribution lies outside the grid (Bernstein), and wraps around."""
HELD = 2**21
"""Numbers held at a time."""


@dataclass(frozen=True, eq=False)
class Divergence:
    """KL divergences from independence, in bits, with what tokens shuffled per feature give."""

    kl: Float[Tensor, " item"]
    null_mean: Float[Tensor, " item"]
    null_sd: Float[Tensor, " item"]

    @property
    def excess(self) -> Float[Tensor, " item"]:
        """What is left of the divergence without what a finite number of tokens gives on its own."""
        return self.kl - self.null_mean


def gaussian_correlation(codes: Codes) -> Float[Tensor, "feature feature"]:
    """Correlation of f_i and f_j over all tokens, zeros included; 0 for a feature that is constant."""
    pattern, n_tokens = codes.pattern, max(codes.pattern.n_rows, 1)
    if pattern.n_features > MOST_DENSE:
        raise CrossproofError(
            f"{pattern.n_features:,} features have a correlation matrix of {pattern.n_features**2 * 8 / 1e9:.1f} GB, "
            f"and at most {MOST_DENSE:,} are taken: leave features out, or use cooccurrence(codes)"
        )
    check_features(codes.values)
    features, values = pattern.features, codes.values.detach().double()
    largest = values.new_zeros(pattern.n_features).scatter_reduce(0, features, values, "amax")
    values = values / torch.where(largest > 0, largest, 1)[features]

    def mean() -> Tensor:
        return values.new_zeros(pattern.n_features).index_add_(0, features, values) / n_tokens

    # a feature that is always on may vary little: about its mean, so that the variance does not drown in rounding
    always = torch.bincount(features, minlength=pattern.n_features) == n_tokens
    values = values - torch.where(always, mean(), 0)[features]
    means = mean()
    squares = values.new_zeros(pattern.n_features).index_add_(0, features, values.square())
    variances = squares / n_tokens - means.square()
    to_unit = torch.where(variances > 0, variances, math.inf).rsqrt()
    correlation = values.new_empty(pattern.n_features, pattern.n_features)
    with progress("correlation", pattern.n_features, "features") as bar:
        for start, sums in pair_sums(Codes(pattern, values)):
            rows = slice(start, start + len(sums))
            covariance = sums / n_tokens - means[rows, None] * means
            correlation[rows] = covariance * to_unit[rows, None] * to_unit
            bar(len(sums))
    upper = correlation.triu_(1)
    return (upper + upper.T + torch.diag((variances > 0).double())).clamp_(-1, 1)


def independence_kl(codes: Codes, neurons: Neurons, bins: int = 256, shuffles: int = 5, seed: int = 0) -> Divergence:
    """Of every neuron, from the distribution it would have with independent features."""
    _check(codes, bins, shuffles)
    table = tables(neurons)[0]
    check_codes(codes, table.n_features)
    codes, A = Codes(codes.pattern, codes.values.detach().double()), table.A.detach().double()
    strengths = _Strengths.of(codes)
    draw = torch.Generator().manual_seed(seed)
    with progress(f"independence in {neurons.name}", codes.pattern.n_rows * (shuffles + 2), "tokens") as bar:
        low, high = A.new_zeros(A.shape[1]), A.new_zeros(A.shape[1])
        for z in _sums(codes, A):
            low, high = torch.minimum(low, z.amin(0)), torch.maximum(high, z.amax(0))
            bar(len(z))
        grid = _Grid.around(low, high, strengths, A, bins)
        alone = grid.binned(_independent(strengths, A, grid))
        found = []
        for shuffle in range(shuffles + 1):
            tokens = _shuffled(codes, draw) if shuffle else codes
            actual = A.new_zeros(A.shape[1], grid.n_cells)
            for z in _sums(tokens, A):
                grid.add(z, actual)
                bar(len(z))
            found.append(_bits(grid.binned(actual) / codes.pattern.n_rows, alone, codes.pattern.n_rows))
    return _against_shuffles(torch.stack(found))


def pair_kl(
    codes: Codes,
    neurons: Neurons,
    i: Int[Tensor, " pair"],
    j: Int[Tensor, " pair"],
    bins: int = 128,
    shuffles: int = 5,
    seed: int = 0,
) -> Divergence:
    """Of given pairs: Σ_n (w_n / N) of the divergence of p_ni + p_nj from independence."""
    _check(codes, bins, shuffles)
    table, pattern = tables(neurons)[0], codes.pattern
    check_codes(codes, table.n_features)
    if i.shape != j.shape or not bool(((i >= 0) & (i < j) & (j < table.n_features)).all()):
        raise MismatchError(f"i, j: as many of one as of the other, with 0 ≤ i < j < {table.n_features}, are pairs")
    if not len(i):
        return Divergence(*[torch.zeros(0, dtype=torch.float64, device=i.device)] * 3)
    order, starts = pattern.by_feature
    A, values = table.A.detach().double(), codes.values.detach().double()
    weights = neurons.loudness.detach().double() / table.n_neurons
    draw = torch.Generator().manual_seed(seed)
    found = []

    def column(feature: int) -> tuple[Tensor, Tensor]:
        mine = order[starts[feature] : starts[feature + 1]]
        return pattern.rows[mine], values[mine]

    with progress(f"pairs in {neurons.name}", len(i), "pairs") as bar:
        for first, second in zip(i.tolist(), j.tolist(), strict=True):
            (left_rows, left), (right_rows, right) = column(first), column(second)
            steps = [x.max() / PAIR_LEVELS if len(x) else x.new_zeros(()) for x in (left, right)]
            a, b = (_on_levels(x, step, PAIR_LEVELS) for x, step in zip((left, right), steps, strict=True))
            joint = [_joint(left_rows, a, right_rows, b, pattern.n_rows)]
            for _ in range(shuffles):
                moved = torch.randperm(pattern.n_rows, generator=draw)[: len(right)].to(right_rows.device)
                joint.append(_joint(left_rows, a, moved, b, pattern.n_rows))
            reached = A[first] * steps[0], A[second] * steps[1]
            kl = _joint_bits(torch.stack(joint), reached[0], reached[1], bins, pattern.n_rows)
            found.append(kl @ weights)
            bar(1)
    return _against_shuffles(torch.stack(found, 1))


@dataclass(frozen=True, eq=False)
class _Strengths:
    """The distribution of each firing feature's strengths, on LEVELS + 1 levels from 0 to the largest."""

    features: Int[Tensor, " firing"]
    largest: Float[Tensor, " firing"]
    probability: Float[Tensor, "firing level"]

    @classmethod
    def of(cls, codes: Codes) -> _Strengths:
        pattern, values = codes.pattern, codes.values
        largest = values.new_zeros(pattern.n_features).scatter_reduce(0, pattern.features, values, "amax")
        firing = torch.nonzero(largest).squeeze(1)
        step = torch.where(largest > 0, largest, 1) / LEVELS
        level, share = _on_levels(values, step[pattern.features], LEVELS)
        counts = values.new_zeros(pattern.n_features, LEVELS + 1)
        for cell, part in ((level, 1 - share), (level + 1, share)):
            counts.index_put_((pattern.features, cell), part, accumulate=True)
        counts[:, 0] += pattern.n_rows - torch.bincount(pattern.features, minlength=pattern.n_features)
        return cls(firing, largest[firing], counts[firing] / pattern.n_rows)

    @property
    def step(self) -> Float[Tensor, " firing"]:
        return self.largest / LEVELS

    def moments(self) -> tuple[Float[Tensor, " firing"], Float[Tensor, " firing"]]:
        """Means and variances."""
        strengths = self.step[:, None] * torch.arange(LEVELS + 1, device=self.step.device)
        mean = (self.probability * strengths).sum(1)
        return mean, (self.probability * (strengths - mean[:, None]).square()).sum(1)


@dataclass(frozen=True, eq=False)
class _Grid:
    """For every neuron, cells for z − β; where no feature is active is the middle of a cell, number −first."""

    width: Float[Tensor, " neuron"]
    first: Int[Tensor, " neuron"]
    n_cells: int

    @classmethod
    def around(cls, low: Tensor, high: Tensor, strengths: _Strengths, A: Tensor, bins: int) -> _Grid:
        """Wide enough for what was seen, from low to high, and for nearly all of what independence allows."""
        A = A[strengths.features]
        mean_strength, variance = strengths.moments()
        mean = mean_strength @ A
        largest = A.new_zeros(A.shape[1])
        if len(A):
            farthest = torch.maximum(mean_strength, strengths.largest - mean_strength)
            largest = (A.abs() * farthest[:, None]).amax(0)
        # Bernstein: P(|Σp − mean| > t) ≤ 2 exp(−t² / (2 (variance + largest t / 3)))
        logs = math.log(2 / OUTSIDE)
        linear = largest * logs / 3
        t = linear + (linear.square() + 2 * logs * (variance @ A.square())).sqrt()
        low = torch.minimum(low, torch.maximum(strengths.largest @ A.clamp(max=0), mean - t))
        high = torch.maximum(high, torch.minimum(strengths.largest @ A.clamp(min=0), mean + t))
        n_cells = bins * FINER
        width = (high - low) / (n_cells - 2 * MARGIN - 1)
        width = torch.where(width > 0, width, 1)
        return cls(width, (low / width).floor().long() - MARGIN, n_cells)

    def add(self, z: Float[Tensor, "token neuron"], histogram: Float[Tensor, "neuron cell"]) -> None:
        """Count values of z − β. Shuffled tokens may leave the grid, hardly ever, and then count at its end."""
        place = (z / self.width - self.first).clamp(0, self.n_cells - 1)
        cell = place.long().clamp(max=self.n_cells - 2)
        share = place - cell
        flat, of_neuron = histogram.view(-1), torch.arange(len(self.width), device=z.device) * self.n_cells
        for at, part in ((cell, 1 - share), (cell + 1, share)):
            flat.scatter_add_(0, (of_neuron + at).flatten(), part.flatten())

    def binned(self, cells: Float[Tensor, "neuron cell"]) -> Float[Tensor, "neuron bin"]:
        return cells.unflatten(1, (-1, FINER)).sum(2)


def _independent(
    strengths: _Strengths, A: Float[Tensor, "feature neuron"], grid: _Grid
) -> Float[Tensor, "neuron cell"]:
    """The distribution of z − β with independent features: a circular convolution, whose wrap-around is negligible."""
    found = A.new_empty(A.shape[1], grid.n_cells)
    levels = torch.arange(LEVELS + 1, device=A.device)
    per_cell = A[strengths.features] * strengths.step[:, None] / grid.width
    height = max(1, HELD // grid.n_cells)
    with progress("convolution", A.shape[1], "neurons") as bar:
        for neuron, first in enumerate(grid.first.tolist()):
            spectrum = torch.ones(grid.n_cells // 2 + 1, dtype=torch.complex128, device=A.device)
            for some, weights in zip(
                per_cell[:, neuron].split(height), strengths.probability.split(height), strict=True
            ):
                place = some[:, None] * levels
                cell = place.floor()
                share = place - cell
                one = A.new_zeros(len(some), grid.n_cells)
                for at, part in ((cell, 1 - share), (cell + 1, share)):
                    one.scatter_add_(1, at.long() % grid.n_cells, weights * part)
                if len(one):  # no feature may fire at all
                    spectrum *= torch.fft.rfft(one).prod(0)
            found[neuron] = torch.fft.irfft(spectrum, grid.n_cells).roll(-first)
            bar(1)
    found.clamp_(min=0)  # rounding
    return found / found.sum(1, keepdim=True)


def _sums(codes: Codes, A: Float[Tensor, "feature neuron"]) -> Iterator[Float[Tensor, "token neuron"]]:
    """Σ_i p_ni of all tokens, a few at a time."""
    pattern = codes.pattern
    height = max(1, HELD // max(1, A.shape[1]))
    for start in range(0, pattern.n_rows, height):
        row_starts = pattern.row_starts[start : start + height + 1]
        mine = slice(int(row_starts[0]), int(row_starts[-1]))
        some = Pattern(pattern.features[mine], row_starts - row_starts[0], pattern.n_features)
        yield decode(Codes(some, codes.values[mine]), A, None)


def _shuffled(codes: Codes, draw: torch.Generator) -> Codes:
    """Every feature on as many tokens as before, and as strongly, but on tokens drawn on their own."""
    pattern, device = codes.pattern, codes.values.device
    n_tokens, n_features = pattern.n_rows, pattern.n_features
    order, starts = pattern.by_feature
    features = pattern.features[order]
    rows = torch.randint(n_tokens, (len(order),), generator=draw).to(device)
    counts = starts.diff()
    often = counts * 8 > n_tokens
    for feature in torch.nonzero(often).flatten().tolist():
        drawn = torch.randperm(n_tokens, generator=draw)[: int(counts[feature])]
        rows[starts[feature] : starts[feature + 1]] = drawn.to(device)
    while True:
        keys, by_token = (rows * n_features + features).sort()
        twice = by_token[1:][keys[1:] == keys[:-1]]
        if not len(twice):
            return Codes(Pattern.from_flat(keys, n_tokens, n_features), codes.values[order[by_token]])
        rows[twice] = torch.randint(n_tokens, (len(twice),), generator=draw).to(device)


def _on_levels(values: Tensor, step: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The level below each value and how much of the way to the next it has come."""
    place = values / step
    level = place.long().clamp(max=levels - 1)
    return level, (place - level).clamp(max=1)


Levels = tuple[Tensor, Tensor]


def _joint(left_rows: Tensor, left: Levels, right_rows: Tensor, right: Levels, n_tokens: int) -> Tensor:
    """The joint distribution [level, level] of two features' strengths; left_rows ascend."""
    side = PAIR_LEVELS + 1
    counts = left[1].new_zeros(side * side)
    at = torch.searchsorted(left_rows, right_rows).clamp(max=max(len(left_rows) - 1, 0))
    met = left_rows[at] == right_rows if len(left_rows) else torch.zeros_like(right_rows, dtype=torch.bool)
    alone = torch.ones_like(left_rows, dtype=torch.bool)
    alone[at[met]] = False
    for a, of_a in _ends(left):
        counts.index_add_(0, a[alone] * side, of_a[alone])
        for b, of_b in _ends(right):
            counts.index_add_(0, a[at[met]] * side + b[met], of_a[at[met]] * of_b[met])
    for b, of_b in _ends(right):
        counts.index_add_(0, b[~met], of_b[~met])
    counts[0] += n_tokens - len(right_rows) - int(alone.sum())
    return counts.view(side, side) / n_tokens


def _ends(levels: Levels) -> tuple[Levels, Levels]:
    level, share = levels
    return (level, 1 - share), (level + 1, share)


def _joint_bits(joint: Tensor, left: Tensor, right: Tensor, bins: int, n_tokens: int) -> Float[Tensor, "drawn neuron"]:
    """KL of every neuron's sum, from joint distributions and what a level of each feature adds to each neuron."""
    independent = joint[0].sum(1, keepdim=True) * joint[0].sum(0)
    laws = torch.cat([joint, independent[None]]).flatten(1).T
    used = (laws > 0).any(1)
    levels = torch.arange(PAIR_LEVELS + 1, device=joint.device)
    a, b = (grid.flatten()[used] for grid in torch.meshgrid(levels, levels, indexing="ij"))
    laws = laws[used]
    found = []
    height = max(1, HELD // max(1, laws.numel()))
    for x, y in zip(left.split(height), right.split(height), strict=True):
        low = PAIR_LEVELS * (x.clamp(max=0) + y.clamp(max=0))
        width = PAIR_LEVELS * (x.abs() + y.abs()) / (bins - 1)
        width = torch.where(width > 0, width, 1)
        place = ((x[:, None] * a + y[:, None] * b - low[:, None]) / width[:, None]).clamp(0, bins - 1)
        cell = place.long().clamp(max=bins - 2)
        share = (place - cell)[..., None]
        at = torch.arange(len(x), device=x.device)[:, None] * bins + cell
        binned = laws.new_zeros(len(x) * bins, laws.shape[1])
        binned.index_add_(0, at.flatten(), (laws * (1 - share)).flatten(0, 1))
        binned.index_add_(0, at.flatten() + 1, (laws * share).flatten(0, 1))
        split = binned.view(len(x), bins, -1).permute(2, 0, 1)
        found.append(_bits(split[:-1], split[-1], n_tokens))
    return torch.cat(found, 1)


def _bits(actual: Tensor, independent: Tensor, n_tokens: int) -> Tensor:
    """KL divergence along the last axis, in bits."""
    smoothed = (n_tokens * independent + 1 / independent.shape[-1]) / (n_tokens + 1)
    nats = (torch.xlogy(actual, actual) - torch.xlogy(actual, smoothed)).sum(-1)
    return nats.clamp(min=0) / math.log(2)


def _against_shuffles(kl: Float[Tensor, "drawn item"]) -> Divergence:
    return Divergence(kl[0], kl[1:].mean(0), kl[1:].std(0))


def _check(codes: Codes, bins: int, shuffles: int) -> None:
    if not codes.pattern.n_rows:
        raise MismatchError("codes: no tokens, so features have no distribution; give at least one")
    check_features(codes.values)
    if bins < 16:
        raise CrossproofError(f"bins: {bins} are too few to hold a distribution; take at least 16")
    if shuffles < 2:
        raise CrossproofError(f"shuffles: a standard deviation takes at least 2, not {shuffles}")
