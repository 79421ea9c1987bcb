"""Which features fire together more, or less, often than chance says.

Chance is the *permutation null*: every feature keeps its number of tokens, and each permutes them on its own. Then the
number of tokens where features i and j are both active is hypergeometric, so the null needs no sampling: its mean,
its variance and both its tails are in closed form. Every pair of features that fire at all is tested, two-sided, those
that never fire together too, and Benjamini–Hochberg over all these pairs says which are marked.

Tokens of one text, or at one position, are not exchangeable with others. With `groups`, features permute their tokens
within each group only; counts are then sums of independent hypergeometric ones. Mean and variance stay exact, and the
tails are bounded by a binomial's (Hoeffding 1956: such a count has the law of a sum of independent yes-or-noes, and of
all those with as many terms and the same mean the binomial has the heaviest tails, beyond one from the mean). Such
p-values are never too small.

Sums over tokens for all pairs of features come in blocks of rows of the feature × feature matrix (`pair_sums`), which
is never built as a whole.
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
from crossproof.progress import progress

BLOCK = 2**22
"""Pairs held at a time, of features or of entries."""
STEPS = 16
"""Terms of a tail that are added before looking which tails have ended."""


@dataclass(frozen=True, eq=False)
class CoOccurrence:
    """Pairs of features i < j: all that fire together, and those that never do where chance says they should."""

    n_tokens: int
    firing: Int[Tensor, " feature"]
    i: Int[Tensor, " pair"]
    j: Int[Tensor, " pair"]
    count: Int[Tensor, " pair"]
    """On how many tokens both are active."""
    expected: Float[Tensor, " pair"]
    """On how many they would be by chance."""
    z: Float[Tensor, " pair"]
    """How many of the null's standard deviations the count lies above that; 0 where chance leaves no freedom."""
    log_p: Float[Tensor, " pair"]
    """Natural logarithm of the two-sided p-value: p itself is often too small for a float."""
    marked: Int[Tensor, " pair"]
    """1 above chance, −1 below, 0 for neither, at a false discovery rate of `level`."""
    n_tests: int
    level: float

    def positions(self, i: Int[Tensor, " asked"], j: Int[Tensor, " asked"]) -> Int[Tensor, " asked"]:
        """Where the pairs (i, j) stand in the lists, `len(self.i)` for those that do not; the order of i and j is free.

        Every pair that fires together is listed.
        """
        n_features = len(self.firing)
        asked = torch.minimum(i, j) * n_features + torch.maximum(i, j)
        keys, order = torch.cat([self.i * n_features + self.j, asked.new_full((1,), n_features**2)]).sort()
        place = torch.searchsorted(keys, asked)
        return torch.where(keys[place] == asked, order[place], len(self.i))

    @property
    def pmi(self) -> Float[Tensor, " pair"]:
        """Pointwise mutual information in bits, log2 of the lift count / expected."""
        return (self.count / self.expected).log2()

    def __repr__(self) -> str:
        above, below = (int((self.marked == sign).sum()) for sign in (1, -1))
        return (
            f"CoOccurrence({self.n_tokens:,} tokens, {int((self.firing > 0).sum()):,} alive features, "
            f"{self.n_tests:,} pairs: {int((self.count > 0).sum()):,} fire together, {above:,} above and {below:,} "
            f"below chance at a false discovery rate of {self.level:g})"
        )


def cooccurrence(codes: Codes, groups: Int[Tensor, " row"] | None = None, level: float = 0.05) -> CoOccurrence:
    """Test every pair of features that fire. `groups` names the text, or the position, of each token of the codes."""
    n_tokens, n_features = codes.pattern.n_rows, codes.pattern.n_features
    if not 0 < level < 1:
        raise CrossproofError(f"level: a false discovery rate lies between 0 and 1, not at {level:g}")
    if groups is not None and groups.shape != (n_tokens,):
        raise MismatchError(f"groups: expected one for each of the {n_tokens} tokens, not {tuple(groups.shape)}")
    check_features(codes.values)
    active = firing(codes)
    null = _Null(active, groups)
    found: list[tuple[Tensor, ...]] = []
    with progress("co-occurrence", n_features, "features") as bar:
        for start, counts in pair_sums(active):
            found.append(_tested(null, start, counts, level))
            bar(len(counts))
    i, j, count, expected, z, log_p = (torch.cat(column) for column in zip(*found, strict=True))
    alive = int((null.firing > 0).sum())
    n_tests = alive * (alive - 1) // 2
    discovered = log_p <= _benjamini_hochberg(log_p, n_tests, level)
    marked = torch.where(discovered, torch.where(count > expected, 1, -1), 0)
    return CoOccurrence(n_tokens, null.firing, i, j, count, expected, z, log_p, marked, n_tests, level)


def firing(codes: Codes) -> Codes:
    """1 where a feature is active; entries of strength 0 are left out."""
    active = codes.active()
    return Codes(active.pattern, torch.ones_like(active.values, dtype=torch.float64))


def pair_sums(codes: Codes) -> Iterator[tuple[int, Float[Tensor, "block feature"]]]:
    """Σ over tokens of value_i · value_j for j > i, 0 elsewhere, for blocks of features i and the first of each.

    At least one block, which is empty where there are no features.
    """
    pattern, values = codes.pattern, codes.values.detach().double()
    n_features, features = pattern.n_features, pattern.features
    order, starts = pattern.by_feature
    first_of: list[int] = starts.tolist()
    # within a row features ascend, so the partners j > i of an entry are those that follow it
    partners = pattern.row_starts[pattern.rows + 1] - torch.arange(pattern.n_entries, device=features.device) - 1
    height = max(1, BLOCK // max(1, n_features))
    for start in range(0, max(1, n_features), height):
        end = min(start + height, n_features)
        sums = values.new_zeros((end - start) * n_features)
        mine = order[first_of[start] : first_of[end]]
        run = partners[mine].cumsum(0) // BLOCK  # runs of entries with about a block of partners in all
        for some in mine.split(torch.unique_consecutive(run, return_counts=True)[1].tolist()):
            n_partners = partners[some]
            left = torch.repeat_interleave(some, n_partners)
            before = torch.repeat_interleave(n_partners.cumsum(0) - n_partners, n_partners)
            right = left + 1 + torch.arange(len(left), device=left.device) - before
            keys = (features[left] - start) * n_features + features[right]
            sums.scatter_add_(0, keys, values[left] * values[right])
        yield start, sums.view(end - start, n_features)


class _Null:
    """The law of the counts when every feature permutes its tokens, within groups if there are any."""

    def __init__(self, active: Codes, groups: Tensor | None) -> None:
        pattern = active.pattern
        self.n_tokens, self.firing = pattern.n_rows, active.firing_counts()
        self.grouped = groups is not None
        if groups is None:
            groups = pattern.features.new_zeros(pattern.n_rows)
        _, group, tokens_of = torch.unique(groups, return_inverse=True, return_counts=True)
        n_groups = max(1, len(tokens_of))  # none where there are no tokens
        keys, counts = torch.unique(pattern.features * n_groups + group[pattern.rows], return_counts=True)
        firing_in = Pattern.from_flat(keys, pattern.n_features, n_groups)
        size = tokens_of[firing_in.features].double()
        # E count = Σ_g n_i n_j / T and Var count = Σ_g n_i (T − n_i) n_j (T − n_j) / (T² (T − 1)), of each group
        self.mean = Codes(firing_in, counts / size.sqrt())
        self.variance = Codes(firing_in, counts * (size - counts) / (size * (size - 1).clamp(min=1).sqrt()))
        self.log_factorial = torch.lgamma(torch.arange(1, self.n_tokens + 2, device=groups.device).double())

    def moments(self, start: int, end: int) -> tuple[Tensor, Tensor]:
        """Mean and variance of the counts of some features with all."""
        return _rows_with_all(self.mean, start, end), _rows_with_all(self.variance, start, end)

    def log_never(self, start: int, end: int, expected: Tensor) -> Float[Tensor, "block feature"]:
        """log of the probability that some features never fire together with each of all."""
        a, b, T = self.firing[start:end, None], self.firing, self.n_tokens
        if not self.grouped:
            log = self.log_factorial  # where n_i + n_j > T they must meet; that they did decides, not this
            return log[T - a] + log[T - b] - log[T] - log[(T - a - b).clamp(min=0)]
        n = torch.minimum(a, b).clamp(min=1)
        return torch.where(expected >= 1, n * torch.log1p(-(expected / n).clamp(max=1)), 0.0)

    def log_side(self, i: Tensor, j: Tensor, count: Tensor, expected: Tensor) -> Float[Tensor, " pair"]:
        """log of the probability of a count as far from the mean as this one, or farther, on the same side.

        For counts below the mean, what is counted is the tokens of i (those that may meet) without j.
        """
        a, b, T = self.firing[i].double(), self.firing[j].double(), self.n_tokens
        above = count >= expected
        if not self.grouped:
            b, k = torch.where(above, b, T - b), torch.where(above, count, a - count)
            log_pmf = self._log_choose(a, k) + self._log_choose(T - a, b - k) - self._log_choose(a.new_tensor(T), b)
            return log_pmf + _log_tail([a - k, b - k], [k + 1, T - a - b + k + 1], torch.ones_like(k))
        n = torch.minimum(a, b)
        chance, k = (expected / n).clamp(max=1), torch.where(above, count, n - count)
        chance = torch.where(above, chance, 1 - chance)
        log_pmf = self._log_choose(n, k) + torch.xlogy(k, chance) + torch.xlogy(n - k, 1 - chance)
        bound = log_pmf + _log_tail([n - k], [k + 1], chance / (1 - chance))
        # within one of the mean the bound does not hold, nor would it tell anything
        return torch.where((count - expected).abs() >= 1, bound, 0.0)

    def _log_choose(self, n: Tensor, k: Tensor) -> Tensor:
        log = self.log_factorial
        return log[n.long()] - log[k.long()] - log[(n - k).long()]


def _rows_with_all(half: Codes, start: int, end: int) -> Float[Tensor, "block feature"]:
    """Rows start … end of S Sᵀ for the sparse features × groups matrix S."""
    pattern, n_groups = half.pattern, half.pattern.n_features
    columns = [half.values.new_zeros(pattern.n_rows, 0)]
    width = max(1, BLOCK // n_groups)
    for first in range(start, end, width):
        last = min(first + width, end)
        mine = slice(int(pattern.row_starts[first]), int(pattern.row_starts[last]))
        some = half.values.new_zeros(n_groups, last - first)
        some[pattern.features[mine], pattern.rows[mine] - first] = half.values[mine]
        columns.append(decode(half, some, None))
    return torch.cat(columns, dim=1).T


def _tested(null: _Null, start: int, counts: Tensor, level: float) -> tuple[Tensor, ...]:
    """i, j, count, expected, z and log p of a block's pairs that may be of interest."""
    end = start + len(counts)
    expected, variance = null.moments(start, end)
    alive = null.firing > 0
    # most pairs of a large dictionary never fire together, and chance does not say that they should
    of_interest = (counts > 0) | (null.log_never(start, end, expected) <= math.log(level / 2))
    row, j = torch.nonzero(of_interest.triu_(start + 1) & alive[start:end, None] & alive, as_tuple=True)
    i, count, expected, variance = row + start, counts[row, j], expected[row, j], variance[row, j]
    log_p = (null.log_side(i, j, count, expected) + math.log(2)).clamp(max=0)
    z = torch.where(variance > 0, (count - expected) / variance.sqrt(), 0.0)
    return i, j, count.long(), expected, z, log_p


def _log_tail(falling: list[Tensor], rising: list[Tensor], factor: Tensor) -> Float[Tensor, " pair"]:
    """log of (pmf(k) + pmf(k + 1) + …) / pmf(k), where pmf(k + 1) / pmf(k) is factor · Π falling / Π rising at k.

    The former fall by one from each k to the next, and the latter rise. k is not below the mean, so that terms fall.
    """
    total, at = torch.ones_like(factor), torch.arange(len(factor), device=factor.device)
    sums, term = total.clone(), total.clone()
    while len(at):
        for _ in range(STEPS):
            term *= factor
            for numerator, denominator in zip(falling, rising, strict=True):
                term *= numerator / denominator
                numerator -= 1
                denominator += 1
            sums += term
        total[at] = sums
        on = term > 1e-17 * sums
        at, sums, term, factor = at[on], sums[on], term[on], factor[on]
        falling, rising = [x[on] for x in falling], [x[on] for x in rising]
    return total.log()


def _benjamini_hochberg(log_p: Float[Tensor, " listed"], n_tests: int, level: float) -> float:
    """The largest log p that is still a discovery; tests that are not listed have p above the level."""
    ordered = log_p.sort().values
    rank = torch.arange(1, len(ordered) + 1, device=log_p.device)
    discovered = ordered[ordered <= (rank * (level / max(n_tests, 1))).log()]
    return float(discovered[-1]) if len(discovered) else -math.inf
