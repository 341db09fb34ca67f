"""A window is arithmetic: rows = clamp(anchor + offsets, first, last), nothing is sliced or copied.

Counts, padding and goals are those of the reference, its quirk included: with pad_seq_length off,
the goal "last" is the last frame that a window can be anchored at, not the episode's last.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class WindowSpec:
    """Length and padding of a window: frame_stack - 1 + seq_length frames."""

    frame_stack: int
    seq_length: int
    pad_frame_stack: bool
    pad_seq_length: bool

    @property
    def length(self) -> int:
        return self.frame_stack - 1 + self.seq_length

    @property
    def skipped_front(self) -> int:
        return 0 if self.pad_frame_stack else self.frame_stack - 1

    @property
    def skipped_back(self) -> int:
        return 0 if self.pad_seq_length else self.seq_length - 1


def count_windows(lengths: np.ndarray, spec: WindowSpec) -> np.ndarray:
    """Windows of each episode; 0 where it is too short and nothing may be padded, or empty."""
    counts = lengths - spec.skipped_front - spec.skipped_back
    return np.where(lengths > 0, np.maximum(counts, 1 if spec.pad_seq_length else 0), 0)


class Windows:
    """All windows of some episodes, in order; `bounds` is (n, 3): anchor, first and last row."""

    def __init__(self, starts: np.ndarray, lengths: np.ndarray, spec: WindowSpec) -> None:
        counts = count_windows(lengths, spec)
        episode = np.repeat(np.arange(len(counts)), counts)
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        first = starts[episode]
        bounds = np.stack(
            [first + within + spec.skipped_front, first, first + lengths[episode] - 1], axis=1
        )
        self.spec = spec
        self.counts = counts
        self.bounds = torch.from_numpy(bounds.astype(np.int64))
        self.offsets = torch.arange(-(spec.frame_stack - 1), spec.seq_length)
        self._anchors = self.bounds[:, 0].contiguous()

    def __len__(self) -> int:
        return self.bounds.shape[0]

    def to(self, device: torch.device) -> Windows:
        moved = object.__new__(Windows)
        moved.spec, moved.counts = self.spec, self.counts
        moved.bounds, moved.offsets = self.bounds.to(device), self.offsets.to(device)
        moved._anchors = self._anchors.to(device)
        return moved

    def rows(self, index: Tensor) -> Tensor:
        """index: (B,) -> row of every frame, (B * T,)."""
        if self.spec.length == 1:
            return self._anchors.index_select(0, index)
        bounds = self.bounds.index_select(0, index)
        rows = bounds[:, :1] + self.offsets
        return torch.clamp(rows, bounds[:, 1:2], bounds[:, 2:]).view(-1)

    def pad_mask(self, index: Tensor) -> Tensor:
        """index: (B,) -> (B, T, 1), False where a frame is padding."""
        bounds = self.bounds.index_select(0, index)
        rows = bounds[:, :1] + self.offsets
        return ((rows >= bounds[:, 1:2]) & (rows <= bounds[:, 2:])).unsqueeze(-1)

    def goal_rows(self, index: Tensor) -> Tensor:
        """index: (B,) -> row of the frame after which the goal "last" is seen, (B,)."""
        return self.bounds[:, 2].index_select(0, index) - self.spec.skipped_back
