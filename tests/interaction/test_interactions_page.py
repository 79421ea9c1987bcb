"""The programs of docs/interactions.md that need no model, one after the other as a reader would run them."""

from __future__ import annotations

import re
from pathlib import Path

import torch

PAGE = (Path(__file__).parents[2] / "docs" / "interactions.md").read_text()


def test_the_programs_of_the_page_run_and_give_what_it_says() -> None:
    torch.manual_seed(0)
    programs = [program for program in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "xp." not in program]
    assert len(programs) >= 3
    names: dict[str, object] = {"__name__": "docs"}
    exec(compile("\n".join(programs), "docs/interactions.md", "exec"), names)
    lost, index, features = names["lost"], names["index"], names["features"]
    assert bool((lost.size <= lost.certified).all())  # type: ignore[attr-defined]
    assert index.strength().shape == (len(features), len(features))  # type: ignore[attr-defined, arg-type]
