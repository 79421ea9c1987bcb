"""The penalty's value and gradient beside the naive formulation and beside the matrix products it cannot do without.

The naive formulation is the plain way to write it: gather the decoder rows of every token's active features, multiply
with W_in, absolute value, sum, maximum. Padded, it does so for as many features as the busiest token has, as published
code does. The floor is the fold A = d W_in and its backward, nothing else. Values and gradients must agree. All run in
one process in turns, with freed memory kept for reuse as our trainer keeps it, which spares both sides page faults.

    python benchmarks/penalty.py            # tables
    python benchmarks/penalty.py --json     # the same as JSON
    python benchmarks/penalty.py --kinds    # only what each kind of unit adds to a training step of a small model
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from crossproof.binding.config import PenaltyConfig
from crossproof.binding.penalty_term import PenaltyTerm
from crossproof.codes import Codes, Pattern
from crossproof.crosscoder.config import CrosscoderConfig, FitConfig, Site
from crossproof.crosscoder.losses import Reconstruction
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training
from crossproof.interaction.penalty import InteractionPenalty
from crossproof.memory import keep_freed_memory
from crossproof.units import MLP, Attention, Norm
from measuring import in_own_process, in_turns, milliseconds, peak_mb, ratio

PAPER = {"mlps": 4, "width": 768, "neurons": 3072, "features": 1536, "active": 20, "tokens": 256, "busiest": 20}
PADDED = PAPER | {"busiest": 60}
ACTIVE = (5, 10, 20, 40, 80, 160)
FEATURES = (1024, 2048, 4096, 8192, 16384, 32768)
TOKENS = (64, 128, 256, 512, 1024, 2048)
SITES = 17
FRACTION = 1 / 8
SMALL = {"layers": 4, "heads": 4, "width": 128, "neurons": 512, "features": 1024, "active": 16, "tokens": 512}
"""As `crossproof train --subject tinytales`."""


class Case:
    """One batch of codes, one dictionary, a few MLPs."""

    def __init__(self, geometry: dict[str, int], seed: int = 0) -> None:
        self.geometry = geometry
        generator = torch.Generator().manual_seed(seed)
        width, neurons, features = geometry["width"], geometry["neurons"], geometry["features"]
        self.units = [
            MLP(
                W_in=torch.randn(width, neurons, generator=generator) / width**0.5,
                b_in=torch.zeros(neurons),
                activation="relu",
                W_out=torch.randn(neurons, width, generator=generator) / neurons**0.5,
                b_out=torch.zeros(width),
            )
            for _ in range(geometry["mlps"])
        ]
        self.directions = [
            torch.randn(features, width, generator=generator).requires_grad_() for _ in range(geometry["mlps"])
        ]
        counts = active_counts(geometry, generator)
        ranked = torch.rand(geometry["tokens"], features, generator=generator).argsort(1)
        rows = [ranked[t, :count].sort().values for t, count in enumerate(counts.tolist())]
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        self.pattern = Pattern(torch.cat(rows), starts, features)
        self.values = (torch.rand(self.pattern.n_entries, generator=generator) + 0.5).requires_grad_()

    def forget(self) -> None:
        for tensor in (self.values, *self.directions):
            tensor.grad = None

    def gradients(self) -> list[Tensor]:
        return [tensor.grad.clone() for tensor in (self.values, *self.directions) if tensor.grad is not None]

    def ours(self, penalty: InteractionPenalty) -> float:
        self.forget()
        value = penalty(Codes(self.pattern, self.values), self.directions)
        value.backward()
        return float(value.detach())

    def naive(self) -> float:
        """Gather, einsum, abs, sum, max, padded to the busiest token of the batch."""
        self.forget()
        n_tokens, slots = self.pattern.n_rows, int(self.pattern.row_starts.diff().max())
        slot = torch.arange(slots)
        real = slot < self.pattern.row_starts.diff()[:, None]
        entry = torch.where(real, self.pattern.row_starts[:-1, None] + slot, 0)
        features, strengths = self.pattern.features[entry], self.values[entry] * real
        total = torch.zeros(())
        for unit, directions in zip(self.units, self.directions, strict=True):
            rows = directions[features.flatten()].view(n_tokens, slots, -1)
            p = (torch.einsum("tkd,dn->tkn", rows, unit.W_in) * strengths[..., None]).abs()
            total = total + (p.sum(1) - p.amax(1)).mean()
        value = total / len(self.units)
        value.backward()
        return float(value.detach())

    @torch.no_grad()
    def floor(self) -> None:
        for unit, directions in zip(self.units, self.directions, strict=True):
            table = directions @ unit.W_in
            _ = table @ unit.W_in.T


def active_counts(geometry: dict[str, int], generator: torch.Generator) -> Tensor:
    """As many active features on every token, or as BatchTopK has them: `active` on average and `busiest` at most."""
    tokens, active, busiest = geometry["tokens"], geometry["active"], geometry["busiest"]
    if busiest == active:
        return torch.full((tokens,), active)
    spread = torch.distributions.Gamma(4.0, 4.0 / active)
    torch.manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    counts = spread.sample((tokens,)).round().long().clamp(1, busiest)
    counts[tokens // 2] = busiest
    return counts


def penalty_of(case: Case, fraction: float = 1.0) -> InteractionPenalty:
    return InteractionPenalty(case.units, scaling="paper", fraction=fraction)


def exact(geometry: dict[str, int], repeats: int) -> dict[str, Any]:
    case = Case(geometry)
    penalty = penalty_of(case)
    difference = disagreement(case, penalty)
    times = in_turns({"ours": partial(case.ours, penalty), "floor": case.floor, "naive": case.naive}, repeats)
    extra = {which: in_own_process(__file__, which, geometry) for which in ("ours", "naive")}
    by_default = in_own_process(__file__, "naive over ours", geometry | {"repeats": max(3, repeats // 2)})
    return {
        **geometry,
        "mean_active": case.pattern.n_entries / case.pattern.n_rows,
        "naive_over_ours": ratio(times["naive"], times["ours"]),
        "naive_over_ours_with_default_allocator": by_default,
        "ours_over_floor": ratio(times["ours"], times["floor"]),
        "milliseconds": {name: milliseconds(values) for name, values in times.items()},
        "extra_peak_mb": extra,
        "extra_memory_ratio": extra["ours"] / extra["naive"],
        "relative_difference": difference,
    }


def disagreement(case: Case, penalty: InteractionPenalty) -> float:
    """Relative, between the naive form's value and gradients and ours."""
    values, gradients = [], []
    for run in (partial(case.ours, penalty), case.naive):
        values.append(run())
        gradients.append(case.gradients())
    # over norms: where two contributions tie but for rounding, either may be the largest, and single entries differ
    apart = [float((a - b).norm() / b.norm()) for a, b in zip(*gradients, strict=True)]
    return max(abs(values[0] - values[1]) / values[1], *apart)


def in_training(repeats: int) -> dict[str, Any]:
    """What the penalty adds to a training step of ours at the paper's geometry, on all neurons and on some."""
    case = Case(PAPER)
    terms = {
        name: penalty_term(case.units, neurons=fraction, scaling="paper")
        for name, fraction in (("all neurons", 1.0), ("one neuron in eight", FRACTION))
    }
    return added(terms, PAPER, repeats)


def of_kinds(repeats: int) -> dict[str, Any]:
    """What the penalties of MLPs, attention and norms add to a training step of ours, at the size of a small model."""
    generator = torch.Generator().manual_seed(0)
    layers, heads, width, neurons = (SMALL[name] for name in ("layers", "heads", "width", "neurons"))

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / shape[-2 if len(shape) > 1 else -1] ** 0.5

    def attention() -> Attention:
        d_head = width // heads
        W_Q, W_K, W_V = (draw(heads, width, d_head) for _ in range(3))
        b_Q, b_K, b_V = (draw(heads, d_head) for _ in range(3))
        W_O, b_O = draw(heads, d_head, width), draw(width)
        return Attention(W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, b_Q=b_Q, b_K=b_K, b_V=b_V, b_O=b_O, scale=d_head**-0.5)

    mlps = [
        MLP(
            W_in=draw(width, neurons),
            b_in=draw(neurons),
            activation="gelu",
            W_out=draw(neurons, width),
            b_out=draw(width),
        )
        for _ in range(layers)
    ]
    norms = [Norm(kind="layer", gain=1 + draw(width), bias=draw(width), eps=1e-5) for _ in range(2 * layers + 1)]
    heads_of = [attention() for _ in range(layers)]
    terms = {"MLPs": penalty_term(mlps), "attention": penalty_term(heads_of, "attention")}
    terms["attention, as many pairs as tokens"] = every = penalty_term(heads_of, "attention")
    assert every.attention is not None
    every.attention.pairs = None
    return added(terms | {"norms": penalty_term(norms, "norm")}, SMALL, repeats)


def penalty_term(units: Sequence[MLP | Attention | Norm], on: str = "mlp", **settings: Any) -> PenaltyTerm:
    """Each unit is fed by a site of its own, the first ones."""
    return PenaltyTerm(PenaltyConfig(on=(on,), weight=1.0, warmup=0.0, **settings), units, range(len(units)))


def added(terms: Mapping[str, PenaltyTerm], geometry: Mapping[str, int], repeats: int) -> dict[str, Any]:
    """What each term adds to a training step of ours, over a step without any, in turns."""
    shape = CrosscoderConfig(
        sites=tuple(Site(subject="benchmark", hook=f"site.{index}") for index in range(SITES)),
        width=geometry["width"],
        features=geometry["features"],
        k=geometry["active"],
    )
    batches = [torch.randn(geometry["tokens"], SITES, geometry["width"]) for _ in range(2)]
    rows = torch.randn(geometry["features"], SITES * geometry["width"])
    rows /= rows.norm(dim=1, keepdim=True)
    fit = FitConfig(steps=10**6, batch_tokens=geometry["tokens"])
    trainings = {}
    for name, extra in {"unpenalised": [], **{name: [term] for name, term in terms.items()}}.items():
        coder = Crosscoder(shape)
        with torch.no_grad():
            coder.W_dec.copy_(rows)
            coder.W_enc.copy_(rows)
        trainings[name] = Training(coder, [Reconstruction(), *extra], fit)
    calls = {name: partial(step, training, batches) for name, training in trainings.items()}
    times = in_turns(calls, repeats)
    plain = times["unpenalised"]
    over = {name: ratio([a - b for a, b in zip(times[name], plain, strict=True)], plain) for name in terms}
    return {
        "milliseconds": {name: milliseconds(values) for name, values in times.items()},
        "added_over_unpenalised": over,
    }


def step(training: Training, batches: list[Tensor]) -> float:
    return float(training.advance(batches[training.step % len(batches)])["loss"])


def growth(repeats: int) -> list[dict[str, Any]]:
    """One MLP of the paper's, one dimension of the batch growing at a time."""
    base = PAPER | {"mlps": 1}
    rows = []
    for name, sizes in (("active", ACTIVE), ("features", FEATURES), ("tokens", TOKENS)):
        for size in sizes:
            geometry = base | {name: size}
            case = Case(geometry | {"busiest": geometry["active"]})
            times = in_turns({"ours": partial(case.ours, penalty_of(case)), "floor": case.floor}, repeats)
            rest = [1e3 * (a - b) for a, b in zip(times["ours"], times["floor"], strict=True)]
            rows.append(
                {
                    "grows": name,
                    "size": size,
                    "ours_ms": milliseconds(times["ours"]),
                    "products_ms": milliseconds(times["floor"]),
                    "rest_ms": sorted(rest)[len(rest) // 2],
                }
            )
    return rows


def alone(which: str, geometry: dict[str, int]) -> float:
    """How much further one value and gradient push the peak of a process that holds inputs and gradients already.

    Or, which takes a process of its own too, how many times as long the naive form takes with the default allocator.
    """
    case = Case(geometry)
    if which == "naive over ours":
        times = in_turns({"ours": partial(case.ours, penalty_of(case)), "naive": case.naive}, geometry["repeats"])
        return ratio(times["naive"], times["ours"])["median"]
    for tensor in (case.values, *case.directions):
        tensor.grad = torch.ones_like(tensor)
    small = Case(geometry | {"width": 8, "neurons": 8, "features": 256})  # loads what torch loads on first use
    for run in (partial(small.ours, penalty_of(small)), small.naive):
        run()
    case.forget()
    before = peak_mb()
    run = partial(case.ours, penalty_of(case)) if which == "ours" else case.naive
    run()
    return peak_mb() - before


def additions(found: dict[str, Any]) -> str:
    lines = [f"a training step without a penalty: {found['milliseconds']['unpenalised']:.0f} ms"]
    for name, its in found["added_over_unpenalised"].items():
        lines.append(f"{name}: adds {its['median']:.2f} ({its['min']:.2f}–{its['max']:.2f}) of it")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--kinds", action="store_true", help="only what each kind adds to a step of a small model")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", nargs=2, metavar=("WHICH", "GEOMETRY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        print(alone(arguments.alone[0], json.loads(arguments.alone[1])))
        return
    keep_freed_memory()
    kinds = of_kinds(2 * arguments.repeats + 1)
    found = {"benchmark": "penalty", "threads": arguments.threads, "kinds": kinds}
    if arguments.kinds:
        print(json.dumps(found, indent=2) if arguments.json else additions(kinds))
        return
    cases = {"exactly 20 active": exact(PAPER, arguments.repeats), "padded to 60": exact(PADDED, arguments.repeats)}
    worst = max(case["relative_difference"] for case in cases.values())
    if worst > 1e-4:
        sys.exit(f"the penalty and the naive form differ by {worst:.1e}")
    training, table = in_training(2 * arguments.repeats + 1), growth(max(3, arguments.repeats // 2))
    if arguments.json:
        print(json.dumps(found | {"exact": cases, "training": training, "growth": table}, indent=2))
        return
    for name, case in cases.items():
        ms, faster, floor = case["milliseconds"], case["naive_over_ours"], case["ours_over_floor"]
        print(
            f"{name}: ours {ms['ours']:.0f} ms, naive {ms['naive']:.0f} ms, products {ms['floor']:.0f} ms: "
            f"{faster['median']:.2f} ({faster['min']:.2f}–{faster['max']:.2f}) times as fast as naive, "
            f"{case['naive_over_ours_with_default_allocator']:.2f} with the default allocator, "
            f"{floor['median']:.2f} ({floor['min']:.2f}–{floor['max']:.2f}) of the products; extra peak "
            f"{case['extra_peak_mb']['ours']:.0f}/{case['extra_peak_mb']['naive']:.0f} MB = "
            f"{case['extra_memory_ratio']:.3f}; agrees to {case['relative_difference']:.1e}"
        )
    print(additions(training))
    print(f"\na small model\n{additions(kinds)}")
    print("\ngrows         size   ours ms   products ms   rest ms")
    for row in table:
        print(
            f"{row['grows']:<9} {row['size']:8,}   {row['ours_ms']:7.1f}   {row['products_ms']:11.1f}   "
            f"{row['rest_ms']:7.1f}"
        )


if __name__ == "__main__":
    main()
