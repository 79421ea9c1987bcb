"""The full directed pairwise table of `tinytales` over a million tokens, beside the plain way to write it.

A dictionary over the inputs of the four MLPs is trained for a moment, and its codes of a million tokens are harvested:
the model's forward pass and the encoder, which are no part of the table. The table is, for each MLP and each ordered
pair of features that fire together, the sum over tokens of the directed interaction, the sum of its squares (for
standard errors) and the count. The plain way goes token by token; it is timed on a sample, and both must agree on it.

    python benchmarks/pairs.py            # a few lines
    python benchmarks/pairs.py --json     # the same as JSON
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.crosscoder.config import CrosscoderConfig, FitConfig, Site
from crossproof.crosscoder.initialise import initialise
from crossproof.crosscoder.losses import Reconstruction
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.step import Training
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import PlainNeurons, contributions
from crossproof.interaction.neurons import dominance
from crossproof.interaction.pairs import directed
from crossproof.progress import progress
from crossproof.subject.subject import Subject
from crossproof.units import MLP
from measuring import peak_mb, tables_over_tokens

TEXTS = 32
"""In a forward pass."""
TRAINED_FROM, HARVESTED_FROM = 0, 100_000
"""The first text of each."""
BATCH = 512


def main() -> None:
    tables_over_tokens("pairs", __doc__, measure, 500, (2000, "tokens that the plain way is timed on"), 1e-5)


def measure(n_tokens: int, features: int, k: int, steps: int, n_sample: int) -> dict[str, float]:
    subject = Subject.load("tinytales")
    mlps = [unit for unit in subject.units if isinstance(unit, MLP)]
    sites = tuple(mlp.input_site for mlp in mlps)
    coder = train(subject, sites, features, k, steps)

    begin = time.perf_counter()
    codes = harvest(subject, coder, n_tokens)
    harvested = time.perf_counter()
    with torch.no_grad():
        units = [contributions(mlp, coder.decoder[:, v], coder.decoder_bias[v]) for v, mlp in enumerate(mlps)]
    pairs = CoActive.of(codes)
    counted = time.perf_counter()
    tables = directed(codes, units, pairs)
    done = time.perf_counter()
    peak = peak_mb()
    dominance(codes, units)
    dominated = time.perf_counter()

    sample = first(codes, n_sample)
    begin_plain = time.perf_counter()
    plain, plain_squares = plainly(sample, [unit for unit in units if isinstance(unit, PlainNeurons)])
    plain_seconds = (time.perf_counter() - begin_plain) / n_sample * n_tokens
    of_sample = CoActive.of(sample)
    worst = 0.0
    for unit, table in enumerate(directed(sample, units, of_sample)):
        for ours, theirs in ((table.total, plain[unit]), (table.squares, plain_squares[unit])):
            theirs = theirs.clone()
            theirs[of_sample.i, of_sample.j] -= ours
            worst = max(worst, float(theirs.abs().max() / ours.max()))

    active = codes.pattern.row_starts.diff().double()
    table_seconds = done - harvested
    return {
        "tokens": n_tokens,
        "features": features,
        "mlps": len(mlps),
        "neurons": len(mlps[0].b_in),
        "active_per_token": float(active.mean()),
        "pairs_per_token": float((active * (active - 1)).mean()),
        "pairs_on_the_axis": len(pairs),
        "entries_added": int(4 * (active * (active - 1)).sum()),
        "harvest_seconds": harvested - begin,
        "table_seconds": table_seconds,
        "of_it_finding_pairs_seconds": counted - harvested,
        "peak_mb": peak,
        "dominance_seconds": dominated - done,
        "plain_seconds_extrapolated": plain_seconds,
        "plain_sample_tokens": n_sample,
        "ratio": plain_seconds / table_seconds,
        "worst_difference": worst,
        "interaction_per_token": sum(float(table.total.sum()) for table in tables) / n_tokens,
    }


def train(subject: Subject, sites: Sequence[str], features: int, k: int, steps: int) -> Crosscoder:
    """A dictionary that has seen enough to have features of its own."""
    config = CrosscoderConfig(
        sites=tuple(Site(subject=subject.name, hook=site) for site in sites),
        width=subject.width(sites[0]),
        features=features,
        activation="batchtopk",
        k=k,
    )
    coder = Crosscoder(config)
    texts = subject.source("train").tokens(TRAINED_FROM, 16 * TEXTS)
    with torch.no_grad():
        rows = torch.cat([subject.harvest(batch, sites) for batch in texts.batches(TEXTS)])
    generator = torch.Generator().manual_seed(0)
    initialise(coder, rows[:8192], "data", 0.5, generator)
    training = Training(coder, [Reconstruction()], FitConfig(steps=steps, batch_tokens=BATCH))
    with progress("training a dictionary", steps, "steps") as bar:
        for _ in range(steps):
            training.advance(rows[torch.randint(len(rows), (BATCH,), generator=generator)])
            bar(1)
    coder.calibrate(rows[:8192])
    return coder


@torch.no_grad()
def harvest(subject: Subject, coder: Crosscoder, n_tokens: int) -> Codes:
    source, parts, rows, text = subject.source("train"), [], 0, HARVESTED_FROM
    with progress("harvesting", n_tokens, "tokens") as bar:
        while rows < n_tokens:
            activations = subject.harvest(source.tokens(text, TEXTS), coder.sites)
            parts.append(first(coder.encode(activations), n_tokens - rows))
            text, rows = text + TEXTS, rows + parts[-1].pattern.n_rows
            bar(parts[-1].pattern.n_rows)
    counts = torch.cat([part.pattern.row_starts.diff() for part in parts])
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    pattern = Pattern(torch.cat([part.pattern.features for part in parts]), starts, parts[0].pattern.n_features)
    return Codes(pattern, torch.cat([part.values for part in parts]))


def first(codes: Codes, n_tokens: int) -> Codes:
    starts = codes.pattern.row_starts[: n_tokens + 1]
    entries = int(starts[-1])
    return Codes(Pattern(codes.pattern.features[:entries], starts, codes.pattern.n_features), codes.values[:entries])


def plainly(
    codes: Codes, units: Sequence[PlainNeurons]
) -> tuple[Float64[Tensor, "unit feature feature"], Float64[Tensor, "unit feature feature"]]:
    """The yardstick: token by token, dense tables."""
    pattern = codes.pattern
    total, squares = (
        torch.zeros(len(units), pattern.n_features, pattern.n_features, dtype=torch.float64) for _ in range(2)
    )
    starts = pattern.row_starts.tolist()
    for begin, end in itertools.pairwise(starts):
        features, strengths = pattern.features[begin:end], codes.values[begin:end]
        if begin == end:
            continue
        where = (features[:, None], features[None])
        for u, unit in enumerate(units):
            p = (strengths[:, None] * unit.pre.A[features]).abs()
            dominant = p.argmax(0)
            strength = torch.zeros(len(features), len(features))
            strength.index_add_(0, dominant, (p * unit.loudness / len(unit.loudness)).T)
            strength.fill_diagonal_(0)
            total[u].index_put_(where, strength.double(), accumulate=True)
            squares[u].index_put_(where, strength.double().square(), accumulate=True)
    return total, squares


if __name__ == "__main__":
    main()
