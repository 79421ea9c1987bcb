"""Each interval of the fractional programs by itself, where no other's slack can hide that it is too narrow."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.spectral import eigenvectors
from crossproof.proof.groups.programme import attended, either, gains
from crossproof.proof.groups.tables import decoded, tables
from tests.proof.groups.models import balls, model

T, V, D = 3, 4, 3


def with_error(seed: int, size: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model, and a dictionary with a feature for each embedding that is wrong by about this much."""
    state = model(seed, V, T, D)
    wrong = torch.randn(T * V, D, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64) * size
    return state, {
        "dictionary": state["W_E"].double().reshape(T * V, D) + wrong,
        "bias": torch.zeros(D),
        "support": torch.arange(T * V).reshape(T, V, 1),
        "codes": torch.ones(T, V, 1),
        "eigenvectors": eigenvectors(state["attn.W_Q"].double() @ state["attn.W_K"].double().T),
    }


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([1e-6, 0.01, 0.3]), st.integers(0, V - 1))
def test_true_weights_and_differences_are_within_what_is_said_of_them(seed, size, largest):
    state, witness = with_error(seed, size)
    W = {name: value.double() for name, value in state.items()}
    known = tables(balls(state), witness)
    points = decoded(balls(state)["W_E"], witness).mid
    M = W["attn.W_Q"] @ W["attn.W_K"].T / math.sqrt(D)
    tokens = range(largest + 1)
    attention = attended(known, largest, [torch.tensor([token]) for token in tokens])
    shift = (points[-1] @ M @ points[:-1].reshape(-1, D).T).amax(1)
    for query in tokens:
        true = W["W_E"] @ M.T @ W["W_E"][-1, query]
        # what the query's error adds to the score of every key alike
        true = true - shift[query] - points[:, largest].mean(0) @ M.T @ (W["W_E"][-1, query] - points[-1, query])
        weight = true.exp()[:, : largest + 1] * (1 + 1e-9)
        assert (attention.low.lower().mid[query] <= weight[:-1]).all()
        assert (weight[:-1] <= attention.high.upper().mid[query] * (1 + 2e-9)).all()
        assert float(attention.own_low.lower().mid[query]) <= weight[-1, query]
        assert weight[-1, query] <= float(attention.own_high.upper().mid[query]) * (1 + 2e-9)
    others = torch.arange(V) != largest
    gain, skip = gains(known, largest, others)
    says, past = W["W_E"] @ W["attn.W_V"] @ W["attn.W_O"] @ W["W_U"], W["W_E"][-1] @ W["W_U"]
    for found, true in ((gain, says[:, : largest + 1]), (skip, past[: largest + 1])):
        assert (true[..., others] - true[..., largest, None] <= found.upper().mid + 1e-9).all()


@given(st.floats(0, 10), st.floats(0, 10), st.floats(-10, 10), st.floats(0, 1))
def test_no_product_with_a_number_in_the_interval_is_larger(low, more, x, where):
    low_, high, x_ = (Ball(torch.tensor([value], dtype=torch.float64)) for value in (low, low + more, x))
    assert (low + where * more) * x <= float(either(low_, high, x_).upper().mid) + 1e-12
