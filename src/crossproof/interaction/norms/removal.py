"""What happens to a norm's output, or to an MLP's behind it, when features are removed from the norm's input.

At one token, with all of its features but some, the norm (and the MLP) is run as it is. Second differences would also
follow from Gram entries, since each lies in the span of three vectors; but where two features leave next to nothing, or
where features are parallel, that loses half of the digits, and at one token running costs no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from crossproof.codes import Codes, check_features
from crossproof.errors import MismatchError
from crossproof.interaction.contributions import CHUNK, check_codes
from crossproof.interaction.norms.features import NormFeatures, norm_features
from crossproof.interaction.norms.scale import inverse, scale_of
from crossproof.interaction.shapley import Game
from crossproof.progress import progress
from crossproof.units import MLP, GatedMLP, Norm


def norm_game(
    norm: Norm,
    directions: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " d_model"] | None,
    strengths: Float[Tensor, " player"],
    features: Int[Tensor, " player"],
) -> Game:
    """The outputs are the norm's, with these features on at these strengths at its input and no others."""
    reached = norm_features(norm, directions, bias)
    parts = strengths[:, None].to(directions) * reached.directions[features]

    def game(coalitions: Bool[Tensor, "coalition player"]) -> Float[Tensor, "coalition d_model"]:
        return _normed(reached)(torch.addmm(reached.background, coalitions.to(parts), parts))

    return game


@torch.no_grad()
def second_differences(
    codes: Codes, row: int, norm: NormFeatures
) -> tuple[Int[Tensor, " player"], Float[Tensor, "player player"]]:
    """The features active at one token, and ‖y(N) − y(N∖i) − y(N∖j) + y(N∖ij)‖₂ of each two in the norm's output y.

    Symmetric, 0 on the diagonal.
    """
    features, parts = _players(codes, row, norm)
    found = parts.new_zeros(len(features), len(features))
    for i, j, difference in _differences(_normed(norm), norm, parts, norm.width):
        found[i, j] = found[j, i] = difference.norm(dim=1)
    return features, found


@dataclass(frozen=True, eq=False)
class NormShare:
    """Over all pairs of a token's features, lengths of second differences in the output of an MLP behind a norm."""

    total: Float64[Tensor, " row"]
    frozen: Float64[Tensor, " row"]
    """With the norm's scale held at the token's own: the norm is linear then, and what is left is the MLP's."""
    scale_only: Float64[Tensor, " row"]
    """Of the difference between the two: what the scale does. total and frozen differ by this at most."""

    @property
    def share(self) -> float:
        """How much of the total is the scale's, rows pooled; above 1 where it works against the MLP's own."""
        return float(self.scale_only.sum() / self.total.sum())


@torch.no_grad()
def norm_share(
    codes: Codes,
    norm: Norm,
    mlp: MLP | GatedMLP,
    directions: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " d_model"] | None,
    rows: Int[Tensor, " row"],
) -> NormShare:
    """At these tokens of the codes, with the dictionary at the norm's input. In float64: pairs far weaker than outputs.

    Runs the MLP twice for each pair of features active at a token.
    """
    double = torch.float64
    reached = norm_features(norm.to(double), directions.to(double), None if bias is None else bias.to(double))
    mlp = mlp.to(double)
    n_neurons = mlp.W_in.shape[1]
    sums = torch.zeros(3, len(rows), dtype=double, device=directions.device)
    with progress("a norm's part of its MLP's interaction", len(rows), "tokens") as bar:
        for place, row in enumerate(rows.tolist()):
            _, parts = _players(codes, row, reached)
            held = inverse(scale_of(reached.background + parts.sum(0), reached))
            live, frozen = _then(mlp, _normed(reached)), _then(mlp, _normed(reached, held))
            for (_, _, ours), (_, _, linear) in zip(
                _differences(live, reached, parts, n_neurons),
                _differences(frozen, reached, parts, n_neurons),
                strict=True,
            ):
                sums[:, place] += torch.stack([ours, linear, ours - linear]).norm(dim=2).sum(1)
            bar(1)
    return NormShare(*sums)


# -- at a token --------------------------------------------------------------------------------------------------------

Output = Callable[[Float[Tensor, "*batch d_model"]], Float[Tensor, "*batch output"]]
"""Of the norm's centred input."""


def _normed(norm: NormFeatures, held: Tensor | None = None) -> Output:
    """The norm, with 1/σ held at a value if there is one."""
    return lambda centred: norm.output(centred, inverse(scale_of(centred, norm)) if held is None else held)


def _then(mlp: MLP | GatedMLP, output: Output) -> Output:
    return lambda centred: mlp(output(centred))


def _players(
    codes: Codes, row: int, norm: NormFeatures
) -> tuple[Int[Tensor, " player"], Float[Tensor, "player d_model"]]:
    """The features active at a token, and what each adds to the norm's centred input."""
    check_codes(codes, norm.n_features)
    if not 0 <= row < codes.pattern.n_rows:
        raise MismatchError(f"row {row}: these codes have the rows 0 to {codes.pattern.n_rows - 1}")
    start, end = codes.pattern.row_starts[row : row + 2].tolist()
    features, strengths = codes.pattern.features[start:end], codes.values[start:end]
    check_features(strengths)
    features, strengths = features[strengths > 0], strengths[strengths > 0]
    return features, strengths[:, None].to(norm.directions) * norm.directions[features]


def _differences(
    output: Output, norm: NormFeatures, parts: Float[Tensor, "player d_model"], width: int
) -> Iterator[tuple[Int[Tensor, " pair"], Int[Tensor, " pair"], Float[Tensor, "pair output"]]]:
    """Of pairs i < j: y(N) − y(N∖i) − y(N∖j) + y(N∖ij); as many at a time as evaluations of this width allow."""
    players = len(parts)

    def outputs(coalitions: Tensor) -> Tensor:
        # summed anew for each coalition: to subtract a large feature would round small ones away
        return output(torch.addmm(norm.background, coalitions.to(parts), parts))

    some = torch.ones(players, players, dtype=torch.bool, device=parts.device)
    every, without = outputs(some[:1]), outputs(some.fill_diagonal_(False))
    pairs = torch.triu_indices(players, players, 1, device=parts.device)
    for i, j in (of.unbind() for of in pairs.split(max(1, CHUNK // width), dim=1)):
        neither = some[i] & some[j]
        yield i, j, every - without[i] - without[j] + outputs(neither)
