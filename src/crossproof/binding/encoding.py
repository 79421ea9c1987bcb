"""A model's texts in the features of a crosscoder: all kept tokens at once, or text by text as attention reads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.codes import Codes, Pattern
from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import Models, parts
from crossproof.errors import CrossproofError
from crossproof.interaction.attention.heads import Passage
from crossproof.progress import progress
from crossproof.subject.tokens import Tokens

TEXTS_PER_PASS = 64


@dataclass(frozen=True, eq=False)
class Encoded:
    """The codes of all kept positions, text by text, and what the model has at the others that attention sees."""

    codes: Codes
    keep: Bool[Tensor, "text pos"]
    given: tuple[Float[Tensor, "given width"], ...]
    """At each site that was asked for, the model's values at the positions that are not kept but stand before one that
    is, text by text."""

    @property
    def text(self) -> Int[Tensor, " token"]:
        """Which text each row of the codes is of."""
        return self.keep.nonzero()[:, 0]

    def passages(self) -> Iterator[Passage]:
        """Text by text, each cut after its last kept position; without the texts of which nothing is kept."""
        row = before = 0
        starts, values, features = self.codes.pattern.row_starts, self.codes.values, self.codes.pattern.features
        for keep in self.keep:
            kept = keep.nonzero().squeeze(1)
            if len(kept) == 0:
                continue
            keep = keep[: int(kept[-1]) + 1]
            given = (~keep).nonzero().squeeze(1).to(values.device)
            rows = starts[row : row + len(kept) + 1]
            counts = torch.zeros(len(keep), dtype=torch.long, device=values.device)
            counts[keep.to(values.device)] = rows.diff()
            row_starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            entries = slice(int(rows[0]), int(rows[-1]))
            codes = Codes(Pattern(features[entries], row_starts, self.codes.pattern.n_features), values[entries])
            yield Passage(codes, given, tuple(site[before : before + len(given)] for site in self.given))
            row, before = row + len(kept), before + len(given)


@torch.no_grad()
def encode(models: Models, coder: Crosscoder, tokens: Tokens, sites: Sequence[str] = ()) -> Encoded:
    """Encode all kept tokens; `sites`, some of the crosscoder's, are those whose values at other positions are kept.

    Where a crosscoder reads several models, all of them read the texts, and `sites` are those of the first.
    """
    if not isinstance(tokens, Tokens):
        raise CrossproofError(
            f"tokens: expected Tokens, not {type(tokens).__name__}; subject.texts(100) gives held-out ones, and "
            "subject.tokens([…]) makes them from texts"
        )
    if tokens.n_kept == 0:
        raise CrossproofError(f"no tokens: none of the positions of these {len(tokens)} texts is kept")
    read = parts(models, coder)
    found, given = [], [[] for _ in sites]  # type: tuple[list[Codes], list[list[Tensor]]]
    with progress("encoding", tokens.n_kept, "tokens") as bar:
        for batch in tokens.batches(TEXTS_PER_PASS):
            if batch.n_kept:
                rows = coder.W_dec.new_empty(batch.n_kept, len(coder.sites), coder.config.width)
                for number, (subject, its_sites, positions) in enumerate(read):
                    values = subject.cache(batch, its_sites)
                    rows[:, positions] = subject.kept(batch, its_sites, values).to(rows)
                    seen = _before_a_kept_one(batch.keep).to(subject.device)
                    for site, its in zip(sites, given, strict=True) if number == 0 else ():
                        its.append(values[site][seen].to(coder.W_dec))
                found.append(coder.encode(rows))
                bar(batch.n_kept)
    features = torch.cat([codes.pattern.features for codes in found])
    counts = torch.cat([codes.pattern.row_starts.diff() for codes in found])
    row_starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    values_of_all = torch.cat([codes.values for codes in found])
    codes = Codes(Pattern(features, row_starts, coder.config.features), values_of_all)
    return Encoded(codes, tokens.keep, tuple(torch.cat(its) for its in given))


def codes_of(models: Models, coder: Crosscoder, tokens: Tokens) -> Codes:
    """The codes of all kept tokens, text by text."""
    return encode(models, coder, tokens).codes


def _before_a_kept_one(keep: Bool[Tensor, "text pos"]) -> Bool[Tensor, "text pos"]:
    """Positions that are not kept, with a kept one after them."""
    later = keep.flip(1).cumsum(1).flip(1) > 0
    return later & ~keep


def rows_with_pairs(codes: Codes, count: int, seed: int) -> Int[Tensor, " row"]:
    """Some tokens, drawn evenly from those with two or more active features, in their order."""
    candidates = (active_counts(codes) >= 2).nonzero().squeeze(1).cpu()
    if len(candidates) == 0:
        raise CrossproofError("no token has two active features: there is no pair to rank or to measure")
    chosen = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(seed))[:count]
    return candidates[chosen].sort().values


def active_counts(codes: Codes) -> Int[Tensor, " row"]:
    """How many features are active on each token."""
    return torch.bincount(codes.pattern.rows[codes.values > 0], minlength=codes.pattern.n_rows)
