"""The penalty on attention against loops over pairs and heads, its gradient, its draws, and what it refuses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.attention import penalty as module
from crossproof.interaction.attention.penalty import AttentionPenalty, Pairs, draw_pairs
from crossproof.units import Attention
from tests.interaction.attention.toys import attentions, make_attention
from tests.interaction.penalty_toys import value_and_gradients

D, F, CONTEXT = 5, 6, 7


def batch(seed: int, tokens: int, density: float, layers: int = 1, ties: bool = False) -> tuple[Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(tokens, F, generator=generator) < density
    if ties:
        f = torch.randint(1, 3, (tokens, F), generator=generator).double()
        return f * mask, [torch.randint(-1, 2, (F, D), generator=generator).double() for _ in range(layers)]
    f = torch.rand(tokens, F, generator=generator, dtype=torch.float64) + 0.1
    return f * mask, [torch.randn(F, D, generator=generator, dtype=torch.float64) for _ in range(layers)]


def pairs_of(seed: int, tokens: int) -> Pairs:
    return draw_pairs(tokens, None, torch.Generator().manual_seed(seed))


def keys_of(pairs: Pairs) -> Tensor:
    """In the order of the queries."""
    return pairs.keys[pairs.queries.argsort()]


def turned(x: Tensor, attention: Attention, position: int) -> Tensor:
    """As the unit itself turns what stands at a position."""
    if attention.rotary is None:
        return x
    return attention.rotary(x.expand(position + 1, -1))[position]


def reference(
    f: Tensor, directions: list[Tensor], units: list[Attention], pairs: Pairs, q: int, scaling: str
) -> Tensor:
    """Pair by pair, head by head, with autograd's own gradient."""
    values = []
    for unit, d in zip(units, directions, strict=True):
        group, nothing = len(unit.W_Q) // len(unit.W_K), torch.zeros((), dtype=torch.float64)
        penalised, total = nothing, nothing
        reach = min(CONTEXT, unit.window or CONTEXT)
        for pair, h in itertools.product(range(len(pairs.keys)), range(len(unit.W_Q))):
            t, s, distance = int(pairs.queries[pair]), int(pairs.keys[pair]), int(pairs.how_far[pair] * reach)
            terms = []
            for i, j in itertools.product(range(F), range(F)):
                if f[t, i] > 0 and f[s, j] > 0:
                    query = turned(d[i] @ unit.W_Q[h], unit, distance)
                    terms.append(f[t, i] * f[s, j] * unit.scale * (query @ (d[j] @ unit.W_K[h // group])))
            ranked = sorted(range(len(terms)), key=lambda k: (-float(terms[k].detach().abs()), k))
            penalised = penalised + sum((terms[k].abs() for k in ranked[q:]), nothing)
            total = total + sum((each.abs() for each in terms), nothing)
        pooled = float(total.detach()) or 1.0
        values.append(penalised / (max(1, len(pairs.keys) * len(unit.W_Q)) if scaling == "paper" else pooled))
    return torch.stack(values).mean()


@settings(deadline=None, max_examples=25)
@given(
    unit=attentions(d_model=D),
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 4),
    density=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    q=st.integers(1, 4),
    scaling=st.sampled_from(["paper", "relative"]),
    magnitude=st.sampled_from([1.0, 1e-8, 1e8]),
    chunk=st.sampled_from([1, 200, module.CHUNK]),
)
def test_value_and_gradient_are_those_of_the_definition(
    unit: Attention, seed: int, tokens: int, density: float, q: int, scaling: str, magnitude: float, chunk: int
) -> None:
    dense, (d,) = batch(seed, tokens, density)
    f, d = (dense * magnitude).requires_grad_(), (d / magnitude).requires_grad_()
    penalty, pairs = AttentionPenalty([unit], q, scaling, context=CONTEXT), pairs_of(seed, tokens)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        ours, gradients = value_and_gradients(lambda: penalty.of_pairs(f, [d], pairs), [f, d])
    theirs, expected = value_and_gradients(lambda: reference(f, [d], [unit], pairs, q, scaling), [f, d])
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    # a feature that is off has no entry
    torch.testing.assert_close(gradients[0] * magnitude, expected[0] * magnitude * (f > 0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(gradients[1] / magnitude, expected[1] / magnitude, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6), tokens=st.integers(1, 4), q=st.integers(1, 3))
def test_a_tie_goes_to_the_lowest_query_feature_and_then_to_the_lowest_key_feature(
    seed: int, tokens: int, q: int
) -> None:
    f, (d,) = batch(seed, tokens, 0.8, ties=True)
    f, d = f.requires_grad_(), d.requires_grad_()
    random = make_attention(seed, d_model=D, scale=1.0)
    unit = Attention(**{**vars(random), "W_Q": random.W_Q.sign(), "W_K": random.W_K.sign()})
    pairs, penalty = pairs_of(seed, tokens), AttentionPenalty([unit], q, "paper")
    _, ours = value_and_gradients(lambda: penalty.of_pairs(f, [d], pairs), [f, d])
    _, theirs = value_and_gradients(lambda: reference(f, [d], [unit], pairs, q, "paper"), [f, d])
    torch.testing.assert_close(ours[0], theirs[0] * (f > 0), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours[1], theirs[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("layout", [None, "halves", "adjacent"])
def test_the_gradient_is_that_of_finite_differences_for_several_layers(layout: str | None) -> None:
    units = [make_attention(seed, heads=4, kv_heads=2, d_model=D, rotary=layout, rotary_dim=2) for seed in range(2)]
    f, directions = batch(0, 3, 0.8, 2)
    pattern, penalty = Codes.from_dense(f).pattern, AttentionPenalty(units, scaling="paper", context=CONTEXT).eval()

    def value(values: Tensor, *directions: Tensor) -> Tensor:
        return penalty(Codes(pattern, values), directions)

    values = Codes.from_dense(f).values.clone().requires_grad_()
    assert torch.autograd.gradcheck(value, [values, *(d.requires_grad_() for d in directions)])


def test_relative_has_the_gradient_of_paper_in_units_of_the_mean_sum_of_terms() -> None:
    f, (d,) = batch(4, 6, 0.6)
    d, unit, pairs = d.requires_grad_(), make_attention(d_model=D), pairs_of(0, 6)
    paper, (slope,) = value_and_gradients(lambda: AttentionPenalty([unit], 1, "paper").of_pairs(f, [d], pairs), [d])
    relative, (its,) = value_and_gradients(lambda: AttentionPenalty([unit]).of_pairs(f, [d], pairs), [d])
    torch.testing.assert_close(its, slope * relative / paper)
    assert 0 < float(relative) < 1


@pytest.mark.parametrize("layout", [None, "halves", "adjacent"])
def test_a_term_is_what_the_unit_scores_at_that_distance(layout: str | None) -> None:
    unit = make_attention(3, d_model=D, rotary=layout, biases=False)
    _, (d,) = batch(0, 3, 1.0)
    f = torch.zeros(3, F).double()
    f[0, 1], f[1, [2, 4]] = 1.5, 2.0  # the third token has nothing, so that one pair of tokens has terms
    for distance in range(1, CONTEXT):
        x = torch.zeros(2, distance + 1, D).double()
        x[:, distance], x[:, 0] = 1.5 * d[1], 2.0 * d[[2, 4]]
        terms = unit.scores(x)[:, :, distance, 0].abs()  # of one key feature in each text
        there = Pairs(torch.arange(3), torch.tensor([1, 2, 0]), torch.full((3,), (distance + 0.5) / CONTEXT).double())
        value = AttentionPenalty([unit], 1, "paper", context=CONTEXT).of_pairs(f, [d], there)
        torch.testing.assert_close(value * 3 * 2, terms.amin(0).sum(), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("layout", [None, "halves"])
def test_over_all_draws_of_pairs_it_is_the_mean_over_all_ordered_pairs_of_different_tokens(layout: str | None) -> None:
    tokens, unit = 4, make_attention(1, heads=2, kv_heads=1, d_model=D, rotary=layout)
    f, (d,) = batch(1, tokens, 0.8)
    f, d = f.requires_grad_(), d.requires_grad_()
    penalty = AttentionPenalty([unit], 1, "paper", context=CONTEXT)

    def run(queries: Tensor, keys: Tensor) -> Tensor:
        pairs = Pairs(queries, keys, torch.full((len(keys),), 0.4).double())
        value, gradients = value_and_gradients(lambda: penalty.of_pairs(f, [d], pairs), [f, d])
        return torch.cat([value[None], *(its.flatten() for its in gradients)])

    def circle(keys: Sequence[int]) -> Tensor:
        return run(torch.arange(len(keys)), torch.tensor(keys))

    # one circle through all tokens; there are 3! of them
    circles = {tuple(keys_of(pairs_of(seed, tokens)).tolist()) for seed in range(200)}
    assert len(circles) == 6
    found = torch.stack([circle(keys) for keys in sorted(circles)])
    assert not torch.allclose(found[0], found[1])
    every = torch.tensor(list(itertools.permutations(range(tokens), 2)))
    torch.testing.assert_close(found.mean(0), run(*every.T))
    # and so over draws of single pairs
    single = torch.stack([run(*pair[:, None]) for pair in every])
    torch.testing.assert_close(single.mean(0), run(*every.T))


def test_no_token_is_its_own_key_and_every_other_one_and_distance_is_as_likely() -> None:
    seen, far = torch.zeros(5, 5), []
    for seed in range(2000):
        pairs = pairs_of(seed, 5)
        assert sorted(pairs.keys.tolist()) == sorted(pairs.queries.tolist()) == list(range(5))
        few = draw_pairs(5, 2, torch.Generator().manual_seed(seed))
        assert few.queries.tolist() == pairs.queries[:2].tolist()
        seen[few.queries, few.keys] += 1
        far.append(pairs.how_far)
    assert not bool(seen.diagonal().any())
    assert bool(((seen[~torch.eye(5, dtype=torch.bool)] - 200).abs() < 60).all())
    distances = torch.bincount((torch.cat(far) * CONTEXT).long(), minlength=CONTEXT)
    assert len(distances) == CONTEXT
    assert bool(((distances - 10_000 / CONTEXT).abs() < 200).all())
    assert pairs_of(0, 1).keys.tolist() == [0]
    assert len(pairs_of(0, 0).keys) == 0


def test_distances_end_at_the_window_or_the_context() -> None:
    f, (d,) = batch(0, 4, 0.8)
    for context, window, reach in ((5, None, 5), (5, 3, 3), (3, 9, 3)):
        unit = make_attention(d_model=D, rotary="halves", window=window)
        nearly = pairs_of(0, 4)._replace(how_far=torch.full((4,), 1 - 1e-9, dtype=torch.float64))
        at_the_end = nearly._replace(how_far=torch.full((4,), (reach - 0.5) / CONTEXT).double())
        wide = Attention(**{**vars(unit), "window": None})
        found = AttentionPenalty([unit], context=context).of_pairs(f, [d], nearly)
        there = AttentionPenalty([wide], context=CONTEXT).of_pairs(f, [d], at_the_end)
        torch.testing.assert_close(found, there, rtol=1e-12, atol=0)


def test_draws_change_from_call_to_call_and_go_on_where_a_saved_state_left_them() -> None:
    f, (d,) = batch(1, 12, 0.6)
    units = [make_attention(d_model=D, rotary="halves")]
    first = AttentionPenalty(units, seed=3)
    before = [float(first(f, [d])) for _ in range(3)]
    state = {name: tensor.clone() for name, tensor in first.state_dict().items()}
    after = [float(first(f, [d])) for _ in range(3)]
    assert len(set(before + after)) == 6
    second = AttentionPenalty(units, seed=3)
    second.load_state_dict(state)
    assert [float(second(f, [d])) for _ in range(3)] == after
    assert float(AttentionPenalty(units, seed=4)(f, [d])) != before[0]
    second.eval()
    assert [float(second(f, [d])) for _ in range(2)] == [before[0]] * 2
    assert {name: int(its) for name, its in second.state_dict().items()} == {"draws": 6}


def test_where_nothing_is_active_or_there_is_no_token_value_and_gradient_are_zero() -> None:
    torch.manual_seed(0)
    for tokens, scaling in itertools.product([0, 1, 4], ["paper", "relative"]):
        f = torch.zeros(tokens, F).double().requires_grad_()
        d = torch.randn(F, D).double().requires_grad_()
        value = AttentionPenalty([make_attention(d_model=D)], 1, scaling)(f, [d])
        assert float(value.detach()) == 0
        assert not any(bool(its.any()) for its in torch.autograd.grad(value, [f, d]))


def test_an_entry_of_strength_0_has_no_gradient_and_no_effect() -> None:
    pattern = Pattern(torch.tensor([0, 2, 1, 3]), torch.tensor([0, 2, 4]), F)
    values = torch.tensor([0.0, 1.0, 2.0, 1.5]).double().requires_grad_()
    d = torch.randn(F, D).double().requires_grad_()
    penalty = AttentionPenalty([make_attention(d_model=D)], scaling="paper")
    value = penalty(Codes(pattern, values), [d])
    torch.testing.assert_close(value, penalty(pattern.dense(values.detach()), [d]))
    to_values, to_d = torch.autograd.grad(value, [values, d])
    assert float(to_values[1]) > 0
    assert not bool(to_values[0])
    assert not bool(to_d[0].any())


def test_features_that_are_off_in_a_batch_cost_nothing_and_change_nothing() -> None:
    f, (d,) = batch(0, 6, 0.7)
    where = torch.tensor([1, 30, 31, 64, 77, 99])
    wide, far = torch.zeros(6, 100).double(), torch.randn(100, D).double()
    wide[:, where], far[where] = f, d
    penalty = AttentionPenalty([make_attention(d_model=D)]).eval()
    value, (gradient,) = value_and_gradients(lambda: penalty(wide, [far]), [far.requires_grad_()])
    expected, (narrow,) = value_and_gradients(lambda: penalty(f, [d]), [d.requires_grad_()])
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient[where], narrow)
    assert int(gradient.any(1).sum()) <= 6


def test_it_computes_in_the_dtype_of_the_weights_and_agrees_with_float64() -> None:
    unit = make_attention(d_model=D, rotary="adjacent")
    f, (d,) = batch(0, 40, 0.6)
    exact, pairs = AttentionPenalty([unit]), pairs_of(0, 40)
    single = AttentionPenalty([unit.to(torch.float32)])
    expected = exact.of_pairs(f, [d], pairs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = single.of_pairs(f.float(), [d], pairs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"units": []}, "units: there is no attention layer"),
        ({"q": 0}, "q: 0 .*at least 1"),
        ({"scaling": "absolute"}, "scaling.*paper, relative"),
        ({"pairs": 0}, "pairs.*at least 1"),
        ({"context": 0}, "context.*at least 1"),
    ],
)
def test_a_setting_that_means_nothing_is_refused_by_name(change: dict[str, object], says: str) -> None:
    with pytest.raises(CrossproofError, match=says):
        AttentionPenalty(**{"units": [make_attention(d_model=D)]} | change)  # type: ignore[arg-type]


def test_input_that_does_not_fit_is_refused_with_the_tensor_and_the_axis() -> None:
    penalty = AttentionPenalty([make_attention(d_model=D)] * 2)
    f, (d, e) = batch(0, 4, 0.5, 2)
    with pytest.raises(MismatchError, match="directions: 1 for 2 attention layers"):
        penalty(f, [d])
    with pytest.raises(MismatchError, match=r"directions\[1\].*d_model 5.*attention layer.*\(6, 2\)"):
        penalty(f, [d, e[:, :2]])
    with pytest.raises(MismatchError, match="features: some are negative"):
        penalty(f - 1, [d, e])
