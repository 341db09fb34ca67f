"""What an array declares, and what it may therefore be used as."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

SPARSE_BYTES = 64 << 20  # arrays below this size may be as sparse as they like
MAX_COMPRESSION = 1100  # deflate cannot do better than 1032:1
MAX_CHUNK_BYTES = 1 << 30


@dataclass(frozen=True)
class ArraySpec:
    """The whole shape of an array, the frame axis first, and its type."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def is_image(self) -> bool:
        return self.dtype == np.uint8 and len(self.shape) == 4 and self.shape[3] in (1, 3, 4)

    @property
    def is_low_dim(self) -> bool:
        return self.is_numeric and len(self.shape) in (1, 2) and self.width > 0

    @property
    def is_numeric(self) -> bool:
        return self.dtype.kind in "fiub"

    @property
    def frame_shape(self) -> tuple[int, ...]:
        """Shape of one frame; a scalar per frame counts as a vector of one."""
        return self.shape[1:] or (1,)

    @property
    def width(self) -> int:
        return math.prod(self.frame_shape)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def too_costly(self, stored_bytes: int, chunk: tuple[int, ...] | None) -> str | None:
        """Why the array must not be read, when it asks for far more memory than it has data."""
        if self.num_bytes > SPARSE_BYTES and self.num_bytes > MAX_COMPRESSION * stored_bytes:
            return (
                f"declares shape {self.shape} ({self.num_bytes:,} bytes) and stores "
                f"{stored_bytes:,} bytes; the file is damaged or hostile"
            )
        chunk_bytes = 0 if chunk is None else math.prod(chunk) * self.dtype.itemsize
        if chunk_bytes > MAX_CHUNK_BYTES:
            return f"is stored in chunks of {chunk_bytes:,} bytes; write it again with smaller ones"
        return None


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts demo_2 before demo_10, with and without the underscore."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)
