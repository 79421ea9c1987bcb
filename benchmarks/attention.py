"""The query × key tables of all heads of `tinytales` over a million tokens, beside the plain way to write them.

A dictionary over the inputs of the four attention layers is trained for a moment, and its codes of some texts are
harvested, which is no part of the tables; the million tokens are those texts, over and over. The plain way takes a
text's terms c_ij(t,s) head by head for every pair of positions and of the features active there, and their deviations
under the pattern; it is timed on a few texts, and both must agree on them. Beside it, a model with rotary positions,
where no sum over positions can be shared between queries, on a few texts too.

    python benchmarks/attention.py            # a few lines
    python benchmarks/attention.py --json     # the same as JSON
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.codes import Codes
from crossproof.interaction.attention.heads import Heads, Passage, heads_of
from crossproof.interaction.attention.pairs import query_key_pairs
from crossproof.subject.subject import Subject
from crossproof.units import Attention
from measuring import clock, peak_mb, tables_over_tokens
from pairs import HARVESTED_FROM, TEXTS, train


def main() -> None:
    tables_over_tokens(
        "attention", __doc__, measure, 300, (2, "texts that the plain way and rotary are timed on"), 1e-4
    )


@torch.no_grad()
def measure(n_tokens: int, features: int, k: int, steps: int, n_sample: int) -> dict[str, float]:
    texts, layers = harvested("tinytales", features, k, steps)
    million = list(enough(texts, n_tokens))
    tokens = queries(million)
    query_key_pairs(texts[:2], layers)
    seconds, tables = clock(lambda: query_key_pairs(million, layers))
    peak = peak_mb()

    sample = texts[:n_sample]
    plain_seconds, plain = clock(lambda: plainly(sample, layers))
    plain_seconds *= tokens / queries(sample)
    ours = query_key_pairs(sample, layers)
    worst = max(float((a.total - b).abs().max() / b.max()) for a, b in zip(ours, plain, strict=True))

    turned, rotary = harvested("tinytales-pythia", features, k, steps)
    rotary_seconds, _ = clock(lambda: query_key_pairs(turned[:n_sample], rotary))
    active = sum(text.codes.pattern.n_entries for text in million)
    return {
        "tokens": tokens,
        "texts": len(million),
        "features": features,
        "layers": len(layers),
        "heads": sum(heads.n_heads for heads in layers),
        "active_per_token": active / tokens,
        "seconds": seconds,
        "seconds_per_million": seconds / tokens * 1e6,
        "peak_mb": peak,
        "plain_seconds_extrapolated": plain_seconds,
        "plain_sample_texts": n_sample,
        "ratio": plain_seconds / seconds,
        "worst_difference": worst,
        "interaction_per_token": sum(float(table.by_text.sum()) for table in tables) / tokens,
        "rotary_ms_per_token": 1e3 * rotary_seconds / queries(turned[:n_sample]),
    }


def queries(texts: Sequence[Passage]) -> int:
    return sum(int(text.described.sum()) for text in texts)


def enough(texts: Sequence[Passage], n_tokens: int) -> Iterator[Passage]:
    """These texts, again and again, until there are so many tokens."""
    rest = n_tokens
    for text in itertools.cycle(texts):
        if rest <= 0:
            return
        rest -= int(text.described.sum())
        yield text


def harvested(name: str, features: int, k: int, steps: int) -> tuple[list[Passage], list[Heads]]:
    """Texts as a dictionary reads them, with the model's own input at their first position."""
    subject = Subject.load(name)
    units = [unit for unit in subject.units if isinstance(unit, Attention)]
    sites = tuple(unit.input_site for unit in units)
    with torch.enable_grad():
        coder = train(subject, sites, features, k, steps)
    heads = [heads_of(unit, coder.decoder[:, v], coder.decoder_bias[v]) for v, unit in enumerate(units)]
    passages: list[Passage] = []
    for text in range(HARVESTED_FROM, HARVESTED_FROM + 8 * TEXTS, TEXTS):
        tokens = subject.source("train").tokens(text, TEXTS)
        cache = subject.cache(tokens, sites)
        for row, keep in enumerate(tokens.keep):
            end = int(keep.nonzero().max()) + 1
            at = torch.stack([cache[site][row, :end] for site in sites], dim=1)
            f = coder.encode(at).dense()
            given = (~keep[:end]).nonzero().squeeze(1)
            f[given] = 0
            passages.append(Passage(Codes.from_dense(f), given, list(at[given].unbind(1))))
    return passages, heads


def plainly(texts: Sequence[Passage], layers: Sequence[Heads]) -> list[Float64[Tensor, "head feature feature"]]:
    """The yardstick, for models without rotary positions: every pair of positions and of features active at them."""
    tables = []
    for number, heads in enumerate(layers):
        unit, size = heads.attention, heads.n_features
        table = torch.zeros(heads.n_heads, size, size, dtype=torch.float64)
        for text in texts:
            x = heads.input(text, number)
            pattern, codes = unit.pattern(x[None])[0], text.codes
            starts, rows = codes.pattern.row_starts.tolist(), codes.pattern.rows
            present, place = codes.pattern.features.unique(return_inverse=True)
            for head in range(heads.n_heads):
                y = (x @ unit.W_V[head] + unit.b_V[head]) @ unit.W_O[head]
                keys = codes.values[:, None] * heads.keys[head, codes.pattern.features]
                for t in text.described.nonzero().squeeze(1).tolist():
                    A, some, seen = pattern[head, t], slice(starts[t], starts[t + 1]), starts[t + 1]
                    i, key = codes.pattern.features[some], place[:seen]
                    terms = (codes.values[some][:, None] * heads.queries[head, i]) @ keys[:seen].T
                    weight = A[rows[:seen]]
                    mean = terms.new_zeros(len(i), len(present)).index_add_(1, key, terms * weight)
                    off = 1 - A.new_zeros(len(present)).index_add_(0, key, weight)
                    far = mean.square() * off.clamp(min=0)
                    far.index_add_(1, key, (terms - mean[:, key]).square() * weight)
                    reach = (A * (y - A @ y).square().sum(1)).sum().sqrt()
                    table[head, i[:, None], present] += (far.sqrt() * reach).double()
        tables.append(table)
    return tables


if __name__ == "__main__":
    main()
