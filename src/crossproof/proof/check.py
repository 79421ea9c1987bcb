"""Running the independent checker: another program, in a process of its own, that imports nothing of ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from crossproof.errors import BadFile

CHECKER = Path(__file__).parents[1] / "checker" / "check.py"


def check(folder: Path) -> tuple[bool, str]:
    """Whether it accepts the certificate, and what it says."""
    if not folder.is_dir():
        raise BadFile(f"{folder} is no folder; give that of a certificate, which `crossproof certify --out` writes")
    done = subprocess.run(
        [sys.executable, "-I", str(CHECKER), str(folder)], capture_output=True, text=True, check=False
    )
    return done.returncode == 0, done.stdout.strip() or done.stderr.strip()
