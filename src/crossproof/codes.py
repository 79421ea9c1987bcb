"""Sparse codes and the three sparse products that make a training step cost little more than its encoder product.

A batch of codes is a sparse tokens × features matrix with K entries a row. Decoding, the decoder's gradient and the
encoder's gradient are all products of such a matrix with a dense one, so their cost grows with K and not with the
number of features:

    reconstruction       codes            [token, feature] @ W_dec      [feature, site*width]
    gradient of W_dec    codes, transposed [feature, token] @ d loss / d reconstruction
    gradient of W_enc    d loss / d codes, transposed       @ activations

Only the encoder product x @ W_encᵀ has to be dense, because selection looks at every feature.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import MismatchError, NonFinite

# Torch says so once per process, of every sparse CSR tensor; the products used here are tested against dense ones.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta", category=UserWarning)

DENSE_ABOVE = 0.15
"""Above this fraction of non-zeros a dense product is faster (benchmarks/training_step.py measures it)."""


@dataclass(frozen=True)
class Pattern:
    """Where a tokens × features matrix has entries: row by row, features ascending within a row."""

    features: Int[Tensor, "entry"]
    row_starts: Int[Tensor, "rows_and_one"]
    n_features: int

    @classmethod
    def from_flat(cls, flat: Int[Tensor, "entry"], n_rows: int, n_features: int) -> Pattern:
        """From ascending indices into the flattened tokens × features matrix."""
        boundaries = torch.arange(n_rows + 1, device=flat.device) * n_features
        return cls(flat % n_features, torch.searchsorted(flat, boundaries), n_features)

    @property
    def n_rows(self) -> int:
        return self.row_starts.shape[0] - 1

    @property
    def n_entries(self) -> int:
        return self.features.shape[0]

    @property
    def is_dense(self) -> bool:
        return self.n_entries > DENSE_ABOVE * self.n_rows * self.n_features

    @cached_property
    def rows(self) -> Int[Tensor, "entry"]:
        counts = self.row_starts.diff()
        return torch.repeat_interleave(counts, output_size=self.n_entries)

    @cached_property
    def by_feature(self) -> tuple[Int[Tensor, "entry"], Int[Tensor, "features_and_one"]]:
        """The order that sorts entries by feature, and where each feature's entries start."""
        order = torch.argsort(self.features, stable=True)
        counts = torch.bincount(self.features, minlength=self.n_features)
        starts = torch.zeros(self.n_features + 1, dtype=torch.long, device=self.features.device)
        torch.cumsum(counts, 0, out=starts[1:])
        return order, starts

    def dense(self, values: Float[Tensor, "entry"]) -> Float[Tensor, "row feature"]:
        matrix = values.new_zeros(self.n_rows, self.n_features)
        return matrix.index_put((self.rows, self.features), values)


@dataclass(frozen=True)
class Codes:
    """The features of a batch of tokens: which are active and how strongly. Values may carry gradients."""

    pattern: Pattern
    values: Float[Tensor, "entry"]

    def __post_init__(self) -> None:
        if self.values.shape != self.pattern.features.shape:
            raise MismatchError(
                f"values: {tuple(self.values.shape)} for the {self.pattern.n_entries} entries of the pattern"
            )

    @classmethod
    def from_dense(cls, features: Float[Tensor, "..."]) -> Codes:
        """From anybody's tokens × features matrix; its gradient flows through the values."""
        if features.dim() != 2:
            raise MismatchError(f"features: expected the axes [token, feature], not the shape {tuple(features.shape)}")
        check_features(features)
        n_rows, n_features = features.shape
        flat = torch.nonzero(features.detach().flatten()).squeeze(1)
        return cls(Pattern.from_flat(flat, n_rows, n_features), features.flatten()[flat])

    @property
    def l0(self) -> Float[Tensor, ""]:
        """Mean number of active features per token."""
        return (self.values > 0).sum() / max(self.pattern.n_rows, 1)

    def dense(self) -> Float[Tensor, "row feature"]:
        return self.pattern.dense(self.values)

    def rows(self, start: int, stop: int) -> Codes:
        """Some of the tokens, one after the other."""
        starts = self.pattern.row_starts[start : stop + 1]
        entries = slice(int(starts[0]), int(starts[-1]))
        pattern = Pattern(self.pattern.features[entries], starts - starts[0], self.pattern.n_features)
        return Codes(pattern, self.values[entries])

    def active(self) -> Codes:
        """Without the entries of strength 0, such as thresholds leave where they have gradients."""
        on = self.values > 0
        if bool(on.all()):
            return self
        before = torch.zeros(self.pattern.n_entries + 1, dtype=torch.long, device=on.device)
        torch.cumsum(on, 0, out=before[1:])
        kept = Pattern(self.pattern.features[on], before[self.pattern.row_starts], self.pattern.n_features)
        return Codes(kept, self.values[on])

    def firing_counts(self) -> Int[Tensor, "feature"]:
        """On how many tokens each feature is active."""
        return torch.bincount(self.pattern.features[self.values > 0], minlength=self.pattern.n_features)


def as_codes(features: Codes | Float[Tensor, "..."]) -> Codes:
    """Sparse codes, or anybody's tokens × features matrix, refused where they cannot be features."""
    if not isinstance(features, Codes):
        return Codes.from_dense(features)
    check_features(features.values)
    return features


def check_features(values: Float[Tensor, "*any"]) -> None:
    """Refuse what no feature can be: negative, or not a number."""
    values = values.detach()
    if not bool(torch.isfinite(values).all()):
        raise NonFinite("features: some are not finite")
    if bool((values < 0).any()):
        raise MismatchError(
            f"features: some are negative (the least is {float(values.min()):.3g}); a feature is active, with a "
            "positive strength, or 0. Apply the dictionary's ReLU first"
        )


def encoded_values(
    x: Float[Tensor, "row inputs"],
    W_enc: Float[Tensor, "feature inputs"],
    b_enc: Float[Tensor, "feature"],
    pre: Float[Tensor, "row feature"],
    pattern: Pattern,
) -> Float[Tensor, "entry"]:
    """The pre-activations `pre` = x @ W_encᵀ + b_enc at the entries of the pattern, with gradients to all three."""
    entries: Tensor = _EncodedValues.apply(x, W_enc, b_enc, pre.detach(), pattern)  # type: ignore[no-untyped-call]
    return entries


def decode(
    codes: Codes, W_dec: Float[Tensor, "feature outputs"], b_dec: Float[Tensor, "outputs"] | None
) -> Float[Tensor, "row outputs"]:
    """codes @ W_dec + b_dec, with gradients to the codes' values, W_dec and b_dec."""
    return decode_and_read(codes, W_dec, b_dec, ())[0]


def decode_and_read(
    codes: Codes,
    W_dec: Float[Tensor, "feature outputs"],
    b_dec: Float[Tensor, "outputs"] | None,
    columns: Sequence[slice],
) -> tuple[Float[Tensor, "row outputs"], tuple[Float[Tensor, "feature read"], ...]]:
    """`decode`, and some columns of W_dec for other uses, whose gradients join that of the product.

    Plain slices would each have a gradient as large as W_dec, mostly zeros, and adding those up takes longer than the
    product that they are added to.
    """
    pattern = codes.pattern
    if pattern.is_dense:
        dense = codes.dense()
        product = dense @ W_dec if b_dec is None else torch.addmm(b_dec, dense, W_dec)
        return product, tuple(W_dec[:, some] for some in columns)
    values = codes.values.to(W_dec.dtype)
    out = F.embedding_bag(
        pattern.features,
        W_dec.detach(),
        pattern.row_starts,
        per_sample_weights=values,
        mode="sum",
        include_last_offset=True,
    )
    if b_dec is not None:
        out += b_dec  # in place: a copy of a whole batch costs more than the lookup that made it
    with_gradient, *read = _AddDecoderGradient.apply(out, W_dec, values.detach(), pattern, columns)  # type: ignore[no-untyped-call]
    return with_gradient, tuple(read)


class _EncodedValues(torch.autograd.Function):
    """Gathers pre-activations; its backward never forms the dense tokens × features gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W_enc: Tensor, b_enc: Tensor, pre: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(x, W_enc)
        ctx.pattern = pattern
        return pre[pattern.rows, pattern.features].to(W_enc.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, W_enc = ctx.saved_tensors
        pattern: Pattern = ctx.pattern
        grad = grad.contiguous()
        to_x = to_W = to_b = None
        if ctx.needs_input_grad[0]:
            to_x = pattern.dense(grad) @ W_enc if pattern.is_dense else decode(Codes(pattern, grad), W_enc, None)
        if ctx.needs_input_grad[1]:
            to_W = _transposed_product(pattern, grad, x)
        if ctx.needs_input_grad[2]:
            to_b = torch.zeros_like(W_enc[:, 0]).index_add_(0, pattern.features, grad)
        return to_x, to_W, to_b, None, None


class _AddDecoderGradient(torch.autograd.Function):
    """The identity on a reconstruction, and columns of W_dec; its backward adds the gradient of W_dec.

    embedding_bag's own weight gradient is several times slower than the sparse product used here, so embedding_bag sees
    a detached W_dec and supplies the gradient of the values alone.
    """

    @staticmethod
    def forward(
        ctx: Any, out: Tensor, W_dec: Tensor, values: Tensor, pattern: Pattern, columns: Sequence[slice]
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(values)
        ctx.pattern, ctx.columns, ctx.outputs = pattern, columns, W_dec.shape[1]
        ctx.set_materialize_grads(False)
        return out.view_as(out), *(W_dec[:, some] for some in columns)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *of_read: Tensor | None) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        to_W = None
        if ctx.needs_input_grad[1]:
            if grad is None:  # the product was not used, what was read was
                to_W = values.new_zeros(ctx.pattern.n_features, ctx.outputs)
            else:
                to_W = _transposed_product(ctx.pattern, values, grad)
            for some, its in zip(ctx.columns, of_read, strict=True):
                if its is not None:
                    to_W[:, some] += its
        return grad, to_W, None, None, None


def _transposed_product(
    pattern: Pattern, values: Float[Tensor, "entry"], right: Float[Tensor, "row outputs"]
) -> Float[Tensor, "feature outputs"]:
    """Sᵀ @ right for the sparse tokens × features matrix S."""
    if pattern.is_dense:
        return pattern.dense(values).T @ right
    order, starts = pattern.by_feature
    rows, weights = pattern.rows[order], values[order]
    right = right.contiguous()
    if right.is_cuda or torch.backends.mkl.is_available():
        sparse = torch.sparse_csr_tensor(
            starts, rows, weights, (pattern.n_features, pattern.n_rows), check_invariants=False
        )
        out = right.new_empty(pattern.n_features, right.shape[1])
        # beta=0 ignores what is in `out`, so it need not be cleared
        return torch.addmm(out, sparse, right, beta=0, out=out)
    return F.embedding_bag(rows, right, starts, per_sample_weights=weights, mode="sum", include_last_offset=True)
