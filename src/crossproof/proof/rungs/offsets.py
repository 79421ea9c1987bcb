"""The bound of the rung `masses` as a function that can be descended: to find offsets and scales, or to train a model.

Plain tensors and no radii: all of it is about the witness, nothing here needs to be right, and nothing is counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor, nn

from crossproof.progress import progress
from crossproof.proof.network import Network
from crossproof.proof.rungs.layers import Layers
from crossproof.proof.rungs.windows import windows
from crossproof.proof.statement import Items, Witness

BATCH = 512
LEARNING_RATE = 1e-2
ROUNDS = 5
_UNDER_ROOT = 1e-9
"""A root has no slope at zero."""


class Offsets(nn.Module):
    """An offset for each feature and neuron and a scale for each neuron, of each MLP; at first 0 and 1."""

    def __init__(self, features: int, neurons: int, mlps: int) -> None:
        super().__init__()
        self.offsets = nn.ParameterList(torch.zeros(features, neurons) for _ in range(mlps))
        self.log_scales = nn.ParameterList(torch.zeros(neurons) for _ in range(mlps))

    def witness(self) -> dict[str, Tensor]:
        found = {f"offset_{index}": offset.detach().clone() for index, offset in enumerate(self.offsets)}
        return found | {f"scale_{index}": log.detach().exp() for index, log in enumerate(self.log_scales)}


@dataclass(frozen=True)
class Maps:
    """A model's matrices, as far as corrections go through them."""

    W_in: Sequence[Float[Tensor, "width neuron"]]
    W_out: Sequence[Float[Tensor, "neuron width"]]
    W_U: Float[Tensor, "width token"]


def bounds(
    parts: Sequence[Float[Tensor, "item family neuron"]],
    direct: Float[Tensor, "item token"],
    maps: Maps,
    offsets: Sequence[Float[Tensor, "item family neuron"]],
    scales: Sequence[Float[Tensor, " neuron"]],
    read: int,
    target: Integer[Tensor, " item"],
) -> Float[Tensor, " item"]:
    """What `masses.verify` proves of items: `parts` is what each feature says in the stream to each MLP, `direct` what
    all of them say to the logits."""
    to_logits = [W @ maps.W_U * scale[:, None] for W, scale in zip(maps.W_out, scales, strict=True)]
    logits, answers, sizes = direct, list[Tensor](), list[Tensor]()
    for index, part in enumerate(parts):
        for before, answer in enumerate(answers):
            part = part + answer @ (maps.W_out[before] @ maps.W_in[index])
        answers.append(part.relu() - offsets[index])
        mass = answers[-1].sum(1)
        left = torch.minimum(mass, ((-part).relu() - offsets[index]).sum(1)) / scales[index]
        logits = logits + mass / scales[index] @ to_logits[index]
        if index == len(parts) - 1 and read:
            loud = (to_logits[index] - to_logits[index].mean(1, keepdim=True)).norm(dim=1)
            named = (left.abs() * loud).topk(read, dim=1).indices
            logits = logits - torch.einsum("ir,irv->iv", left.gather(1, named), to_logits[index][named])
            left = left.scatter(1, named, 0.0)
        sizes.append((left.square().sum(1) + _UNDER_ROOT).sqrt())
    margins = logits - logits.gather(1, target[:, None])
    for size, apart in zip(sizes, _between(maps, scales, to_logits), strict=True):
        margins = margins + size[:, None] * apart[target]
    return margins.scatter(1, target[:, None], 0.0).logsumexp(1)


def _between(
    maps: Maps, scales: Sequence[Float[Tensor, " neuron"]], to_logits: Sequence[Float[Tensor, "neuron token"]]
) -> list[Float[Tensor, "token token"]]:
    """As in `Layers.between`, without a sign."""
    apart = [(by.mT[:, None] - by.mT[None]) for by in to_logits]
    found = []
    for index, its in enumerate(apart):
        size, reach = (its.square().sum(2) + _UNDER_ROOT).sqrt(), list[Tensor]()
        for later in range(index + 1, len(apart)):
            W = maps.W_out[index] @ maps.W_in[later] * scales[index][:, None]
            moved = (W.square().sum(0) + _UNDER_ROOT).sqrt()
            for earlier, through in zip(range(index + 1, later), reach, strict=True):
                moved = moved + through @ (maps.W_out[earlier] @ maps.W_in[later]).abs()
            reach.append(moved)
            size = size + apart[later].abs() @ (moved / scales[later])
        found.append(size)
    return found


def find(network: Network, items: Items, witness: Witness, read: int, steps: int, seed: int = 0) -> dict[str, Tensor]:
    """Offsets and scales that make the bound with `read` corrections read out small, by descent from the best additive
    prediction of the first MLP's corrections."""
    layers = Layers.of(network, items, witness)
    tables = [table.mid.float() for table in layers.heard.tables]
    said = layers.heard.direct.mid.float()
    maps = Maps(
        [network.mlp(index)[0].mid.float() for index in range(network.n_mlps)],
        [network.mlp(index)[2].mid.float() for index in range(network.n_mlps)],
        network["W_U"].mid.float(),
    )
    weight = items.count.float()
    found = Offsets(len(tables[0]), tables[0].shape[1], len(tables))
    found.offsets[0].data = _additive(layers, items)
    optimiser = torch.optim.Adam(found.parameters(), lr=LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    with progress("offsets", steps, "steps") as bar:
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = LEARNING_RATE * (1 - step / steps)
            chosen = torch.multinomial(weight, BATCH, replacement=True, generator=generator)
            contexts = items.context[chosen]
            codes = layers.heard.codes[contexts]
            in_stream, at_neurons = (
                None if strength is None else strength.mid.float()[:, :, None]
                for strength in layers.heard.strengths(contexts)
            )
            loss = bounds(
                [_times(table[codes], at_neurons) for table in tables],
                _times(said[codes], in_stream).sum(1),
                maps,
                [_times(offset[codes], at_neurons) for offset in found.offsets],
                [log.exp() for log in found.log_scales],
                read,
                items.target[chosen],
            ).mean()
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            bar(1, f"{float(loss.detach()):.3f}")
    return found.witness()


def _times(rows: Tensor, strengths: Tensor | None) -> Tensor:
    return rows if strengths is None else rows * strengths


def _additive(layers: Layers, items: Items) -> Float[Tensor, "feature neuron"]:
    """The sum over features that comes closest to the first MLP's corrections: family after family, a few times."""
    weight = torch.zeros(len(items.contexts)).index_add_(0, items.context, items.count.float())
    corrections, strengths = [], []
    for chunk in windows(items):
        its = layers.heard.strengths(chunk.contexts)[1]
        corrections.append(layers.left(0, chunk, its).mid.float())
        strengths.append(
            torch.ones(len(corrections[-1]), layers.heard.codes.shape[1]) if its is None else its.mid.float()
        )
    left, strength = torch.cat(corrections), torch.cat(strengths)
    offset = torch.zeros(layers.mlps[0].positive.shape)
    for _ in range(ROUNDS):
        for family in range(strength.shape[1]):
            code, by = layers.heard.codes[:, family], strength[:, family]
            mass = torch.zeros(len(offset)).index_add_(0, code, weight * by * by).clamp(min=1e-12)
            step = torch.zeros_like(offset).index_add_(0, code, left * (weight * by)[:, None]) / mass[:, None]
            offset += step
            left -= step[code] * by[:, None]
    return offset
