"""What copies of features do to later layers, against running those layers on them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.attention import composition as module
from crossproof.interaction.attention.composition import attended, composed, heard, into_neurons
from crossproof.interaction.attention.heads import heads_of
from crossproof.interaction.attention.tables import query_key
from crossproof.units import ACTIVATIONS, MLP, Attention, GatedMLP, Norm
from tests.interaction.attention.toys import LAYOUTS, attentions, make_attention, make_heads

D = 5


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_norm(kind: Literal["layer", "rms"] | None, seed: int = 0) -> Norm | None:
    return kind and Norm(kind=kind, gain=draw(seed, D), bias=draw(seed + 1, D), eps=1e-5)


def sigma_of(norm: Norm | None, r: Tensor) -> float:
    if norm is None:
        return 1.0
    centred = r - r.mean() if norm.kind == "layer" else r
    return float((centred.square().mean() + norm.eps).sqrt())


norms = st.builds(make_norm, st.sampled_from([None, "layer", "rms"]), st.integers(0, 1000))


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10, size: float | None = None) -> None:
    largest = float(expected.abs().max()) if size is None else size
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * largest)


@settings(deadline=None, max_examples=40)
@given(norms, st.integers(0, 1000), st.sampled_from([1e-8, 1.0, 1e8]))
def test_what_is_heard_of_the_whole_stream_at_its_own_scale_is_the_norm_without_its_bias(
    norm: Norm | None, seed: int, size: float
) -> None:
    r = size * draw(seed, D)
    expected = r if norm is None else norm(r) - norm.bias
    close(heard(norm, r, sigma_of(norm, r)), expected, size=float((0 if norm is None else norm.bias.abs().max()) + 1))
    close(heard(norm, r, 4.0), heard(norm, r) / 4)


@settings(deadline=None, max_examples=30)
@given(attentions(biases=False, window=None), norms, st.integers(0, 1000), st.integers(0, 3), st.booleans())
def test_a_composed_table_holds_the_later_layers_scores_of_copies_that_the_earlier_layer_wrote(
    attention: Attention, norm: Norm | None, seed: int, distance: int, as_query: bool
) -> None:
    earlier = make_heads(make_attention(seed, heads=1, biases=False), seed, 3, bias=False)
    later = make_heads(attention, seed + 1, 3, bias=False)
    for j in range(3):
        copy = earlier.attention(earlier.directions[j][None, None])[0, 0]
        passed = copy if norm is None else norm(copy) - norm.bias
        found = composed(earlier.written[0], later, norm, "query" if as_query else "key", None, sigma_of(norm, copy))
        for i in range(3):
            x = torch.zeros(8, D, dtype=torch.float64)
            t, s = distance + 2, 2
            if distance == 0:
                # at one position no score is that of one alone on the other: take the bilinear part of both
                x[2], x[3], x[4] = passed + later.directions[i], passed, later.directions[i]
                both, one, other = (attention.scores(x[p][None, None])[0, :, 0, 0] for p in (2, 3, 4))
                scores = both - one - other
                tables = [found.table(h) for h in range(later.n_heads)]
                swapped = composed(earlier.written[0], later, norm, "key" if as_query else "query", None,
                                   sigma_of(norm, copy))  # fmt: skip
                opposite = [swapped.table(h) for h in range(later.n_heads)]
                entries = [a[j, i] + b[i, j] if as_query else a[i, j] + b[j, i]
                           for a, b in zip(tables, opposite, strict=True)]  # fmt: skip
            else:
                x[t], x[s] = (passed, later.directions[i]) if as_query else (later.directions[i], passed)
                scores = attention.scores(x[None])[0, :, t, s]
                tables = [found.table(h, distance) for h in range(later.n_heads)]
                entries = [table[j, i] if as_query else table[i, j] for table in tables]
            # a rotary model rounds its angles to float32
            tolerance = 1e-10 if attention.rotary is None else 1e-5
            size = float(passed.norm() * later.directions[i].norm()) * float(
                attention.W_Q.norm() * attention.W_K.norm()
            )
            close(torch.stack(entries), scores, tolerance, size + 1e-6)


@pytest.mark.parametrize("side", ["query", "key"])
def test_with_strengths_copies_and_features_are_as_strong_as_they_are(side: Literal["query", "key"]) -> None:
    later, written, strengths = make_heads(make_attention(rotary="halves")), draw(3, 6, D), draw(4, 6).abs()
    found, plain = (composed(written, later, make_norm("layer"), side, f) for f in (strengths, None))
    close(found.table(1, 2), strengths[:, None] * plain.table(1, 2) * strengths)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", [None, "layer", "rms"])
@pytest.mark.parametrize("distance", [0, 7])
def test_copies_are_heard_as_loudly_as_their_scores_on_every_direction_say(
    layout: str | None, kind: Literal["layer", "rms"] | None, distance: int
) -> None:
    later, norm, written = make_attention(2, heads=4, kv_heads=2, rotary=layout), make_norm(kind), draw(5, 2, 3, D)
    as_query, as_key = (attended(written, later, norm, role, distance) for role in ("query", "key"))
    for h in range(2):
        # each copy beside every direction of the input: its scores on them are the coordinates of r W_QK
        beside = query_key(heads_of(later, torch.cat([heard(norm, written[h]), torch.eye(D).double()])))
        for n in range(4):
            table = beside.table(n, distance)
            close(as_query[h, :, n], table[:3, 3:].norm(dim=1))
            close(as_key[h, :, n], table[3:, :3].norm(dim=0))


def test_copies_are_heard_as_they_are_whatever_basis_a_head_has_its_queries_and_keys_in() -> None:
    later, written = make_attention(2, heads=2), draw(5, 2, 3, D)
    mixed = draw(9, 4, 4) + 4 * torch.eye(4).double()
    same = Attention(**{**vars(later), "W_Q": later.W_Q @ mixed, "W_K": later.W_K @ mixed.inverse().T})
    for role in ("query", "key", "value"):
        close(attended(written, later, None, role), attended(written, same, None, role))


@settings(deadline=None, max_examples=30)
@given(attentions(), norms, st.integers(0, 1000))
def test_as_values_copies_are_as_loud_as_what_the_later_head_writes_of_them(
    later: Attention, norm: Norm | None, seed: int
) -> None:
    written = draw(seed, 2, 3, D)
    found = attended(written, later, norm, "value")
    for h in range(2):
        for j in range(3):
            r = heard(norm, written[h, j])
            for n in range(len(later.W_Q)):
                kv = n // (len(later.W_Q) // len(later.W_K))
                only = torch.zeros_like(later.W_O)
                only[n] = later.W_O[n]
                head = Attention(**{**vars(later), "W_O": only})
                # one position looks at itself and at nothing else
                moved = head(r[None, None]) - head(torch.zeros(1, 1, D).double())
                close(found[h, j, n], moved.norm(), 1e-9, float(r.norm() * only.norm() * later.W_V[kv].norm()) + 1)


@pytest.mark.parametrize("held", [1, 10**6])
@pytest.mark.parametrize("gated", [False, True])
def test_what_copies_move_in_neurons_is_the_sum_over_neurons(gated: bool, held: int) -> None:
    W, b, out = draw(1, D, 7), draw(2, 7), {"W_out": draw(3, 7, D), "b_out": draw(4, D)}
    mlp: MLP | GatedMLP = (
        GatedMLP(W_gate=W, b_gate=b, W_in=draw(6, D, 7), b_in=b, activation="silu", **out)
        if gated
        else MLP(W_in=W, b_in=b, activation="relu", **out)
    )
    assert mlp.activation in ACTIVATIONS
    norm, written = make_norm("layer"), draw(5, 2, 3, D)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "HELD", held)
        found = into_neurons(written, mlp, norm, 2.0)
    pres = [mlp.gate, mlp.value] if isinstance(mlp, GatedMLP) else [mlp.pre]
    assert found.shape == (len(pres), 2, 3)
    zero = torch.zeros(D).double()
    for table, pre in enumerate(pres):
        for h in range(2):
            for j in range(3):
                moved = pre(heard(norm, written[h, j], 2.0)) - pre(zero)
                expected = sum(abs(float(m)) * float(w.norm()) for m, w in zip(moved, mlp.W_out, strict=True))
                assert float(found[table, h, j]) == pytest.approx(expected, rel=1e-10)


def test_what_cannot_be_composed_is_refused_by_name() -> None:
    later = make_heads(make_attention())
    with pytest.raises(MismatchError, match=r"vectors: 4 coordinates.*norm has 5"):
        heard(make_norm("rms"), torch.zeros(3, 4))
    for sigma in (0.0, -1.0, float("nan")):
        with pytest.raises(CrossproofError, match="sigma"):
            heard(None, torch.zeros(D), sigma)
    with pytest.raises(MismatchError, match="written: expected what one head writes"):
        composed(torch.zeros(5, D), later, None, "query")
    with pytest.raises(MismatchError, match="d_model 5"):
        attended(torch.zeros(2, 3, 4), later.attention, None, "query")
    with pytest.raises(CrossproofError, match="role: no 'output'"):
        module._check_role("output")
