"""The report: one file for many studies, from their run folders. What is claimed comes first, where it comes from last.

`study_parts.py` has the pieces of a study; `charts.js` draws its figures when they come into view.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from crossproof.files import write_text
from crossproof.report.glossary import used
from crossproof.report.page import need_plotly, page
from crossproof.report.studies import Study, read_studies
from crossproof.report.study_parts import anchor, chart, claim_rows, data_table, passage, prose
from crossproof.report.words import tally

PARTS = ("study_page.css", "study_page.js", "passages.js", "charts.js")


def write_report(folders: Sequence[Path], out: Path, title: str, about: str = "") -> Path:
    """Everything in these run folders is read and checked before the file is written."""
    need_plotly()
    write_text(out, report_page(read_studies(folders), title, about))
    return out


def report_page(studies: Sequence[Study], title: str, about: str = "") -> str:
    data: dict[str, Any] = {"figures": [], "tables": [], "passages": []}
    sections = "".join(_study(study, data) for study in studies)
    head = f"<header><h1>{prose(title)}</h1>{_paragraph(about)}</header>"
    body = f"{head}{_contents(studies)}{_summary(studies)}{sections}{_provenance(studies)}"
    return page(title, body, data, *PARTS)


def _contents(studies: Sequence[Study]) -> str:
    links = "".join(
        f'<li><a href="#{study.name}">{prose(study.findings.title)}</a> '
        f"<small>{tally(study.findings.claims)}</small></li>"
        for study in studies
    )
    return (
        '<nav aria-label="Contents"><ul><li><a href="#summary">Summary</a></li>'
        f'{links}<li><a href="#provenance">Where this comes from</a></li></ul></nav>'
    )


def _summary(studies: Sequence[Study]) -> str:
    claims = [claim for study in studies for claim in study.findings.claims]
    if not claims:
        return f'<section id="summary"><h2>Summary</h2><p>These studies make no claims.</p>{_words(studies)}</section>'
    bodies = "".join(
        f'<tbody role="rowgroup"><tr role="row" class="of"><th role="rowheader" scope="rowgroup" colspan="4">'
        f"{prose(study.findings.title)}</th></tr>{claim_rows(study, in_summary=True)}</tbody>"
        for study in studies
        if study.findings.claims
    )
    return (
        f'<section id="summary"><h2>Summary</h2><p>{tally(claims)}. In brackets the 95 % interval; a claim holds, or '
        "does not, only where its whole interval says so.</p>"
        f"{_words(studies)}{_claims(bodies)}</section>"
    )


def _words(studies: Sequence[Study]) -> str:
    meanings = "".join(f"<li>{prose(meaning)}</li>" for meaning in used(studies))
    return f"<details><summary>What the words mean</summary><ul>{meanings}</ul></details>" if meanings else ""


def _claims(bodies: str) -> str:
    heads = "".join(
        f'<th role="columnheader" scope="col">{name}</th>' for name in ("claim", "paper", "ours", "verdict")
    )
    return (
        f'<table class="claims" role="table"><thead role="rowgroup"><tr role="row">{heads}</tr></thead>{bodies}</table>'
    )


def _study(study: Study, data: dict[str, Any]) -> str:
    found = study.findings
    claims = f'<tbody role="rowgroup">{claim_rows(study, in_summary=False)}</tbody>'
    parts = [
        f'<section id="{study.name}"><h2>{prose(found.title)}</h2>',
        f'<p class="question">{prose(found.question)}</p>{_paragraph(found.answer, "answer")}',
        f"<h3>Claims</h3>{_claims(claims)}" if found.claims else "",
        _group("charts", [chart(study, figure, data) for figure in found.figures]),
        "<h3>Tables</h3>" if found.tables else "",
        _group("tables", [data_table(study, number, its, data) for number, its in enumerate(found.tables)]),
        _group("passages", [passage(its, data) for its in found.passages]),
        "<h3>Notes</h3><ul>" + "".join(f"<li>{prose(note)}</li>" for note in found.notes) + "</ul>"
        if found.notes
        else "",
        f'<p class="note"><a href="#{anchor(study.name, "run")}">How this was run</a></p></section>',
    ]
    return "".join(parts)


def _group(name: str, parts: Sequence[str]) -> str:
    return f'<div class="{name}">{"".join(parts)}</div>' if parts else ""


def _paragraph(text: str, name: str = "") -> str:
    """Paragraphs stand apart by an empty line."""
    kind = f' class="{name}"' if name else ""
    return "".join(f"<p{kind}>{prose(part)}</p>" for part in text.split("\n\n") if part.strip())


def _provenance(studies: Sequence[Study]) -> str:
    return (
        '<section id="provenance"><h2>Where this comes from</h2><p>One command a study. Each wrote a folder with what '
        "was asked (<code>run.json</code>), the numbers (<code>results.json</code>) and what is said of them "
        "(<code>findings.json</code>); this page was made from these files alone.</p>"
        f"{''.join(map(_run, studies))}</section>"
    )


def _run(study: Study) -> str:
    run = study.run
    settings = json.dumps(run.config, indent=1, ensure_ascii=False)
    facts = {
        "command": f"<code>{escape(run.command)}</code>",
        "folder": escape(study.folder.as_posix()),
        "seed": escape(str(run.config.get("seed", "–"))),
        "started": escape(f"{run.started}, took {run.seconds:,.0f} s"),
        "hardware": escape(run.hardware),
        "versions": escape(", ".join(f"{name} {version}" for name, version in run.versions.items()) or "–"),
        "commit": escape(run.git_commit or "–"),
        "config": f"<details><summary>{len(run.config)} settings</summary><pre>{escape(settings)}</pre></details>",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    title = prose(study.findings.title)
    return f'<h3 id="{anchor(study.name, "run")}">{title}</h3><dl class="about">{rows}</dl>'
