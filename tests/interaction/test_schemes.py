"""What neurons say when they hear only some features: against a sorted list for every neuron of every token."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossproof.codes import Codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import Chunk, Neurons, PlainNeurons, Table, chunks, contributions
from crossproof.interaction.schemes import SCHEMES, pre_activations, written
from crossproof.units import MLP, GatedMLP

FIXED = (*(scheme for scheme in SCHEMES if scheme != "drop random"), "keep 3", "keep 100")
TRIALS = settings(max_examples=25, deadline=None)


def some(seed: int, gated: bool, ties: bool, dtype: torch.dtype = torch.float64) -> tuple[Codes, Neurons, torch.Tensor]:
    """Tokens with none, one and more features, of which ties have contributions of equal size and of size 0."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        if ties:
            return torch.randint(-1, 2, shape, generator=generator).to(dtype)
        return torch.randn(*shape, generator=generator, dtype=dtype)

    width, features, neurons = 3, 7, 4
    into, out = (draw(width, neurons), draw(neurons)), (draw(neurons, width), draw(width))
    plain = MLP(W_in=into[0], b_in=into[1], W_out=out[0], b_out=out[1], activation="gelu")
    gate = draw(width, neurons), draw(neurons)
    both = GatedMLP(
        W_gate=gate[0], b_gate=gate[1], W_in=into[0], b_in=into[1], W_out=out[0], b_out=out[1], activation="silu"
    )
    unit = both if gated else plain
    on = torch.rand(8, features, generator=generator) < torch.linspace(0, 1, 8)[:, None]
    strengths = torch.where(on, draw(8, features).abs(), 0)
    return Codes.from_dense(strengths), contributions(unit, draw(features, width), draw(width)), unit.W_out


def slowly(codes: Codes, tables: list[Table], neurons: Neurons, W_out: torch.Tensor, scheme: str) -> torch.Tensor:
    rows = []
    for token in codes.dense().tolist():
        said = []
        for neuron in range(len(W_out)):
            sums = []
            for table in tables:
                p = [(f * a, i) for i, (f, a) in enumerate(zip(token, table.A[:, neuron].tolist(), strict=True)) if f]
                p.sort(key=lambda its: (-abs(its[0]), its[1]))
                if scheme == "none":
                    p = []
                elif scheme == "drop largest":
                    p = p[1:]
                elif scheme == "drop second":
                    p = p[:1] + p[2:]
                elif scheme != "all":
                    p = p[: int(scheme.removeprefix("keep "))]
                sums.append(float(table.beta[neuron]) + sum(its for its, _ in p))
            first = float(neurons.activation.function(torch.tensor(sums[0], dtype=torch.float64)))
            said.append(first * sums[1] if len(sums) > 1 else first)
        rows.append(said)
    return torch.tensor(rows, dtype=torch.float64) @ W_out


@TRIALS
@given(st.integers(0, 2**20), st.booleans(), st.booleans())
def test_every_scheme_leaves_what_a_sorted_list_leaves(seed: int, gated: bool, ties: bool) -> None:
    codes, neurons, W_out = some(seed, gated, ties)
    tables = [neurons.pre] if isinstance(neurons, PlainNeurons) else [neurons.gate, neurons.value]
    found = written(codes, neurons, W_out, FIXED, torch.Generator())
    assert list(found) == list(FIXED)
    for scheme in FIXED:
        torch.testing.assert_close(found[scheme], slowly(codes, tables, neurons, W_out, scheme))


@TRIALS
@given(st.integers(0, 2**20), st.booleans(), st.booleans())
def test_a_random_scheme_leaves_out_one_active_feature_of_every_neuron(seed: int, gated: bool, ties: bool) -> None:
    codes, neurons, _ = some(seed, gated, ties)
    tables = [neurons.pre] if isinstance(neurons, PlainNeurons) else [neurons.gate, neurons.value]
    generator = torch.Generator().manual_seed(seed)
    for chunk in chunks(codes.active(), 4):
        for table in tables:
            found = pre_activations(chunk, table, ["drop random", "none"], generator)
            p = chunk.contributions(table.A)
            for token, active in enumerate((chunk.strengths > 0).sum(1).tolist()):
                left = table.beta + (p[token].sum(0) - p[token, :active] if active else p[token].sum(0)[None])
                distance = (found["drop random"][token] - left).abs().amin(0)
                assert float(distance.max()) < 1e-12
                if active == 1:
                    torch.testing.assert_close(found["drop random"][token], found["none"][token])


def test_every_active_feature_is_as_likely_to_be_left_out_and_neurons_draw_apart() -> None:
    active, tokens, neurons = 3, 50, 200
    features = torch.arange(active).expand(tokens, active)
    strengths = torch.cat([torch.ones(tokens, active), torch.zeros(tokens, 2)], dim=1)  # two slots are not used
    slots = torch.cat([features, torch.zeros(tokens, 2, dtype=torch.long)], dim=1)
    chunk = Chunk(torch.arange(tokens), slots, strengths, slots)
    table = Table(torch.tensor([[1.0], [10.0], [100.0]]).expand(3, neurons).contiguous(), torch.zeros(neurons))
    found = pre_activations(chunk, table, ["drop random"], torch.Generator().manual_seed(0))["drop random"]
    counts = [int((found == 111 - value).sum()) for value in (1, 10, 100)]
    assert sum(counts) == tokens * neurons
    for count in counts:
        assert count == pytest.approx(tokens * neurons / 3, rel=0.06)  # about four standard deviations
    assert int((found == found[:, :1]).all(1).sum()) == 0


def test_the_same_seed_draws_the_same_whatever_other_schemes_there_are() -> None:
    codes, neurons, W_out = some(3, gated=True, ties=False)
    alone = written(codes, neurons, W_out, ["drop random"], torch.Generator().manual_seed(5))["drop random"]
    among = written(codes, neurons, W_out, SCHEMES, torch.Generator().manual_seed(5))["drop random"]
    other = written(codes, neurons, W_out, SCHEMES, torch.Generator().manual_seed(6))["drop random"]
    torch.testing.assert_close(alone, among)
    assert not torch.equal(among, other)


def test_what_is_left_of_a_huge_contribution_is_not_its_rounding_error() -> None:
    unit = MLP(W_in=torch.eye(1), b_in=torch.zeros(1), W_out=torch.eye(1), b_out=torch.zeros(1), activation="relu")
    codes = Codes.from_dense(torch.tensor([[1e8, 1.0, 1e-8], [0, 1.0, 1e-8], [0, 0, 1e-30]]))
    neurons = contributions(unit, torch.ones(3, 1))
    found = written(codes, neurons, unit.W_out, ["drop largest", "keep 1"], torch.Generator())
    torch.testing.assert_close(found["drop largest"][:, 0], torch.tensor([1 + 1e-8, 1e-8, 0]), rtol=1e-7, atol=0)
    torch.testing.assert_close(found["keep 1"][:, 0], torch.tensor([1e8, 1, 1e-30]), rtol=1e-7, atol=0)


def test_a_token_is_worth_the_same_alone_and_entries_of_strength_0_are_nothing() -> None:
    codes, neurons, W_out = some(11, gated=False, ties=False)
    together = written(codes, neurons, W_out, FIXED, torch.Generator())
    with_zeros = Codes(codes.pattern, codes.values.clone())
    first = int(codes.pattern.row_starts[-2])
    with_zeros.values[first] = 0
    without = codes.dense()
    without[-1, codes.pattern.features[first]] = 0
    for row in range(codes.pattern.n_rows):
        alone = written(codes.rows(row, row + 1), neurons, W_out, FIXED, torch.Generator())
        for scheme in FIXED:
            torch.testing.assert_close(alone[scheme][0], together[scheme][row])
    found, expected = (
        written(its, neurons, W_out, SCHEMES, torch.Generator().manual_seed(0))
        for its in (with_zeros, Codes.from_dense(without))
    )
    for scheme in SCHEMES:
        torch.testing.assert_close(found[scheme], expected[scheme])


def test_what_is_no_scheme_and_what_does_not_fit_is_refused() -> None:
    codes, neurons, W_out = some(0, gated=False, ties=False)
    for wrong in ("keep 0", "keep -1", "keep 01", "keep", "drop third", ""):
        with pytest.raises(CrossproofError, match="no scheme"):
            written(codes, neurons, W_out, [wrong], torch.Generator())
    with pytest.raises(MismatchError, match="W_out"):
        written(codes, neurons, W_out[:2], ["all"], torch.Generator())
    with pytest.raises(MismatchError, match="different dictionaries"):
        written(Codes.from_dense(codes.dense()[:, :5]), neurons, W_out, ["all"], torch.Generator())
