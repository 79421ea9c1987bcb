import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.proof.arithmetic.ball import Ball
from crossproof.proof.arithmetic.tally import tallied
from crossproof.proof.groups.brute import cached, mean, naive, naive_tally
from tests.proof.groups.models import balls, model, truth, windows


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(4, 3), (5, 2), (3, 4)]), st.sampled_from([0.3, 1.0, 2.0]))
def test_both_ways_say_what_an_obvious_program_says_of_every_window(seed, size, scale):
    vocabulary, context = size
    state = model(seed, vocabulary, context, 3, scale)
    losses, right = truth(state)
    proved, by_last = cached(balls(state))
    # axes: last token first, the others after it
    shape = (vocabulary,) * context
    its = Ball(*(x.reshape(shape).movedim(0, -1) for x in (by_last.mid, by_last.radius)))
    as_it_is = naive(balls(state), windows(vocabulary, context))
    for found in (its, Ball(as_it_is.mid.reshape(shape), as_it_is.radius.reshape(shape))):
        known = found.radius.isfinite()  # of logits above 709 exp is not, and nothing is said
        assert torch.allclose(found.mid[known], losses[known], rtol=1e-9, atol=1e-9)
        assert (found.radius[known] < 1e-6).all()
    if not its.radius.isfinite().all():
        assert scale == 2.0
        assert proved.loss == math.inf
        return
    assert 0 <= proved.loss - float(losses.mean()) < 1e-6
    assert proved.right <= int(right.sum())
    assert proved.right == int((losses < math.log(2)).sum())


def test_counting_needs_no_numbers():
    state = model(0, 4, 3, 3)
    with tallied() as tally:
        losses = naive(balls(state), windows(4, 3))
        mean(losses.upper(), 64)
    counted = naive_tally(balls(state))
    assert counted.parts["windows"] == tally.parts["windows"]
    with tallied() as tally:
        cached(balls(state))
    with tallied() as counted:
        cached({name: type(ball).unknown(*ball.shape) for name, ball in balls(state).items()})
    assert counted.parts == tally.parts


def test_a_window_costs_what_is_documented():
    T, V, d = 4, 32, 32
    state = model(0, V, T, d)
    a_window = naive_tally(balls(state)).parts["windows"] / V**T
    documented = 4 * d * d + 2 * T * d + 4 * T + 2 * T * d + 4 * d * d + d + 2 * d * V + 4 * V
    assert 0.98 < a_window / documented < 1.02
    with tallied() as tally:
        cached({name: type(ball).unknown(*ball.shape) for name, ball in balls(state).items()})
    assert 4 * V + 6 <= tally.parts["windows"] / V**T < 4 * V + 10
