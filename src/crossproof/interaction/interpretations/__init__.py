"""Interpretations: cheap accounts of an MLP's neurons, and what interaction makes each of them miss.

Start with `base.py`: the interface, and how to add one. Each of the four here is a file: `dominant.py`, `additive.py`,
`mass.py` and `gate.py`. `unit.py` applies any of them to a whole MLP, and `generic.py` makes a penalty of any. They ask
different questions about the same neuron:

dominant   How much is lost where only the q largest contributions are kept? Features that merely add up are missed as
           well. Splitting a feature into halves can change it.
additive   How far is the neuron from a sum of functions of single features? Two features of one sign can interact here:
           ReLU with bias −1 and contributions .75 and .75 is an AND. Splitting a feature can change it.
mass       How much do contributions of opposite sign, the bias among them, cancel? Splitting never changes it.
gate       The same, at those neurons alone whose sign an error within a margin could change.

Scaling a feature by a factor and its directions by the inverse changes none of them.
"""

# Importing an interpretation's file is what registers it.
from crossproof.interaction.interpretations.additive import Additive
from crossproof.interaction.interpretations.base import (
    Account,
    Block,
    GatedBlock,
    Interpretation,
    PlainBlock,
    block_of,
    interpretation,
    names,
    register,
)
from crossproof.interaction.interpretations.dominant import Dominant, dropped, largest
from crossproof.interaction.interpretations.gate import Gate
from crossproof.interaction.interpretations.generic import generic_penalty
from crossproof.interaction.interpretations.mass import Mass
from crossproof.interaction.interpretations.unit import UnitResidual, spectral_norm, unit_residual

__all__ = [
    "Account",
    "Additive",
    "Block",
    "Dominant",
    "Gate",
    "GatedBlock",
    "Interpretation",
    "Mass",
    "PlainBlock",
    "UnitResidual",
    "block_of",
    "dropped",
    "generic_penalty",
    "interpretation",
    "largest",
    "names",
    "register",
    "spectral_norm",
    "unit_residual",
]
