"""What `crossproof attention` found, in words and rows: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crossproof.records import AttentionRecord

TEXT = 200
"""Characters of it shown."""


def shown(word: str) -> str:
    """A token without the space before it; one of spaces alone as it would be typed."""
    return word.strip() or repr(word)[1:-1]


def named(found: AttentionRecord, position: int) -> str:
    return f"{position} {shown(found.words[position])}"


def headline(found: AttentionRecord) -> str:
    return f"layer {found.layer}, head {found.head} of {found.subject}"


def listed(names: Sequence[str]) -> str:
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def remarks(found: AttentionRecord) -> list[str]:
    """How what was read is not the text as it was given."""
    remarks, read, unknown = [], f"{found.tokens_read:,}", f"{found.tokens_unknown:,}"
    if found.tokens_read < found.tokens:
        remarks.append(f"the first {read} of {found.tokens:,} tokens are read: the text is longer than the context")
    if found.tokens_unknown == found.tokens_read:
        remarks.append(f"the tokenizer of {found.subject} knows no word of this text: it reads “unknown” alone")
    elif found.tokens_unknown:
        remarks.append(f"{unknown} of {read} tokens are “unknown”: words that the tokenizer does not have")
    return remarks


def summary(found: AttentionRecord) -> str:
    free = f"; {listed(found.chosen)} chosen where interaction is largest" if found.chosen else ""
    return (
        f"{headline(found)} on “{found.text if len(found.text) <= TEXT else found.text[:TEXT] + '…'}”\n"
        + "".join(f"{remark}\n" for remark in remarks(found))
        + f"query {named(found, found.query)} · key {named(found, found.key)}{free}\n"
        f"its attention {found.attention:.1%}, in the model {found.model_attention:.1%} · score {found.score:.3f} from "
        f"{len(found.query_features)} × {len(found.key_features)} features\n"
        f"the decoded pattern differs from the model's own by {found.unfaithfulness:.1%} (total variation, mean over "
        f"queries), at the query by {found.unfaithfulness_at_query:.1%}"
    )


def pair_rows(found: AttentionRecord) -> list[dict[str, Any]]:
    return [
        {
            "pair": f"{pair.i} → {pair.j}",
            "interaction": pair.interaction,
            "most at query": named(found, pair.query),
            "on key": named(found, pair.key),
            "term there": f"{pair.coefficient:+.3f}",
        }
        for pair in found.strongest
    ]


def part_rows(found: AttentionRecord) -> list[dict[str, Any]]:
    return [
        {
            "query × key": part.name,
            "pattern without it differs by": f"{part.accounts_for:.1%}",
            "at the query": f"{part.at_query:.1%}",
        }
        for part in found.parts
    ]


def tables(found: AttentionRecord) -> dict[str, list[dict[str, Any]]]:
    """By title, those that have rows."""
    named_rows = {
        "strongest query feature → key feature pairs of this head": pair_rows(found),
        f"parts of the scores, around the mean of {found.mean_over}": part_rows(found),
    }
    return {title: rows for title, rows in named_rows.items() if rows}
