"""What is measured of one dictionary on held-out texts: sums over each text, from which its numbers are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import active_counts
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.files import complete_folder, read_json, read_safetensors, replace_folder, write_json, write_safetensors
from crossproof.interaction.contributions import Neurons, chunks, tables
from crossproof.interaction.neurons import most_neurons, prepared, ranked
from crossproof.progress import progress
from crossproof.study.fidelity.measure import Losses, losses
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

LARGEST = "keep 1"
SCHEMES = ("all", LARGEST, "none")
TEXTS_PER_PASS = 64
_SUMS, _NAMES = "sums.safetensors", "mlps.json"

OfTexts = Float64[Tensor, " text"]
OfMLPs = Float64[Tensor, "text mlp"]


@dataclass(frozen=True, eq=False)
class Measured:
    """Sums over the kept tokens of each text. Errors and variances in the scaled units of training."""

    mlps: tuple[str, ...]
    tokens: OfTexts
    active: OfTexts
    error: Float64[Tensor, "text site"]
    variance: Float64[Tensor, "text site"]
    """Squared distance from the mean of all texts."""
    share: OfMLPs
    """max|p| / Σ|p| over the neurons that any feature touches."""
    touched: OfMLPs
    """How many these are."""
    total: OfMLPs
    """Σ|p| over neurons, gates and values of gated MLPs among them."""
    others: OfMLPs
    """Σ|p| − max|p| over them."""
    score: OfMLPs
    """Σ|p| − max|p| weighted as in the published metric: by w_n, in gated MLPs by T5."""
    clean: OfTexts
    """Loss of the model."""
    targets: OfTexts
    """How many positions of the text are scored."""
    patched: Float64[Tensor, "scheme text mlp"]
    """Loss with one MLP's output replaced, the residual stream beside it the model's own."""
    inputs: Int[Tensor, " mlp"]
    """Which site each MLP reads."""
    neurons: Int[Tensor, " mlp"]
    pre_activations: Int[Tensor, " mlp"]
    features: Int[Tensor, ""]
    alive: Int[Tensor, ""]
    """How many features fire on any of the tokens."""

    @property
    def losses(self) -> Losses:
        of_mlps = {
            mlp: {scheme: self.patched[row, :, column] for row, scheme in enumerate(SCHEMES)}
            for column, mlp in enumerate(self.mlps)
        }
        return Losses(self.clean, self.targets, of_mlps, dict.fromkeys(self.mlps, self.clean))


@torch.no_grad()
def measure(subject: Subject, coder: Crosscoder, tokens: Tokens, seed: int) -> Measured:
    """Everything above. `tokens` should be texts that the crosscoder was not trained on."""
    mlps, neurons = bound_mlps(subject, coder), neurons_of(subject, coder)
    texts, text = len(tokens), tokens.keep.nonzero()[:, 0]
    sums = _Reconstruction(coder, texts)
    codes = []
    with progress("measuring", texts, "texts") as bar:
        for start in range(0, texts, TEXTS_PER_PASS):
            batch = tokens[slice(start, start + TEXTS_PER_PASS)]
            if batch.n_kept:
                activations = subject.harvest(batch, coder.sites).to(coder.W_dec.device)
                codes.append(sums.add(activations, batch.keep.nonzero()[:, 0] + start))
            bar(len(batch))
    left = _Left(texts, len(mlps))
    row = 0
    for its in codes:
        left.add(its, neurons, text[row : row + its.pattern.n_rows])
        row += its.pattern.n_rows
    lost = losses(subject, coder, tokens, SCHEMES, "true", seed)
    patched = [torch.stack([lost.patched[mlp.name][scheme] for mlp in mlps], dim=1) for scheme in SCHEMES]
    fired = torch.stack([its.firing_counts().cpu() for its in codes]).sum(0)
    return Measured(
        mlps=tuple(mlp.name for mlp in mlps),
        tokens=sums.tokens,
        active=sums.active,
        error=sums.error,
        variance=sums.variance(),
        share=left.share,
        touched=left.touched,
        total=left.total,
        others=left.others,
        score=left.score,
        clean=lost.clean,
        targets=lost.targets,
        patched=torch.stack(patched),
        inputs=torch.tensor([mlp.site for mlp in mlps]),
        neurons=torch.tensor([len(its.loudness) for its in neurons]),
        pre_activations=torch.tensor([sum(table.n_neurons for table in tables(its)) for its in neurons]),
        features=torch.tensor(coder.config.features),
        alive=(fired > 0).sum(),
    )


class _Reconstruction:
    """How far reconstructions are from activations, text by text, in float64."""

    def __init__(self, coder: Crosscoder, texts: int) -> None:
        sites = len(coder.sites)
        self.coder, self.scales = coder, coder.site_scales.detach().double().cpu()
        self.tokens, self.active = (torch.zeros(texts, dtype=torch.float64) for _ in range(2))
        self.error, self.squares = (torch.zeros(texts, sites, dtype=torch.float64) for _ in range(2))
        self.sums = torch.zeros(texts, sites, coder.config.width, dtype=torch.float64)

    def add(self, activations: Tensor, text: Int[Tensor, " row"]) -> Codes:
        codes = self.coder.encode(activations)
        error = (activations - self.coder.decode(codes)).double().square().sum(2).cpu()
        exact = activations.double().cpu()
        self.tokens.index_add_(0, text, torch.ones(len(text), dtype=torch.float64))
        self.active.index_add_(0, text, active_counts(codes).double().cpu())
        self.error.index_add_(0, text, error * self.scales.square())
        self.squares.index_add_(0, text, exact.square().sum(2))
        self.sums.index_add_(0, text, exact)
        return codes

    def variance(self) -> Float64[Tensor, "text site"]:
        """Σ‖a − m‖² = Σ‖a‖² − 2 m·Σa + tokens ‖m‖², with m the mean of all tokens."""
        mean = self.sums.sum(0) / self.tokens.sum()
        found = self.squares - 2 * (self.sums * mean).sum(2) + self.tokens[:, None] * mean.square().sum(1)
        return found.clamp(min=0) * self.scales.square()


class _Left:
    """What the dominant features of the neurons leave to the others, text by text."""

    def __init__(self, texts: int, mlps: int) -> None:
        self.share, self.touched, self.total, self.others, self.score = (
            torch.zeros(texts, mlps, dtype=torch.float64) for _ in range(5)
        )

    def add(self, codes: Codes, units: Sequence[Neurons], text: Int[Tensor, " row"]) -> None:
        codes, units = prepared(codes, units)
        for chunk in chunks(codes, most_neurons(units)):
            at = text[chunk.tokens.cpu()]
            for mlp, unit in enumerate(units):
                for its in ranked(chunk, unit):
                    # summed without the largest rather than less the largest, which would round away others far below
                    others = its.magnitude.addcmul_(its.magnitude, its.dominant, value=-1).sum(1)
                    total = its.largest + others
                    for to, values in (
                        (self.share, (its.largest / total).nan_to_num_(nan=0.0)),
                        (self.touched, its.largest > 0),
                        (self.total, total),
                        (self.others, others),
                        (self.score, its.weight * others),
                    ):
                        to[:, mlp].index_add_(0, at, values.double().sum(1).cpu())


# -- files -------------------------------------------------------------------------------------------------------------


def save(found: Measured, folder: Path) -> None:
    """All or nothing."""
    with replace_folder(folder) as beside:
        write_safetensors(beside / _SUMS, {name: its for name, its in vars(found).items() if isinstance(its, Tensor)})
        write_json(beside / _NAMES, list(found.mlps))


def load(folder: Path) -> Measured | None:
    """None if it has not been measured."""
    there = complete_folder(folder)
    if there is None:
        return None
    return Measured(mlps=tuple(read_json(there / _NAMES)), **read_safetensors(there / _SUMS))
