"""`results.json` of pairs on text."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from crossproof.findings import Findings, Layer, Passage, Table
from crossproof.study.base import StudyResults


class PairOnText(BaseModel):
    """One pair, on the text where it interacts most."""

    model_config = ConfigDict(extra="forbid")
    i: int
    j: int
    unit: str
    strength: float
    """Mean interaction where both are active, on the texts that it was chosen on."""
    frequency: float
    """Of what part of the tokens both are active, there."""
    together: int
    """At how many tokens of the other texts it interacts."""
    words: list[str]
    of_i: list[float]
    of_j: list[float]
    interaction: list[float]
    strongest_at: int | None
    """The word; None if the two never meet on the other texts."""


class OnTextStudy(StudyResults):
    subject: str
    coder: str
    texts: int
    """Those that pairs are shown on."""
    pairs: list[PairOnText]

    def findings(self) -> Findings:
        met = [pair for pair in self.pairs if pair.strongest_at is not None]
        return Findings(
            title="Pairs that interact, on text",
            question="Which pairs of features interact most, and do they make sense where they do?",
            answer=f"{len(self.pairs)} pairs were chosen on other texts, no feature in two of them; {len(met)} of them "
            f"interact on these {self.texts} texts too, and are shown where they do so most.",
            tables=(_table(self.pairs),) if self.pairs else (),
            passages=tuple(_passage(pair) for pair in met),
            notes=(
                "Interaction is the paper's: what each of the two adds to neurons that the other dominates, loudness "
                "and the number of neurons weighed in. Colours of each layer are scaled to its own largest value.",
            ),
        )


def _passage(pair: PairOnText) -> Passage:
    return Passage(
        title=f"{pair.i} → {pair.j} in {pair.unit}",
        words=tuple(pair.words),
        layers=(
            Layer(name="interaction", values=tuple(pair.interaction)),
            Layer(name=f"feature {pair.i}", values=tuple(pair.of_i)),
            Layer(name=f"feature {pair.j}", values=tuple(pair.of_j)),
        ),
        note=f"They interact at {pair.together:,} tokens of these texts, most at word {(pair.strongest_at or 0) + 1}.",
    )


def _table(pairs: list[PairOnText]) -> Table:
    return Table.of(
        "The pairs, as they were chosen",
        [
            {
                "pair": f"{pair.i} → {pair.j}",
                "MLP": pair.unit,
                "strength": pair.strength,
                "both active": f"{pair.frequency:.1%}",
                "most at": "–" if pair.strongest_at is None else pair.words[pair.strongest_at].strip() or "¶",
            }
            for pair in pairs
        ],
    )
