"""Scores by which a token may be found odd. What they know, they know from clean texts, or from none.

They look at one token at a time, and a text is as odd as its oddest token, or as its tokens are on average.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor
from torch.nn import functional as F

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.interaction.coactive import CoActive
from crossproof.interaction.contributions import Chunk, GatedNeurons, Neurons, chunks
from crossproof.interaction.gated import cross_at
from crossproof.interaction.interpretations.additive import Additive
from crossproof.interaction.interpretations.base import block_of
from crossproof.interaction.neurons import most_neurons, prepared
from crossproof.interaction.pairs import directed_at
from crossproof.study.anomaly.texts import Marked
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import NO_TARGET

INTERACTION = {
    "token score": "how much features interact in all MLPs: Σ_n w_n (Σ|p| − max|p|)",
    "share": "the token score over Σ_n w_n Σ|p|, all that features contribute: no larger where all is larger",
    "pairs": "mean rarity of the pairs of features that are active together, by how strongly they interact",
    "Shapley-Taylor": "how far all pairs together move each MLP's output, by the Shapley-Taylor index; exact (T12)",
}
SAMPLED = {
    "Shapley-Taylor pairs": "how far each pair moves an MLP's output by the Shapley-Taylor index, all of them summed",
    "all units": "the token score, and beside it how much features interact in attention layers and norms",
}
BASELINES = {
    "token": "rarity of the token itself, without any model",
    "active features": "how many there are",
    "strengths": "the strengths of all active features, summed",
    "contributions": "Σ_n w_n Σ|p|, all that features contribute to neurons, whether or not they interact",
    "feature rarity": "rarity of the active features, summed",
    "pair rarity": "mean rarity of the pairs of features that are active together, whether or not they interact",
    "activations": "Mahalanobis distance of the model's own activation from those on clean texts, no dictionary",
    "reconstruction error": "the squared error of the dictionary over all sites, scaled as in training",
    "loss": "−log of the probability that the model gave the token",
}
SUPERVISED = {"fitted on poisoned texts": "logistic regression on the activations, clean texts against poisoned ones"}
TOKEN_BY_TOKEN = (*INTERACTION, *BASELINES)
DETECTORS = INTERACTION | SAMPLED | BASELINES | SUPERVISED
"""Rarity is −log of the share of clean tokens that have it, half a token added."""


@dataclass(frozen=True, eq=False)
class Looked:
    """What a model and its dictionary have at every kept token of some texts, text by text."""

    ids: Int[Tensor, " token"]
    codes: Codes
    activation: Float[Tensor, "token width"]
    """At the middle one of the dictionary's sites."""
    error: Float[Tensor, " token"]
    loss: Float[Tensor, " token"]
    """Of reading this token; 0 for a first one, which nothing predicts."""
    next: Int[Tensor, " token"]
    """What the model thinks comes next."""


def middle_site(coder: Crosscoder) -> int:
    return len(coder.sites) // 2


@torch.no_grad()
def look(subject: Subject, coder: Crosscoder, texts: Marked) -> Looked:
    tokens, keep = texts.tokens, texts.tokens.keep
    logits, values = subject.run(tokens, coder.sites)
    x = subject.kept(tokens, coder.sites, values).to(coder.W_dec.device)
    codes = coder.encode(x)
    error = ((x - coder.decode(codes)) * coder.site_scales[:, None]).square().sum((1, 2))
    keep = keep.to(logits.device)
    targets = tokens.targets.to(logits.device)
    losses = F.cross_entropy(logits.float().mT, targets, ignore_index=NO_TARGET, reduction="none")
    read = F.pad(losses[:, :-1], (1, 0))
    return Looked(
        tokens.ids[tokens.keep], codes, x[:, middle_site(coder)], error, read[keep], logits.argmax(-1)[keep].cpu()
    )


@dataclass(frozen=True, eq=False)
class Detectors:
    """All that look at one token, fitted on clean texts."""

    neurons: Sequence[Neurons]
    W_out: Sequence[Float[Tensor, "neuron d_model"]]
    token_rarity: Float64[Tensor, " id"]
    """The last stands for all tokens that clean texts do not have."""
    feature_rarity: Float64[Tensor, " feature"]
    pairs: CoActive
    pair_rarity: Float64[Tensor, " pair"]
    """The last stands for all pairs that clean texts do not have."""
    spread: Any
    """scikit-learn's covariance of the activations."""

    @classmethod
    def fitted(
        cls,
        subject: Subject,
        coder: Crosscoder,
        ids: Int[Tensor, " token"],
        codes: Codes,
        activations: Float[Tensor, "row width"],
    ) -> Detectors:
        """On clean tokens, and on the activations of some of them."""
        from sklearn.covariance import LedoitWolf  # type: ignore[import-untyped]

        neurons = neurons_of(subject, coder)
        codes, neurons = prepared(codes, neurons)
        counts = F.pad(torch.bincount(ids), (0, 1))
        pairs = CoActive.of(codes)
        spread = LedoitWolf().fit(activations.double().cpu().numpy())
        W_out = [mlp.unit.W_out.to(coder.W_dec) for mlp in bound_mlps(subject, coder)]
        together = rarity_of(F.pad(pairs.count, (0, 1)), len(ids))
        rarity = rarity_of(counts, len(ids)), rarity_of(codes.firing_counts(), len(ids))
        return cls(neurons, W_out, *rarity, pairs, together, spread)

    @torch.no_grad()
    def __call__(self, looked: Looked) -> Float64[Tensor, "detector token"]:
        """In the order of TOKEN_BY_TOKEN."""
        codes = prepared(looked.codes, [])[0].active()
        rows = codes.pattern.rows
        zeros = torch.zeros(codes.pattern.n_rows, dtype=torch.float64, device=codes.values.device)
        found = self._interaction(codes)
        found |= {
            "token": self.of_tokens(looked.ids),
            "active features": codes.pattern.row_starts.diff().double(),
            "strengths": zeros.index_add(0, rows, codes.values.double()),
            "feature rarity": zeros.index_add(0, rows, self.feature_rarity[codes.pattern.features]),
            "activations": torch.from_numpy(self.spread.mahalanobis(looked.activation.double().cpu().numpy())),
            "reconstruction error": looked.error.double(),
            "loss": looked.loss.double(),
        }
        return torch.stack([found[name].cpu() for name in TOKEN_BY_TOKEN])

    def of_tokens(self, ids: Int[Tensor, "*any"]) -> Float64[Tensor, "*any"]:
        """Their rarity."""
        return self.token_rarity[ids.clamp(max=len(self.token_rarity) - 1)]

    def _interaction(self, codes: Codes) -> dict[str, Float64[Tensor, " token"]]:
        n_rows, device = codes.pattern.n_rows, codes.values.device
        score, total, moved, by_interaction, alike = torch.zeros(5, n_rows, dtype=torch.float64, device=device)
        for chunk in chunks(codes, most_neurons(self.neurons)):
            between = torch.stack([_between(chunk, its) for its in self.neurons]).sum(0).double()
            own = between.diagonal(dim1=1, dim2=2).clone()
            between.diagonal(dim1=1, dim2=2).zero_()
            score[chunk.tokens] = between.sum((1, 2))
            total[chunk.tokens] = score[chunk.tokens] + own.sum(1)
            on = (chunk.strengths > 0).double()
            together = on[:, :, None] * on[:, None]
            together.diagonal(dim1=1, dim2=2).zero_()
            rare = self.pair_rarity[self.pairs.in_chunk(chunk)]
            by_interaction[chunk.tokens] = over((between * rare).sum((1, 2)), between.sum((1, 2)))
            alike[chunk.tokens] = over((together * rare).sum((1, 2)), together.sum((1, 2)))
            residuals = [Additive().residual(block_of(chunk, its)) for its in self.neurons]
            written = [(r @ W).norm(dim=1) for r, W in zip(residuals, self.W_out, strict=True)]
            moved[chunk.tokens] = torch.stack(written).sum(0).double()
        return {
            "token score": score,
            "share": over(score, total),
            "pairs": by_interaction,
            "Shapley-Taylor": moved,
            "contributions": total,
            "pair rarity": alike,
        }


def rarity_of(count: Int[Tensor, " item"], tokens: int) -> Float64[Tensor, " item"]:
    """−log of the share of tokens, half a token added so that one never seen is rarer than all that were."""
    return -((count.double() + 0.5) / (tokens + 1)).log()


def _between(chunk: Chunk, unit: Neurons) -> Float[Tensor, "token slot slot"]:
    """What i does to j, without 1/N; on the diagonal what features contribute where they dominate."""
    directed = directed_at(chunk, unit)
    both = directed + cross_at(chunk, unit) if isinstance(unit, GatedNeurons) else directed
    return both * len(unit.loudness)


def over(part: Tensor, whole: Tensor) -> Tensor:
    """0 where there is nothing at all."""
    return torch.where(whole > 0, part / whole, 0)
