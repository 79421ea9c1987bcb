"""How good a crosscoder is: what it explains at every site, how sparsely, and what the model loses by it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.crosscoder.model import Crosscoder
from crossproof.crosscoder.reading import Models, harvest, parts
from crossproof.errors import CrossproofError
from crossproof.progress import progress
from crossproof.subject.patch import splice
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens


class SiteScore(BaseModel):
    """One site's row of the table. A number that is not defined there (a site that never varies) is None."""

    model_config = ConfigDict(extra="forbid")
    site: str
    """Its hook name; where there are several models, `model:hook`."""
    unexplained: float | None
    """Squared error over variance, both summed over tokens and coordinates, in raw units."""
    cosine: float | None
    """Mean cosine between an activation and its reconstruction, where the activation is not zero."""
    loss_spliced: float | None
    """The model's loss with this site replaced by its reconstruction."""
    loss_mean: float | None
    """The model's loss with this site replaced by its mean: nothing known about the token."""
    loss_recovered: float | None
    """(loss_mean − loss_spliced) / (loss_mean − loss of the model): 1 is as good as the model, 0 as the mean."""
    decoder_share: float | None
    """Mean over live features of ‖d_i‖ at this site over its sum over sites, in scaled units."""
    decoder_cosine: float | None
    """Mean over live features of the cosine between a feature's direction here and at the site where it is largest."""


class Evaluation(BaseModel):
    """`results.json` of a training run."""

    model_config = ConfigDict(extra="forbid")
    texts: int
    tokens: int
    loss: float
    """The model's own loss on these texts; of several, the first one's."""
    losses: dict[str, float] | None = None
    """Each model's, where there are several."""
    l0: float
    dead: float
    """Fraction of features that fire on none of these tokens."""
    mean_unexplained: float | None
    sites: list[SiteScore]


def check_fits(subject: Subject, coder: Crosscoder) -> None:
    """Refuse a crosscoder whose sites or width are not the subject's, saying which, or that reads other models too."""
    parts(subject, coder)


@torch.no_grad()
def evaluate(models: Models, coder: Crosscoder, tokens: Tokens, texts_per_pass: int = 64) -> Evaluation:
    """Score `coder` on `tokens`, which it should not have been trained on. Of several models, each at its own sites."""
    read = parts(models, coder)
    if tokens.n_kept == 0:
        raise CrossproofError("no tokens: nothing to evaluate on")
    n_sites = len(coder.sites)
    batches = list(tokens.batches(texts_per_pass))
    sums = _Sums(coder)
    passes = 2 + 2 * n_sites
    with progress("evaluating", len(tokens) * passes, "texts") as bar:
        for batch in batches:
            sums.add(harvest(models, coder, batch))
            bar(len(batch))
        means = sums.mean()
        clean, spliced, mean = (torch.zeros(n_sites, dtype=torch.float64) for _ in range(3))
        scored = 0
        for batch in batches:
            weight = batch.n_scored
            scored += weight
            reconstruction = coder(harvest(models, coder, batch))
            for subject, sites, positions in read:
                clean[positions] += weight * subject.loss(batch)
                for site, v in zip(sites, positions, strict=True):
                    at_mean = means[v].expand_as(reconstruction[:, v])
                    for losses, values in ((spliced, reconstruction[:, v]), (mean, at_mean)):
                        losses[v] += weight * subject.loss(batch, {site: splice(batch, values)})
                    bar(2 * len(batch))
            bar(len(batch))
    clean, spliced, mean = (losses / scored for losses in (clean, spliced, mean))
    recovered = (mean - spliced) / (mean - clean)
    unexplained, cosine = sums.unexplained(), sums.cosine()
    share, direction = decoder_profile(coder, sums.fired > 0)
    names = coder.sites if len(read) == 1 else map(str, coder.config.sites)
    rows = zip(names, unexplained, cosine, spliced, mean, recovered, share, direction, strict=True)
    return Evaluation(
        texts=len(tokens),
        tokens=sums.tokens,
        loss=float(clean[0]),
        losses={its.subject.name: float(clean[its.positions[0]]) for its in read} if len(read) > 1 else None,
        l0=sums.active / sums.tokens,
        dead=float((sums.fired == 0).double().mean()),
        mean_unexplained=_defined(unexplained.mean()),
        sites=[_score(site, *map(_defined, numbers)) for site, *numbers in rows],
    )


def _defined(number: Tensor) -> float | None:
    return float(number) if bool(torch.isfinite(number)) else None


def _score(site: str, *numbers: float | None) -> SiteScore:
    names = [name for name in SiteScore.model_fields if name != "site"]
    return SiteScore(site=site, **dict(zip(names, numbers, strict=True)))


def decoder_profile(coder: Crosscoder, live: Tensor) -> tuple[Float[Tensor, "site"], Float[Tensor, "site"]]:
    """How live features are spread over the sites: mean share of the norm, and cosine to the strongest direction."""
    weights = coder.decoder[live] * coder.site_scales[:, None]  # norms of different sites compare in scaled units
    norms = weights.norm(dim=2)
    strongest = weights[torch.arange(len(weights)), norms.argmax(1)]
    cosines = torch.cosine_similarity(weights, strongest[:, None], dim=2)
    return (norms / norms.sum(1, keepdim=True)).mean(0), cosines.mean(0)


class _Sums:
    """Running sums over tokens, in float64."""

    def __init__(self, coder: Crosscoder) -> None:
        n_sites, width = len(coder.sites), coder.config.width
        self.coder = coder
        self.tokens, self.active = 0, 0
        self.fired = torch.zeros(coder.config.features, dtype=torch.long)
        self.total = torch.zeros(n_sites, width, dtype=torch.float64)
        self.squares, self.errors, self.cosines, self.nonzero = (
            torch.zeros(n_sites, dtype=torch.float64) for _ in range(4)
        )

    def add(self, activations: Float[Tensor, "row site width"]) -> None:
        codes = self.coder.encode(activations)
        reconstruction = self.coder.decode(codes)
        self.tokens += activations.shape[0]
        counts = codes.firing_counts().cpu()
        self.active += int(counts.sum())
        self.fired += counts
        self.total += activations.sum(0, dtype=torch.float64).cpu()
        self.squares += activations.double().square().sum((0, 2)).cpu()
        self.errors += (activations - reconstruction).double().square().sum((0, 2)).cpu()
        self.cosines += torch.cosine_similarity(activations, reconstruction, dim=2).double().sum(0).cpu()
        self.nonzero += activations.any(dim=2).sum(0).cpu()

    def mean(self) -> Float[Tensor, "site width"]:
        return (self.total / self.tokens).to(self.coder.W_enc)

    def unexplained(self) -> Float[Tensor, "site"]:
        variance = self.squares - self.total.square().sum(1) / self.tokens
        return self.errors / variance

    def cosine(self) -> Float[Tensor, "site"]:
        return self.cosines / self.nonzero
