"""Query-key tables by hand, pair by pair and distance by distance, and what hypothesis draws them from."""

from __future__ import annotations

import cmath

import torch
from hypothesis import strategies as st
from torch import Tensor

from crossproof.interaction.attention.heads import Heads
from crossproof.interaction.attention.tables import At, CrossPosition, QueryKey
from tests.interaction.attention.toys import attentions, make_heads

FEATURES = 4
SIZES = st.sampled_from([1e-8, 1.0, 1e8])
WEIGHTS = st.lists(st.integers(0, 3), min_size=FEATURES, max_size=FEATURES).filter(any)
ATS = st.one_of(
    st.integers(-3, 2000),
    st.lists(st.floats(0, 2), min_size=1, max_size=5).filter(any).map(lambda w: torch.tensor(w, dtype=torch.float64)),
)
LAYERS = st.builds(make_heads, attentions(), st.integers(0, 10**6), st.just(FEATURES))


def close(found: Tensor, expected: Tensor, size: float | None = None, tolerance: float = 1e-10) -> None:
    largest = float(expected.abs().max()) if expected.numel() and size is None else size or 0.0
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


def by_hand(heads: Heads, head: int, distance: float) -> Tensor:
    """One head's table: every pair of coordinates of every query turned by an exact angle."""
    unit, rotary = heads.attention, heads.attention.rotary
    q = (heads.directions @ unit.W_Q[head] * unit.scale).clone()
    k = heads.directions @ unit.W_K[head // (len(unit.W_Q) // len(unit.W_K))]
    if rotary is not None:
        half = rotary.dim // 2
        for m, frequency in enumerate(rotary.inverse_frequencies.tolist()):
            a, b = (2 * m, 2 * m + 1) if rotary.adjacent else (m, m + half)
            for i in range(len(q)):
                turned = complex(q[i, a], q[i, b]) * cmath.exp(1j * frequency * distance)
                q[i, a], q[i, b] = turned.real, turned.imag
    return q @ k.T


def averaged(heads: Heads, head: int, at: At) -> Tensor:
    if isinstance(at, int):
        return by_hand(heads, head, at)
    return sum(w * by_hand(heads, head, d) for d, w in enumerate((at / at.sum()).tolist()))  # type: ignore[return-value]


def centred_by_hand(B: Tensor, p: Tensor) -> Tensor:
    out = torch.empty_like(B)
    for i in range(len(B)):
        for j in range(len(B)):
            column = sum(p[a] * B[a, j] for a in range(len(B)))
            row = sum(p[b] * B[i, b] for b in range(len(B)))
            both = sum(p[a] * p[b] * B[a, b] for a in range(len(B)) for b in range(len(B)))
            out[i, j] = B[i, j] - column - row + both
    return out


def size_of(found: QueryKey, head: int) -> float:
    return float(found.queries[head].norm(dim=1).max() * found.keys[head].norm(dim=1).max())


def shares(weights: list[int]) -> Tensor:
    p = torch.tensor(weights, dtype=torch.float64)
    return p / p.sum()


def cosines(found: CrossPosition, head: int, side: str, at: At) -> Tensor:
    """From whole tables, distance by distance."""
    w = {at: 1.0} if isinstance(at, int) else dict(enumerate((at / at.sum()).tolist()))
    rows = []
    for distance, share in w.items():
        table = found.table(head, distance)
        p, its = (found.key_weights, table) if side == "query" else (found.query_weights, table.T)
        rows.append(its * (share * p).sqrt())
    side_by_side = torch.cat(rows, dim=1)
    out = torch.zeros(*[len(side_by_side)] * 2, dtype=torch.float64)
    for i, a in enumerate(side_by_side):
        for j, b in enumerate(side_by_side):
            length = float(a.norm() * b.norm())
            out[i, j] = float(a @ b) / length if length > 1e-12 * size_of(found, head) ** 2 else 0.0
    return out
