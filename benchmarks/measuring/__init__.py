"""What every benchmark needs: a clock, calls in turns within one run, and peak memory in a process of its own."""

from __future__ import annotations

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
