"""One attention head on one text, as `crossproof attention` shows it: a record and its arrays, then a run folder.

run.json  attention.safetensors  results.json

What is not asked for is where interaction is largest. Layer, head and query: the largest Σ_ij I[i→j](t) of
`interaction/attention/pairs.py`. Key: of those with features, the one where what the features of query and key together
add to its score, F_s = Σ_ij c_ij(t, s), departs most from its mean over keys, weighted by attention: the largest
A_ts |F_s − F̄|.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from crossproof import runs
from crossproof.binding.bound_units import BoundAttention, bound_attention, heads_at
from crossproof.binding.encoding import encode
from crossproof.codes import Codes
from crossproof.crosscoder.config import Strict
from crossproof.crosscoder.evaluate import check_fits
from crossproof.crosscoder.model import Crosscoder
from crossproof.errors import CrossproofError, MismatchError, nearest
from crossproof.files import write_safetensors
from crossproof.interaction.attention.heads import Heads
from crossproof.interaction.attention.output import Reading, read
from crossproof.interaction.attention.pairs import at_positions
from crossproof.interaction.attention.split import PARTS, coefficients, four_parts, strongest_pairs
from crossproof.records import ATTENTION_ARRAYS, AttentionRecord, PartRecord, StrongPairRecord
from crossproof.subject.subject import Subject
from crossproof.subject.tokens import Tokens
from crossproof.units import Attention

KIND = "attention"
MEAN_TEXTS, TOP = 50, 12
"""Held-out texts that the mean input is taken over; pairs in the table."""


class AttentionConfig(Strict):
    """Which head, on which text."""

    subject: str
    coder: str
    text: str
    layer: int | None = None
    head: int | None = None
    query: str | None = None
    """A word of the text, or a position."""
    key: str | None = None
    device: str = "cpu"


@dataclass(frozen=True, eq=False)
class AttentionView:
    """What there is to draw."""

    record: AttentionRecord
    arrays: Mapping[str, Tensor]
    """As `records.ATTENTION_ARRAYS` lists them."""


def attend(config: AttentionConfig, out: Path | None = None) -> AttentionRecord:
    """Into a run folder if one is given, in place of a run with the same settings."""
    clock = runs.Clock()
    _check_text("--text", config.text)
    if out is not None:
        runs.resumable(out, KIND, config, may_differ=("device",))
    subject = Subject.load(config.subject, device=config.device)
    coder = Crosscoder.from_pretrained(config.coder, device=config.device)
    view = attention_view(subject, coder, config.text, config.layer, config.head, config.query, config.key)
    if out is not None:
        run = runs.begin(out, KIND, config)
        write_safetensors(out / ATTENTION_ARRAYS, dict(view.arrays))
        runs.finish(out, run, view.record, clock.seconds())
    return view.record


@torch.no_grad()
def attention_view(
    subject: Subject,
    coder: Crosscoder,
    text: str,
    layer: int | None = None,
    head: int | None = None,
    query: str | int | None = None,
    key: str | int | None = None,
    mean_over: Tokens | None = None,
) -> AttentionView:
    """One head on one text; `query` and `key` are words or positions.

    The split is around the mean decoded input of `mean_over`: held-out texts where the model brings them, or else the
    text itself.
    """
    _check_text("text", text)
    bound = _bound(subject, coder, layer)
    tokens = subject.tokens([text])
    words = [subject.tokenizer.decode([token]) for token in tokens.ids[0].tolist()]
    sites = [its.unit.input_site for its in bound]
    encoded = encode(subject, coder, tokens, sites)
    passage, layers = next(encoded.passages()), [heads_at(coder, its) for its in bound]
    pairs = at_positions(passage, layers)
    asked = None if query is None else _query(query, words, passage.described)
    at, h, t = _most_interaction(pairs.score, passage.described, layers, head, asked)
    reading = read(passage, at, layers[at])
    s = _most_moved(reading, h, t) if key is None else _key(key, words, layers[at], t)

    if mean_over is None and subject.has_texts:
        mean_over = subject.texts(MEAN_TEXTS)
    others = encoded if mean_over is None else encode(subject, coder, mean_over)
    split = four_parts(layers[at], passage, at, _mean_input(others.codes, layers[at]))
    terms = coefficients(layers[at], passage, at, t, s)
    own = subject.cache(tokens, [sites[at]])[sites[at]].to(reading.x)
    arrays = {
        "pattern": reading.pattern[h],
        "model_pattern": reading.heads.attention.pattern(own)[0, h],
        "parts": split.parts[:, h],
        "pairs": terms.pairs[h],
        "on_background": terms.on_background[h],
        "of_background": terms.of_background[h],
        "background": terms.background[h],
    }
    pattern, models = arrays["pattern"], arrays["model_pattern"]
    unfaithful, described = (pattern - models).abs().sum(-1) / 2, passage.described
    parts = zip(PARTS, split.accounts_for[:, h], strict=True)
    by_head = pairs.score[described].mean(0).tolist()
    given = {"layer": layer, "head": head, "query": query, "key": key}
    record = AttentionRecord(
        subject=subject.name,
        text=text,
        words=tuple(words),
        tokens=len(subject.tokenizer.encode(text, add_special_tokens=False)),
        tokens_read=tokens.n_kept,
        tokens_unknown=int((tokens.ids[tokens.keep] == _unknown(subject)).sum()),
        described=tuple(described.tolist()),
        layer=_number(bound[at]),
        head=h,
        query=t,
        key=s,
        window=layers[at].attention.window,
        chosen=tuple(name for name, its in given.items() if its is None),
        mean_over="this text" if mean_over is None else f"{len(mean_over)} texts, {mean_over.n_kept:,} tokens",
        unfaithfulness=float(unfaithful[described].mean()),
        unfaithfulness_at_query=float(unfaithful[t]),
        attention=float(pattern[t, s]),
        model_attention=float(models[t, s]),
        score=float(terms.score[h]),
        parts=tuple(
            PartRecord(name=name, accounts_for=float(its[described].mean()), at_query=float(its[t]))
            for name, its in parts
        ),
        query_features=tuple(terms.query_features.tolist()),
        key_features=tuple(terms.key_features.tolist()),
        strongest=tuple(
            StrongPairRecord(**pair._asdict()) for pair in strongest_pairs(layers[at], passage, at, h, TOP)
        ),
        layers=tuple(map(_number, bound)),
        interaction_by_head=tuple(
            tuple(row[: its.n_heads]) for row, its in zip(by_head, layers, strict=True)
        ),
    )  # fmt: skip
    return AttentionView(record, {name: its.float().cpu() for name, its in arrays.items()})


def _check_text(what: str, text: str) -> None:
    if not text.strip():
        raise CrossproofError(f"{what} is empty: give some words for the head to read")


def _unknown(subject: Subject) -> int:
    """The token for words that the tokenizer does not have; -1, which is no token, if all can be spelt."""
    unknown = getattr(subject.tokenizer, "unk_token_id", None)
    return -1 if unknown is None else int(unknown)


def _bound(subject: Subject, coder: Crosscoder, layer: int | None) -> Sequence[BoundAttention]:
    """The attention layers to look at: one, or all that the crosscoder describes the inputs of."""
    check_fits(subject, coder)
    every = [unit for unit in subject.units if isinstance(unit, Attention)]
    bound = bound_attention(subject, coder)
    if not bound:
        read = ", ".join(unit.input_site for unit in every)
        raise MismatchError(
            f"this crosscoder has the sites {', '.join(coder.sites)}, and no attention layer of {subject.name} reads "
            + (f"one of them: they read {read}. Train a crosscoder that has these" if every else "one: there is none")
        )
    chosen = [its for its in bound if layer in (None, _number(its))]
    if chosen:
        return chosen
    known = ", ".join(str(_number(its)) for its in bound)
    unread = next((unit.input_site for unit in every if unit.layer == layer), None)
    raise MismatchError(
        f"layer: this crosscoder does not have the input of attention layer {layer}, {unread}; it has those of {known}"
        if unread
        else f"layer: {subject.name} has no attention layer {layer}; this crosscoder has the inputs of {known}"
    )


def _number(bound: BoundAttention) -> int:
    return bound.unit.layer or 0


def _mean_input(codes: Codes, heads: Heads) -> Float64[Tensor, " d_model"]:
    """bias + Σ_i E[f_i] d_i over these tokens."""
    strengths = torch.zeros(heads.n_features, dtype=torch.float64, device=heads.directions.device)
    strengths.index_add_(0, codes.pattern.features, codes.values.to(strengths))
    return heads.bias.double() + strengths / codes.pattern.n_rows @ heads.directions.double()


def _most_interaction(
    score: Float64[Tensor, "pos layer head"],
    described: Bool[Tensor, " pos"],
    layers: Sequence[Heads],
    head: int | None,
    query: int | None,
) -> tuple[int, int, int]:
    """Layer (its place), head and query where it is largest, of what was not asked for; of equals, the first."""
    most = max(its.n_heads for its in layers)
    if head is not None and not 0 <= head < most:
        raise MismatchError(f"head: there is no head {head}; the heads are 0 to {most - 1}")
    allowed = described[:, None, None].repeat(1, *score.shape[1:])
    for number, its in enumerate(layers):
        allowed[:, number, its.n_heads :] = False
    if query is not None:
        allowed[torch.arange(len(allowed)) != query] = False
    if head is not None:
        allowed[:, :, torch.arange(most) != head] = False
    place = int(score.masked_fill(~allowed, -1).flatten().argmax())
    position, rest = divmod(place, score[0].numel())
    return rest // most, rest % most, position


def _most_moved(text: Reading, head: int, t: int) -> int:
    """The key with features where those of query and key together do most; the query itself if there is none."""
    features, background = text.x, text.background
    query = (text.queries(features) - text.queries(background))[head, t]
    together = (text.keys(features) - text.keys(background))[head] @ query
    attention = text.pattern[head, t]
    moved = attention * (together - attention @ together).abs()
    allowed = text.scores[head, t].isfinite() & (text.f != 0).any(1)
    return int(moved.masked_fill(~allowed, -1).argmax()) if bool(allowed.any()) else t


def _query(query: str | int, words: Sequence[str], described: Bool[Tensor, " pos"]) -> int:
    position = _position("query", query, words)
    if not bool(described[position]):
        asking = ", ".join(f"{n} {words[n].strip()}" for n in described.nonzero().flatten().tolist())
        raise MismatchError(
            f"query: the crosscoder does not describe position {position} ({words[position].strip()}), so that no "
            f"feature asks there; those that it describes are {asking}"
        )
    return position


def _key(key: str | int, words: Sequence[str], heads: Heads, query: int) -> int:
    position = _position("key", key, words)
    if not bool(heads.attention.mask(len(words))[query, position]):
        window = heads.attention.window
        first = 0 if window is None else max(0, query - window + 1)
        raise MismatchError(
            f"key: the query at {query} ({words[query].strip()}) does not see position {position} "
            f"({words[position].strip()}); it sees {first} to {query}"
        )
    return position


def _position(what: str, word: str | int, words: Sequence[str]) -> int:
    """Of a word that stands in the text once, or of a position, which a number always is."""
    named, bare = str(word).strip(), [each.strip() for each in words]
    if named.lstrip("-").isdecimal():
        if named in map(str, range(len(words))):
            return int(named)
        raise MismatchError(f"{what}: there is no position {named}; this text has 0 to {len(words) - 1}")
    where = [position for position, each in enumerate(bare) if each == named]
    if len(where) == 1:
        return where[0]
    if where:
        raise MismatchError(
            f"{what}: {named!r} stands at the positions {', '.join(map(str, where))}; give one of these numbers"
        )
    close = nearest(named, bare)
    all_words = ", ".join(f"{n} {each}" for n, each in enumerate(bare))
    raise MismatchError(
        f"{what}: no token {named!r} in this text{f'; did you mean {close}?' if close else ''}; it has {all_words}"
    )
