"""What a crosscoder is and how one is trained: the files `config.json` and `run.json`, and every command-line option.

Nothing here imports torch, so that `--help` answers at once. The docstring under a field is its help text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

FORMAT_VERSION: Literal[1] = 1
"""Raised whenever a saved crosscoder changes meaning; a file of a version that is not known is refused."""

Activation = Literal["relu", "topk", "batchtopk", "jumprelu"]
Initialisation = Literal["tied", "independent", "data"]
Fraction = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    """Unknown fields are errors: a typo must never read as a default."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, hide_input_in_errors=True)


class Site(Strict):
    """A hookpoint of a model. Crosscoders for model diffing have sites in two models."""

    subject: str
    hook: str

    def __str__(self) -> str:
        return f"{self.subject}:{self.hook}"


class CrosscoderConfig(Strict):
    """The shape and the activation function of a crosscoder."""

    sites: tuple[Site, ...] = Field(min_length=1)
    width: Count
    features: Count
    activation: Activation = "batchtopk"
    k: Count | None = None
    bandwidth: Positive | None = None
    site_scales: tuple[Positive, ...] | None = None
    format_version: Literal[1] = 1

    @model_validator(mode="after")
    def _consistent(self) -> CrosscoderConfig:
        if self.activation in ("topk", "batchtopk"):
            if self.k is None:
                raise ValueError(f"k: a {self.activation} crosscoder needs to know how many features to keep")
            if self.k > self.features:
                raise ValueError(f"k: cannot keep {self.k} of {self.features} features; lower k or raise features")
        if self.activation == "jumprelu" and self.bandwidth is None:
            raise ValueError("bandwidth: a jumprelu crosscoder needs the width of its threshold's gradient window")
        if self.site_scales is not None and len(self.site_scales) != len(self.sites):
            raise ValueError(f"site_scales: {len(self.site_scales)} scales for {len(self.sites)} sites")
        if len(set(self.sites)) != len(self.sites):
            raise ValueError("sites: a site is listed twice")
        return self


class DictionaryConfig(Strict):
    """Which model, which sites, which dictionary."""

    subject: str
    """The model: a name from the zoo, a local folder, or a hub id."""
    out: Path
    """The run folder. An unfinished run found there is resumed."""
    sites: tuple[str, ...] = ()
    """Hook names or globs such as 'blocks.*.hook_resid_pre'. Default: four sites of every block and the last."""
    data: Path | None = None
    """Texts to train on: a .txt or .jsonl file. Zoo models bring their own."""
    texts_of: str | None = None
    """A zoo model whose texts to train on instead. Default: those of the model to compare, if it brings any."""
    compare: str | None = None
    """A fine-tuned version of the model: its same sites are read and written too, on the same tokens."""
    start_from: Path | None = None
    """A crosscoder, or the run that trained it, whose weights and scales to start from instead of `init`."""
    features: Count = 1024
    """Size of the dictionary."""
    activation: Activation = "batchtopk"
    """How features are selected."""
    k: Count | None = 16
    """TopK and BatchTopK: active features per token."""
    bandwidth: Positive = 0.03
    """JumpReLU: width of the window through which thresholds receive gradients."""
    init: Initialisation = "data"
    """How weights start: decoder rows random and the encoder tied to them, both random, or decoder rows from data."""
    decoder_norm: Positive = 0.5
    """Norm of every decoder row over all sites at the start."""
    buffer_tokens: Count = 65_536
    """Tokens whose activations are held and shuffled at a time: the knob for memory."""
    harvest_texts: Count = 64
    """Texts per forward pass of the model."""
    eval_texts: Count = 128
    """Validation texts for the evaluation at the end."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    track: Literal["no", "wandb", "trackio"] = "no"
    """Also send metrics to Weights & Biases or trackio (pip install 'crossproof[tracking]')."""

    @model_validator(mode="after")
    def _one_kind_of_texts(self) -> DictionaryConfig:
        if self.data is not None and self.texts_of is not None:
            raise ValueError("texts_of: texts come from a file or from a zoo model; leave out data or texts_of")
        return self


class FitConfig(Strict):
    """The training loop: it sees batches of activations and no model."""

    steps: Count = 3000
    """Optimiser steps."""
    batch_tokens: Count = 512
    """Tokens per step."""
    lr: Positive = 1e-3
    """Adam's learning rate at its peak."""
    warmup: Fraction = 0.05
    """Fraction of the steps over which the learning rate rises linearly from 0."""
    decay: Fraction = 0.25
    """Fraction of the steps at the end over which it falls linearly to 0."""
    beta1: Momentum = 0.9
    """Adam's first-moment decay."""
    beta2: Momentum = 0.999
    """Adam's second-moment decay."""
    clip: Positive = 1.0
    """Gradients of a larger total norm are scaled down to this norm."""
    aux_weight: Annotated[float, Field(ge=0)] = 1 / 32
    """Weight of AuxK, by which dead features learn to explain what the live ones leave over. 0 turns it off."""
    aux_k: Count = 32
    """How many dead features AuxK uses per token, at most."""
    dead_after: Count = 50_000
    """A feature that fires on none of this many training tokens is dead."""
    l1_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the decoder-norm-weighted L1 penalty on features (ReLU crosscoders)."""
    l0_weight: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the L0 penalty (JumpReLU crosscoders)."""
    sparsity_warmup: Fraction = 0.2
    """Fraction of the steps over which l1_weight and l0_weight rise linearly from 0."""
    threshold_momentum: Momentum = 0.9
    """BatchTopK: how slowly the inference threshold follows the smallest activation kept in a batch."""
    bf16: bool = False
    """Run the encoder product in bfloat16 (for GPUs); everything that is summed or stored stays float32."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Fixes initialisation and data order; the same seed on the same CPU gives the same bits."""
    log_every: Count = 50
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: Count = 500
    """Steps between checkpoints, from which a stopped run resumes."""

    @model_validator(mode="after")
    def _consistent(self) -> FitConfig:
        if self.warmup + self.decay > 1:
            raise ValueError(f"warmup: warmup {self.warmup} and decay {self.decay} together exceed the whole run")
        return self


class TrainConfig(FitConfig, DictionaryConfig):
    """Train a crosscoder on a subject: the model, its sites, the dictionary, and everything about the loop."""

    @model_validator(mode="after")
    def _dictionary(self) -> TrainConfig:
        if self.activation in ("topk", "batchtopk") and (self.k is None or self.k > self.features):
            raise ValueError(f"k: cannot keep {self.k} of {self.features} features; give a k between 1 and features")
        if self.activation == "relu" and self.l1_weight == 0:
            raise ValueError("l1_weight: nothing makes a relu crosscoder sparse but this; give it a weight")
        if self.activation == "jumprelu" and self.l0_weight == 0:
            raise ValueError("l0_weight: nothing makes a jumprelu crosscoder sparse but this; give it a weight")
        if self.activation != "jumprelu" and self.l0_weight > 0:
            raise ValueError(
                f"l0_weight: has a gradient only through the thresholds of jumprelu, not {self.activation}"
            )
        return self
