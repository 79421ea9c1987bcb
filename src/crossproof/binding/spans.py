"""How features interact between any two sites of a model, when several units act together.

    found = span_interactions(subject, coder, tokens, "blocks.1.hook_resid_pre", "blocks.2.hook_resid_post")
    found.pairs.head()

At sampled tokens, the Shapley-Taylor index of every pair of active features in the game of `span.py`: the model itself
runs, with some of the features at the input site and everything that lies between the sites. Exact where a token has
few features, from random orders where it has many. It knows nothing of units, so that it is what their sums are to be
set against, and costs hundreds of forward passes a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.binding.encoding import encode, rows_with_pairs
from crossproof.binding.span import check_span, span_game
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.files import append_jsonl, read_jsonl
from crossproof.interaction.shapley import ShapleyTaylor, exact, sampled
from crossproof.progress import progress
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

if TYPE_CHECKING:
    import pandas as pd

EXACT = 10
"""Up to this many features a token is visited in all its 1,024 coalitions or fewer."""


@dataclass(frozen=True, eq=False)
class SpanInteractions:
    """Shapley-Taylor values of a span at sampled tokens."""

    input_site: str
    output_site: str
    pairs: pd.DataFrame
    """A row for each unordered pair that met: `strength` is the mean length of its index over the `count` sampled
    tokens where both are active, `score` that times the share of sampled tokens where they are: of tokens with two or
    more active features, not of all. The strongest score first."""
    tokens: pd.DataFrame
    """A row for each sampled token: `text`, `position`, `features` active, and whether its values are `estimated`.

    `change` is the length by which all features together move the output. It is the sum, as vectors, of what they do
    alone and of all pairs' indices (T12), whose lengths are `single` and `together`. `sizes` sums the pairs' lengths.
    """


@torch.no_grad()
def span_interactions(
    subject: Subject,
    coder: Crosscoder,
    tokens: Tokens,
    input_site: str,
    output_site: str,
    sample: int = 50,
    orders: int = 16,
    keep_error: bool = False,
    seed: int = 0,
    done: Path | None = None,
) -> SpanInteractions:
    """Of `sample` of these tokens, drawn evenly from those with two or more active features.

    A token with more than 10 active features is estimated from `orders` random orders. With `keep_error` the
    crosscoder's error stands in every coalition. What a file `done` holds, a line for each token, is not measured
    again, and what is measured is added to it.
    """
    if sample < 1 or orders < 2:
        raise CrossproofError(f"sample {sample}, orders {orders}: give at least 1 token and 2 random orders")
    check_span(subject, coder, input_site, output_site)
    encoded = encode(subject, coder, tokens)
    rows = rows_with_pairs(encoded.codes, sample, seed)
    places = encoded.keep.nonzero()[rows].tolist()
    earlier = {line["row"]: line for line in (read_jsonl(done) if done else [])}
    lines = []
    with progress(f"{input_site} → {output_site}", len(rows), "tokens") as bar:
        for row, (text, position) in zip(rows.tolist(), places, strict=True):
            line = earlier.get(row)
            if line is None:
                game, features = span_game(
                    subject, tokens, coder, text, position, input_site, output_site, keep_error=keep_error
                )
                players = len(features)
                found = exact(game, players) if players <= EXACT else sampled(game, players, orders, seed + row)
                line = {"row": row, "text": text, "position": position} | _line(found, features.cpu())
                if done:
                    append_jsonl(done, line)
            lines.append(line)
            bar(1)
    return SpanInteractions(input_site, output_site, _pairs(lines, coder.config.features), _tokens(lines))


def strengths_of(found: ShapleyTaylor) -> Float64[Tensor, "player player"]:
    """The lengths of the pairs' indices. An estimate is too long by its own error, whose mean square is taken off."""
    if found.standard_error is None:
        return found.strength()
    return (found.pairs.square().sum(-1) - found.standard_error.square().sum(-1)).clamp(min=0).sqrt()


def _line(found: ShapleyTaylor, features: Int[Tensor, " player"]) -> dict[str, Any]:
    """What is kept of a token."""
    i, j = torch.triu_indices(len(features), len(features), 1)
    sizes = strengths_of(found).cpu()[i, j]
    return {
        "features": len(features),
        "estimated": found.standard_error is not None,
        "change": float((found.full - found.empty).norm()),
        "single": float(found.single.sum(0).norm()),
        "together": float((found.pairs.sum((0, 1)) / 2).norm()),
        "sizes": float(sizes.sum()),
        "pairs": {"i": features[i].tolist(), "j": features[j].tolist(), "size": sizes.tolist()},
    }


def _pairs(lines: list[dict[str, Any]], n_features: int) -> pd.DataFrame:
    import pandas as pd

    i, j, size = (torch.tensor([each for line in lines for each in line["pairs"][name]]) for name in ("i", "j", "size"))
    keys, pair = (i * n_features + j).unique(return_inverse=True)
    total = torch.zeros(len(keys), dtype=torch.float64).index_add_(0, pair, size.double())
    count = torch.bincount(pair, minlength=len(keys))
    order = total.argsort(descending=True, stable=True)
    table = {
        "i": keys // n_features,
        "j": keys % n_features,
        "strength": total / count,
        "count": count,
        "score": total / len(lines),
    }
    return pd.DataFrame({name: column[order].numpy() for name, column in table.items()})


def _tokens(lines: list[dict[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        [{name: value for name, value in line.items() if name not in ("row", "pairs")} for line in lines]
    )
