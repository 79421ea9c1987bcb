"""A model of windows, small enough to prove things of: it reads `context` tokens and says what follows the last.

    x_t = W_E[t, id_t]                               one vector per position and token
    mid = x_last + attention, or x_last + the sum of the vectors before it
    post = mid + relu(LN?(mid) W_in + b_in) W_out + b_out, none, one or two times
    logits = post W_U

Only the last position is trained: `last_logits` computes it alone. Hooks carry TransformerLens names, so
`run_with_cache` and `run_with_hooks` work as on any of its models; the weights' own names are short, because proofs
name them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from pydantic import ValidationError
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_json, read_safetensors, write_json, write_safetensors
from crossproof.subject.zoo.window_recipes import CONFIG, EPS, WindowConfig
from crossproof.subject.zoo.windows import Characters, first_windows

if TYPE_CHECKING:
    from crossproof.subject.tokens import Tokens
    from crossproof.units import Unit

__all__ = ["WindowConfig", "WindowModel", "load", "normalized", "save"]


@dataclass(frozen=True)
class HookedConfig:
    """The part of a TransformerLens config that makes sense here."""

    model_name: str
    n_layers: int
    n_ctx: int
    d_model: int
    d_mlp: int
    d_vocab: int
    d_vocab_out: int
    attn_only: bool
    normalization_type: str | None
    n_heads: int = 1
    act_fn: str = "relu"


class WindowAttention(nn.Module):
    """The weights of one head as wide as the model, without biases."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Scores start small: a sharp pattern before values mean anything is slow to unlearn.
        self.W_Q = nn.Parameter(torch.randn(width, width) / math.sqrt(2 * width))
        self.W_K = nn.Parameter(torch.randn(width, width) / math.sqrt(2 * width))
        self.W_V = nn.Parameter(torch.randn(width, width) / math.sqrt(width))
        self.W_O = nn.Parameter(torch.randn(width, width) / math.sqrt(width))

    def pattern(
        self, query: Float[Tensor, "window width"], read: Float[Tensor, "window pos width"]
    ) -> Float[Tensor, "window pos"]:
        """How the position that is `query` weighs the positions of `read`."""
        scores = torch.einsum("wd,wpd->wp", query @ self.W_Q @ self.W_K.T, read)
        return (scores / math.sqrt(len(self.W_Q))).softmax(-1)


class WindowMLP(nn.Module):
    def __init__(self, width: int, neurons: int) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.randn(width, neurons) / math.sqrt(width))
        self.b_in = nn.Parameter(torch.zeros(neurons))
        self.W_out = nn.Parameter(0.5 * torch.randn(neurons, width) / math.sqrt(neurons))
        self.b_out = nn.Parameter(torch.zeros(width))


class _Hooks(nn.Module):
    """Hook points under their names, with no weights."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            setattr(self, name, HookPoint())

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...


class _Norm(_Hooks):
    def __init__(self) -> None:
        super().__init__("hook_normalized")

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return cast(Tensor, self.hook_normalized(normalized(x)))


class WindowModel(HookedRootModule):  # type: ignore[misc]  # transformer_lens is not typed
    """Windows in, logits out. `tokenizer` is there if its tokens are characters."""

    def __init__(self, config: WindowConfig, tokenizer: Characters | None = None) -> None:
        """With random weights, which torch's generator settles."""
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        c = config
        self.cfg = HookedConfig(
            model_name="window",
            n_layers=max(1, c.mlps),
            n_ctx=c.context,
            d_model=c.width,
            d_mlp=c.neurons,
            d_vocab=c.vocabulary,
            d_vocab_out=c.vocabulary,
            attn_only=c.mlps == 0,
            normalization_type="LN" if c.norm else None,
        )
        self.W_E = nn.Parameter(0.5 * torch.randn(c.context, c.vocabulary, c.width))
        if c.mixing == "attention":
            self.attn = WindowAttention(c.width)
        self.mlps: Sequence[WindowMLP] = _modules(WindowMLP(c.width, c.neurons) for _ in range(c.mlps))
        self.W_U = nn.Parameter(torch.randn(c.width, c.vocabulary) / math.sqrt(c.width))
        self.hook_embed = HookPoint()
        self.blocks: Sequence[_Hooks] = _modules(self._block(layer) for layer in range(self.cfg.n_layers))
        self.setup()

    def _block(self, layer: int) -> _Hooks:
        """The hook points of a block; only the first one mixes positions."""
        block = _Hooks("hook_resid_pre", "hook_resid_post")
        norm = self.config.norm
        if layer == 0:
            block.hook_attn_out, block.hook_resid_mid = HookPoint(), HookPoint()
            if self.config.mixing == "attention":
                block.attn = _Hooks("hook_q", "hook_k", "hook_v", "hook_attn_scores", "hook_pattern", "hook_z")
                if norm:
                    block.ln1 = _Norm()
        if self.config.mlps:
            block.mlp = _Hooks("hook_pre", "hook_post")
            block.hook_mlp_out = HookPoint()
            if norm:
                block.ln2 = _Norm()
            else:
                block.hook_mlp_in = HookPoint()
        return block

    def embed(self, ids: Int[Tensor, "window pos"]) -> Float[Tensor, "window pos width"]:
        return self.W_E[torch.arange(ids.shape[1], device=ids.device), ids.long()]

    def read(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        """What attention and MLPs see of a residual stream."""
        return normalized(x) if self.config.norm else x

    # The last position alone

    def last_logits(self, ids: Int[Tensor, "window pos"]) -> Float[Tensor, "window vocab"]:
        x = self.embed(ids)
        if self.config.mixing == "sum":
            return self.finish(x.sum(1))
        read = self.read(x)
        mean = torch.einsum("wp,wpd->wd", self.attn.pattern(read[:, -1], read), read)
        return self.finish(x[:, -1] + mean @ self.attn.W_V @ self.attn.W_O)

    def finish(self, mid: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """The logits of a residual stream after the mixing."""
        x = mid
        for mlp in self.mlps:
            x = x + (self.read(x) @ mlp.W_in + mlp.b_in).relu() @ mlp.W_out + mlp.b_out
        return x @ self.W_U

    # Every position, with hooks

    def forward(self, ids: Int[Tensor, "text pos"]) -> Float[Tensor, "text pos vocab"]:
        x = self.hook_embed(self.embed(ids))
        for layer, block in enumerate(self.blocks):
            x = block.hook_resid_pre(x)
            if layer == 0:
                x = block.hook_resid_mid(x + block.hook_attn_out(self._mixed(x, block)))
            if self.config.mlps:
                x = x + block.hook_mlp_out(self._fired(x, block, self.mlps[layer]))
            x = block.hook_resid_post(x)
        return cast(Tensor, x @ self.W_U)

    def _mixed(self, x: Float[Tensor, "text pos width"], block: _Hooks) -> Float[Tensor, "text pos width"]:
        if self.config.mixing == "sum":
            return x.cumsum(1) - x
        read = block.ln1(x) if self.config.norm else x
        hooks, attn = block.attn, self.attn
        q, k, v = (
            hook((read @ W)[:, :, None])[:, :, 0]
            for hook, W in ((hooks.hook_q, attn.W_Q), (hooks.hook_k, attn.W_K), (hooks.hook_v, attn.W_V))
        )
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        scores = (q @ k.mT / math.sqrt(self.config.width)).masked_fill(hidden, -torch.inf)
        pattern = hooks.hook_pattern(hooks.hook_attn_scores(scores[:, None]).softmax(-1))[:, 0]
        return cast(Tensor, hooks.hook_z((pattern @ v)[:, :, None])[:, :, 0] @ attn.W_O)

    def _fired(
        self, x: Float[Tensor, "text pos width"], block: _Hooks, mlp: WindowMLP
    ) -> Float[Tensor, "text pos width"]:
        read = block.ln2(x) if self.config.norm else block.hook_mlp_in(x)
        pre = block.mlp.hook_pre(read @ mlp.W_in + mlp.b_in)
        return cast(Tensor, block.mlp.hook_post(pre.relu()) @ mlp.W_out + mlp.b_out)

    # As a subject

    def read_windows(self, texts: Sequence[str], context: int | None = None) -> Tokens:
        """The first window of each text; refused where a text or `context` is too short for one."""
        if self.tokenizer is None:
            raise CrossproofError("the model's tokens are numbers and not text: take windows from source()")
        return first_windows(texts, self.tokenizer, self.config.context, context)

    def units(self) -> list[Unit]:
        """The blocks' weights in the convention of `units.py`."""
        from crossproof.subject.zoo.window_units import window_units

        return window_units(self)


def normalized(x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
    """LayerNorm without gain and bias."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + EPS).sqrt()


def _modules(modules: Iterable[nn.Module]) -> Any:
    """A `ModuleList`, as whatever its members are said to be."""
    return nn.ModuleList(modules)


# Folders

WEIGHTS, VOCABULARY = "model.safetensors", "vocabulary.json"


def save(model: WindowModel, folder: Path) -> None:
    """Into a folder that is there."""
    write_json(folder / CONFIG, model.config.model_dump())
    write_safetensors(folder / WEIGHTS, {name: value.float() for name, value in model.state_dict().items()})
    (folder / WEIGHTS).chmod(0o644)  # safetensors lets nobody but the owner read
    if model.tokenizer is not None:
        write_json(folder / VOCABULARY, list(model.tokenizer.characters))


def load(folder: Path) -> WindowModel:
    """The model of a folder, in float32 and evaluation mode; whatever does not fit its config is named."""
    try:
        config = WindowConfig.model_validate(read_json(folder / CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        raise BadFile(f"{folder / CONFIG}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    characters = _characters(folder / VOCABULARY, config)
    model = WindowModel(config, characters)
    found = read_safetensors(folder / WEIGHTS)
    _check_weights(folder / WEIGHTS, found, {name: tuple(value.shape) for name, value in model.state_dict().items()})
    model.load_state_dict(found)
    return cast(WindowModel, model.eval())


def _characters(path: Path, config: WindowConfig) -> Characters | None:
    if not path.is_file():
        return None
    listed = read_json(path)
    single = isinstance(listed, list) and all(isinstance(each, str) and len(each) == 1 for each in listed)
    if not single or len(set(listed)) != len(listed) or len(listed) != config.vocabulary:
        raise BadFile(f"{path} is not a list of {config.vocabulary} different characters, as {CONFIG} says it is")
    return Characters(listed)


def _check_weights(path: Path, found: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    for name in shapes:
        if name not in found:
            raise BadFile(f"{path} lacks the weight {name}")
    for name, value in found.items():
        if name not in shapes:
            raise BadFile(f"{path} holds {name}, which a model of this {CONFIG} does not have")
        if tuple(value.shape) != shapes[name]:
            raise BadFile(f"{path}: {name} has the shape {list(value.shape)}; {CONFIG} makes it {list(shapes[name])}")
        if value.dtype != torch.float32:
            raise BadFile(f"{path}: {name} is stored as {value.dtype}; weights of windows are float32")
        if not value.isfinite().all():
            where = (~value.isfinite()).nonzero()[0].tolist()
            raise BadFile(f"{path}: {name} is not finite at {where}")
