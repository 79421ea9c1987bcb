"""Every interaction of the planted model removed on its own, where what should happen to all else is known.

A gadget owns its neurons, so that what an edit does to the other gadgets is what it does to all other neurons.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from crossproof.progress import progress
from crossproof.study.estimates import Drawn, by_text, drawn, estimate, text_weights
from crossproof.study.extremes import greatest
from crossproof.study.suppression.config import SuppressionConfig
from crossproof.study.suppression.edit import AnyMLP, Meetings, Plan, ablated, apart, plan, second_differences
from crossproof.study.suppression.results import ABLATION, EDIT, RANDOM, TUNING, PlantedPair, PlantedStudy
from crossproof.study.suppression.tune import tuned
from crossproof.subject.zoo.planted import build_planted, planted_source
from crossproof.subject.zoo.planted_model import PlantedModel
from crossproof.subject.zoo.planted_truth import Pair
from crossproof.units import MLP


class _Block:
    """One MLP with the inputs and true codes of some texts."""

    def __init__(self, model: PlantedModel, block: int, texts: int) -> None:
        unit = model.units()[block]
        assert isinstance(unit, MLP)
        self.unit, self.site = unit, unit.input_site
        self.directions, self.bias = model.directions(self.site), model.decoder_bias(self.site)
        self.pairs = [its for its in model.truth.pairs if its.interacts and its.seen_together and its.block == block]
        owned = [(gadget.name, len(gadget.neurons)) for gadget in model.truth.gadgets if gadget.block == block]
        self.owner = [name for name, count in owned for _ in range(count)]
        self.model, self.texts = model, texts

    def inputs(self, split: str) -> tuple[Float64[Tensor, "row d_model"], Tensor, Int[Tensor, " row"]]:
        ids = planted_source(split, self.model.truth.seed).tokens(0, self.texts).ids
        with torch.no_grad():
            _, cache = self.model.run_with_cache(ids)
        text = torch.arange(len(ids))[:, None].expand_as(ids).flatten()
        return cache[self.site].flatten(0, 1), self.model.codes[ids].flatten(0, 1), text

    def meetings(self, pair: Pair, x: Tensor, codes: Tensor, text: Tensor) -> Meetings:
        rows = ((codes[:, pair.i] > 0) & (codes[:, pair.j] > 0)).nonzero().squeeze(1)
        a, b = (codes[rows, its][:, None] * self.directions[its] for its in (pair.i, pair.j))
        return Meetings(x[rows], a, b, text[rows])


def planted_study(config: SuppressionConfig) -> PlantedStudy:
    """Chosen and tuned on training texts, judged on validation texts."""
    model = build_planted(0, torch.float64)
    weights = text_weights(config.planted_texts, config.seed)
    records, edited = [], dict[str, dict[str, Drawn]]()
    blocks = [_Block(model, block, config.planted_texts) for block in range(model.cfg.n_layers)]
    with progress("taking planted pairs apart", sum(len(block.pairs) for block in blocks), "pairs") as bar:
        for block in blocks:
            train, judge = block.inputs("train"), block.inputs("validation")
            for number, pair in enumerate(block.pairs):
                others = [its for its in block.pairs[number + 1 :] + block.pairs[:number] if its.gadget != pair.gadget]
                for way, unit in _ways(config, block, pair, others[0], train).items():
                    found = _measured(block, pair, unit, judge, weights)
                    records.append(
                        PlantedPair(
                            pair=" × ".join(pair.names),
                            kind=pair.kind,
                            way=way,
                            **{name: estimate([its]) for name, its in found.items()},
                        )
                    )
                    if way == EDIT:
                        edited[f"blocks.{pair.block}: {' × '.join(pair.names)}"] = found
                bar(1)
    changed = {f"{pair}, {name}": its[name] for pair, its in edited.items() for name in ("left", "elsewhere")}
    largest = greatest(changed), greatest({pair: its["alone"] for pair, its in edited.items()})
    assert largest[0] is not None
    assert largest[1] is not None
    return PlantedStudy(texts=config.planted_texts, pairs=records, changed=largest[0], alone=largest[1])


def _ways(
    config: SuppressionConfig, block: _Block, pair: Pair, other: Pair, train: tuple[Tensor, Tensor, Tensor]
) -> Mapping[str, AnyMLP]:
    def planned(its: Pair) -> list[Plan]:
        return [plan(block.unit, its.i, its.j, block.meetings(its, *train), config.neurons)]

    x, codes, _ = train
    without = x[(codes[:, pair.i] == 0) | (codes[:, pair.j] == 0)]
    at = block.directions, block.bias
    return {
        EDIT: apart(block.unit, *at, planned(pair)),
        TUNING: tuned(block.unit, block.meetings(pair, *train), without, config.steps, config.seed),
        RANDOM: apart(block.unit, *at, planned(other)),
        ABLATION: ablated(block.unit, *at, planned(pair)),
    }


def _measured(
    block: _Block, pair: Pair, unit: AnyMLP, judge: tuple[Tensor, Tensor, Tensor], weights: Float64[Tensor, "draw text"]
) -> dict[str, Drawn]:
    """The interaction that is left, and what else changes, over the interaction that was there; and over their output,
    the change of other gadgets."""
    texts, at = weights.shape[1], block.meetings(pair, *judge)

    def summed(values: Tensor) -> Tensor:
        return by_text(values.norm(dim=1), at.text, texts)

    was, now = (second_differences(its, at) @ its.W_out for its in (block.unit, unit))
    neither = at.x - at.a - at.b
    first, second = (
        (unit(neither + its) - unit(neither)) - (block.unit(neither + its) - block.unit(neither))
        for its in (at.a, at.b)
    )
    x, _, text = judge
    others = torch.tensor([owner != pair.gadget for owner in block.owner])
    loudness = block.unit.W_out.norm(dim=1)[others]
    spoke, speaks = ((x @ its.W_in + its.b_in).relu()[:, others] * loudness for its in (block.unit, unit))
    change, output = (by_text(its.abs().sum(1), text, texts) for its in (speaks - spoke, spoke))
    return {
        "left": drawn(summed(now), summed(was), weights),
        "alone": drawn(summed(first) + summed(second), summed(was), weights),
        "elsewhere": drawn(change, output, weights),
    }
