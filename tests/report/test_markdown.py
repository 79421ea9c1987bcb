"""The report in Markdown says what the folders say, and nothing in it is taken for markup."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from crossproof.findings import Findings, Table
from crossproof.report.markdown import LONG, markdown, said
from tests.report.made import NASTY, findings, run_folder

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PIECES = [
    *"ab1 *_<>&;#$~|[]()!:.+-=\\\"'/\n",
    "λ",
    "](",
    "&amp;",
    "&#65;",
    "1. ",
    "2) ",
    "---",
    "- ",
    "![",
    "<b>",
    "__",
]
PLAIN = NASTY.replace("`", "")


def read(text: str) -> str:
    """What a reader sees of one paragraph; whatever is not plain text or code is marked."""
    tokens = READER.parse(text)
    assert [token.type for token in tokens] == ["paragraph_open", "inline", "paragraph_close"]
    children = tokens[1].children or []
    plain = ("text", "text_special", "code_inline")
    return "".join(child.content if child.type in plain else f"<{child.type}>" for child in children)


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_text_reads_as_it_was_written(text: str) -> None:
    if text.strip():
        assert read(said(text)) == " ".join(text.split())


def test_numbers_and_names_stay_readable() -> None:
    for text in ("-0.5 [-0.7, -0.3] of blocks.1.hook_mlp_out (66 %)", "0.93 at λ = 0", "`--flag *` it"):
        assert said(text) == text


def test_all_that_studies_say_is_there_with_where_it_comes_from(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path / "one"), run_folder(tmp_path / "two", findings(title="Another"))]
    text = markdown(folders)
    tokens = READER.parse(text)
    assert not [token.type for token in tokens if "html" in token.type]
    inline = [child for token in tokens for child in token.children or []]
    assert {child.type for child in inline} <= {"text", "text_special", "code_inline", "strong_open", "strong_close"}
    headings = [tokens[n + 1].content for n, token in enumerate(tokens) if token.type == "heading_open"]
    assert headings.count("Claims") == headings.count("Figures") == 2
    assert [name for name in headings if name in ("Summary", "Another")] == ["Summary", "Another"]
    seen = " ".join("".join(child.content for child in token.children or []) for token in tokens)
    for its in (f"It is. {PLAIN}", "A second paragraph.", f"Held out: {PLAIN}", "No rows."):
        assert seen.count(its) == 2, its
    assert seen.count(f"Above 0.3 {PLAIN}") == 2 * len(findings().claims)
    for figure in findings().figures:
        data = f"data: figure {figure.id} in {(tmp_path / 'one' / 'findings.json').as_posix()}"
        assert data in seen
    assert text.count(f"crossproof made --out '{NASTY}'") == 2 * (len(findings().figures) + 1)


def test_rows_of_tables_have_all_their_columns(tmp_path: Path) -> None:
    text = markdown([run_folder(tmp_path / "made")])
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    assert len(tables) == 2
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1
    cells = [token.content for token in READER.parse(tables[0]) if token.type == "inline"]
    assert cells[:5] == ["study", "claim", "paper", "ours", "verdict"]
    assert cells[7:10] == ["0.305", "0.412 [0.398, 0.430]", "holds"]


def test_an_empty_study_has_its_answer(tmp_path: Path) -> None:
    text = markdown([run_folder(tmp_path / "empty", Findings(title="Empty", question="Anything?", answer="No."))])
    assert text.startswith("## Summary\n\nNo claims.")
    assert "## Empty\n\nAnything?\n\nNo.\n\nRun: " in text


def test_of_a_table_too_long_to_read_the_page_says_where_it_is(tmp_path: Path) -> None:
    def table(rows: int) -> Table:
        return Table(title=f"{rows} rows", columns=("a",), rows=tuple((number + 0.5,) for number in range(rows)))

    folder = run_folder(tmp_path / "study", findings(tables=(table(LONG), table(LONG + 1))))
    text = markdown([folder])
    assert f"| {LONG - 1}.5 |" in text
    assert f"{LONG + 1} rows, in `{folder / 'findings.json'}`." in text
    assert f"| {LONG}.5 |" not in text
