"""What is kept is used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
torch.set_num_threads(1)
from crossproof.memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(5): torch.zeros(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20): torch.zeros(10_000_000)
print(int(kept), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_blocks_are_given_out_again_without_page_faults() -> None:
    def faults(mode: str) -> tuple[int, int]:
        done = subprocess.run([sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True)
        kept, count = map(int, done.stdout.split())
        return kept, count

    kept, with_keeping = faults("keep")
    _, without = faults("not")
    if not kept:
        pytest.skip("this C library has no mallopt")
    assert with_keeping < without / 3
