"""What an interpretation is: a cheap per-feature account of a neuron, and the size of what interaction makes it miss.

To add one, write a frozen dataclass that derives from `Interpretation`, put `@register` above it, and import its file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from inspect import signature
from typing import Any, ClassVar, TypeVar

from jaxtyping import Float
from torch import Tensor

from crossproof.errors import CrossproofError, UnsupportedModel
from crossproof.interaction.contributions import Chunk, Neurons, PlainNeurons, Table
from crossproof.units import Activation


@dataclass(frozen=True, eq=False)
class PlainBlock:
    """What the active features of a few tokens contribute to the neurons φ(z) of a plain MLP; 0 in an unused slot."""

    p: Float[Tensor, "token slot neuron"]
    beta: Float[Tensor, " neuron"]
    activation: Activation

    def pre(self) -> Float[Tensor, "token neuron"]:
        """z."""
        return self.beta + self.p.sum(1)

    def output(self) -> Float[Tensor, "token neuron"]:
        return self.activation.function(self.pre())

    def magnitude(self) -> Float[Tensor, "token neuron"]:
        """|β| + Σ|p|: how large the numbers are that a residual is the difference of, hence its rounding errors."""
        return self.beta.abs() + self.p.abs().sum(1)

    def double(self) -> PlainBlock:
        return PlainBlock(self.p.double(), self.beta.double(), self.activation)


@dataclass(frozen=True, eq=False)
class GatedBlock:
    """What the active features of a few tokens contribute to the neurons φ(g) h of a gated MLP."""

    p_gate: Float[Tensor, "token slot neuron"]
    beta_gate: Float[Tensor, " neuron"]
    p_value: Float[Tensor, "token slot neuron"]
    beta_value: Float[Tensor, " neuron"]
    activation: Activation

    def gate(self) -> Float[Tensor, "token neuron"]:
        """g."""
        return self.beta_gate + self.p_gate.sum(1)

    def value(self) -> Float[Tensor, "token neuron"]:
        """h."""
        return self.beta_value + self.p_value.sum(1)

    def output(self) -> Float[Tensor, "token neuron"]:
        return self.activation.function(self.gate()) * self.value()

    def magnitude(self) -> Float[Tensor, "token neuron"]:
        """(|β_g| + Σ|p^g|) (|β_h| + Σ|p^h|)."""
        gate = self.beta_gate.abs() + self.p_gate.abs().sum(1)
        return gate * (self.beta_value.abs() + self.p_value.abs().sum(1))

    def double(self) -> GatedBlock:
        gate, value = (self.p_gate.double(), self.beta_gate.double()), (self.p_value.double(), self.beta_value.double())
        return GatedBlock(*gate, *value, self.activation)


Block = PlainBlock | GatedBlock


def block_of(chunk: Chunk, neurons: Neurons) -> Block:
    """The contributions of a chunk's active features to an MLP's neurons. Carries gradients to strengths and tables."""

    def of(table: Table) -> tuple[Tensor, Tensor]:
        p = chunk.contributions(table.A)
        return p, table.beta.to(p.dtype)

    if isinstance(neurons, PlainNeurons):
        return PlainBlock(*of(neurons.pre), neurons.activation)
    return GatedBlock(*of(neurons.gate), *of(neurons.value), neurons.activation)


@dataclass(frozen=True, eq=False)
class Account:
    """G_n, and what each feature is granted; each interpretation says how the two are tied."""

    value: Float[Tensor, "token neuron"]
    parts: Float[Tensor, "token slot neuron"]
    value_parts: Float[Tensor, "token slot neuron"] | None = None
    """Where gate and value of a gated MLP have an account each: that of the value, and `parts` that of the gate."""


class Interpretation(ABC):
    """One way to account for neurons feature by feature. Each asks a different question about the same neuron."""

    name: ClassVar[str]
    gated: ClassVar[bool] = False
    """Whether it has an account of gated MLPs."""

    @abstractmethod
    def account(self, block: Block) -> Account: ...

    @abstractmethod
    def certified(self, block: Block) -> Float[Tensor, "token neuron"]:
        """A size that |residual| cannot exceed in exact arithmetic, found without looking at the residual."""

    @abstractmethod
    def penalised(self, block: Block) -> Float[Tensor, "token neuron"]:
        """What a training penalty sums: not negative, with gradients to all contributions."""

    def residual(self, block: Block) -> Float[Tensor, "token neuron"]:
        """r = output − G: what interaction makes the account miss."""
        return block.output() - self.account(block).value

    def only_plain(self, block: Block) -> PlainBlock:
        """The block, or a refusal where it is of a gated MLP."""
        if isinstance(block, GatedBlock):
            raise UnsupportedModel(
                f"the {self.name} interpretation has no account of gated MLPs, whose neurons multiply two "
                f"pre-activations; for them there are: {', '.join(names(gated=True))}"
            )
        return block


def slope_range(activation: Activation) -> float:
    """How far two slopes of φ can lie apart: they all lie in [1 − Lip, Lip]."""
    return 2 * activation.lipschitz - 1


Kind = TypeVar("Kind", bound=type[Interpretation])

_REGISTERED: dict[str, type[Interpretation]] = {}


def register(kind: Kind) -> Kind:
    """Makes an interpretation known by its name."""
    _REGISTERED[kind.name] = kind
    return kind


def names(gated: bool = False) -> list[str]:
    """Of all interpretations, or of those that have an account of gated MLPs."""
    return sorted(name for name, kind in _REGISTERED.items() if kind.gated or not gated)


def interpretation(name: str, **options: Any) -> Interpretation:
    """An interpretation by its name: `interpretation("dominant", q=2)`."""
    if name not in _REGISTERED:
        raise CrossproofError(f"no interpretation {name!r}; there are: {', '.join(names())}")
    takes = signature(_REGISTERED[name])
    try:
        takes.bind(**options)
    except TypeError as error:
        listed = ", ".join(map(str, takes.parameters.values())) or "no options"
        raise CrossproofError(f"interpretation {name!r}: {error}; it takes {listed}") from None
    return _REGISTERED[name](**options)
