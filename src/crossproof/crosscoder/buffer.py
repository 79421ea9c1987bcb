"""An endless stream of shuffled batches of activations, harvested from one or several models as they are needed.

Texts are read in order. A chunk of `buffer_tokens` tokens is harvested, shuffled and handed out batch by batch,
then the next chunk is harvested. Everything depends on the seed and on where a chunk starts, so a position in the
stream is two integers, and going back to it costs one harvest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from crossproof.errors import CrossproofError, NonFinite
from crossproof.progress import progress
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import TokenSource


class ActivationStream:
    """Yields [batch_tokens, site, width] in raw units, for ever.

    `reads` names the sites of each subject; the site axis holds them one subject after the other. Several subjects read
    the same tokens, as a crosscoder that compares two models needs.
    """

    def __init__(
        self,
        reads: Sequence[tuple[Subject, Sequence[str]]],
        source: TokenSource,
        batch_tokens: int,
        buffer_tokens: int,
        texts_per_pass: int,
        seed: int,
    ) -> None:
        if buffer_tokens < batch_tokens:
            raise CrossproofError(
                f"buffer_tokens: {buffer_tokens} is less than one batch of {batch_tokens} tokens; raise buffer_tokens "
                "or lower batch_tokens"
            )
        self.reads, self.source = tuple(reads), source
        self.batch_tokens, self.buffer_tokens, self.texts_per_pass = batch_tokens, buffer_tokens, texts_per_pass
        self.seed = seed
        self.first_text = 0
        """Where the current chunk starts in the source."""
        self.next_batch = 0
        """How many batches of the current chunk have been handed out."""
        self._chunk: Float[Tensor, "row site width"] | None = None
        self._order: Int[Tensor, "row"] = torch.empty(0, dtype=torch.long)
        self._next_text = 0

    def __iter__(self) -> ActivationStream:
        return self

    def __next__(self) -> Float[Tensor, "batch site width"]:
        if (self.next_batch + 1) * self.batch_tokens > self._filled().shape[0]:
            # The last tokens that do not fill a batch are dropped: less than one batch per chunk. The old chunk is let
            # go before the new one is harvested, so that there is only ever one.
            self.first_text, self.next_batch, self._chunk = self._next_text, 0, None
        chunk = self._filled()
        rows = self._order[self.next_batch * self.batch_tokens : (self.next_batch + 1) * self.batch_tokens]
        self.next_batch += 1
        return chunk[rows.to(chunk.device)]

    def state(self) -> dict[str, int]:
        return {"first_text": self.first_text, "next_batch": self.next_batch}

    def restore(self, state: dict[str, int]) -> None:
        self.first_text, self.next_batch, self._chunk = state["first_text"], state["next_batch"], None

    def sample(self, tokens: int) -> Float[Tensor, "row site width"]:
        """Random tokens of the current chunk, to start weights from; takes nothing out of the stream."""
        chunk = self._filled()
        return chunk[self._order[:tokens].to(chunk.device)]

    def _filled(self) -> Float[Tensor, "row site width"]:
        if self._chunk is not None:
            return self._chunk
        width = self.reads[0][0].width(self.reads[0][1][0])
        n_sites = sum(len(sites) for _, sites in self.reads)
        chunk = torch.empty(self.buffer_tokens, n_sites, width, device=self.reads[0][0].device)
        tokens, text = 0, self.first_text
        with progress("harvesting", self.buffer_tokens, "tokens") as bar:
            while tokens < self.buffer_tokens:
                batch = self.source.tokens(text, self.texts_per_pass)
                if batch.n_kept == 0:
                    raise CrossproofError(
                        f"no tokens: texts {text} to {text + self.texts_per_pass} have none that count (only "
                        "beginning-of-text and padding)"
                    )
                try:
                    part = torch.cat([subject.harvest(batch, sites) for subject, sites in self.reads], dim=1)
                except NonFinite as error:
                    raise NonFinite(f"{error} (texts {text} to {text + self.texts_per_pass} of the stream)") from error
                part = part[: self.buffer_tokens - tokens]
                chunk[tokens : tokens + part.shape[0]] = part
                tokens, text = tokens + part.shape[0], text + self.texts_per_pass
                bar(part.shape[0])
        self._chunk, self._next_text = chunk, text
        # torch keeps only 32 bits of a seed, so the two numbers are mixed into that many
        mixed = np.random.SeedSequence([self.seed, self.first_text]).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(mixed))
        self._order = torch.randperm(self._chunk.shape[0], generator=generator)
        return self._chunk
