"""Shapley-Taylor games of a span of a real model, from any of a crosscoder's sites to any site after it.

    game, features = span_game(subject, tokens, coder, text=0, position=9, input_site=…, output_site=…)
    exact(game, len(features)).strength()      # crossproof.interaction.shapley

The players are the features active at one token. A coalition's value is what the model has at the output when the input
site holds, at that token, b + Σ_{i∈C} f_i d_i and nothing else of it: all that lies between the sites takes part, norms
and attention among it. For an MLP alone, `mlp_game` of `interaction/games.py` gives the same values without the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crossproof.crosscoder.evaluate import check_fits
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import MismatchError, UnknownSite, nearest
from crossproof.interaction.shapley import Game
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import LOGITS

POSITIONS_AT_ONCE = 2048
"""Copies of the text times its length in one forward pass: 200 MB of logits over 25,000 tokens."""


@dataclass(frozen=True, eq=False)
class Span:
    """A game on copies of one text, each with other parts at the input site and position."""

    subject: Subject
    text: Tokens
    """One text, cut after the position that is read: nothing later can change it."""
    position: int
    input_site: str
    output_site: str
    """A site after the input, or `LOGITS`."""
    base: Float[Tensor, " width"]
    """The input of the empty coalition."""
    parts: Float[Tensor, "player width"]
    """What each player adds to it."""

    def __post_init__(self) -> None:
        _check_forwards(self.subject, self.input_site, self.output_site)
        length = self.text.ids.shape[1]
        if len(self.text) != 1 or not 0 <= self.position < length:
            raise MismatchError(
                f"a span has one text and a position in it, not {len(self.text)} texts of {length} positions and "
                f"position {self.position}"
            )
        width = self.subject.width(self.input_site)
        if self.base.shape != (width,) or self.parts.shape[1] != width:
            raise MismatchError(
                f"{self.input_site} is {width} wide, but the base has the shape {tuple(self.base.shape)} and the parts "
                f"{tuple(self.parts.shape)}"
            )
        if self.output_site != LOGITS:
            self.subject.width(self.output_site)

    @torch.no_grad()
    def __call__(self, coalitions: Bool[Tensor, "coalition player"]) -> Float[Tensor, "coalition output"]:
        inputs = torch.addmm(self.base, coalitions.to(self.parts), self.parts)
        copies = max(1, POSITIONS_AT_ONCE // self.text.ids.shape[1])
        return torch.cat([self._values(some) for some in inputs.split(copies)])

    def _values(self, inputs: Float[Tensor, "coalition width"]) -> Float[Tensor, "coalition output"]:
        n, text = len(inputs), self.text
        copies = Tokens(text.ids.expand(n, -1), text.keep.expand(n, -1), text.targets.expand(n, -1))

        def write(value: Tensor) -> Tensor:
            value[:, self.position] = inputs.to(value)
            return value

        read = () if self.output_site == LOGITS else (self.output_site,)
        logits, values = self.subject.run(copies, read, {self.input_site: write})
        # a copy, so that the rest of the pass can be forgotten
        return (values[self.output_site] if read else logits)[:, -1].clone()


@torch.no_grad()
def span_game(
    subject: Subject,
    tokens: Tokens,
    coder: Crosscoder,
    text: int,
    position: int,
    input_site: str,
    output_site: str,
    read_at: int | None = None,
    keep_error: bool = False,
) -> tuple[Game, Int[Tensor, " player"]]:
    """The game of the features that are active at one token, and which they are.

    It is read at the same position, or at `read_at` after it. With `keep_error` the crosscoder's error stands in every
    coalition, so that all players together give what the model itself has; without it they give what it makes of the
    reconstruction.
    """
    check_span(subject, coder, input_site, output_site)
    if not 0 <= text < len(tokens):
        raise MismatchError(f"text {text}: there are the texts 0 to {len(tokens) - 1}")
    read_at = position if read_at is None else read_at
    one, length = tokens[text : text + 1], tokens.ids.shape[1]
    if not 0 <= position <= read_at < length or not bool(one.keep[0, position] & one.keep[0, read_at]):
        raise MismatchError(
            f"position {position}, read at {read_at}: expected two kept positions of text {text}, which has "
            f"{length}, the second not before the first"
        )
    until = slice(0, read_at + 1)
    one = Tokens(one.ids[:, until], one.keep[:, until], one.targets[:, until])
    values = subject.cache(one, coder.sites)
    here = torch.stack([values[site][0, position] for site in coder.sites])
    codes = coder.encode(here[None].to(coder.W_enc))
    active = codes.values > 0
    features, strengths = codes.pattern.features[active], codes.values[active]

    v = coder.sites.index(input_site)
    # in the model's dtype from here on: a float64 model sees exact sums of the parts
    parts = strengths[:, None].to(here) * coder.decoder[features, v].to(here)
    base = coder.decoder_bias[v].to(here)
    if keep_error:
        base = here[v] - parts.sum(0)
    return Span(subject, one, position, input_site, output_site, base, parts), features


def check_span(subject: Subject, coder: Crosscoder, input_site: str, output_site: str) -> None:
    """Refuse what no game is played on, before anything is computed."""
    check_fits(subject, coder)
    if input_site not in coder.sites:
        raise MismatchError(
            f"the players act at a site of the crosscoder, and {input_site} is none: {', '.join(coder.sites)}"
        )
    _check_forwards(subject, input_site, output_site)


def _check_forwards(subject: Subject, input_site: str, output_site: str) -> None:
    in_order = (*subject.sites, LOGITS)
    if input_site not in in_order:
        raise _unknown(subject, input_site, subject.sites)
    start = in_order.index(input_site)
    if output_site not in in_order:
        raise _unknown(subject, output_site, subject.sites[start + 1 :], f" after {input_site}", f", {LOGITS}")
    end = in_order.index(output_site)
    if end <= start:
        raise MismatchError(
            f"a span goes forwards, but {output_site} is computed {'before' if end < start else 'at'} {input_site}: "
            "give an output site that comes after it"
        )


def _unknown(subject: Subject, site: str, possible: Sequence[str], where: str = "", also: str = "") -> UnknownSite:
    """With the nearest names, or the main ones if none is near."""
    close, main = nearest(site, possible), subject.find_sites(subject.default_sites())
    offer = close or ", ".join(known for known in possible if known in main)
    return UnknownSite(
        f"{subject.name} has no site {site!r}; {'the nearest' if close else 'among those'}{where} are {offer}{also}"
    )
