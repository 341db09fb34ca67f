"""What an array declares, and what it may therefore be used as."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np


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


def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that puts demo_2 before demo_10, with and without the underscore."""
    parts = re.findall(r"\d+|\D+", name)
    return tuple((0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts)
