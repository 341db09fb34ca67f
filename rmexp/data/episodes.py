"""Episodes as flat arrays: all frames of all demos one after another, one row a frame.

The low-dim keys, the actions, rewards and dones are columns of one float32 block, so that a batch
is a single gather and every key a view of it. A next observation that is simply the following row
is a number (`next_rows`), and only those that are not get rows of their own behind the frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rmexp.data.arrays import ArraySpec
from rmexp.data.hdf5 import DemoFile


@dataclass(frozen=True)
class EpisodeTable:
    """Where each episode lies: its file, its demo, its first row and its length."""

    paths: tuple[Path, ...]
    file_of: np.ndarray
    demos: tuple[str, ...]
    starts: np.ndarray
    lengths: np.ndarray

    @property
    def num_rows(self) -> int:
        return int(self.lengths.sum())

    def following_rows(self) -> np.ndarray:
        """(N,) int64: the next row of the same episode; the last one follows itself."""
        return np.minimum(
            np.arange(1, self.num_rows + 1), np.repeat(self.starts + self.lengths - 1, self.lengths)
        )

    def locate(self, row: int) -> tuple[Path, str, int]:
        """Row -> (file, demo, frame of the demo)."""
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        return (
            self.paths[self.file_of[episode]],
            self.demos[episode],
            row - int(self.starts[episode]),
        )


@dataclass(frozen=True)
class Column:
    """Columns [start, start + width) of the block hold one key."""

    start: int
    width: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """values: (N + extra rows, W) float32; next_rows: (N,) row of each next observation."""

    values: Tensor
    obs: dict[str, Column]
    others: dict[str, Column]
    next_rows: Tensor | None

    @property
    def obs_width(self) -> int:
        return sum(column.width for column in self.obs.values())

    @property
    def num_bytes(self) -> int:
        extra = 0 if self.next_rows is None else self.next_rows.nbytes
        return self.values.nbytes + extra

    def to(self, device: torch.device) -> Block:
        moved = None if self.next_rows is None else self.next_rows.to(device)
        return replace(self, values=self.values.to(device), next_rows=moved)


def read_block(
    files: Sequence[DemoFile],
    table: EpisodeTable,
    obs_specs: Mapping[str, ArraySpec],
    ac_dim: int,
    scalars: Sequence[str],
    shifted: np.ndarray,
    *,
    with_next: bool,
) -> Block:
    """Read the named low-dim observations, the actions and `scalars` ("rewards", "dones").

    `with_next`: the next observations too, which are the next frames in the episodes `shifted`.
    """
    obs = _layout({key: spec.frame_shape for key, spec in sorted(obs_specs.items())}, 0)
    obs_width = sum(column.width for column in obs.values())
    shapes = {"actions": (ac_dim,)} | dict.fromkeys(scalars, (1,))
    others = _layout(shapes, obs_width)
    width = obs_width + ac_dim + len(scalars)
    frames, spare = table.num_rows, int((~shifted).sum()) if with_next and obs else 0
    values = np.zeros((frames + spare, width), dtype=np.float32)
    next_rows = table.following_rows() if with_next and obs else None
    extras: list[np.ndarray] = []
    num_extra = 0
    with np.errstate(over="ignore"):  # what does not fit float32 becomes inf, and is reported
        for file_index, demo, start, length, is_shifted in zip(
            table.file_of, table.demos, table.starts, table.lengths, shifted, strict=True
        ):
            file, rows = files[file_index], values[start : start + length]
            _fill(file, demo, "obs/", obs, rows)
            _fill(file, demo, "", others, rows)
            if next_rows is not None and not is_shifted:
                following = np.empty((length, obs_width), dtype=np.float32)
                _fill(file, demo, "next_obs/", obs, following)
                moved = np.ones(length, dtype=bool)
                moved[:-1] = (following[:-1] != rows[1:, :obs_width]).any(axis=1)
                count = int(moved.sum())
                next_rows[start : start + length][moved] = frames + num_extra + np.arange(count)
                extras.append(following[moved])
                num_extra += count
    if num_extra > spare:
        values = np.concatenate([values[:frames], np.zeros((num_extra, width), np.float32)])
    if extras:
        values[frames : frames + num_extra, :obs_width] = np.concatenate(extras)
    return Block(
        torch.from_numpy(values),
        obs,
        others,
        None if next_rows is None else torch.from_numpy(next_rows),
    )


def _layout(shapes: Mapping[str, tuple[int, ...]], start: int) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for key, shape in shapes.items():
        width = int(np.prod(shape))
        columns[key] = Column(start, width, shape)
        start += width
    return columns


def _fill(
    file: DemoFile, demo: str, prefix: str, columns: Mapping[str, Column], rows: np.ndarray
) -> None:
    for key, column in columns.items():
        array = file.read(demo, prefix + key).reshape(len(rows), column.width)
        rows[:, column.start : column.start + column.width] = array
