"""The program of docs/penalty.md, which is a training loop of somebody else's."""

from __future__ import annotations

from pathlib import Path

import pytest

PROGRAM = (Path(__file__).parents[2] / "docs" / "penalty.md").read_text().split("```python\n")[1].split("```")[0]


def run(program: str) -> list[tuple[float, float]]:
    names: dict[str, object] = {"__name__": "docs"}
    exec(compile(program, "docs/penalty.md", "exec"), names)
    history = names["history"]
    assert isinstance(history, list)
    return history


def test_the_loop_runs_and_its_penalty_lowers_the_interactions(capsys: pytest.CaptureFixture[str]) -> None:
    program = PROGRAM.replace("range(150)", "range(60)")
    assert "weight, " in program
    assert program != PROGRAM
    with_penalty, without = run(program), run(program.replace("300.0", "0.0"))
    assert with_penalty[0] == without[0]
    assert with_penalty[-1][0] < with_penalty[0][0] / 2
    assert with_penalty[-1][1] < without[-1][1] - 0.02
    assert "error and interaction" in capsys.readouterr().out
