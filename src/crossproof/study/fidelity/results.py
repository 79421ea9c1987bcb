"""`results.json` of the fidelity study, and what it says."""

from __future__ import annotations

from collections.abc import Sequence

from crossproof.findings import Findings
from crossproof.study.base import StudyResults
from crossproof.study.dictionaries import CoderRecord
from crossproof.study.estimates import ENOUGH, text_weights
from crossproof.study.fidelity import shown
from crossproof.study.fidelity.claims import answer, claims
from crossproof.study.fidelity.config import Residual
from crossproof.study.fidelity.groups import by_block, by_scheme, groups_of
from crossproof.study.fidelity.measure import Losses
from crossproof.study.fidelity.records import BlockRecord, GroupRecord, SchemeRecord
from crossproof.study.fidelity.worst import on_worst_blocks

DRAWS = 4000
"""Ends of intervals that allow for several choices lie far out."""


class FidelityStudy(StudyResults):
    subject: str
    texts: int
    targets: int
    """Scored positions."""
    loss: float
    """Of the model itself, nats per token."""
    residual: Residual
    """The residual stream that groups are judged with."""
    coders: list[CoderRecord]
    schemes: list[SchemeRecord]
    blocks: list[BlockRecord]
    groups: list[GroupRecord]

    def findings(self) -> Findings:
        residuals: list[Residual] = list(dict.fromkeys(row.residual for row in self.blocks))
        return Findings(
            title="Ablation fidelity",
            question="How much of what an MLP does for the model is kept when each of its neurons hears only some of "
            "the features that are active: does the penalty make one feature per neuron enough, and at what cost?",
            answer=answer(self.groups, self.residual),
            claims=tuple(claims(self.groups, self.residual)),
            figures=tuple(shown.figures(self.schemes, self.groups, self.residual)),
            tables=tuple(shown.tables(self.schemes, self.blocks, self.groups, self.coders, self.residual)),
            notes=tuple(self._notes(residuals)),
        )

    def _notes(self, residuals: Sequence[Residual]) -> list[str]:
        fixed = [row.group for row in self.groups if not row.resampled]
        resampled = [row.group for row in self.groups if row.resampled]
        notes = [
            f"{self.subject}: {self.texts:,} held-out texts, {self.targets:,} predicted tokens; the model's own loss "
            f"is {self.loss:.3f} nats per token. One MLP is replaced at a time, at the positions that the crosscoder "
            "reads; beginning-of-text keeps the model's own values.",
            "Intervals are 95 % from resampled texts"
            + (f", and resampled dictionaries in: {'; '.join(resampled)}" if resampled else "")
            + (f". Fewer than {ENOUGH} dictionaries are held fixed: {'; '.join(fixed)}" if fixed else "")
            + ". Unexplained variance is that of the training runs' evaluation; its texts are not resampled.",
            "The worst block, and the best of several settings, are found on the texts they are reported on. Their "
            "intervals allow for that: an end towards which the choice leans is taken at .025 over the number of "
            "choices.",
        ]
        if "reconstructed" in residuals:
            notes.append(
                "With a reconstructed stream, what the MLP's output is added to is the dictionary's as well "
                "(hook_resid_mid; hook_resid_pre where attention and MLP work in parallel, and then that block's "
                "attention reads it too). Φ still compares with the untouched model, so it also counts what the "
                "stream's reconstruction costs; the column “stream alone” has that."
            )
        missing = {
            residual: sorted({row.mlp for row in self.blocks} - {r.mlp for r in self.blocks if r.residual == residual})
            for residual in residuals
        }
        notes += [
            f"{', '.join(mlps)}: not with the {residual} stream, which is no site of the crosscoders."
            for residual, mlps in missing.items()
            if mlps
        ]
        return notes


def study_of(
    subject: str,
    records: Sequence[CoderRecord],
    measured: Sequence[dict[Residual, Losses]],
    seed: int,
) -> FidelityStudy:
    """Of each crosscoder its record and what was measured, with the same residual streams."""
    residuals = list(measured[0])
    any_losses = measured[0][residuals[0]]
    weights = text_weights(len(any_losses.clean), seed, DRAWS)
    grouped = {
        residual: groups_of(records, [its[residual] for its in measured], weights, seed) for residual in residuals
    }
    every = [(group, residual) for residual, groups in grouped.items() for group in groups.values()]
    return FidelityStudy(
        subject=subject,
        texts=len(any_losses.clean),
        targets=int(any_losses.targets.sum()),
        loss=float(any_losses.clean.sum() / any_losses.targets.sum()),
        residual=residuals[0],
        coders=list(records),
        schemes=[row for group, residual in every for row in by_scheme(group, residual)],
        blocks=[row for group, residual in every for row in by_block(group, residual)],
        groups=on_worst_blocks(grouped[residuals[0]]),
    )
