"""Rules of the house that a machine can check."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "crossproof"
FILES = sorted(SOURCE.rglob("*.py"))
MAY_IMPORT = {
    "subject": set(),
    "crosscoder": {"subject"},
    "interaction": set(),
    "binding": {"subject", "crosscoder", "interaction"},
    "report": set(),
    "study": {"subject", "crosscoder", "interaction", "binding"},
}
"""Rooms, and what each may import. Modules beside the rooms (errors, files, …) serve all of them."""


def imported(path: Path) -> set[str]:
    """Every module a file imports, by its full name."""
    package = ("crossproof", *path.relative_to(SOURCE).parent.parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_rooms_before_it(room: str) -> None:
    allowed = MAY_IMPORT[room] | {room}
    for path in (SOURCE / room).rglob("*.py"):
        rooms = {name.split(".")[1] for name in imported(path) if name.startswith("crossproof.")} & set(MAY_IMPORT)
        assert rooms <= allowed, f"{path} imports {rooms - allowed}"


def test_nothing_is_pickled_or_loaded_from_a_pickle() -> None:
    for path in FILES:
        modules = {name.split(".")[0] for name in imported(path)}
        assert not modules & {"pickle", "dill", "joblib", "yaml", "cloudpickle"}, path
        for call in re.findall(r"torch\.load\([^)]*\)", path.read_text()):
            assert "weights_only=True" in call, path
        assert "torch.save(" not in path.read_text(), path


def test_no_file_outgrows_one_idea() -> None:
    for path in set(FILES) - {SOURCE / "checker" / "check.py"}:  # people take it as one file
        assert len(path.read_text().splitlines()) <= 400, path


def test_the_versions_we_test_with_are_ones_we_allow_and_none_is_pinned_for_users() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    requirements = {r.name: r for r in map(Requirement, [*project["dependencies"], *extras])}
    tested = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    for name, version in tested.items():
        requirement = requirements.get(name) or requirements.get(name.replace("_", "-"))
        assert requirement is not None, f"{name} is constrained but nobody asks for it"
        assert Version(version) in requirement.specifier, f"{name} {version} is not {requirement}"
    for requirement in map(Requirement, project["dependencies"]):
        # torch is the exception: users bring the build that fits their machine
        assert requirement.name == "torch" or any(s.operator == "<" for s in requirement.specifier), requirement
    for requirement in requirements.values():
        assert not any(s.operator == "==" for s in requirement.specifier), f"{requirement} pins users to one version"
