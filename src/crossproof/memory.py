"""Keeping the C library from handing memory back between steps.

glibc returns every large block to the kernel when it is freed, and the kernel clears it page by page when the next step
asks for it again: a tenth of a training step on a CPU. Told to keep freed blocks, it gives the same ones out again.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

# from malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_LARGEST_INT = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Ask once per process; says whether the C library understood. Elsewhere than on glibc nothing happens."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # large blocks come from the heap, and the heap's free end is not given back
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
