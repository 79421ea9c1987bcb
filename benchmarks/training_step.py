"""One BatchTopK training step of ours beside a dense one, interleaved in one run.

The dense yardstick is the plain way to write the step: addmm, ReLU, topk over the flattened batch, scatter, addmm,
squared error, Adam. Both start from the same weights and see the same batches, and their losses must agree.

A second table says from which density of codes on a dense product is the faster one (`DENSE_ABOVE` of codes.py).

    python benchmarks/training_step.py            # two tables
    python benchmarks/training_step.py --json     # the same as JSON
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from functools import partial

import torch
from torch import Tensor

from crossproof import codes
from crossproof.codes import Pattern
from crossproof.crosscoder.config import CrosscoderConfig, FitConfig, Site
from crossproof.crosscoder.losses import Reconstruction
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training
from measuring import clock, in_own_process, peak_mb

GEOMETRIES = (
    {"sites": 17, "width": 256, "features": 2048, "k": 20, "batch": 512},
    {"sites": 17, "width": 256, "features": 2048, "k": 64, "batch": 512},
    {"sites": 4, "width": 256, "features": 2048, "k": 20, "batch": 512},
)


class Dense:
    """The yardstick."""

    def __init__(self, weights: dict[str, Tensor], k: int, lr: float) -> None:
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        self.W_enc, self.b_enc, self.W_dec, self.b_dec = (torch.nn.Parameter(weights[n].clone()) for n in names)
        self.k = k
        self.optimiser = torch.optim.Adam([self.W_enc, self.b_enc, self.W_dec, self.b_dec], lr=lr, fused=True)

    def step(self, x: Tensor) -> float:
        pre = torch.addmm(self.b_enc, x, self.W_enc.T)
        kept = torch.relu(pre).flatten().topk(self.k * x.shape[0])
        f = torch.zeros_like(pre).flatten().scatter(0, kept.indices, kept.values).view_as(pre)
        reconstruction = torch.addmm(self.b_dec, f, self.W_dec)
        loss = (reconstruction - x).square().sum() / x.shape[0]
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return float(loss.detach())


def start(geometry: dict[str, int], seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor], float]:
    torch.manual_seed(seed)
    inputs, features = geometry["sites"] * geometry["width"], geometry["features"]
    rows = torch.randn(features, inputs)
    W = rows / rows.norm(dim=1, keepdim=True)
    weights = {"W_enc": W.clone(), "b_enc": torch.zeros(features), "W_dec": W.clone(), "b_dec": torch.zeros(inputs)}
    batches = [torch.randn(geometry["batch"], geometry["sites"], geometry["width"]) for _ in range(4)]
    return weights, batches, 1e-4


def our_training(geometry: dict[str, int], weights: dict[str, Tensor], lr: float) -> Training:
    sites = tuple(Site(subject="benchmark", hook=f"site{i}") for i in range(geometry["sites"]))
    config = CrosscoderConfig(
        sites=sites, width=geometry["width"], features=geometry["features"], activation="batchtopk", k=geometry["k"]
    )
    coder = Crosscoder(config)
    coder.load_state_dict(weights, strict=False)
    # a constant learning rate and a limit no gradient reaches: the same update rule as the yardstick's
    fit = FitConfig(lr=lr, warmup=0, decay=0, clip=1e9, steps=10**6, batch_tokens=geometry["batch"])
    return Training(coder, [Reconstruction()], fit)


def measure(geometry: dict[str, int], repeats: int) -> dict[str, object]:
    weights, batches, lr = start(geometry)
    dense, ours = Dense(weights, geometry["k"], lr), our_training(geometry, weights, lr)
    flat = [batch.flatten(1) for batch in batches]
    W, b = weights["W_enc"], weights["b_enc"]
    times: dict[str, list[float]] = {"dense": [], "ours": [], "floor": []}
    worst = 0.0
    for i in range(repeats + 2):
        batch, x = batches[i % len(batches)], flat[i % len(flat)]
        seconds, dense_loss = clock(partial(dense.step, x))
        times["dense"].append(seconds)
        seconds, our_loss = clock(partial(our_step, ours, batch))
        times["ours"].append(seconds)
        seconds, _ = clock(partial(torch.addmm, b, x, W.T))
        times["floor"].append(seconds)
        worst = max(worst, abs(our_loss - dense_loss) / dense_loss)
    medians = {name: statistics.median(values[2:]) for name, values in times.items()}  # two steps of warm-up
    ratios = [ours_s / dense_s for ours_s, dense_s in zip(times["ours"][2:], times["dense"][2:], strict=True)]
    return {
        **geometry,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "ours_ms": 1e3 * medians["ours"],
        "dense_ms": 1e3 * medians["dense"],
        "encoder_product_ms": 1e3 * medians["floor"],
        "ours_tokens_per_second": geometry["batch"] / medians["ours"],
        "worst_relative_loss_difference": worst,
        "peak_mb": {which: in_own_process(__file__, which, geometry) for which in ("ours", "dense")},
    }


def crossover(repeats: int) -> list[dict[str, float]]:
    """Decoding and its gradients, sparse and dense, on the same random codes of growing density."""
    rows, features, outputs = 512, 2048, 17 * 256
    torch.manual_seed(0)
    W, upstream = torch.randn(features, outputs, requires_grad=True), torch.randn(rows, outputs)
    results = []
    for density in (0.01, 0.03, 0.05, 0.1, 0.2, 0.5):
        flat = torch.nonzero(torch.rand(rows * features) < density).squeeze(1)
        pattern = Pattern.from_flat(flat, rows, features)
        values = torch.rand(pattern.n_entries, requires_grad=True)
        times: dict[str, list[float]] = {"sparse": [], "dense": []}
        for _ in range(repeats + 1):
            for which, limit in (("sparse", 1.0), ("dense", 0.0)):
                codes.DENSE_ABOVE = limit
                seconds, _ = clock(partial(decode_both_ways, pattern, values, W, upstream))
                times[which].append(seconds)
        sparse, dense = (statistics.median(times[which][1:]) for which in ("sparse", "dense"))
        results.append(
            {"density": density, "sparse_ms": 1e3 * sparse, "dense_ms": 1e3 * dense, "ratio": sparse / dense}
        )
    return results


def decode_both_ways(pattern: Pattern, values: Tensor, W: Tensor, upstream: Tensor) -> None:
    fresh = Pattern(pattern.features, pattern.row_starts, pattern.n_features)  # nothing cached from the last time
    torch.autograd.grad(codes.decode(codes.Codes(fresh, values), W, None), [values, W], upstream)


def our_step(training: Training, batch: Tensor) -> float:
    return float(training.advance(batch)["loss"])


def memory_of(which: str, geometry: dict[str, int]) -> None:
    weights, batches, lr = start(geometry)
    if which == "ours":
        training = our_training(geometry, weights, lr)
        for batch in batches[:3]:
            training.advance(batch)
    else:
        dense = Dense(weights, geometry["k"], lr)
        for batch in batches[:3]:
            dense.step(batch.flatten(1))
    print(peak_mb())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--alone", nargs=2, metavar=("WHICH", "GEOMETRY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.alone:
        memory_of(arguments.alone[0], json.loads(arguments.alone[1]))
        return
    results = [measure(geometry, arguments.repeats) for geometry in GEOMETRIES]
    densities = crossover(max(1, arguments.repeats // 3))
    disagreement = max(float(str(result["worst_relative_loss_difference"])) for result in results)
    if disagreement > 1e-5:
        sys.exit(f"the two steps are not the same: their losses differ by {disagreement:.1e}")
    if arguments.json:
        found = {"benchmark": "training_step", "threads": arguments.threads, "results": results, "crossover": densities}
        print(json.dumps(found, indent=2))
        return
    print("sites  width  features   k  batch   ours ms  dense ms  encoder ms  ratio (min–max)       peak MB ours/dense")
    for r in results:
        peak = r["peak_mb"]
        assert isinstance(peak, dict)
        print(
            f"{r['sites']:5d}  {r['width']:5d}  {r['features']:8d}  {r['k']:2d}  {r['batch']:5d}  {r['ours_ms']:8.1f}  "
            f"{r['dense_ms']:8.1f}  {r['encoder_product_ms']:10.1f}  {r['ratio']:.3f} ({r['ratio_min']:.3f}–"
            f"{r['ratio_max']:.3f})   {peak['ours']:.0f}/{peak['dense']:.0f}  loss agrees to "
            f"{r['worst_relative_loss_difference']:.1e}"
        )
    print("\ndensity of codes   sparse ms   dense ms   ratio")
    for row in densities:
        print(f"{row['density']:16.2f}   {row['sparse_ms']:9.1f}   {row['dense_ms']:8.1f}   {row['ratio']:5.2f}")


if __name__ == "__main__":
    main()
