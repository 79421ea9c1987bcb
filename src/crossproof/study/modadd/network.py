"""What the network itself does with its numbers, stage by stage: computed from its activations, nothing is assumed.

The algorithm that is known of such networks: embeddings hold cos and sin of a few frequencies, what the MLP reads is a
sum of such waves of a and of b, its neurons multiply those of the same frequency, and the answer is read from waves of
a + b. In a spectrum a product of waves of a and b is a wave along a + b and one along a − b, of the same frequency.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.progress import progress
from crossproof.study.modadd.pairs import PAIRS_PER_PASS, PairGrid
from crossproof.study.modadd.spectra import Spectrum, spectrum
from crossproof.subject.subject import Subject
from crossproof.units import ACTIVATIONS, MLP, GatedMLP

EMBEDDING, LOGITS = "embedding of a", "logits"


class Stage(BaseModel):
    """The variance over all pairs of what is at one place of the network, all coordinates together."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    name: str
    directions: list[float]
    """The shares that run along each of DIRECTIONS."""
    rest: float
    """The share that is on no line: mixtures of two frequencies."""
    frequencies: list[float]
    """The share of each frequency, from 1 on, directions together."""

    @classmethod
    def of(cls, name: str, found: Spectrum) -> Stage:
        shares = found.shares[0]
        return cls(
            name=name,
            directions=shares.sum(1).tolist(),
            rest=max(0.0, 1 - float(shares.sum())) if float(found.variance) > 0 else 0.0,
            frequencies=shares.sum(0).tolist(),
        )


class Network(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    modulus: int
    right: float
    """The share of all pairs that it adds rightly."""
    stages: list[Stage]

    @property
    def used(self) -> list[int]:
        """The frequencies of its answer: those with more of the logits' variance than an even split gives."""
        along = self.stages[-1].frequencies
        return [k for k, share in enumerate(along, 1) if share > sum(along) / len(along)]

    def on_used(self, stage: Stage) -> float:
        """How much of a stage's variance is on these."""
        return sum(stage.frequencies[k - 1] for k in self.used)


@torch.no_grad()
def network(subject: Subject, pairs: PairGrid) -> Network:
    modulus = pairs.modulus
    mlps = [unit for unit in subject.units if isinstance(unit, MLP | GatedMLP)]
    embedding = subject.find_sites(("blocks.0.hook_resid_pre",))[0]
    sites = dict.fromkeys([embedding, *(site for unit in mlps for site in (unit.input_site, unit.output_site))])
    found: dict[str, list[Tensor]] = {site: [] for site in (*sites, EMBEDDING, LOGITS)}
    with progress("the network on all pairs", len(pairs.tokens), "pairs") as bar:
        for batch in pairs.tokens.batches(PAIRS_PER_PASS):
            logits, values = subject.run(batch, list(sites))
            keep = batch.keep.to(logits.device)
            found[EMBEDDING].append(values[embedding][:, 0].cpu())
            answers = logits[keep][:, :modulus].double()
            found[LOGITS].append((answers - answers.mean(1, keepdim=True)).cpu())  # all alike change no answer
            for site in sites:
                found[site].append(values[site][keep].cpu())
            bar(len(batch))
    at = {name: torch.cat(parts) for name, parts in found.items()}
    stages = [Stage.of(EMBEDDING, _pooled(at[EMBEDDING], modulus))]
    for unit in mlps:
        name = f"MLP {unit.layer}" if len(mlps) > 1 else "MLP"
        stages.append(Stage.of(f"what the {name} reads", _pooled(at[unit.input_site], modulus)))
        if isinstance(unit, MLP):
            neurons = ACTIVATIONS[unit.activation].function(unit.to("cpu").pre(at[unit.input_site]))
            stages.append(Stage.of(f"neurons of the {name}", _pooled(neurons, modulus)))
        stages.append(Stage.of(f"what the {name} writes", _pooled(at[unit.output_site], modulus)))
    stages.append(Stage.of(LOGITS, _pooled(at[LOGITS], modulus)))
    right = (at[LOGITS].argmax(1) == pairs.tokens.targets[pairs.tokens.keep]).double().mean()
    return Network(modulus=modulus, right=float(right), stages=stages)


def _pooled(values: Float[Tensor, "pair channel"], modulus: int) -> Spectrum:
    return spectrum(values, modulus).pooled()
