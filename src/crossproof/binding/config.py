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
    form: Literal["dominant", "mass", "additive"] = "dominant"
    """mlp: what is penalised: all but the largest contributions, cancelling ones, or the additive residual."""
    q: Count = 1
    """dominant, attention: how many of the largest contributions to each neuron or score go free."""
    scaling: Literal["paper", "relative"] = "relative"
    """paper: the mean as it is. relative: over that of all that is contributed, which is held constant."""
    weighted: bool = False
    """mlp: neurons count by how loudly they speak instead of equally."""
    neurons: Annotated[float, Field(gt=0, le=1)] = 1.0
    """mlp: the part of the neurons, drawn anew at each step, that the penalty looks at: less is faster and noisier."""
    warmup: Fraction = 0.1
    """Fraction of the steps over which the weight rises linearly from 0."""
    control: Literal["none", "reconstruction", "l1_features", "l1_table", "l1_contributions", "l2_contributions"] = (
        "none"
    )
    """Train with a generic regulariser instead, its mean over the first 256 batches made the penalty's."""

    @field_validator("on")
    @classmethod
    def _in_one_order(cls, on: tuple[Kind, ...]) -> tuple[Kind, ...]:
        return tuple(kind for kind in KINDS if kind in on)

    @model_validator(mode="after")
    def _consistent(self) -> PenaltyConfig:
        """An option that would change nothing is refused."""
        if self.q != 1 and "attention" not in self.on and (self.form != "dominant" or "mlp" not in self.on):
            what = f"not {self.form}" if "mlp" in self.on else "and there is none in norms"
            raise ValueError(f"q: only the form dominant and attention let the largest contributions go free, {what}")
        if "mlp" not in self.on:
            for name in ("form", "weighted", "neurons"):
                if self._set(name):
                    raise ValueError(f"{name}: only MLPs have it, and on names {', '.join(self.on)}; leave it out")
        if self.control != "none" and self.on != ("mlp",):
            raise ValueError(f"control: there are controls for MLPs alone, and on names {', '.join(self.on)}")
        return self

    def _set(self, name: str) -> bool:
        default: Any = type(self).model_fields[name].default
        return bool(getattr(self, name) != default)


class PenalisedTrainConfig(TrainConfig):
    """Train a crosscoder on a subject, with or without a penalty on interactions."""

    penalty: PenaltyConfig = PenaltyConfig()
    """What features that interact in the model cost."""
