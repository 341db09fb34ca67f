"""Gathering uint8 frames by row: from a pool in memory, or out of the HDF5 file's own bytes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

MAX_BUFFERS = 8


class Buffers:
    """Memory for batches, used again once nobody refers to it.

    Fresh megabytes cost more in page faults than the frames that are copied into them.
    """

    def __init__(self) -> None:
        self._buffers: list[np.ndarray] = []
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, int]) -> np.ndarray:
        """An uninitialised (rows, bytes) array; any view of it, torch's too, keeps it taken."""
        size = shape[0] * shape[1]
        with self._lock:
            for buffer, count in zip(self._buffers, _references(self._buffers), strict=True):
                if count == _UNSHARED and buffer.size == size:
                    return buffer.reshape(shape)
            fresh = np.empty(size, dtype=np.uint8)
            self._buffers = [*self._buffers[-(MAX_BUFFERS - 1) :], fresh]
            return fresh.reshape(shape)


def _references(buffers: list[np.ndarray]) -> list[int]:
    return [sys.getrefcount(buffer) for buffer in buffers]


_UNSHARED = _references([np.empty(1, dtype=np.uint8)])[0]


class PooledFrames:
    """frames: (M, H * W * C) uint8, in memory, on a device or mapped; next_rows: (N,) into it."""

    def __init__(self, frames: Tensor, next_rows: Tensor | None, shape: tuple[int, ...]) -> None:
        self._frames, self._next_rows, self._shape = frames, next_rows, shape
        self._buffers = Buffers()

    def gather(self, rows: Tensor) -> Tensor:
        if self._frames.device.type != "cpu":
            return self._frames.index_select(0, rows).view(-1, *self._shape)
        out = self._buffers.take((len(rows), self._frames.shape[1]))
        np.take(self._frames.numpy(), rows.numpy(), axis=0, out=out, mode="clip")
        return torch.from_numpy(out).view(-1, *self._shape)

    def gather_next(self, rows: Tensor) -> Tensor:
        assert self._next_rows is not None
        return self.gather(self._next_rows.index_select(0, rows))


class MappedFrames:
    """Frames where the HDF5 files have them: row -> (file, byte offset)."""

    def __init__(
        self,
        maps: Sequence[np.ndarray],
        file_of_row: np.ndarray,
        offsets: Mapping[str, np.ndarray],
        shape: tuple[int, ...],
    ) -> None:
        """maps: bytes of each file; offsets: group -> (N,) place of each frame."""
        size = int(np.prod(shape))
        # Row i of a view is the frame that starts at byte i, so a gather is one indexing of it.
        self._views = [
            np.lib.stride_tricks.as_strided(
                bytes_, (len(bytes_) - size + 1, size), (1, 1), writeable=False
            )
            for bytes_ in maps
        ]
        self._file_of_row, self._offsets, self._shape = file_of_row, offsets, shape

    def gather(self, rows: Tensor) -> Tensor:
        return self._gather(rows.numpy(), "obs")

    def gather_next(self, rows: Tensor) -> Tensor:
        return self._gather(rows.numpy(), "next_obs")

    def _gather(self, rows: np.ndarray, group: str) -> Tensor:
        offsets = self._offsets[group][rows]
        if len(self._views) == 1:
            frames = self._views[0][offsets]
        else:
            frames = np.empty((len(rows), self._views[0].shape[1]), dtype=np.uint8)
            files = self._file_of_row[rows]
            for i, view in enumerate(self._views):
                here = np.flatnonzero(files == i)
                frames[here] = view[offsets[here]]
        return torch.from_numpy(frames).view(-1, *self._shape)
