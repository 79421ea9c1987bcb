"""The settings of the interaction penalty in our trainer. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from crossproof.crosscoder.config import Count, Fraction, Strict, TrainConfig
from crossproof.records import KINDS, Kind


class PenaltyConfig(Strict):
    """What features that interact in the model cost during training."""

    on: tuple[Kind, ...] = Field(("mlp",), min_length=1)
    """Where: in MLPs, in the scores of attention, in the scales of norms. Of several, the mean is penalised."""
    weight: Annotated[float, Field(ge=0)] = 0.0
    """Times the penalty; 0 turns it off. relative: sensibly 10 to 100 (tinytales), a 30th to a third of the error."""
    form: Literal["dominant", "mass", "additive", "output"] = "dominant"
    """mlp: what is penalised: all but the largest contributions, cancelling ones, the additive residual, or what the
    largest contributions miss of the output."""
    q: Count = 1
    """dominant, output, attention: how many of the largest contributions to each neuron or score go free."""
    scaling: Literal["paper", "relative"] = "relative"
    """paper: the mean as it is. relative: over that of all that is contributed, which is held constant."""
    weighted: bool = False
    """mlp: neurons count by how loudly they speak instead of equally."""
    neurons: Annotated[float, Field(gt=0, le=1)] = 1.0
    """mlp: the part of the neurons, drawn anew at each step, that the penalty looks at: less is faster and noisier."""
    warmup: Fraction = 0.1
    """Fraction of the steps over which the weight rises linearly from 0."""
    control: Literal[
        "none", "reconstruction", "l1_features", "l1_table", "l1_contributions", "l2_contributions", "output"
    ] = "none"
    """Train with a generic regulariser instead, its mean over the first 256 batches made the penalty's; or, of the form
    output, with the same of all contributions."""

    @field_validator("on")
    @classmethod
    def _in_one_order(cls, on: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if kind in on)

    @model_validator(mode="after")
    def _consistent(self) -> PenaltyConfig:
        """An option that would change nothing is refused."""
        has_q = "attention" in self.on or ("mlp" in self.on and self.form in ("dominant", "output"))
        if self.q != 1 and not has_q:
            what = f"not {self.form}" if "mlp" in self.on else "and there is none in norms"
            raise ValueError(
                f"q: only the forms dominant and output and attention let the largest contributions go free, {what}"
            )
        if "mlp" not in self.on:
            for name in ("form", "weighted", "neurons"):
                if self._set(name):
                    raise ValueError(f"{name}: only MLPs have it, and on names {', '.join(self.on)}; leave it out")
        if self.control != "none" and self.on != ("mlp",):
            raise ValueError(f"control: there are controls for MLPs alone, and on names {', '.join(self.on)}")
        if self.form == "output":
            for name in ("scaling", "weighted", "neurons"):
                if self._set(name):
                    raise ValueError(f"{name}: the form output looks at what all neurons write together; leave it out")
        if self.control != "none" and (self.control == "output") != (self.form == "output"):
            raise ValueError(f"control: {self.control} is no control of the form {self.form}")
        if self.control == "output" and self.q != 1:
            raise ValueError("q: the control output keeps all contributions; leave it out")
        return self

    def _set(self, name: str) -> bool:
        default: Any = type(self).model_fields[name].default
        return bool(getattr(self, name) != default)


class PenalisedTrainConfig(TrainConfig):
    """Train a crosscoder on a subject, with or without a penalty on interactions."""

    penalty: PenaltyConfig = PenaltyConfig()
    """What features that interact in the model cost."""

    @model_validator(mode="after")
    def _of_one_model(self) -> PenalisedTrainConfig:
        if self.compare is not None and self.penalty.weight > 0:
            raise ValueError("penalty.weight: there is no penalty for crosscoders of two models; leave out one of both")
        return self
