"""Run folders of studies that never ran, with text in them that breaks pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from crossproof.files import write_json
from crossproof.findings import Claim, Figure, Findings, Grid, Layer, Passage, Series, Table
from crossproof.runs import Run

NASTY = "</script><script>alert(1)</script> <b>bold</b> & \"q\" 'a' &amp; λ | `--flag <x>` _it_ *it*"


def claim(name: str = "made.first", **changed: Any) -> Claim:
    fields: dict[str, Any] = {"id": name, "claim": f"It is so: {NASTY}", "paper": "0.305", "measure": f"Φ {NASTY}"}
    fields |= {"ours": 0.4125, "low": 0.398, "high": 0.43, "verdict": "holds", "why": f"above 0.3 {NASTY}"}
    return Claim(**(fields | changed))


def figures() -> tuple[Figure, ...]:
    curve = Series(
        name=f"one {NASTY}", x=(1.0, 10.0), y=(0.5, None), low=(0.25, None), high=(0.75, None), words=("", NASTY)
    )
    bars = Series(name="b", x=("block 0", NASTY), y=(1.0, -2.0))
    grid = Grid(rows=("r", NASTY), columns=("c",), values=((1.5,), (None,)), measure=NASTY)
    return (
        Figure(id="curve", title=f"It rises {NASTY}", kind="lines", x="λ", y="share", series=(curve,), log_x=True),
        Figure(id="bars", title="Blocks differ", kind="bars", x="block", y="Φ", series=(bars, bars), note=NASTY),
        Figure(id="cloud", title="A cloud", kind="points", x="x", y="y"),
        Figure(id="grid", title="A grid", kind="grid", x="j", y="i", grid=grid),
    )


def findings(**changed: Any) -> Findings:
    unknown = claim("made.second", ours=None, low=None, high=None, verdict="cannot tell")
    fields: dict[str, Any] = {
        "title": f"A study {NASTY}",
        "question": f"Is it so? {NASTY}",
        "answer": f"It is. {NASTY}\n\nA second paragraph.",
        "claims": (claim(), unknown),
        "figures": figures(),
        "tables": (
            Table(title=f"Rows {NASTY}", columns=("name", NASTY), rows=((NASTY, 3), ("z", None), ("a", 1)), note=NASTY),
            Table(title="None", columns=("a",), rows=()),
        ),
        "passages": (
            Passage(
                title=f"A text {NASTY}",
                words=("Lily", " saw", " </script>", "\n", " ball"),
                layers=(Layer(name=NASTY, values=(0.0, 1.0, 0.5, 0.0, -2.0)), Layer(name="b", values=(0.0,) * 5)),
            ),
            Passage(title="Without a word", words=(), layers=()),
        ),
        "notes": (f"Held out: {NASTY}",),
    }
    return Findings(**(fields | changed))


def run_folder(folder: Path, found: Findings | None = None, **changed: Any) -> Path:
    fields: dict[str, Any] = {
        "kind": "made", "command": f"crossproof made --out '{NASTY}'", "config": {"seed": 7, "subject": NASTY},
        "versions": {"torch": "2.13.0"}, "git_commit": "abc123", "hardware": "2 threads", "started": "2026-01-01",
        "seconds": 12.3, "finished": True,
    }  # fmt: skip
    write_json(folder / "run.json", Run(**(fields | changed)).model_dump())
    write_json(folder / "results.json", {})
    write_json(folder / "findings.json", (found or findings()).model_dump(mode="json"))
    return folder
