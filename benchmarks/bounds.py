"""How tight the bounds of single units are: each beside the worst point that a search finds, on units of `tinytales`.

What is found bounds the supremum from below, the lemma does from above, so the ratio says how loose the lemma is at
most. Accounts of neurons need no search: what they miss is known. Every line is a bound and what it bounds in the same
inputs; a ratio below 1 would be a mistake, and the command fails.

    python benchmarks/bounds.py            # a table
    python benchmarks/bounds.py --json     # the same as JSON
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from crossproof.proof.arithmetic.ball import Ball, exact
from crossproof.proof.units.accounts import ACCOUNTS, Kind
from crossproof.proof.units.around import Around
from crossproof.proof.units.attention import BoundedAttention
from crossproof.proof.units.loss import BoundedLoss
from crossproof.proof.units.mlp import BoundedMLP
from crossproof.proof.units.norms import BoundedNorm
from crossproof.proof.units.readout import Readout
from crossproof.proof.units.search import highest
from crossproof.subject.subject import Subject
from crossproof.units import ACTIVATIONS, MLP, Attention, Norm, Unembedding

POSITIONS = 12
SEEDS = 4


class Line(NamedTuple):
    lemma: str
    case: str
    bound: float
    found: float

    @property
    def ratio(self) -> float:
        return self.bound / self.found if self.found > 0 else float("inf")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(0)
    lines = [*accounts(), *units()]
    if args.json:
        print(json.dumps([line._asdict() | {"ratio": line.ratio} for line in lines], indent=1))
    else:
        for line in lines:
            print(f"{line.lemma:34s} {line.case:26s} {line.bound:10.4g} {line.found:10.4g} {line.ratio:8.3g}")
    wrong = [line for line in lines if line.bound < line.found * (1 - 1e-9)]
    if wrong:
        raise SystemExit(f"a bound is below what was found: {wrong[0]}")


def accounts() -> Iterator[Line]:
    """Contributions from a normal distribution, of features of very different sizes."""
    for k in (4, 16):
        p = torch.randn(500, k, 1, dtype=torch.float64) * torch.randn(500, 1, 1, dtype=torch.float64).exp()
        beta = torch.zeros(1, 1, dtype=torch.float64)
        for name in ("relu", "gelu_new", "silu"):
            kinds: tuple[Kind, ...] = ("dominant", "masses", "pairs")
            for kind in kinds:
                account = ACCOUNTS[kind](exact(p), exact(beta), name)
                missed = (ACTIVATIONS[name].function(p.sum(1)) - account.known.mid).abs()
                lemma = {"dominant": "T1", "masses": "L1", "pairs": "L2"}[kind] if name == "relu" else "L5"
                shown = lemma if kind != "dominant" else "T1"
                yield Line(
                    f"{shown} {kind}", f"{name}, {k} features", float(account.missed.mid.mean()), float(missed.mean())
                )


@torch.no_grad()
def units() -> Iterator[Line]:
    subject = Subject.load("tinytales")
    texts = subject.texts(1)
    its = {type(unit): unit.to(torch.float64) for unit in subject.units[4:8]}
    norm, attention, mlp = its[Norm], its[Attention], its[MLP]
    last = subject.units[-1].to(torch.float64)
    assert isinstance(norm, Norm)
    assert isinstance(attention, Attention)
    assert isinstance(mlp, MLP)
    assert isinstance(last, Unembedding)
    sites = (norm.input_site, attention.input_site, mlp.input_site, last.input_site)
    values = {site: x[0, :POSITIONS].double() for site, x in subject.cache(texts, sites).items()}
    yield from readouts(mlp, values[mlp.input_site])
    yield from norms(norm, values[norm.input_site][3:4])
    yield from attended(attention, values[attention.input_site])
    yield from carried(mlp, values[mlp.input_site][3:4])
    yield from losses(last, values[last.input_site][3:4], texts.targets[0, 3:4])


def readouts(mlp: MLP, x: Tensor) -> Iterator[Line]:
    """Corrections as large as the masses of a dictionary that splits inputs in four; the worst corner by ascent."""
    parts = torch.randn(4, *x.shape, dtype=torch.float64) * x.abs().mean()
    p = torch.cat([parts, (x - parts.sum(0))[None]]).transpose(0, 1) @ mlp.W_in
    c = ACCOUNTS["masses"](exact(p), exact(mlp.b_in[None]), "relu").missed
    readout = Readout(exact(mlp.W_out))
    found = [worst_corner(row, mlp.W_out) for row in c.mid]
    mean = sum(found) / len(found)
    bounds: dict[str, Ball] = {
        "Gram": readout.gram(c, one_sided=True),
        "spectral": readout.spectral(c),
        "sum of norms": readout.sum_of_norms(c),
    }
    for name, bound in bounds.items():
        yield Line("L4 readout", name, float(bound.mid.mean()), mean)


def worst_corner(c: Tensor, W: Tensor) -> float:
    """The longest Σ δ_n W_n, δ_n 0 or c_n: convex, so steps along the slope never make it shorter."""
    best = 0.0
    for seed in range(SEEDS):
        direction = torch.randn(W.shape[1], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for _ in range(30):
            direction = torch.where(W @ direction > 0, c, 0.0) @ W
        best = max(best, float(direction.norm()))
    return best


def norms(unit: Norm, x: Tensor) -> Iterator[Line]:
    bounded = BoundedNorm(unit)
    length = bounded.scale(exact(x)).mid
    for part in (0.1, 0.5, 0.9):
        radius = part * length
        around = Around(exact(x), Ball(radius))
        for name, image in (
            ("ball", bounded.around(around)),
            ("chord", bounded.about(around)),
            ("2ε/R", bounded.lipschitz(around)),
        ):
            away = search(unit, image.centre.mid, x, radius)
            yield Line(f"L7 norm, {name}", f"ε = {part} R", float(image.radius.mid), away)


def attended(unit: Attention, x: Tensor) -> Iterator[Line]:
    at = BoundedAttention(unit).at(exact(x))
    out = unit(x[None])[0]
    for part in (0.001, 0.01, 0.1, 1.0):
        radius = part * x.norm(dim=1)
        bound = float(at.carry(Ball(radius[None])).mid[0, -1])
        found = highest(lambda points: (unit(points) - out)[:, -1].norm(dim=-1), x, radius, 8, 60)
        yield Line("L8 attention", f"ε = {part} ‖x‖", bound, found)


def carried(unit: MLP, x: Tensor) -> Iterator[Line]:
    growth = BoundedMLP(unit)
    for part in (0.01, 0.1, 1.0):
        radius = part * x.norm(dim=1)
        yield Line(
            "MLP, Lipschitz", f"ε = {part} ‖x‖", float(growth.carry(Ball(radius)).mid), search(unit, unit(x), x, radius)
        )


def losses(unit: Unembedding, x: Tensor, target: Tensor) -> Iterator[Line]:
    """What the loss may rise by."""

    def loss(points: Tensor) -> Tensor:
        z = unit(points)
        return (torch.logsumexp(z, -1) - z[..., int(target)])[:, 0]

    own = float(loss(x[None]))
    for part in (0.01, 0.1, 0.5):
        radius = part * x.norm(dim=1)
        bound, _ = BoundedLoss(unit).around(Around(exact(x), Ball(radius)), target)
        yield Line("L10 loss", f"ε = {part} ‖x‖", float(bound.mid) - own, highest(loss, x, radius, 8, 60) - own)


def search(unit: Callable[[Tensor], Tensor], centre: Tensor, x: Tensor, radius: Tensor) -> float:
    return highest(lambda points: (unit(points) - centre).norm(dim=-1)[:, 0], x, radius, 8, 60)


if __name__ == "__main__":
    main()
