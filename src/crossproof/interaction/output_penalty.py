"""What is lost of an MLP's output when each neuron hears only its largest contributions, as a training penalty.

    penalty = OutputPenalty(units)
    loss = reconstruction + weight * penalty(features, directions, inputs, biases)

The dominant interpretation reads neuron n as G_n = φ(β_n + its q largest contributions). `InteractionPenalty` bounds
what that misses by Σ|p| − the q largest, neuron by neuron; no such bound can tell neurons whose errors cancel, which
are shut anyway, or which nobody hears, from others. This penalty is the thing itself: for each MLP

    Σ_tokens ‖Σ_n G_n W_out[n] + b_out − MLP(x)‖² / Σ_tokens ‖MLP(x) − its mean‖²

with x the MLP's true input, in raw units: the part of the variance of what the MLP writes that its q largest
contributions leave unexplained. 0 if they say it all, 1 if they say no more than the mean. Of several MLPs the root
mean square counts: with the mean, those that are easily said in one contribution each take the pressure. It holds
what interaction makes the account miss and what the dictionary does not reconstruct; with all contributions kept
(q = `ALL`) the second alone, which is the control: it asks for the same output and nothing of interactions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.codes import Codes, as_codes
from crossproof.errors import CrossproofError, MismatchError
from crossproof.interaction.contributions import check_directions
from crossproof.interaction.kept import kept
from crossproof.interaction.penalty import only_active
from crossproof.units import ACTIVATIONS, MLP, GatedMLP

ALL = 2**31 - 1
"""A q that keeps every contribution."""


class OutputPenalty(nn.Module):
    """The part of MLPs' outputs that only the q largest contributions to each neuron do not explain: one number.

    Calling it gives the root mean square over MLPs: the one that misses most is pushed most. It has no state. Of a
    gated MLP the q largest are kept in the gate and, apart, in the value.
    """

    def __init__(self, units: Sequence[MLP | GatedMLP], q: int = 1) -> None:
        super().__init__()
        if not units:
            raise CrossproofError("units: there is no MLP to penalise; give at least one")
        if q < 1:
            raise CrossproofError(f"q: {q} of the largest contributions cannot be kept; give at least 1")
        self.units, self.q = tuple(units), q

    def extra_repr(self) -> str:
        return f"{len(self.units)} MLPs, {'all' if self.q == ALL else f'q={self.q}'}"

    def forward(
        self,
        features: Codes | Float[Tensor, "..."],
        directions: Sequence[Float[Tensor, "..."]],
        inputs: Sequence[Float[Tensor, "..."]],
        biases: Sequence[Float[Tensor, "..."]] | None = None,
    ) -> Float[Tensor, ""]:
        """For each MLP what features write at its input, [feature, d_model], and its true input, [token, d_model].

        `biases`, [d_model] for each, are what the dictionary writes there where no feature is active, zero if not
        given. Raw units. Gradients go to features, directions and biases.
        """
        codes = as_codes(features).active()
        widths = [unit.W_in.shape[0] for unit in self.units]
        check_directions(codes, directions, widths)
        for name, given in (("inputs", inputs), ("biases", biases)):
            if given is not None and len(given) != len(widths):
                raise MismatchError(f"{name}: {len(given)} for {len(widths)} MLPs; expected one for each, in order")
        for number, (x, d_model) in enumerate(zip(inputs, widths, strict=True)):
            if x.shape != (codes.pattern.n_rows, d_model):
                raise MismatchError(
                    f"inputs[{number}]: expected [token, d_model] = ({codes.pattern.n_rows}, {d_model}), "
                    f"not {tuple(x.shape)}"
                )
        codes, directions = only_active(codes, directions)
        with torch.autocast(codes.values.device.type, enabled=False):
            values = [
                self._missed(unit, codes, at, x, at.new_zeros(at.shape[1]) if biases is None else biases[number])
                for number, (unit, at, x) in enumerate(zip(self.units, directions, inputs, strict=True))
            ]
        return torch.linalg.vector_norm(torch.stack(values)) / len(values) ** 0.5

    def _missed(
        self,
        unit: MLP | GatedMLP,
        codes: Codes,
        directions: Float[Tensor, "feature d_model"],
        x: Float[Tensor, "token d_model"],
        bias: Float[Tensor, " d_model"],
    ) -> Float[Tensor, ""]:
        function = ACTIVATIONS[unit.activation].function

        def pre(W: Tensor, b: Tensor) -> Tensor:
            return bias @ W + b + kept(codes, directions @ W, self.q)

        if isinstance(unit, MLP):
            neurons = function(pre(unit.W_in, unit.b_in))
        else:
            neurons = function(pre(unit.W_gate, unit.b_gate)) * pre(unit.W_in, unit.b_in)
        with torch.no_grad():
            written = unit(x)
            spread = (written - written.mean(0)).square().sum()
        missed = (neurons @ unit.W_out + unit.b_out - written).square().sum()
        # an MLP that writes the same everywhere has no variance to explain
        return missed / torch.where(spread == 0, torch.ones_like(spread), spread)
