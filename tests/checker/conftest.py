"""Certificates that several tests look at, each made once. Whoever changes one copies it first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from crossproof.proof.prove import Proof
from tests.checker.made import Case, certify, stream, weights

Made = Callable[[Case], tuple[Path, Proof]]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    @cache
    def of(case: Case) -> tuple[Path, Proof]:
        folder = tmp_path_factory.mktemp("certificates") / case.name
        return folder, certify(folder, case, weights(case), stream())

    return of
