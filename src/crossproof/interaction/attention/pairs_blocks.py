"""The query × key table without rotary positions: no work for each pair of positions and pair of features.

There c_ij(t,s) = f_i(t) B_ij f_j(s), so that I[i→j](t) = |B_ij| f_i(t) reach_t Std_{A_t}(f_j), and the sum over queries
is |B| ∘ N with N_ij = Σ_t f_i(t) reach_t Std_{A_t}(f_j): for each head, two products of sparse codes with a pattern
make the standard deviations, and one more makes N. Texts of like length are padded to a block and go through together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from crossproof.codes import Codes, Pattern
from crossproof.interaction.attention.heads import Heads, Passage
from crossproof.interaction.attention.reach import ELEMENTS, FLAT, reach_of

POSITIONS = 2048
"""In a block."""


class TextSums:
    """Sums over queries for one layer, in float64, in the making."""

    def __init__(self, heads: Heads) -> None:
        device, size = heads.directions.device, (heads.n_heads, heads.n_features)
        self.total = torch.zeros(*size, heads.n_features, dtype=torch.float64, device=device)
        self.background = torch.zeros(*size, dtype=torch.float64, device=device)
        self.written = torch.zeros(heads.n_heads, dtype=torch.float64, device=device)
        self.by_text: list[Float64[Tensor, "text head"]] = []


@dataclass(frozen=True, eq=False)
class Rows:
    """A sparse matrix by its rows."""

    starts: Int[Tensor, "rows_and_one"]
    columns: Int[Tensor, "entry"]

    def product(
        self,
        values: Float[Tensor, "entry"],
        right: Float[Tensor, "column out"],
        out: Float[Tensor, "row out"],
        beta: int,
    ) -> None:
        """out = beta out + matrix @ right, with these values of its entries."""
        if right.is_cuda or torch.backends.mkl.is_available():
            size = (len(self.starts) - 1, len(right))
            matrix = torch.sparse_csr_tensor(self.starts, self.columns, values, size, check_invariants=False)
            torch.addmm(out, matrix, right, beta=beta, out=out)
            return
        new = F.embedding_bag(
            self.columns, right, self.starts, per_sample_weights=values, mode="sum", include_last_offset=True
        )
        out.mul_(beta).add_(new)


def starts_of(counts: Int[Tensor, " row"]) -> Int[Tensor, "rows_and_one"]:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])


@dataclass(frozen=True, eq=False)
class Block:
    """Some texts side by side, padded at their ends to as many positions as the longest."""

    passage: Passage
    """All texts in one, each with its padding, which has no features."""
    described: Bool[Tensor, "text pos"]
    """Those whose queries count: no padding, nothing given."""
    features: Int[Tensor, " entry"]
    """Of the codes' entries, counted among the features of the group of texts."""
    n_features: int
    """In that group."""

    @classmethod
    def of(cls, passages: Sequence[Passage], among: Int[Tensor, " feature"]) -> Block:
        positions, device = max(p.positions for p in passages), among.device
        counts = torch.zeros(len(passages), positions, dtype=torch.long, device=device)
        described = torch.zeros(len(passages), positions, dtype=torch.bool, device=device)
        for text, passage in enumerate(passages):
            counts[text, : passage.positions] = passage.codes.pattern.row_starts.diff()
            described[text, : passage.positions] = passage.described
        features = torch.cat([p.codes.pattern.features for p in passages])
        pattern = Pattern(features, starts_of(counts.flatten()), passages[0].codes.pattern.n_features)
        codes = Codes(pattern, torch.cat([p.codes.values for p in passages]))
        given = torch.cat([text * positions + p.given for text, p in enumerate(passages)])
        inputs = [torch.cat(layer) for layer in zip(*(p.inputs for p in passages), strict=True)]
        return cls(Passage(codes, given, inputs), described, torch.searchsorted(among, features), len(among))

    @property
    def rows(self) -> Int[Tensor, " entry"]:
        return self.passage.codes.pattern.rows

    @cached_property
    def in_text(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " entry"], Rows]:
        """The (feature, text) pairs that occur, numbered feature by feature; the order that sorts the entries so; and
        the matrix that adds up positions to those pairs."""
        n_texts, positions = self.described.shape
        keys, order = (self.features * n_texts + self.rows // positions).sort(stable=True)
        pairs, counts = keys.unique_consecutive(return_counts=True)
        return pairs, order, Rows(starts_of(counts), self.rows[order])

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, " entry"], Rows]:
        order = torch.argsort(self.features, stable=True)
        counts = torch.bincount(self.features, minlength=self.n_features)
        return order, Rows(starts_of(counts), self.rows[order])

    @cached_property
    def courses(self) -> Float[Tensor, "pair pos"]:
        """The strength of each pair's feature along its text."""
        pairs, order, matrix = self.in_text
        of_entry = torch.repeat_interleave(matrix.starts.diff())
        courses = self.passage.codes.values.new_zeros(len(pairs), self.described.shape[1])
        courses[of_entry, matrix.columns % courses.shape[1]] = self.passage.codes.values[order]
        return courses

    def deviations(self, pattern: Float[Tensor, "text pos key"]) -> Float[Tensor, "pair pos"]:
        """Std_{A_t}(f_j) for one head, at each position t of a text and for each feature j in it."""
        pairs, order, matrix = self.in_text
        n_texts, positions = self.described.shape
        strengths, seen_from = self.passage.codes.values[order], pattern.mT.reshape(-1, positions)
        mean, squares = strengths.new_empty(2, len(pairs), positions)
        matrix.product(strengths, seen_from, mean, 0)
        matrix.product(strengths.square(), seen_from, squares, 0)
        variance = torch.addcmul(squares, mean, mean, value=-1)
        # rounding would make something of a feature that is equally strong wherever the head looks
        pair, at = (variance < squares.mul_(FLAT)).nonzero(as_tuple=True)
        text = pairs[pair] % n_texts
        counted = self.described[text, at]
        pair, at, text = pair[counted], at[counted], text[counted]
        for some in torch.arange(len(pair), device=pair.device).split(max(1, ELEMENTS // positions)):
            p, t = pair[some], at[some]
            far = (self.courses[p] - mean[p, t][:, None]).square_()
            variance[p, t] = far.mul_(pattern[text[some], t]).sum(1)
        return variance.clamp_(min=0).sqrt_()


class _Tables:
    """Sums for one layer over a group of texts, among the features that occur there."""

    def __init__(self, heads: Heads, features: Int[Tensor, " feature"]) -> None:
        self.heads, self.features = heads, features
        keys = heads.keys[:, features]
        self.coupling = (heads.queries[:, features] @ keys.mT).abs_()
        attention = heads.attention
        background = attention.scale * (heads.bias @ attention.W_Q + attention.b_Q)
        self.from_background = (keys @ background[:, :, None]).squeeze(2).abs_()
        self.sums = torch.zeros_like(self.coupling)

    def add(self, block: Block, layer: int, to: TextSums) -> Float64[Tensor, "text head"]:
        """The sum over pairs for each text of the block, which is added to the tables."""
        n_texts, positions = block.described.shape
        x = self.heads.input(block.passage, layer).unflatten(0, (n_texts, positions))
        seen = reach_of(self.heads, x, block.described)
        counted = block.described[:, None]
        to.written += seen.written.masked_fill(~counted, 0).double().sum((0, 2))
        reach = seen.reach.masked_fill(~counted, 0)
        pairs, by_feature = block.in_text[0], block.by_feature
        strengths = block.passage.codes.values
        by_text = x.new_zeros(n_texts, self.heads.n_heads, dtype=torch.float64)
        by_key = x.new_zeros(block.n_features * n_texts, positions)
        deviations = x.new_empty(n_texts * positions, block.n_features)
        for head in range(self.heads.n_heads if len(pairs) else 0):
            by_key.index_copy_(0, pairs, block.deviations(seen.pattern[:, head]))
            deviations.copy_(by_key.view(block.n_features, -1).T)
            at_row = reach[:, head].flatten()
            weights = strengths * at_row[block.rows]
            by_feature[1].product(weights[by_feature[0]], deviations, self.sums[head], 1)
            to.background[head, self.features] += (at_row @ deviations * self.from_background[head]).double()
            per_key = F.embedding_bag(
                block.features, self.coupling[head], block.passage.codes.pattern.row_starts,
                per_sample_weights=weights, mode="sum", include_last_offset=True,
            )  # fmt: skip
            by_text[:, head] = per_key.mul_(deviations).sum(1).view(n_texts, -1).double().sum(1)
        return by_text

    def flush(self, to: TextSums) -> None:
        for head, table in enumerate(self.sums.mul_(self.coupling)):
            to.total[head].index_put_((self.features[:, None], self.features), table.double(), accumulate=True)


def add_texts(passages: Sequence[Passage], layers: Mapping[int, Heads], sums: Sequence[TextSums]) -> None:
    """Add a group of texts to the sums of these layers, each under its number. Their strengths must not be 0.

    Sums over the group are kept in the dtype of the directions, and added to those over the corpus in float64.
    """
    features = torch.cat([p.codes.pattern.features for p in passages]).unique()
    tables = {number: _Tables(heads, features) for number, heads in layers.items()}
    by_text = {n: sums[n].written.new_zeros(len(passages), heads.n_heads) for n, heads in layers.items()}
    for texts in _blocks([p.positions for p in passages]):
        block = Block.of([passages[text] for text in texts], features)
        for number, table in tables.items():
            by_text[number][texts] = table.add(block, number, sums[number])
    for number, table in tables.items():
        table.flush(sums[number])
        sums[number].by_text.append(by_text[number])


def _blocks(positions: Sequence[int]) -> Iterator[list[int]]:
    """Texts of like length together."""
    block: list[int] = []
    for text in sorted(range(len(positions)), key=lambda text: positions[text]):
        if block and (len(block) + 1) * positions[text] > POSITIONS:
            yield block
            block = []
        block.append(text)
    if block:
        yield block
