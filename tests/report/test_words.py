"""Numbers as they are read: three digits that count, the same from Python and in the page."""

from __future__ import annotations

import csv
import html
import io
import json
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossproof.report.page import HERE
from crossproof.report.words import cells, interval, number, numeric, sentence, tally
from tests.report.made import claim, figures

FLOATS = st.floats(-1e300, 1e300)


@given(FLOATS)
def test_a_number_is_said_to_three_digits(value: float) -> None:
    said = float(number(value).replace(",", ""))
    assert said == pytest.approx(value, rel=5.1e-3)
    if 1e-4 <= abs(value) < 999_999:
        assert "e" not in number(value)


@given(st.integers(-(10**15), 10**15))
def test_a_whole_number_is_said_whole(value: int) -> None:
    assert int(number(value).replace(",", "")) == value


def test_a_thousand_is_no_power_of_ten() -> None:
    assert [number(v) for v in (999.4, 999.7, 1000.4, 999_999.7, 0.0, -0.0, -12.345)] == [
        "999", "1,000", "1,000", "1.00e+06", "0", "0", "-12.3",
    ]  # fmt: skip


def test_columns_are_whole_or_not() -> None:
    assert cells((9.0, 43.0, None, 1200)) == ["9", "43", "–", "1,200"]
    assert cells((9.0, 43.5, "x")) == ["9.00", "43.5", "x"]
    assert numeric((1, None))
    assert not numeric((None,))
    assert not numeric((1, "x"))


def test_a_sentence_has_a_capital_and_a_full_stop_and_greek_letters_stay() -> None:
    assert sentence("holds above 0") == "Holds above 0."
    assert sentence("Is it so?") == "Is it so?"
    assert sentence("λ is large.") == "λ is large."
    assert sentence("") == "."


def test_intervals_and_verdicts_are_said() -> None:
    assert interval(claim()) == "0.412 [0.398, 0.430]"
    assert interval(claim(low=None, verdict="cannot tell")) == "0.412"
    assert interval(claim(ours=None)) == "–"
    no, unknown = claim(verdict="does not hold"), claim(verdict="cannot tell")
    assert tally([claim(), claim(), no, unknown]) == "4 claims: 2 hold, 1 does not hold, 1 cannot be told"
    assert tally([claim()]) == "1 claim: 1 holds"
    assert tally([]) == "No claims"


@pytest.mark.skipif(shutil.which("node") is None, reason="runs the page's own script")
def test_the_page_says_numbers_alike_and_its_downloads_are_the_data() -> None:
    values = [0.0, 0.5, -0.0123456, 0.00011, 3.2e-7, 999.7, -1234.5, 2.5e6, 12345678.9]
    found = figures()
    its = json.dumps([figure.model_dump(mode="json") for figure in found])
    script = (
        'globalThis.document = { getElementById: () => ({ textContent: "{}" }), addEventListener() {} };\n'
        + (HERE / "study_page.js").read_text()
        + f"\nconsole.log(JSON.stringify([{json.dumps(values)}.map(said), {its}.map((it) => csv(rowsOf(it)))]));"
    )
    output = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True).stdout
    said, downloads = json.loads(output)
    assert [float(text.replace(",", "")) for text in said] == [float(number(v).replace(",", "")) for v in values]
    curve, *_, grid = [list(csv.reader(io.StringIO(text, newline=""))) for text in downloads]
    series, matrix = found[0].series[0], found[3].grid
    assert curve == [
        ["series", "x", "y", "low", "high", "words"],
        [series.name, "1", "0.5", "0.25", "0.75", ""],
        [series.name, "10", "", "", "", (series.words or ("", ""))[1]],
    ]
    assert matrix is not None
    assert grid == [["row", "column", "value"], ["r", "c", "1.5"], [matrix.rows[1], "c", ""]]


@pytest.mark.skipif(shutil.which("node") is None, reason="reads the page's own scripts")
def test_labels_of_a_figure_keep_their_words_whole_and_are_cut_only_after_their_lines() -> None:
    stubs = (
        "globalThis.document = { getElementById: () => ({ textContent: '{}' }), querySelectorAll: () => [], "
        "addEventListener() {} };\n"
        "globalThis.matchMedia = () => ({ addEventListener() {} }); globalThis.addEventListener = () => {};\n"
        "globalThis.IntersectionObserver = globalThis.ResizeObserver = class { observe() {} };\n"
    )
    labels = ["", "plain", "without a random one", "penalty weight 100.0, form output: not active", "a <b> & c"]
    script = (
        stubs
        + (HERE / "study_page.js").read_text()
        + (HERE / "charts.js").read_text()
        + f"\nconst labels = {json.dumps(labels)};"
        + "console.log(JSON.stringify(labels.map((label) => [1, 2, 4].map((lines) => folded(label, 14, lines)))));"
    )
    output = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True).stdout
    for label, made in zip(labels, json.loads(output), strict=True):
        for lines, text in zip((1, 2, 4), made, strict=True):
            written = [html.unescape(line) for line in text.split("<br>")]
            words = " ".join(written).removesuffix(" …").split()
            assert len(written) <= lines
            assert words == label.split()[: len(words)]
            assert text.endswith(" …") == (words != label.split())
        assert " ".join(html.unescape(made[-1]).split("<br>")) == label, "four lines say all"


@pytest.mark.skipif(shutil.which("node") is None, reason="reads the page's own scripts")
@pytest.mark.parametrize("name", ["study_page.js", "passages.js", "charts.js", "attention_page.js"])
def test_scripts_are_scripts(name: str) -> None:
    subprocess.run(["node", "--check", str(HERE / name)], check=True)
