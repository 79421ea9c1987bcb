"""`planted`: a model whose features, co-occurrences and interacting pairs are known because they were put there.

Interaction metrics, crosscoders and proofs are scored on it. It is built, not trained: a seed gives the same weights
each time, in less than a second. `python -m crossproof.subject.zoo.planted` prints what is planted.

    model = load_planted()            # hooks under TransformerLens names, logits over outcomes
    truth = ground_truth()            # features, clusters, gadgets, pairs
    source = planted_source("train")  # texts, with the outcome of each token for its target

`planted_gadgets.py` holds the tables, `planted_truth.py` what the records mean, `planted_build.py` turns the one into
weights and the other, `planted_model.py` is the module and `planted_oracle.py` finds interactions by brute force.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from crossproof.errors import CrossproofError
from crossproof.subject.tokens import Tokens
from crossproof.subject.zoo.planted_build import VOCABULARY, plan
from crossproof.subject.zoo.planted_truth import GroundTruth

if TYPE_CHECKING:
    from crossproof.subject.zoo.planted_model import PlantedModel

POSITIONS = 32
SPLIT_SEED = {"train": 0, "validation": 1}


def build_planted(seed: int = 0, dtype: torch.dtype = torch.float32) -> PlantedModel:
    """The model of a seed. It is computed in float64 and rounded once, to `dtype`."""
    from crossproof.subject.zoo.planted_model import PlantedModel

    return PlantedModel(plan(seed), dtype)


def load_planted(device: torch.device | str = "cpu") -> PlantedModel:
    """The member of the zoo: the model of seed 0."""
    model: PlantedModel = build_planted().to(device)
    return model


def ground_truth(seed: int = 0) -> GroundTruth:
    return plan(seed).truth


def planted_source(split: str, seed: int = 0) -> PlantedSource:
    """The texts of a split, for the model of a seed."""
    if split not in SPLIT_SEED:
        raise CrossproofError(f"no split {split!r}: planted texts have the splits {', '.join(SPLIT_SEED)}")
    return PlantedSource(SPLIT_SEED[split], plan(seed).targets)


class PlantedSource:
    """Texts of 32 tokens, each drawn evenly from the vocabulary; every position is kept and scored on its own token.

    A token's target is one outcome, drawn once from the model's own distribution at that token: no other model of
    the outcomes has a lower expected loss.
    """

    texts_in_all: int | None = None

    def __init__(self, seed: int, targets: Int[Tensor, " vocabulary"]) -> None:
        self.seed = seed
        self._targets = targets

    def tokens(self, start: int, count: int) -> Tokens:
        where = torch.arange(start * POSITIONS, (start + count) * POSITIONS).view(count, POSITIONS)
        ids = _scatter(where, self.seed) % VOCABULARY
        return Tokens(ids, torch.ones_like(ids, dtype=torch.bool), self._targets[ids])


def _scatter(counter: Int[Tensor, "text pos"], seed: int) -> Int[Tensor, "text pos"]:
    """A random number below 2⁶³ for each counter: SplitMix64, so that text i needs no text before it to be drawn.

    A signed product wraps as an unsigned one does; a signed shift does not fill with zeros, hence the masks.
    """
    x = (counter + seed * 2**40) * _signed(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> shift & (1 << 64 - shift) - 1)) * _signed(factor)
    return (x ^ (x >> 31 & (1 << 33) - 1)) & (1 << 63) - 1


def _signed(word: int) -> int:
    return word - (1 << 64) if word >= 1 << 63 else word


def describe(truth: GroundTruth) -> str:
    """The planted pairs as a Markdown table, one row a pair and block."""
    lines = [
        "| pair | kind | block | neurons | sign | interacts | tokens with both |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in truth.pairs:
        sign = {1: "+", -1: "−", 0: ""}[pair.sign]
        beside = f" (beside {', '.join(pair.requires)})" if pair.requires else ""
        block = "" if pair.block is None else str(pair.block)
        neurons = ", ".join(map(str, pair.neurons))
        interacts = ("unseen" if pair.potential else "yes") if pair.interacts else "no"
        row = (f"{' × '.join(pair.names)}{beside}", pair.kind, block, neurons, sign, interacts, f"{pair.together:.1%}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def losses(model: PlantedModel, texts: int = 500) -> dict[str, tuple[float, float]]:
    """Mean loss and accuracy on validation texts: as the model is, and with the MLP of each block silenced."""
    tokens = planted_source("validation", model.truth.seed).tokens(0, texts).to(model.W_E.device)
    targets = tokens.targets.flatten()
    silenced = {
        f"without the MLP of block {block}": f"blocks.{block}.hook_mlp_out" for block in range(model.cfg.n_layers)
    }
    table = {}
    for name, site in {"as it is": None, **silenced}.items():
        hooks = [(site, lambda value, hook: torch.zeros_like(value))] if site else []
        with torch.no_grad():
            logits: Tensor = model.run_with_hooks(tokens.ids, fwd_hooks=hooks).flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, targets)
        table[name] = (float(loss), float((logits.argmax(1) == targets).float().mean()))
    return table


def main() -> None:
    print(describe(ground_truth()))
    print("\n| model | loss | accuracy |\n|---|---|---|")
    for name, (loss, accuracy) in losses(load_planted()).items():
        print(f"| {name} | {loss:.2f} | {accuracy:.0%} |")


if __name__ == "__main__":
    main()
