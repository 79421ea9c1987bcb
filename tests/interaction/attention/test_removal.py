"""Second differences of an attention layer: the same as of a layer whose queries and keys lack the features."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossproof.codes import Codes
from crossproof.errors import MismatchError
from crossproof.interaction.attention import removal
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.pairs import query_key_pairs
from crossproof.interaction.attention.removal import second_differences
from crossproof.units import Attention
from tests.interaction.attention.toys import LAYOUTS, attentions, make_attention, make_heads, make_passage, passages


def output(heads: Heads, passage: Passage, t: int, without_query: int | None, without_key: int | None) -> Tensor:
    """The layer at t, less b_O, by hand."""
    unit, x = heads.attention, heads.input(passage, 0)
    f = passage.codes.dense()
    asking, asked = x.clone(), x.clone()
    if without_query is not None:
        asking[t] -= f[t, without_query] * heads.directions[without_query]
    if without_key is not None:
        asked -= f[:, without_key, None] * heads.directions[without_key]
    group = len(unit.W_Q) // len(unit.W_K)
    out = torch.zeros_like(x[t])
    for h in range(len(unit.W_Q)):
        q = asking @ unit.W_Q[h] + unit.b_Q[h]
        k = asked @ unit.W_K[h // group] + unit.b_K[h // group]
        if unit.rotary is not None:
            q, k = unit.rotary(q), unit.rotary(k)
        scores = (unit.scale * k @ q[t]).masked_fill(~unit.mask(len(x))[t], -torch.inf)
        out += scores.softmax(0) @ (x @ unit.W_V[h // group] + unit.b_V[h // group]) @ unit.W_O[h]
    return out


@given(attentions(), passages(), st.sampled_from([1e-8, 1.0, 10.0]))
@settings(max_examples=30, deadline=None)
def test_sizes_are_those_of_a_layer_that_lacks_the_features(
    attention: Attention, passage: Passage, magnitude: float
) -> None:
    """At 10, features hold whole patterns alone: most of what is left without them is lost in any difference."""
    check_sizes(attention, passage, magnitude)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_sizes_are_right_where_a_window_hides_the_first_positions(layout: str | None) -> None:
    check_sizes(make_attention(rotary=layout, window=3), make_passage(positions=6), 1.0)


def check_sizes(attention: Attention, passage: Passage, magnitude: float) -> None:
    heads = make_heads(attention)
    heads = heads_of(attention, heads.directions * magnitude, heads.bias)
    f = passage.codes.dense()
    for t in range(passage.positions):
        found = second_differences(passage, 0, heads, t)
        seen = heads.attention.mask(passage.positions)[t]
        assert found.query_features.tolist() == (f[t] > 0).nonzero().flatten().tolist()
        assert found.key_features.tolist() == (f[seen] > 0).any(0).nonzero().flatten().tolist()
        full = output(heads, passage, t, None, None)
        # scores grow with the square of the magnitude, and so does what rounding them does
        tolerance = 1e-12 * float(full.norm() + 1) * max(1, magnitude**2)
        for a, i in enumerate(found.query_features.tolist()):
            for b, j in enumerate(found.key_features.tolist()):
                difference = (
                    full
                    - output(heads, passage, t, i, None)
                    - output(heads, passage, t, None, j)
                    + output(heads, passage, t, i, j)
                )
                torch.testing.assert_close(found.size[a, b], difference.norm(), rtol=1e-9, atol=tolerance)


def test_where_features_are_weak_and_nothing_else_is_there_the_table_bounds_the_differences() -> None:
    """Then the query-key term is nearly all that a pair does: what else the two do is of fourth order."""
    heads = make_heads(make_attention(seed=3, heads=1, biases=False), seed=3, bias=False)
    strong = make_passage(seed=3, given=(), empty=())
    weak = Passage(Codes(strong.codes.pattern, strong.codes.values * 1e-3), strong.given, strong.inputs)
    total = torch.zeros(heads.n_features, heads.n_features, dtype=torch.float64)
    for t in range(weak.positions):
        found = second_differences(weak, 0, heads, t)
        total[found.query_features[:, None], found.key_features] += found.size
    bound = query_key_pairs([weak], [heads])[0].total[0]
    assert bool((total <= bound * (1 + 1e-3) + 1e-12).all())
    assert float(total.max()) > 0.3 * float(bound.max()) > 0


class Largest(TorchDispatchMode):
    """How many numbers the largest tensor has that anything returns."""

    numbers = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return made


@pytest.mark.parametrize("rotary", [None, "halves"])
def test_memory_is_that_of_the_text_however_many_features_it_has(monkeypatch: pytest.MonkeyPatch, rotary: str) -> None:
    n_heads, positions, features = 2, 30, 200
    heads = make_heads(make_attention(heads=n_heads, rotary=rotary), features=features)
    passage = make_passage(positions=positions, features=features, active=6)
    held = n_heads * (1 + 6) * positions * 10
    monkeypatch.setattr(removal, "HELD", held)
    with Largest() as largest:
        found = second_differences(passage, 0, heads, positions - 1)
    assert found.size.shape[1] > 100
    assert held / 2 < largest.numbers <= max(held, positions * features)
    assert largest.numbers < n_heads * found.size.shape[1] * positions  # key parts would take d_head times that


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heads = make_heads(make_attention(seed=1), seed=1)
    passage = make_passage(seed=1)
    whole = second_differences(passage, 0, heads, 4)
    monkeypatch.setattr(removal, "HELD", 1)
    torch.testing.assert_close(second_differences(passage, 0, heads, 4).size, whole.size)
    with pytest.raises(MismatchError, match="positions 0 to 4"):
        second_differences(passage, 0, heads, 5)
