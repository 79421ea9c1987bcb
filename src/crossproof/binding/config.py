"""The settings of the interaction penalty in our trainer. No import of torch here: `--help` answers at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from crossproof.crosscoder.config import Count, Fraction, Strict, TrainConfig


class PenaltyConfig(Strict):
    """What features that interact in the model's MLPs cost during training."""

    weight: Annotated[float, Field(ge=0)] = 0.0
    """Times the penalty; 0 turns it off. relative: sensibly 10 to 100 (tinytales), a 30th to a third of the error."""
    form: Literal["dominant", "mass", "additive"] = "dominant"
    """What is penalised: all but the largest contributions to a neuron, cancelling ones, or the additive residual."""
    q: Count = 1
    """dominant: how many of the largest contributions to each neuron go free."""
    scaling: Literal["paper", "relative"] = "relative"
    """paper: the mean over MLPs, tokens and neurons. relative: over the mean of all contributions, held constant."""
    weighted: bool = False
    """Neurons count by how loudly they speak instead of equally."""
    neurons: Annotated[float, Field(gt=0, le=1)] = 1.0
    """The part of the neurons, drawn anew at each step, that the penalty looks at: less is faster and noisier."""
    warmup: Fraction = 0.1
    """Fraction of the steps over which the weight rises linearly from 0."""
    control: Literal["none", "reconstruction", "l1_features", "l1_table", "l1_contributions", "l2_contributions"] = (
        "none"
    )
    """Train with a generic regulariser instead, its mean over the first 256 batches made the penalty's."""

    @model_validator(mode="after")
    def _consistent(self) -> PenaltyConfig:
        if self.form != "dominant" and self.q != 1:
            raise ValueError(f"q: only the form dominant lets the largest contributions go free, not {self.form}")
        return self


class PenalisedTrainConfig(TrainConfig):
    """Train a crosscoder on a subject, with or without a penalty on interactions."""

    penalty: PenaltyConfig = PenaltyConfig()
    """What features that interact in the model's MLPs cost."""
