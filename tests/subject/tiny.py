"""Toy Hugging Face models of every family, with every weight random, gains and biases among them.

Fresh models have gains of one, biases of zero and small weights, so that most mistakes would not show.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens

VOCABULARY, CONTEXT, WIDTH = 52, 24, 24
FAMILIES = ("gpt2", "neo", "neox", "neox-sequential", "llama", "mistral")
SEQUENTIAL = tuple(family for family in FAMILIES if family != "neox")
BLOCKS = {"gpt2": 4}

_NEOX: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5},
}
_LLAMA: dict[str, Any] = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
}
_WINDOW = 4
_SPECIAL: dict[str, Any] = {"vocab_size": VOCABULARY, "bos_token_id": 51, "eos_token_id": 51}
_CONFIGS = {
    "gpt2": lambda: GPT2Config(n_embd=WIDTH, n_layer=4, n_head=3, n_inner=40, n_positions=CONTEXT, **_SPECIAL),
    "neo": lambda: GPTNeoConfig(
        hidden_size=WIDTH,
        num_layers=2,
        num_heads=3,
        intermediate_size=40,
        max_position_embeddings=CONTEXT,
        attention_types=[[["global", "local"], 1]],
        window_size=_WINDOW,
        **_SPECIAL,
    ),
    "neox": lambda: GPTNeoXConfig(**_NEOX, **_SPECIAL),
    "neox-sequential": lambda: GPTNeoXConfig(use_parallel_residual=False, **_NEOX, **_SPECIAL),
    "llama": lambda: LlamaConfig(**_LLAMA, **_SPECIAL),
    "mistral": lambda: MistralConfig(sliding_window=_WINDOW, **_LLAMA, **_SPECIAL),
    "mixtral": lambda: MixtralConfig(num_local_experts=2, **_LLAMA, **_SPECIAL),
}


@cache
def folder(family: str) -> Path:
    """A Hugging Face folder with a model of this family and a tokenizer of the words w0 … w49."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_CONFIGS[family]())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    path = _root() / family
    model.save_pretrained(path)
    tokenizer().save_pretrained(path)
    return path


@cache
def subject(family: str, dtype: torch.dtype = torch.float64) -> Subject:
    return Subject.load(str(folder(family)), dtype=dtype)


@cache
def hugging_face(family: str) -> PreTrainedModel:
    """The same model, in float64, as Hugging Face runs it by default (its eager attention has a float32 softmax)."""
    model = AutoModelForCausalLM.from_pretrained(folder(family), dtype=torch.float64)
    return cast(PreTrainedModel, model.eval().requires_grad_(False))


def some_tokens(family: str, dtype: torch.dtype = torch.float64) -> Tokens:
    words = [f"w{(7 * index + 3) % 50}" for index in range(30)]
    return subject(family, dtype).tokens([" ".join(words[:11]), " ".join(words[11:16]), " ".join(words[4:18])])


def tolerance(family: str) -> float:
    """float64 where Hugging Face has it; elsewhere it computes norms (Llama) or attention (Neo) in float32."""
    return 1e-10 if family in ("gpt2", "neox", "neox-sequential") else 1e-5


def tokenizer() -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {f"w{index}": index for index in range(50)} | {"<unk>": 50, "<bos>": 51}
    words_only = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    words_only.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words_only, unk_token="<unk>", bos_token="<bos>", eos_token="<bos>", pad_token="<bos>"
    )


@cache
def _root() -> Path:
    root = Path(tempfile.mkdtemp(prefix="crossproof-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    return root
