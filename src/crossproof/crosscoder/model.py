"""The crosscoder: one sparse code per token, read from every site and written to every site.

    f = σ(Σ_v s_v a^v W_enc^v + b_enc)         s_v a^v + e = b_dec^v + Σ_i f_i d_i^v

Activations go in and come out in the model's own units; `scale` holds s_v while training and is folded into the weights
when saved, so a saved crosscoder has scale 1. The same class is a sparse autoencoder (one site), a crosscoder over
layers, or one over models (sites in several subjects).

Shapes: B tokens (row), L sites, D width, F features, LD = L*D. Weights are stored [F, LD] so that every sparse product
reads whole rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from crossproof.codes import Codes, Pattern, decode, decode_and_read, encoded_values
from crossproof.crosscoder import selection
from crossproof.crosscoder.config import CrosscoderConfig
from crossproof.errors import CrossproofError, MismatchError, NonFinite


@dataclass(frozen=True)
class Encoding:
    """What one training batch is encoded to."""

    codes: Codes
    pre: Float[Tensor, "row feature"]
    """All pre-activations, without gradients: AuxK looks here for what dead features would have said."""
    l0: Float[Tensor, ""]
    """Mean active features per token; differentiable in the thresholds of a JumpReLU crosscoder."""


class Crosscoder(nn.Module):
    """A dictionary over the sites named in its config. Weights start at zero: see `initialise.py` and `store.py`."""

    def __init__(self, config: CrosscoderConfig) -> None:
        super().__init__()
        self.config = config
        inputs = len(config.sites) * config.width
        self.W_enc = nn.Parameter(torch.zeros(config.features, inputs))
        self.b_enc = nn.Parameter(torch.zeros(config.features))
        self.W_dec = nn.Parameter(torch.zeros(config.features, inputs))
        self.b_dec = nn.Parameter(torch.zeros(inputs))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(len(config.sites)))
        jumps, learns = config.activation == "jumprelu", config.activation == "batchtopk"
        self.log_threshold = nn.Parameter(torch.full((config.features,), -4.0)) if jumps else None
        self.threshold: Tensor | None
        # Not a number until a batch has been seen: a threshold that was never set must not read as one that was.
        self.register_buffer("threshold", torch.full((config.features,), torch.nan) if learns else None)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def sites(self) -> tuple[str, ...]:
        """Hook names, in the order of the site axis; of several models, each model's."""
        return tuple(site.hook for site in self.config.sites)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The models it reads, in the order of their first sites."""
        return tuple(dict.fromkeys(site.subject for site in self.config.sites))

    def positions(self, subject: str) -> dict[str, int]:
        """Where a model's hooks stand on the site axis. One model may have any name, several are told apart by it."""
        if len(self.subjects) > 1 and subject not in self.subjects:
            raise MismatchError(
                f"this crosscoder reads several models ({', '.join(self.subjects)}), and {subject} is none of them"
            )
        of_one = len(self.subjects) == 1
        return {site.hook: v for v, site in enumerate(self.config.sites) if of_one or site.subject == subject}

    @property
    def decoder(self) -> Float[Tensor, "feature site width"]:
        """d_i^v in the model's own units."""
        scaled = self.W_dec.unflatten(1, (len(self.config.sites), self.config.width))
        return scaled / self.scale[:, None]

    @property
    def decoder_bias(self) -> Float[Tensor, "site width"]:
        return self.b_dec.unflatten(0, (len(self.config.sites), self.config.width)) / self.scale[:, None]

    @property
    def site_scales(self) -> Float[Tensor, "site"]:
        """s_v, whether it is still outside the weights or was folded into them when this crosscoder was saved."""
        folded = self.config.site_scales
        return self.scale if folded is None else self.scale * self.scale.new_tensor(folded)

    @property
    def thresholds(self) -> Float[Tensor, "feature"]:
        """The activation above which each feature is active outside training."""
        if self.log_threshold is not None:
            return self.log_threshold.exp()
        if self.threshold is None:
            return torch.zeros_like(self.b_enc)
        if torch.isnan(self.threshold).any():
            raise CrossproofError(
                "this BatchTopK crosscoder has no inference threshold: it was never trained or calibrated. "
                "Run some training steps, or coder.calibrate(activations)."
            )
        return self.threshold

    # -- using it --------------------------------------------------------------------------------------------------

    def encode(self, activations: Float[Tensor, "row site width"]) -> Codes:
        """The features of each token, from raw activations. A token's features depend on that token alone."""
        x = self.scaled(activations)
        pre = torch.addmm(self.b_enc, x, self.W_enc.T)
        if bool(pre.sum().isnan()) and bool(pre.isnan().any()):  # it would read as a feature that is never active
            first = int(pre.isnan().any(0).nonzero()[0])
            raise NonFinite(f"feature {first} is not a number here: the activations, W_enc or b_enc are not finite")
        if self.config.activation == "topk":
            pattern = selection.topk(pre, self._k)
        else:
            pattern = selection.above(pre, self.thresholds)
        return Codes(pattern, encoded_values(x, self.W_enc, self.b_enc, pre, pattern))

    def decode(self, codes: Codes) -> Float[Tensor, "row site width"]:
        """The reconstruction of every site, in the model's own units."""
        return self.unscaled(self.decode_scaled(codes))

    def decode_scaled(self, codes: Codes) -> Float[Tensor, "row site_width"]:
        """The reconstruction in the scaled units of training, all sites side by side."""
        return decode(codes, self.W_dec, self.b_dec)

    def decode_and_read(
        self, codes: Codes, sites: Sequence[int]
    ) -> tuple[Float[Tensor, "row site_width"], dict[int, Float[Tensor, "feature width"]]]:
        """`decode_scaled`, and what features write at some sites, scaled: their gradients join the reconstruction's."""
        columns = [self._columns(site) for site in sites]
        reconstruction, read = decode_and_read(codes, self.W_dec, self.b_dec, columns)
        return reconstruction, dict(zip(sites, read, strict=True))

    def _columns(self, site: int) -> slice:
        """Of W_enc, W_dec and b_dec."""
        return slice(site * self.config.width, (site + 1) * self.config.width)

    def forward(self, activations: Float[Tensor, "row site width"]) -> Float[Tensor, "row site width"]:
        return self.decode(self.encode(activations))

    @torch.no_grad()
    def calibrate(self, activations: Float[Tensor, "row site width"]) -> None:
        """Set a BatchTopK threshold so that k features are active per token, on average over these activations."""
        if self.threshold is None:
            raise CrossproofError(f"calibrate: a {self.config.activation} crosscoder has no threshold to set")
        pre = torch.addmm(self.b_enc, self.scaled(activations), self.W_enc.T)
        self.threshold.fill_(self._smallest_kept(pre, selection.batchtopk(pre, self._k)))

    # -- training it -----------------------------------------------------------------------------------------------

    def scaled(
        self, activations: Float[Tensor, "row site width"], out: Float[Tensor, "row site width"] | None = None
    ) -> Float[Tensor, "row site_width"]:
        """What training sees: every site divided by its typical norm, all sites side by side. May write into `out`."""
        n_sites, width = len(self.config.sites), self.config.width
        if activations.shape[1:] != (n_sites, width):
            raise MismatchError(
                f"this crosscoder reads {n_sites} sites of width {width}, but the activations have shape "
                f"{tuple(activations.shape)}; its sites are {', '.join(self.sites)}"
            )
        return torch.mul(activations, self.scale[:, None], out=out).flatten(1)

    def unscaled(self, x: Float[Tensor, "row site_width"]) -> Float[Tensor, "row site width"]:
        return x.unflatten(1, (len(self.config.sites), self.config.width)) / self.scale[:, None]

    def encode_batch(
        self, x: Float[Tensor, "row site_width"], threshold_momentum: float = 0.9, bf16: bool = False
    ) -> Encoding:
        """Encode a training batch of scaled activations; BatchTopK selects over the batch and learns its threshold."""
        with torch.no_grad(), torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
            pre = torch.addmm(self.b_enc, x, self.W_enc.T)
        if self.log_threshold is not None:
            assert self.config.bandwidth is not None
            theta, bandwidth = self.log_threshold.exp(), self.config.bandwidth
            pattern = selection.around(pre, theta, bandwidth)
            z = encoded_values(x, self.W_enc, self.b_enc, pre, pattern)
            at_entries = theta.index_select(0, pattern.features)  # theta[…] would sum its gradient in any order
            values = selection.Jump.apply(z, at_entries, bandwidth)  # type: ignore[no-untyped-call]
            steps: Tensor = selection.Step.apply(z, at_entries, bandwidth)  # type: ignore[no-untyped-call]
            l0 = steps.sum() / pattern.n_rows
            return Encoding(Codes(pattern, values), pre, l0)
        pattern = self._select_batch(pre, threshold_momentum)
        codes = Codes(pattern, encoded_values(x, self.W_enc, self.b_enc, pre, pattern))
        return Encoding(codes, pre, codes.l0)

    def _select_batch(self, pre: Tensor, momentum: float) -> Pattern:
        if self.config.activation == "relu":
            return selection.positive(pre)
        if self.config.activation == "topk":
            return selection.topk(pre, self._k)
        assert self.threshold is not None
        running = float(self.threshold[0])  # one number for all features while training
        pattern = selection.batchtopk(pre, self._k, below=0.0 if running != running else 0.7 * running)
        smallest = self._smallest_kept(pre, pattern)
        self.threshold.fill_(smallest if running != running else momentum * running + (1 - momentum) * smallest)
        return pattern

    @property
    def _k(self) -> int:
        assert self.config.k is not None
        return self.config.k

    @staticmethod
    def _smallest_kept(pre: Tensor, pattern: Pattern) -> float:
        if pattern.n_entries == 0:
            return 0.0
        return float(pre[pattern.rows, pattern.features].min())

    # -- files (store.py) ------------------------------------------------------------------------------------------

    def folded(self) -> Crosscoder:
        """The same function with the site scales inside the weights: what is saved."""
        config = self.config
        if not bool((self.scale == 1).all()):
            config = config.model_copy(update={"site_scales": tuple(self.site_scales.tolist())})
        copy = Crosscoder(config).to(self.W_enc.device)
        per_input = self.scale.repeat_interleave(self.config.width)
        state = {name: tensor.clone() for name, tensor in self.state_dict().items()}
        state["W_enc"] *= per_input
        state["W_dec"] /= per_input
        state["b_dec"] /= per_input
        state["scale"].fill_(1)
        copy.load_state_dict(state)
        return copy

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder, all or nothing."""
        from crossproof.crosscoder import store

        store.save(self, Path(folder))

    @classmethod
    def from_pretrained(cls, name: str | Path, device: str = "cpu") -> Crosscoder:
        """Read a crosscoder from its folder, from the folder of the run that trained it, or from the hub."""
        from crossproof.crosscoder import store

        return store.load(name, device)

    load = from_pretrained

    def push_to_hub(self, repo_id: str, private: bool = False) -> None:
        from crossproof.crosscoder import store

        store.push(self, repo_id, private)
