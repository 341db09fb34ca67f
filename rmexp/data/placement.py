"""Where the frames live: on the device, in memory or in the file, by size and what is free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import torch

Placement = Literal["auto", "device", "ram", "mmap"]

MEMORY_SHARE = 0.5  # of what is free; the rest belongs to the simulators and the page cache
DEVICE_SHARE = 0.5  # of what is free; the rest belongs to the networks


def free_memory() -> int:
    """Bytes of main memory that may be taken, the limit of a container included."""
    free = _meminfo_available()
    root = Path("/sys/fs/cgroup")
    limit, used = _number(root / "memory.max"), _number(root / "memory.current")
    if limit is not None and used is not None:
        free = min(free, max(limit - used, 0))
    return free


def free_device_memory(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def resolve(placement: Placement, num_bytes: int, device: torch.device) -> Placement:
    """Where `num_bytes` of frames go for batches that are wanted on `device`; never "auto"."""
    if placement == "device" and device.type == "cpu":
        return "ram"
    if placement != "auto":
        return placement
    if device.type == "cuda" and num_bytes <= DEVICE_SHARE * free_device_memory(device):
        return "device"
    return "ram" if num_bytes <= MEMORY_SHARE * free_memory() else "mmap"


def full_device(device: torch.device | str) -> torch.device:
    """The device with its number, so that `cuda` and `cuda:0` are one."""
    named = torch.device(device)
    if named == torch.device("cuda"):
        return torch.device("cuda", torch.cuda.current_device())
    return named


def _meminfo_available() -> int:
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _number(path: Path) -> int | None:
    text = path.read_text().strip() if path.exists() else ""
    return int(text) if text.isdecimal() else None


def described(placed: str, has_images: bool) -> str:
    """Where the data lie, in words."""
    if placed == "device":
        return "device memory"
    return "ram, images mapped from file" if placed == "mmap" and has_images else "ram"
