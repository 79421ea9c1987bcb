"""Ten pairs that interact, on text: what no summary says is whether a pair makes sense.

On one half of held-out texts pairs are ranked by the paper's metric (directed, mean over all tokens); the first are
taken, each feature once. Each is shown on the text of the other half where it interacts most at one token.

run.json  results.json  findings.json
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import encode
from crossproof.binding.interactions import interactions
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError
from crossproof.interaction.contributions import Neurons, chunks, tables
from crossproof.interaction.pairs import directed_at
from crossproof.study.base import once
from crossproof.study.on_text.config import OnTextConfig
from crossproof.study.on_text.results import OnTextStudy, PairOnText
from crossproof.study.token_labels import pieces_of
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

KIND = "on-text"
RANKED = 200
"""So many pairs are looked at for each that is shown: most of the first share their features."""


def run(config: OnTextConfig) -> OnTextStudy:
    """Study, and write the run folder; a run that is finished is read."""

    def prepare() -> Callable[[], OnTextStudy]:
        subject, coder = Subject.load(config.subject), Crosscoder.from_pretrained(config.coder)
        bound_mlps(subject, coder)
        tokens = subject.held_out(config.texts, config.data)
        if len(tokens) < 2:
            raise CrossproofError("texts: one cannot be cut in two halves; give at least 2")
        return lambda: study(config, subject, coder, tokens)

    return once(config.out, KIND, config, OnTextStudy, prepare)


@torch.no_grad()
def study(config: OnTextConfig, subject: Subject, coder: Crosscoder, tokens: Tokens) -> OnTextStudy:
    ranked_on, shown_on = tokens.halves(config.seed)
    found = interactions(subject, coder, ranked_on, metrics=("directed",), include=())
    units = {unit.name: unit for unit in neurons_of(subject, coder)}
    codes = encode(subject, coder, shown_on).codes
    strengths, place = codes.dense(), shown_on.keep.nonzero()
    shown = []
    for i, j, name, strength, frequency in _distinct(found.ranked(RANKED * config.pairs), config.pairs):
        at = together(codes, units[name], i, j)
        best = int(at.argmax())
        text, word = place[best].tolist()
        rows = (place[:, 0] == text).nonzero().squeeze(1)
        ids = shown_on.ids[text, place[rows, 1]].tolist()
        shown.append(
            PairOnText(
                i=i,
                j=j,
                unit=name,
                strength=strength,
                frequency=frequency,
                together=int((at > 0).sum()),
                words=pieces_of(subject, ids),
                of_i=strengths[rows, i].tolist(),
                of_j=strengths[rows, j].tolist(),
                interaction=at[rows].tolist(),
                strongest_at=int((place[rows, 1] == word).nonzero()[0]) if bool(at.any()) else None,
            )
        )
    return OnTextStudy(subject=subject.name, coder=config.coder, texts=len(shown_on), pairs=shown)


def together(codes: Codes, unit: Neurons, i: int, j: int) -> Float64[Tensor, " token"]:
    """What two features add to neurons that the other dominates, both ways, at each token; weights and 1/N as the
    paper has them."""
    found = torch.zeros(codes.pattern.n_rows, dtype=torch.float64)
    dense = codes.dense()
    rows = ((dense[:, i] > 0) & (dense[:, j] > 0)).nonzero().squeeze(1)
    if len(rows) == 0:
        return found
    for chunk in chunks(Codes.from_dense(dense[rows]), tables(unit)[0].n_neurons):
        both = directed_at(chunk, unit).double()
        is_i, is_j = ((chunk.features == feature) & (chunk.strengths > 0) for feature in (i, j))
        pair = is_i[:, :, None] & is_j[:, None]
        found[rows[chunk.tokens]] = (both * (pair | pair.mT)).sum((1, 2))
    return found


def _distinct(frame: object, count: int) -> Iterator[tuple[int, int, str, float, float]]:
    """The first pairs that share no feature."""
    used: set[int] = set()
    for row in frame.itertuples():  # type: ignore[attr-defined]  # pandas has no types here
        if row.i not in used and row.j not in used and count > 0:
            used |= {row.i, row.j}
            count -= 1
            yield int(row.i), int(row.j), str(row.unit), float(row.strength), float(row.frequency)
