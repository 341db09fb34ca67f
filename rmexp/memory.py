"""How much memory the process holds, as metrics."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

import torch

_GIB = 2**30


def memory_row(device: torch.device) -> dict[str, float]:
    """`memory/cpu_rss_gib` now and, on a GPU, `memory/gpu_peak_gib` since the last call."""
    row = {"memory/cpu_rss_gib": _resident_bytes() / _GIB}
    if device.type == "cuda":
        row["memory/gpu_peak_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
        torch.cuda.reset_peak_memory_stats(device)
    return row


def _resident_bytes() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
