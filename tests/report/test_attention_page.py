"""The page of an attention head: whole, quiet, escaped, and of the numbers beside it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from crossproof.errors import BadFile, CrossproofError
from crossproof.files import read_safetensors, write_json, write_safetensors
from crossproof.records import ATTENTION_ARRAYS, AttentionRecord, PartRecord, StrongPairRecord
from crossproof.report import page as report_page
from crossproof.report.attention_page import attention_page, write_attention_page
from crossproof.report.attention_words import summary, tables
from crossproof.runs import Run

NASTY = ("<|endoftext|>", " <b>", "</script><script>alert(1)</script>", '"&amp;', " ")


def record(**changed: object) -> AttentionRecord:
    fields: dict[str, object] = dict(  # noqa: C408
        subject="a <i>model</i>", text="".join(NASTY), words=NASTY, tokens=4, tokens_read=4, tokens_unknown=0,
        described=(False, True, True, True, True), layer=1, head=0, query=3, key=2, window=None, chosen=("key",),
        mean_over="this text", unfaithfulness=0.25, unfaithfulness_at_query=0.5, attention=0.75, model_attention=0.125,
        score=1.5, parts=tuple(PartRecord(name=name, accounts_for=0.1, at_query=0.2) for name in "abcd"),
        query_features=(3, 7), key_features=(5,),
        strongest=(StrongPairRecord(i=3, j=5, interaction=0.5, query=3, key=2, coefficient=-1.25),),
        layers=(1,), interaction_by_head=((0.25, 12.5),),
    )  # fmt: skip
    return AttentionRecord.model_validate(fields | changed)


def folder_of(folder: Path, found: AttentionRecord) -> Path:
    n, i, j = len(found.words), len(found.query_features), len(found.key_features)
    shapes = {"pattern": (n, n), "model_pattern": (n, n), "parts": (4, n, n), "pairs": (i, j)}
    shapes |= {"on_background": (i,), "of_background": (j,), "background": ()}
    run = Run(
        kind="attention", command="crossproof attention '<x>'", config={"subject": found.subject, "coder": "a&b"},
        versions={}, git_commit=None, hardware="none", started="now", finished=True,
    )  # fmt: skip
    write_json(folder / "run.json", run.model_dump())
    write_json(folder / "results.json", found.model_dump())
    generator = torch.Generator().manual_seed(0)
    arrays = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    write_safetensors(folder / ATTENTION_ARRAYS, arrays)
    return folder


class Parsed(HTMLParser):
    """What a browser would see: the elements, and the text outside scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts = "", list[str]()
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = tag
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "script":
            self.scripts[-1] += data
        elif self._within != "style":
            self.text += data


def test_the_page_escapes_whatever_stands_in_the_text(tmp_path: Path) -> None:
    found = Parsed(attention_page(folder_of(tmp_path, record())))
    assert len(found.scripts) == 3
    assert json.loads(found.scripts[0])["words"] == [*(word.strip() for word in NASTY[:-1]), " "]
    assert not [tag for tag, _ in found.elements if tag == "i"]
    assert "A <i>model</i>" not in found.text
    assert "layer 1, head 0 of a <i>model</i>" in found.text.lower()
    assert "crossproof attention '<x>'" in found.text
    tokens = [attributes for tag, attributes in found.elements if tag == "button"]
    assert len(tokens) == len(NASTY)
    assert [str(its["class"]).split()[1:] for its in tokens] == [["given"], [], ["key"], ["query"], []]


def test_the_page_needs_nothing_else_and_may_ask_for_nothing(tmp_path: Path) -> None:
    found = Parsed(attention_page(folder_of(tmp_path, record())))
    links = [attributes.get(name) for _, attributes in found.elements for name in ("src", "href")]
    assert [link for link in links if link] == ["data:,"]
    policies = [attributes["content"] for _, attributes in found.elements if "http-equiv" in attributes]
    assert policies
    assert str(policies[0]).startswith("default-src 'none'")
    assert not re.search("https?:", str(policies[0]))


def test_the_page_shows_the_numbers_of_the_folder(tmp_path: Path) -> None:
    arrays_of, found = folder_of(tmp_path, record(window=2)), record(window=2)
    html = Parsed(attention_page(arrays_of))
    data = json.loads(html.scripts[0])
    arrays = read_safetensors(tmp_path / ATTENTION_ARRAYS)
    n = len(found.words)
    for drawn, array in (("pattern", arrays["pattern"]), ("scores", arrays["parts"].sum(0))):
        for t in range(n):
            for s in range(n):
                value = data[drawn][t][s]
                assert (value is not None) == (t - 2 < s <= t)
                assert value is None or value == pytest.approx(float(array[t, s]), rel=1e-3)
    assert data["pairs"] == [[pytest.approx(value, rel=1e-3) for value in row] for row in arrays["pairs"].tolist()]
    assert (data["query"], data["key"], data["queryFeatures"]) == (3, 2, [3, 7])
    for shown in ("75.0%", "12.5% in the model", "3 → 5", "-1.250", "12.5"):
        assert shown in html.text
    assert {attributes["id"] for tag, attributes in html.elements if attributes.get("class") == "plot"} == {
        "pattern", "model-pattern", "scores", *(f"part-{n}" for n in range(4))
    }  # fmt: skip
    script = html.scripts[2]
    assert all(f'"{name}"' in script for name in ("pattern", "model-pattern", "scores", "terms"))


def test_a_head_without_features_or_pairs_has_a_page(tmp_path: Path) -> None:
    found = record(query_features=(), key_features=(), strongest=())
    html = Parsed(attention_page(folder_of(tmp_path, found)))
    assert "No two features interact" in html.text
    assert json.loads(html.scripts[0])["pairs"] == []
    assert len(tables(found)) == 1


def test_words_and_choices_are_named_in_the_summary() -> None:
    text = summary(record())
    assert 'query 3 "&amp; · key 2' in text
    assert "key chosen where interaction is largest" in text
    assert "chosen" not in summary(record(chosen=()))


def test_what_was_not_read_is_said_on_the_page_and_in_the_summary(tmp_path: Path) -> None:
    for changed, says in (
        ({"tokens": 501}, "he first 4 of 501 tokens are read"),
        (
            {"tokens_unknown": 4},
            "he tokenizer of a <i>model</i> knows no word of this text: it reads “unknown” alone",
        ),
        ({"tokens_unknown": 1}, "1 of 4 tokens are “unknown”"),
    ):
        found = record(**changed)
        assert says in summary(found)
        assert says in Parsed(attention_page(folder_of(tmp_path, found))).text
        assert len(summary(found).splitlines()) == len(summary(record()).splitlines()) + 1
    both = summary(record(tokens=9, tokens_unknown=2))
    assert "the first 4 of 9" in both
    assert "2 of 4 tokens" in both


def test_names_keep_their_capitals(tmp_path: Path) -> None:
    html = Parsed(attention_page(folder_of(tmp_path, record(subject="EleutherAI/pythia"))))
    assert "Layer 1, head 0 of EleutherAI/pythia" in html.text


def test_arrays_of_another_run_are_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, record())
    write_json(folder / "results.json", record(key_features=(5, 6)).model_dump())
    with pytest.raises(BadFile, match=r"does not fit results.json beside it: pairs \(2, 1\), not \(2, 2\)"):
        attention_page(folder)
    (folder / ATTENTION_ARRAYS).write_bytes(b"x")
    with pytest.raises(BadFile, match="truncated or edited"):
        attention_page(folder)


def test_a_missing_plotly_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "find_spec", lambda name: None)
    with pytest.raises(CrossproofError, match=r"pip install 'crossproof\[page\]'"):
        attention_page(folder_of(tmp_path, record()))


def test_the_page_appears_beside_the_results(tmp_path: Path) -> None:
    assert write_attention_page(folder_of(tmp_path, record())) == tmp_path / "attention.html"
    assert (tmp_path / "attention.html").read_text().startswith("<!doctype html>")
