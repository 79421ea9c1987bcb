"""The page of one attention head on one text, from the folder that `crossproof attention` wrote."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from torch import Tensor

from crossproof import runs
from crossproof.errors import BadFile
from crossproof.files import read_safetensors, write_text
from crossproof.records import ATTENTION_ARRAYS, AttentionRecord
from crossproof.report.attention_words import headline, listed, named, pair_rows, part_rows, remarks, shown
from crossproof.report.page import page, rounded, table

PAGE = "attention.html"


def write_attention_page(folder: Path) -> Path:
    write_text(folder / PAGE, attention_page(folder))
    return folder / PAGE


def attention_page(folder: Path) -> str:
    found, run = runs.read_results(folder, AttentionRecord), runs.read(folder)
    arrays = read_safetensors(folder / ATTENTION_ARRAYS)
    _check(folder, found, arrays)
    body = "".join((_top(found), _pattern(found), _split(found), _terms(found), _pairs(found), _about(run)))
    return page(f"Attention: {headline(found)}", body, _data(found, arrays), "attention_page.css", "attention_page.js")


def _data(found: AttentionRecord, arrays: dict[str, Tensor]) -> dict[str, Any]:
    """What the script draws: rows are queries, and what a query does not see is empty."""
    parts = arrays["parts"]
    return {
        "words": [shown(word) for word in found.words],
        "query": found.query,
        "key": found.key,
        "pattern": _seen(found, arrays["pattern"]),
        "modelPattern": _seen(found, arrays["model_pattern"]),
        "scores": _seen(found, parts.double().sum(0)),
        "parts": [_seen(found, part) for part in parts],
        "queryFeatures": found.query_features,
        "keyFeatures": found.key_features,
        "pairs": rounded(arrays["pairs"].tolist()),
        "onBackground": rounded(arrays["on_background"].tolist()),
        "ofBackground": rounded(arrays["of_background"].tolist()),
        "background": rounded(arrays["background"].item()),
    }


def _seen(found: AttentionRecord, matrix: Tensor) -> list[list[float | None]]:
    first = [0 if found.window is None else max(0, query - found.window + 1) for query in range(len(found.words))]
    return [
        [value if first[query] <= key <= query else None for key, value in enumerate(row)]
        for query, row in enumerate(rounded(matrix.tolist()))
    ]


def _check(folder: Path, found: AttentionRecord, arrays: dict[str, Tensor]) -> None:
    n, i, j = len(found.words), len(found.query_features), len(found.key_features)
    expected: dict[str, tuple[int, ...]] = {"pattern": (n, n), "model_pattern": (n, n), "parts": (4, n, n)}
    expected |= {"pairs": (i, j), "on_background": (i,), "of_background": (j,), "background": ()}
    shapes = {name: tuple(tensor.shape) for name, tensor in arrays.items()}
    wrong = [f"{name} {shapes.get(name)}, not {shape}" for name, shape in expected.items() if shapes.get(name) != shape]
    if wrong:
        raise BadFile(f"{folder / ATTENTION_ARRAYS} does not fit results.json beside it: {'; '.join(wrong)}")


def _top(found: AttentionRecord) -> str:
    tokens = "".join(
        f'<button class="token{" query" * (n == found.query)}{" key" * (n == found.key)}{" given" * (not described)}" '
        f'data-position="{n}" title="position {n}{"" if described else ": not described by the crosscoder"}">'
        f"{escape(shown(word))}</button>"
        for n, (word, described) in enumerate(zip(found.words, found.described, strict=True))
    )
    free = f" {_capital(listed(found.chosen))}: where interaction is largest." if found.chosen else ""
    return (
        f"<h1>{escape(_capital(headline(found)))}</h1>"
        f'<p class="tokens">{tokens}</p>'
        + "".join(f'<p class="remark">{escape(_capital(remark))}.</p>' for remark in remarks(found))
        + f'<p class="note">Query <b class="query">{escape(named(found, found.query))}</b>, key '
        f'<b class="key">{escape(named(found, found.key))}</b>.{escape(free)} Choose a word to see where it looks.</p>'
        '<dl class="facts">'
        + _fact("attention of query on key", f"{found.attention:.1%}", f"{found.model_attention:.1%} in the model")
        + _fact("score", f"{found.score:.3f}", f"{len(found.query_features)} × {len(found.key_features)} features")
        + _fact(
            "decoded pattern differs from the model's",
            f"{found.unfaithfulness:.1%}",
            f"{found.unfaithfulness_at_query:.1%} at the query",
        )
        + "</dl>"
    )


def _capital(text: str) -> str:
    """With a capital letter first, and names as they are."""
    return text[:1].upper() + text[1:]


def _fact(name: str, value: str, beside: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)} <small>{escape(beside)}</small></dd></div>"


def _pattern(found: AttentionRecord) -> str:
    return (
        "<section><h2>The pattern</h2><p>How much each query (row) looks at each key (column): computed from what the "
        "crosscoder decodes, and beside it the model's own. They differ by "
        f"{found.unfaithfulness:.1%}: total variation, half the sum of the differences of a row, mean over the queries "
        "that the crosscoder describes.</p>"
        f'<div class="two">{_figure("pattern", "decoded")}{_figure("model-pattern", "the model’s own")}</div></section>'
    )


def _split(found: AttentionRecord) -> str:
    figures = "".join(_figure(f"part-{n}", part.name) for n, part in enumerate(found.parts))
    rows = [list(map(str, row.values())) for row in part_rows(found)]
    return (
        "<section><h2>Four parts of the scores</h2><p>Each input is a mean and a deviation from it, so that each "
        "score is the sum of four parts: mean or deviation on the query side × mean or deviation on the key side. The "
        f"mean is the crosscoder's mean reconstruction over {escape(found.mean_over)}. One colour scale for all.</p>"
        f'<div class="split"><div>{_figure("scores", "scores")}'
        f"{table(list(part_rows(found)[0]), rows)}</div>"
        f'<div class="four">{figures}</div></div></section>'
    )


def _terms(found: AttentionRecord) -> str:
    query, key = (escape(named(found, position)) for position in (found.query, found.key))
    return (
        f"<section><h2>Which features make the score</h2><p>The score of <b>{query}</b> on <b>{key}</b>, "
        f"{found.score:.3f}, is the sum of these terms: of each feature active at the query (row) with each active at "
        "the key (column), and of the background, which is what no feature makes. The corner, background with "
        "background, is left out of the colour scale.</p>"
        '<figure><div class="plot tall" id="terms" role="img" aria-label="terms of the score"></div></figure></section>'
    )


def _pairs(found: AttentionRecord) -> str:
    rows = [[_number(each) if isinstance(each, float) else each for each in row.values()]
            for row in pair_rows(found)]  # fmt: skip
    strongest = table(list(pair_rows(found)[0]), rows) if rows else "<p>No two features interact in this head here.</p>"
    heads = max(map(len, found.interaction_by_head))
    by_head = [
        [f"layer {layer}", *map(_number, row), *[""] * (heads - len(row))]
        for layer, row in zip(found.layers, found.interaction_by_head, strict=True)
    ]
    return (
        "<section><h2>Strongest pairs of this head in this text</h2><p>Interaction is how far the term of a query "
        "feature with a key feature may move what the head writes, mean over queries, in units of the residual stream; "
        f"beside it the place where the term does most.</p>{strongest}</section>"
        "<section><h2>Where else to look</h2><p>The same, summed over all pairs: choose another head with "
        f"<code>--layer</code> and <code>--head</code>.</p>"
        f"{table(['', *(f'head {n}' for n in range(heads))], by_head)}</section>"
    )


def _about(run: runs.Run) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    rows = [
        ["command", run.command],
        ["subject", str(run.config.get("subject", ""))],
        ["crosscoder", str(run.config.get("coder", ""))],
        ["started", f"{run.started}, {run.seconds:.0f} s on {run.hardware}"],
        ["versions", versions],
        ["commit", run.git_commit or "–"],
    ]
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in rows)
    return f'<section><h2>Where this comes from</h2><dl class="about">{cells}</dl></section>'


def _figure(name: str, title: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><div class="plot" id="{name}" role="img" '
        f'aria-label="{escape(title)}"></div></figure>'
    )


def _number(value: float) -> str:
    return f"{value:#.3g}".removesuffix(".")
