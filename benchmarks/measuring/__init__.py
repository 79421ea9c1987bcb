"""What every benchmark needs: a clock, calls in turns within one run, and peak memory in a process of its own."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")


def clock(call: Callable[[], Result]) -> tuple[float, Result]:
    begin = time.perf_counter()
    value = call()
    return time.perf_counter() - begin, value


def in_turns(calls: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each call, all of them called in turn `repeats` times, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(repeats + 1):
        for name, call in calls.items():
            seconds, _ = clock(call)
            if round_:
                times[name].append(seconds)
    return times


def ratio(slow: list[float], fast: list[float]) -> dict[str, float]:
    """How many times as long the first takes as the second, turn by turn."""
    ratios = [a / b for a, b in zip(slow, fast, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def milliseconds(times: list[float]) -> float:
    return 1e3 * statistics.median(times)


def peak_mb() -> float:
    """The largest resident memory this process has had, in MB."""
    # getrusage would report the parent's peak when that was higher: it is inherited when a process is started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def in_own_process(script: str, what: str, geometry: dict[str, Any]) -> float:
    """The number that `script --alone WHAT GEOMETRY` prints."""
    command = [sys.executable, script, "--alone", what, json.dumps(geometry)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def tables_over_tokens(
    name: str,
    description: str | None,
    measure: Callable[[int, int, int, int, int], dict[str, float]],
    steps: int,
    sample: tuple[int, str],
    most: float,
) -> None:
    """The command of a benchmark of tables: it fails where ours and the plain ones differ by more than `most`.

    `sample` is how many of what the plain way is timed on.
    """
    import torch

    from crossproof.memory import keep_freed_memory

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--steps", type=int, default=steps, help="of training the dictionary")
    parser.add_argument("--sample", type=int, default=sample[0], help=sample[1])
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    found = measure(given.tokens, given.features, given.k, given.steps, given.sample)
    if found["worst_difference"] > most:
        sys.exit(f"the two tables differ by {found['worst_difference']:.1e} of the largest entry")
    if given.json:
        print(json.dumps({"benchmark": name, "threads": given.threads, **found}, indent=2))
        return
    for what, value in found.items():
        print(f"{what:32} {value:,.4g}" if isinstance(value, float) else f"{what:32} {value:,}")
