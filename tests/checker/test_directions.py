"""Directions and the rung `uniform` in the checker: against references written down slowly, and against the truth."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.checker.made import Case, bent, check, random_directions, stream, weights
from tests.checker.test_check import truth

Tensors = dict[str, np.ndarray]
FAMILY = [Case("masses", attention=a, norm=n) for a in (False, True) for n in (False, True)]
"""Models with one MLP. Their features are single tokens."""
DEEP = [Case("masses", mlps=2), Case("masses", attention=True, mlps=2)]


def opened(case: Case, state: dict[str, torch.Tensor], tokens: torch.Tensor) -> tuple[Any, Any]:
    model = check.Model.of({name: value.numpy() for name, value in state.items()}, case.norm)
    return model, check.Data.of_stream({"stream": tokens.numpy()}, case.context, 5)


def proved(rung: str, case: Case, witness: Tensors, seed: int = 0, state: dict[str, torch.Tensor] | None = None) -> Any:
    """The bounds of items, and operations by part."""
    model, data = opened(case, state or weights(case, seed), stream())
    if rung == "masses" and "read" not in witness:
        witness = witness | {"read": np.zeros((len(data.contexts), 0), np.int64)}
    its = check.Witness(witness)
    check.operations.clear()
    with np.errstate(all="ignore"):
        bounds, _ = check.losses(data, its, check.RUNGS[rung](model, data, its))
    return bounds, dict(check.operations)


def directions(case: Case, seed: int, slots: int = 3, spread: float = 0) -> Tensors:
    return {name: its.numpy() for name, its in random_directions(case, seed, slots=slots, spread=spread).items()}


# What is derived


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(FAMILY), st.integers(0, 10**6), st.integers(0, 4), st.sampled_from([0.0, 2.0, 20.0]))
def test_parts_are_what_they_are_in_rational_numbers_and_say_what_the_feature_says(
    case: Case, seed: int, slots: int, spread: float
) -> None:
    model, data = opened(case, weights(case, seed), stream())
    witness = directions(case, seed, slots=slots, spread=spread)
    table, W_in = check.Features.of(model, data, check.Witness({})).tables[0], model["mlps.0.W_in"]
    table = check.Real(table.mid)
    with np.errstate(all="ignore"):
        found = check.taken_apart(table, W_in, check.Witness(witness))
    for feature in np.random.default_rng(seed).integers(0, case.features, 3):
        for neuron in range(7):
            column = [Fraction(float(w)) for w in W_in.mid[:, neuron]]
            parts = [
                Fraction(float(alpha)) * sum(Fraction(float(x)) * w for x, w in zip(its, column, strict=True))
                for its, alpha in zip(
                    witness["directions"][witness["active"][feature]], witness["strength"][feature], strict=True
                )
            ]
            parts.append(Fraction(table.mid[feature, neuron]) - sum(parts))
            both = sum(max(p, 0) for p in parts), sum(max(-p, 0) for p in parts)
            assert both[0] - both[1] == Fraction(table.mid[feature, neuron])
            for side, exact in zip(found, both, strict=True):
                mid, rad = Fraction(side.mid[feature, neuron]), Fraction(side.rad[feature, neuron])
                assert abs(mid - exact) <= rad <= 1e-12 * (1 + sum(abs(p) for p in parts)) * 10 ** int(2 * spread)


def written_down(case: Case, state: dict[str, torch.Tensor], witness: Tensors, uniform: bool) -> np.ndarray:
    """The bound of each item of `masses` or of `uniform`, one window and feature after the other; up to two MLPs."""
    w = {name: value.double().numpy() for name, value in state.items()}
    _, data = opened(case, state, stream())
    mlps = [[w[f"mlps.{mlp}.{name}"] for name in ("W_in", "b_in", "W_out", "b_out")] for mlp in range(case.mlps)]
    to_logits = [W_out @ w["W_U"] for _, _, W_out, _ in mlps]

    def centred(x: np.ndarray) -> np.ndarray:
        return x - x.mean() if case.norm else x

    def read(x: np.ndarray) -> np.ndarray:
        return centred(x) / np.sqrt((centred(x) ** 2).mean() + 1e-5) if case.norm else x

    def sides(says: np.ndarray, feature: int, mlp: int) -> np.ndarray:
        parts = [np.zeros_like(says)]
        if witness and mlp == 0:
            for slot, direction in enumerate(witness["active"][feature]):
                parts.append(witness["strength"][feature, slot] * (witness["directions"][direction] @ mlps[0][0]))
        parts.append(says - sum(parts))
        return np.array([sum(np.maximum(part, 0) for part in parts), sum(np.maximum(-part, 0) for part in parts)])

    found = []
    for at, target in zip(data.context, data.target, strict=True):
        tokens = data.contexts[at]
        x = [w["W_E"][position, token] for position, token in enumerate(tokens)]
        named, strengths, atoms = [position * 5 + token for position, token in enumerate(tokens)], [1.0] * 4, x
        if case.attention:
            scores = [read(x[-1]) @ w["attn.W_Q"] @ w["attn.W_K"].T @ read(each) / np.sqrt(6) for each in x]
            looks = np.exp(scores) / np.exp(scores).sum()
            atoms = [read(each) @ w["attn.W_V"] @ w["attn.W_O"] for each in x] + [x[-1]]
            named, strengths = [*named, 20 + tokens[-1]], [*looks, 1.0]
        out = sum(s * atom for s, atom in zip(strengths, atoms, strict=True))
        logits, answers, sizes = out @ w["W_U"], [np.zeros(6) for _ in atoms], list[float]()
        atoms = [centred(atom) for atom in atoms]
        for mlp, (W_in, b_in, _, b_out) in enumerate(mlps):
            says, who, alpha = [(x + a) @ W_in for x, a in zip(atoms, answers, strict=True)], named, strengths
            if case.norm:
                scale = np.sqrt((centred(out) ** 2).mean() + 1e-5)
                says, who, alpha = [*says, b_in], [*named, case.features - 1], [*(s / scale for s in strengths), 1.0]
            else:
                says[-1] = says[-1] + b_in + sum(before[3] @ W_in for before in mlps[:mlp])
            both = [sides(its, feature, mlp) for its, feature in zip(says, who, strict=True)]
            P, N = sum(a * its for a, its in zip(alpha, both, strict=True))
            logits = logits + P @ to_logits[mlp] + b_out @ w["W_U"]
            if not case.norm:
                answers = [a + its[0] @ mlps[mlp][2] for a, its in zip(answers, both, strict=True)]
            lengths = sum(a * np.linalg.norm(its, axis=1) for a, its in zip(alpha, both, strict=True))
            sizes.append(lengths.min() if uniform else np.linalg.norm(np.minimum(P, N)))
        margins = []
        for v in range(5):
            apart = [G[:, target] - G[:, v] for G in to_logits]
            margin = logits[v] - logits[target]
            for size, its in zip(sizes, apart, strict=True):
                margin += size * np.linalg.norm(np.maximum(its, 0))
            if case.mlps == 2:
                margin += sizes[0] * np.linalg.norm(mlps[0][2] @ mlps[1][0], axis=0) @ abs(apart[1])
            margins.append(margin)
        found.append(np.log(np.exp(margins).sum()))
    return np.array(found)


@pytest.mark.parametrize("case", [*FAMILY, *DEEP], ids=lambda case: case.name)
@pytest.mark.parametrize("rung", ["masses", "uniform"])
def test_bounds_are_those_of_a_program_written_down_slowly(case: Case, rung: str) -> None:
    for seed in range(3):
        for witness in ({}, directions(case, seed, slots=1 + seed)):
            reference = written_down(case, weights(case, seed), witness, rung == "uniform")
            np.testing.assert_allclose(proved(rung, case, witness, seed)[0], reference, rtol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    case=st.sampled_from([*FAMILY, *DEEP, Case("masses", mlps=3)]),
    seed=st.integers(0, 10**6),
    loud=st.sampled_from([0.0, 1e-8, 0.1, 1.0, 1e3]),
    spread=st.sampled_from([0.0, 1.0, 8.0]),
    ties=st.booleans(),
    directed=st.booleans(),
)
def test_whatever_the_directions_no_bound_is_below_the_loss(
    case: Case, seed: int, loud: float, spread: float, ties: bool, directed: bool
) -> None:
    state = weights(case, seed)
    if ties:
        state = {name: value.mul(2).round().div(2) for name, value in state.items()}
    for name in state:
        if name.startswith("mlps.0."):
            state[name] = state[name] * loud
    witness = directions(case, seed, spread=spread) if directed else {}
    _, data = opened(case, state, stream())
    losses, _ = truth(state, data, case.norm)
    masses, _ = proved("masses", case, witness, state=state)
    uniform, _ = proved("uniform", case, witness, state=state)
    assert (masses >= losses - 1e-9 * (1 + losses)).all()
    # a norm of a sum is at most the sum of norms, where rounding is nothing beside them
    sure = masses < 1e3
    assert (uniform[sure] >= masses[sure] - 1e-9).all()


def test_where_nothing_else_is_loose_the_bound_is_the_loss() -> None:
    """One neuron that speaks for one of two logits: what is left of it is known, so that masses are exact for targets
    that it speaks for, whatever the directions; with a rest left out, or less of it, some would be below the loss."""
    for seed in range(40):
        case, state = Case("masses", context=2), weights(Case("masses", context=2), seed)
        state |= {name: state[name][..., :1] for name in ("mlps.0.W_in", "mlps.0.b_in")}
        state["mlps.0.W_out"] = state["mlps.0.W_out"][:1]
        speaks = state["mlps.0.W_out"] / state["mlps.0.W_out"].square().sum()
        state["W_U"] = speaks.T @ torch.tensor([[1.0, 0, 0, 0, 0]]) * (1 + seed % 3)
        witness = directions(case, seed, spread=1.0)
        _, data = opened(case, state, stream())
        losses, _ = truth(state, data, False)
        bounds, _ = proved("masses", case, witness, state=state)
        np.testing.assert_allclose(bounds[data.target == 0], losses[data.target == 0], rtol=1e-9, atol=1e-12)
        assert (bounds >= losses - 1e-12).all()


@pytest.mark.parametrize("case", [*FAMILY, *DEEP], ids=lambda case: case.name)
@pytest.mark.parametrize("rung", ["masses", "uniform"])
def test_a_direction_that_is_zero_is_none(case: Case, rung: str) -> None:
    nothing = {
        "directions": np.zeros((1, 6)),
        "active": np.zeros((case.features, 2), np.uint8),
        "strength": np.random.default_rng(0).normal(size=(case.features, 2)),
    }
    silent = directions(case, 1)
    silent["strength"][:] = 0
    without, taken = proved(rung, case, {})
    for witness in (nothing, silent):
        bounds, operations = proved(rung, case, witness)
        np.testing.assert_allclose(bounds, without, rtol=1e-12)
        assert {name: n for name, n in operations.items() if name != "features"} == {
            name: n for name, n in taken.items() if name != "features"
        }


def test_directions_that_features_are_made_of_change_nothing_where_they_agree_and_help_nowhere() -> None:
    """A feature that is one direction has no rest; a feature of two that disagree at a neuron has more for and more
    against it than it says."""
    case = Case("masses")
    state = weights(case)
    state["mlps.0.b_in"] *= 0
    rows = state["W_E"].reshape(20, 6).numpy()
    itself = {"directions": rows, "active": np.arange(20)[:, None], "strength": np.ones((20, 1))}
    halves = {"directions": rows, "active": np.arange(20)[:, None].repeat(2, 1), "strength": np.full((20, 2), 0.5)}
    twice = {"directions": rows, "active": np.arange(20)[:, None], "strength": np.full((20, 1), 2.0)}
    for rung in ("masses", "uniform"):
        without, _ = proved(rung, case, {}, state=state)
        for witness in (itself, halves):
            np.testing.assert_allclose(proved(rung, case, witness, state=state)[0], without, rtol=1e-9)
        assert (proved(rung, case, twice, state=state)[0] > without + 1e-3).any()


# What it takes


@pytest.mark.parametrize("case", FAMILY, ids=lambda case: case.name)
def test_operations_are_those_that_the_formulas_have(case: Case) -> None:
    F, S, D, m, w = case.features, 3, 4, 7, 6
    _, plain = proved("masses", case, {})
    _, directed = proved("masses", case, directions(case, 0, S))
    #       directions @ W_in, parts, their sum and the rest
    split = 2 * D * w * m + F * S * m + F * S * m + F * m
    # relu of parts, their sum, relu of the rest, together: on each side instead of one relu
    split += 2 * (F * S * m + F * S * m + F * m + F * m) - 2 * F * m
    assert directed == plain | {"features": plain["features"] + split}


@pytest.mark.parametrize("case", [*FAMILY, *DEEP], ids=lambda case: case.name)
def test_uniform_takes_two_sums_of_numbers_a_window_where_masses_take_two_of_vectors(case: Case) -> None:
    _, data = opened(case, weights(case), stream())
    F, families, windows = case.features, case.context + case.attention + case.norm, len(data.contexts)
    each = 2 if case.attention or case.norm else 1
    _, plain = proved("masses", case, {})
    _, uniform = proved("uniform", case, {})
    neurons = [7 + mlp for mlp in range(case.mlps)]
    features_ = plain["features"] + sum(2 * (2 * F * m + F) for m in neurons)
    # sums over families on both sides and a minimum; of masses also squares, their sum, a root
    less = sum(2 * each * windows * families * (m - 1) + windows * (m - 1) + windows * (2 * m + 1) for m in neurons)
    assert uniform == plain | {"features": features_, "windows": plain["windows"] - less}


def test_runs_of_features_change_neither_bounds_nor_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    for case in FAMILY:
        bounds, operations = proved("uniform", case, directions(case, 5))
        monkeypatch.setattr(check, "FEATURES", 3)
        some, operations_ = proved("uniform", case, directions(case, 5))
        monkeypatch.undo()
        np.testing.assert_allclose(some, bounds, rtol=1e-13)
        assert operations_ == operations


# What is refused


def spoilt(witness: Tensors) -> list[tuple[str, Tensors]]:
    """The tensor that the refusal has to name, and a witness that cannot be used."""

    def entry(name: str, value: float) -> tuple[str, Tensors]:
        its = witness[name].copy()
        its[1, 1] = value
        return name, witness | {name: its}

    def other(name: str, its: np.ndarray) -> tuple[str, Tensors]:
        return name, witness | {name: its}

    directions, active, strength = witness["directions"], witness["active"], witness["strength"]
    alone = [(next(each for each in check.DIRECTED if each != name), {name: witness[name]}) for name in witness]
    return [
        *((name, {other: its for other, its in witness.items() if other != name}) for name in witness),
        *alone,
        entry("active", len(directions)), entry("active", -1), entry("active", 2**62), entry("active", -(2**62)),
        other("active", active.astype(np.float32)), other("active", active[:-1]), other("active", active[None]),
        other("active", np.vstack([active, active[:1]])), other("active", active[:, 0]),
        other("directions", directions[:, :-1]), other("directions", directions[0]),
        other("directions", directions.astype(np.int64)), other("directions", directions[:0]),
        other("strength", strength[:, :-1]), other("strength", strength[:-1]), other("strength", strength.T),
        other("strength", strength.astype(np.int64)), other("strength", strength[..., None]),
    ]  # fmt: skip


@pytest.mark.parametrize("case", [FAMILY[0], FAMILY[3]], ids=lambda case: case.name)
@pytest.mark.parametrize("rung", ["masses", "uniform"])
def test_directions_that_cannot_be_used_are_refused_by_name(case: Case, rung: str) -> None:
    for culprit, witness in spoilt(directions(case, 0)):
        with pytest.raises(check.Refused, match=f"witness.safetensors: {culprit}: |{culprit} is missing"):
            proved(rung, case, witness)


@pytest.mark.parametrize("rung", ["masses", "uniform"])
def test_directions_too_loud_for_float64_prove_nothing(rung: str) -> None:
    case = FAMILY[0]
    for name in ("directions", "strength"):
        witness = {key: value.astype(float) if key != "active" else value
                   for key, value in directions(case, 0).items()}  # fmt: skip
        for size in (1e200, 1e300, -1e308):
            witness[name][:] = size
            bounds, _ = proved(rung, case, witness)
            assert not (bounds < 1e100).any()


def test_each_rung_takes_what_it_knows_alone() -> None:
    case = Case("masses")
    _, data = opened(case, weights(case), stream())
    ours, its = directions(case, 0), {name: value.numpy() for name, value in bent(case).items()}
    rows = data.contexts + np.arange(4) * 5
    met = np.array([[row[[i, j]] for i, j in combinations(range(4), 2)] for row in rows])
    pairs, which = np.unique(met.reshape(-1, 2), axis=0, return_inverse=True)
    known = {"pairs": pairs, "pair": which.reshape(met.shape[:2])}
    for rung in ("pairs", "vectors", "brute"):
        needed = {} if rung == "brute" else known
        proved(rung, case, needed)
        for names in (["directions"], ["active"], ["strength"], list(ours)):
            with pytest.raises(check.Refused, match=f"'{names[0]}' is unknown to this rung"):
                proved(rung, case, needed | {name: ours[name] for name in names})
    for name, value in [*its.items(), ("read", np.zeros((len(data.contexts), 0), np.int64))]:
        with pytest.raises(check.Refused, match=f"'{name}' is unknown to this rung"):
            proved("uniform", case, {name: value})
    with pytest.raises(check.Refused, match="MLPs"):
        proved("uniform", Case("masses", mlps=0), {})
