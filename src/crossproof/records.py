"""What several rooms agree on that must not import each other: names, and what one writes and another reads."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict

ATTENTION_ARRAYS = "attention.safetensors"
"""Beside `results.json`: `pattern` and `model_pattern`, [query, key]; `parts`, [part, query, key], in the order of
`AttentionRecord.parts`; `pairs`, [i, j], `on_background`, [i], `of_background`, [j], and `background`, []: the terms of
the score of the chosen query on the chosen key."""


Kind = Literal["mlp", "attention", "norm"]
"""What features interact in."""
KINDS: tuple[Kind, ...] = get_args(Kind)


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PartRecord(_Record):
    """One of the four parts of the scores."""

    name: str
    accounts_for: float
    """How far the pattern moves without it, in total variation: the mean over the described queries."""
    at_query: float
    """The same at the chosen query."""


class StrongPairRecord(_Record):
    """A query feature and a key feature that interact in this text."""

    i: int
    j: int
    interaction: float
    query: int
    """The positions where their term does most."""
    key: int
    coefficient: float


class AttentionRecord(_Record):
    """`results.json` of `crossproof attention`: one head on one text."""

    subject: str
    text: str
    words: tuple[str, ...]
    """Tokens, in the order of their positions."""
    tokens: int
    """Of the text, without beginning-of-text."""
    tokens_read: int
    """Fewer if the text is longer than the model's context: the first ones."""
    tokens_unknown: int
    """Of those read, how many stand for words that the tokenizer does not have."""
    described: tuple[bool, ...]
    """Whether the crosscoder describes the position; at the others the model's own input is taken."""
    layer: int
    head: int
    query: int
    key: int
    window: int | None
    """How many positions a query sees, its own among them; None for all before it."""
    chosen: tuple[str, ...]
    """Which of layer, head, query and key were not asked for, and are where interaction is largest: the key, of
    those with features."""
    mean_over: str
    """The tokens whose mean decoded input the split is around."""
    unfaithfulness: float
    """Total variation between the decoded pattern and the model's own: the mean over the described queries."""
    unfaithfulness_at_query: float
    attention: float
    """Of the chosen query on the chosen key, in the decoded pattern."""
    model_attention: float
    """The same in the model's own."""
    score: float
    parts: tuple[PartRecord, ...]
    query_features: tuple[int, ...]
    key_features: tuple[int, ...]
    strongest: tuple[StrongPairRecord, ...]
    """The pairs of this head that interact most in the text."""
    layers: tuple[int, ...]
    interaction_by_head: tuple[tuple[float, ...], ...]
    """Of these layers' heads: Σ_ij I[i→j](t), the mean over the described queries."""
