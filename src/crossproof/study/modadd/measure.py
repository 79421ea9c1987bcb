"""What is measured of one dictionary, at the position that says the answer.

Sums over held-out pairs, from which numbers with intervals are made, and a description of the features on all pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Float64, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from crossproof.binding.bound import bound_mlps, neurons_of
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.model import Crosscoder
from crossproof.files import complete_folder, read_json, read_safetensors, replace_folder, write_json, write_safetensors
from crossproof.interaction.schemes import written
from crossproof.study.modadd.pairs import PAIRS_PER_PASS, PairGrid, Pairs
from crossproof.study.modadd.sharing import Sharing, sharing
from crossproof.study.modadd.spectra import DIRECTIONS, Spectrum, cut_waves, frequencies, spectrum
from crossproof.study.modadd.waves import NONE, follow
from crossproof.study.tradeoff import measure as tradeoff
from crossproof.subject.patch import splice
from crossproof.subject.sites import Replace
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

RANDOM_ORDERS = 3
"""How often residues are put in a random order, to see what chance explains."""
ALIKE = 0.8
"""Where a and b differ by less, a feature follows both."""
EXAMPLES, CELLS = 3, 28
"""How many features are drawn, and in how many rows and columns at most."""
_SUMS, _SAID, _USUAL = "sums.safetensors", "features.json", "usual"


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Feature(Record):
    """What one feature is, where the answer is said. Shares are of its variance over all pairs."""

    feature: int
    frequency: int
    """Which it follows best on the training pairs; 0 for none."""
    direction: str
    """Along which of DIRECTIONS most of that frequency runs; `a and b` where it runs alike along both."""
    pure: float | None
    """How much of its variance on held-out pairs the waves of its frequency explain, fitted on training pairs."""
    line: float
    """The share on that frequency there alone."""
    directions: list[float]
    """The shares along each of DIRECTIONS, all frequencies together."""
    waves: float
    """How many frequencies it has, in effect: 1 for a pure wave, all of them for a single number's peak."""
    constant: float
    """The square of its mean over its mean square."""
    active: float
    """On what share of all pairs."""
    written: float
    """Its share of what all features write, in variance, at all sites."""
    written_mlp: float
    """The same at the MLPs' inputs."""


class Example(Record):
    """A feature as a picture: numbers in the order in which they stand along its wave, means of blocks."""

    feature: int
    values: list[list[float]]
    """Row: a; column: b."""


class Described(Record):
    features: list[Feature]
    """Those that vary over the pairs; what writes most comes first."""
    examples: list[Example]
    """The first of these."""
    dead: float
    """The share that fires at no position of the held-out pairs."""
    directions: list[float]
    """Of what is written at all sites: the shares along each of DIRECTIONS."""
    directions_mlp: list[float]
    """The same at the MLPs' inputs."""
    waves: float
    """How many frequencies features have in effect, mean over what they write."""
    cut: float
    """What part of their variance features would have on one frequency, if each were a wave cut off from below so as to
    be active as often as it is; mean over what they write."""
    expected_share: float | None
    """Of the interaction, between features of the same frequency, if frequencies were dealt out at random."""
    shuffled: list[float]
    """The same in each of many random deals."""
    strongest: float
    """What share of the strongest pairs has the same frequency."""
    grid: list[list[float]]
    """Interaction per answer between frequencies: row, that of the dominant feature; column, that of the other."""
    expected_grid: list[list[float]]
    """The same if frequencies were dealt out at random."""


@dataclass(frozen=True, eq=False)
class Measured:
    usual: tradeoff.Measured
    """What the trade-off study measures, at the answers to the held-out pairs."""
    sums: dict[str, Float64[Tensor, " pair"]]
    """For each held-out pair: interaction, and that of the `same` frequency; meetings of active features likewise;
    variance of features, what their frequencies leave of it (`impure`), what frequencies in a random order leave
    (`chance`); right answers."""
    said: Described


@torch.no_grad()
def measure(subject: Subject, coder: Crosscoder, pairs: PairGrid, held_out: Pairs, seed: int) -> Measured:
    """`held_out` are some of the held-out pairs."""
    tokens, modulus = pairs.these(held_out), pairs.modulus
    strengths = encode(subject, coder, pairs.tokens).codes.dense().cpu()
    generator = torch.Generator().manual_seed(seed)
    followed, *chance = (
        follow(strengths, pairs.train, held_out, pairs.coordinates, modulus, order)
        for order in (None, *(torch.randperm(modulus, generator=generator) for _ in range(RANDOM_ORDERS)))
    )
    codes = Codes.from_dense(strengths[held_out].to(coder.W_dec.device))
    shared = sharing(codes, neurons_of(subject, coder), followed.frequency, frequencies(modulus), seed)
    loud = {
        "all": _written(coder, range(len(coder.sites))),
        "mlp": _written(coder, [mlp.site for mlp in bound_mlps(subject, coder)]),
    }
    spread = strengths[held_out].double() - strengths[held_out].double().mean(0)
    sums = {
        "interaction": shared.interaction,
        "same": shared.same,
        "meetings": shared.meetings,
        "same meetings": shared.same_meetings,
        "variance": spread.square() @ loud["all"],
        "impure": followed.residual.square() @ loud["all"],
        "chance": torch.stack([its.residual.square() @ loud["all"] for its in chance]).mean(0),
        "variance mlp": spread.square() @ loud["mlp"],
        "impure mlp": followed.residual.square() @ loud["mlp"],
        **{f"right {name}": its.double() for name, its in right(subject, coder, tokens, seed).items()},
    }
    fired = encode(subject, coder, pairs.everywhere(held_out)).codes.firing_counts()
    pure = 1 - followed.residual.square().sum(0) / spread.square().sum(0)
    dead = float((fired == 0).double().mean())
    said = _described(strengths, modulus, followed.frequency, pure, loud, shared, dead)
    return Measured(tradeoff.measure(subject, coder, tokens, seed), sums, said)


def _described(
    strengths: Float[Tensor, "pair feature"],
    modulus: int,
    frequency: Int[Tensor, " feature"],
    pure: Float64[Tensor, " feature"],
    loud: dict[str, Float64[Tensor, " feature"]],
    shared: Sharing,
    dead: float,
) -> Described:
    found, active = spectrum(strengths, modulus), (strengths > 0).double().mean(0)
    directions = {name: found.pooled(its).shares[0].sum(1).tolist() for name, its in loud.items()}
    features = _features(found, frequency, pure, active, loud)
    wrote, expected = found.variance * loud["all"], shared.expected_share
    return Described(
        features=features,
        examples=[_example(strengths[:, its.feature], its, modulus) for its in features[:EXAMPLES]],
        dead=dead,
        directions=directions["all"],
        directions_mlp=directions["mlp"],
        waves=_mean(found.waves, wrote),
        cut=_mean(cut_waves(active), wrote),
        expected_share=expected if expected == expected else None,
        shuffled=shared.shuffled.nan_to_num(0.0).tolist(),
        strongest=shared.strongest,
        grid=shared.grid.tolist(),
        expected_grid=shared.expected.tolist(),
    )


def _written(coder: Crosscoder, sites: Sequence[int]) -> Float64[Tensor, " feature"]:
    """The squared length of what each feature writes at strength 1, in the scaled units of training, sites summed."""
    directions = coder.decoder.detach()[:, list(sites)] * coder.site_scales.detach()[list(sites), None]
    return directions.double().square().sum((1, 2)).cpu()


def _mean(values: Float64[Tensor, " feature"], weights: Float64[Tensor, " feature"]) -> float:
    return float((values * weights).sum() / weights.sum()) if float(weights.sum()) > 0 else 0.0


def right(subject: Subject, coder: Crosscoder, tokens: Tokens, seed: int) -> dict[str, Bool[Tensor, " pair"]]:
    """Whether the answer is right: with nothing changed, and with every MLP's output made of all or of one feature.

    All MLPs are replaced together, each on what the crosscoder reads in the unchanged model.
    """
    mlps = list(zip(bound_mlps(subject, coder), neurons_of(subject, coder), strict=True))
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {"model": [], "all": [], tradeoff.LARGEST: []}
    for batch in tokens.batches(PAIRS_PER_PASS):
        codes = coder.encode(subject.harvest(batch, coder.sites).to(coder.W_dec))
        patches: dict[str, dict[str, Replace]] = {name: {} for name in found}
        for mlp, neurons in mlps:
            unit = mlp.unit.to(codes.values.dtype).to(codes.values.device)
            for name, its in written(codes, neurons, unit.W_out, ("all", tradeoff.LARGEST), generator).items():
                patches[name][unit.output_site] = splice(batch, its + unit.b_out)
        for name, patch in patches.items():
            said = subject.logits(batch, patch)[batch.keep.to(subject.device)].argmax(1).cpu()
            found[name].append(said == batch.targets[batch.keep].cpu())
    return {name: torch.cat(parts) for name, parts in found.items()}


def _features(
    found: Spectrum,
    frequency: Int[Tensor, " feature"],
    pure: Float64[Tensor, " feature"],
    active: Float64[Tensor, " feature"],
    weights: dict[str, Float64[Tensor, " feature"]],
) -> list[Feature]:
    of_all = {name: found.variance * its for name, its in weights.items()}
    shares, waves, along = found.shares, found.waves, found.shares.sum(2)
    mean_square = found.variance + found.constant
    features = []
    for number in of_all["all"].argsort(descending=True, stable=True).tolist():
        if float(found.variance[number]) == 0:
            continue
        k = int(frequency[number])
        direction, line = _direction(shares[number, :, k - 1] if k != NONE else along[number])
        said = float(pure[number])
        features.append(
            Feature(
                feature=number,
                frequency=k,
                direction=direction,
                pure=said if said - said == 0 else None,
                line=line,
                directions=along[number].tolist(),
                waves=float(waves[number]),
                constant=float(found.constant[number] / mean_square[number]),
                active=float(active[number]),
                written=float(of_all["all"][number] / of_all["all"].sum()),
                written_mlp=float(of_all["mlp"][number] / of_all["mlp"].sum().clamp(min=1e-300)),
            )
        )
    return features


def _direction(shares: Float64[Tensor, " direction"]) -> tuple[str, float]:
    """The largest, and its share. A network that adds hears a and b alike: then both are one direction."""
    found = dict(zip(DIRECTIONS, shares.tolist(), strict=True))
    a, b = found["a"], found["b"]
    if min(a, b) > ALIKE * max(a, b):
        found["a and b"] = a + b
    name = max(found, key=lambda name: found[name])
    return name, found[name]


def _example(strengths: Tensor, its: Feature, modulus: int) -> Example:
    """In the order of k · number modulo p neighbours on the wave stand side by side, and blocks can be averaged."""
    order = torch.arange(modulus) * max(1, its.frequency) % modulus
    grid = torch.zeros(modulus, modulus, dtype=torch.float64)
    grid[order[:, None], order] = strengths.double().view(modulus, modulus)
    blocks = torch.nn.functional.adaptive_avg_pool2d(grid[None], min(modulus, CELLS))[0]
    return Example(feature=its.feature, values=[[float(f"{value:.3g}") for value in row] for row in blocks.tolist()])


# -- files -------------------------------------------------------------------------------------------------------------


def save(found: Measured, folder: Path) -> None:
    """All or nothing."""
    with replace_folder(folder) as beside:
        write_safetensors(beside / _SUMS, found.sums)
        write_json(beside / _SAID, found.said.model_dump(mode="json"))
        tradeoff.save(found.usual, beside / _USUAL)


def load(folder: Path) -> Measured | None:
    """None if it has not been measured."""
    there = complete_folder(folder)
    usual = None if there is None else tradeoff.load(there / _USUAL)
    if there is None or usual is None:
        return None
    return Measured(usual, read_safetensors(there / _SUMS), Described.model_validate(read_json(there / _SAID)))
