"""What features of an explanation are, in words."""

from __future__ import annotations

from crossproof.proof.explanation import Explanation, explain
from crossproof.proof.provable import Provable
from crossproof.proof.statement import Witness


class Names:
    """Of the features that a witness gives a model."""

    def __init__(self, of: Provable, witness: Witness) -> None:
        self.explanation: Explanation = explain(of.network, of.items, witness)
        self.context, self.vocabulary = of.network.context, of.network.vocabulary
        self.characters, self.has_attention = of.characters, of.network.has_attention

    def family(self, index: int) -> str:
        """`position −2`, counted from the last, which is −1; `the query`; or `the bias`, which norms make a feature."""
        if index >= len(self.explanation.families):
            return "the bias"
        if self.has_attention and index == self.context:
            return "the query"
        its = self._positions(self.explanation.families[index].start)
        return f"position {its[0]}" if len(its) == 1 else f"positions {its[0]} to {its[-1]}"

    def feature(self, index: int) -> str:
        """`"th" at −3`."""
        for number, family in enumerate(self.explanation.families):
            if family.start <= index < family.stop:
                atoms = [atom for atom in self._atoms(index) if atom >= 0]
                text = "".join(self.characters[atom % self.vocabulary] for atom in atoms)
                where = self.family(number).removeprefix("positions ").removeprefix("position ")
                return f"{text!r} {'as' if where == 'the query' else 'at'} {where}"
        return "the bias"

    def _atoms(self, feature: int) -> list[int]:
        members = self.explanation.members
        return [feature] if members is None else [int(atom) for atom in members[feature]]

    def _positions(self, feature: int) -> list[str]:
        places = [atom // self.vocabulary for atom in self._atoms(feature) if atom >= 0]
        return [f"−{self.context - place}" for place in places]
