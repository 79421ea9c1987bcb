"""Which features are active together, against dense products, and whose pairs they are."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction import coactive, tally
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import chunks
from crossproof.interaction.pairs import directed, mass, ratio
from tests.interaction.test_pairs import random_plain


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 6), st.integers(1, 7), st.integers(0, 2**31), st.booleans())
def test_co_active_pairs_are_those_of_the_dense_product(n: int, features: int, seed: int, sparse: bool) -> None:
    """And a dictionary too large for dense tables gets the same ones."""
    active = torch.rand(n, features, generator=torch.Generator().manual_seed(seed)) < 0.5
    codes = Codes.from_dense(active.double())
    with pytest.MonkeyPatch.context() as patch:
        if sparse:
            patch.setattr(tally, "DENSE_KEYS", 0)
            patch.setattr(coactive, "DENSE_KEYS", 0)
            patch.setattr(tally, "_MERGE_AT_LEAST", 3)
            patch.setattr(chunks, "__defaults__", (8,))
        pairs = CoActive.of(codes)
        both = (active.T.long() @ active.long()).fill_diagonal_(0)
        i, j = both.nonzero(as_tuple=True)
        assert pairs.i.tolist() == i.tolist()
        assert pairs.j.tolist() == j.tolist()
        assert pairs.count.tolist() == both[i, j].tolist()
        assert pairs.firing.tolist() == active.sum(0).tolist()
        everywhere = pairs.positions(*torch.meshgrid(*[torch.arange(features)] * 2, indexing="ij"))
        expected = torch.full_like(both, len(pairs))
        expected[i, j] = torch.arange(len(i))
        assert everywhere.tolist() == expected.tolist()


def test_tally_counts_as_a_counter_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "_MERGE_AT_LEAST", 10)
    keys = torch.randint(0, 40, (100,), generator=torch.Generator().manual_seed(0))
    expected = sorted(Counter(keys.tolist()).items())
    for limit in (0, 40):
        monkeypatch.setattr(tally, "DENSE_KEYS", limit)
        counted = tally.Tally(40, torch.device("cpu"))
        for some in keys.split(7):
            counted.add(some)
        found, counts = counted.counts()
        assert list(zip(found.tolist(), counts.tolist(), strict=True)) == expected


def test_pairs_of_other_codes_of_the_same_size_are_refused() -> None:
    """Their interactions would be dropped in silence: of other features, or of these on other tokens."""
    strengths = torch.tensor([[1.0, 1, 0, 0], [0, 0, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    codes, unit = Codes.from_dense(strengths), random_plain(4)
    moved = strengths.clone()
    moved[:, 1] = strengths[[2, 1, 0], 1]  # as a shuffled control does: every feature as often, fewer pairs
    for other in (strengths.roll(1, 1) + torch.eye(3, 4), moved):
        for measure in (directed, ratio, mass):
            with pytest.raises(MismatchError, match=r"pairs: made from other codes.*CoActive\.of"):
                measure(codes, [unit], CoActive.of(Codes.from_dense(other)))
    renamed = CoActive.of(Codes.from_dense(torch.tensor([[1.0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]])))
    with pytest.raises(MismatchError, match="made from other codes"):  # as many meetings, of other features
        renamed.check(codes)
    CoActive.of(Codes.from_dense(7 * strengths)).check(codes)
