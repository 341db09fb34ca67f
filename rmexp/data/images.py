"""Images by row, uint8 as they were stored: mapped out of the HDF5 file, pooled, or cached once.

Frames that lie in the file in one plain piece are read where they are. Others (compressed, chunked)
are unpacked once into a pool, in memory or in a flat .npy file named by the content it came from.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from rmexp.data.arrays import ArraySpec
from rmexp.data.batches import Frames
from rmexp.data.episodes import EpisodeTable
from rmexp.data.frames import MappedFrames, PooledFrames
from rmexp.data.hdf5 import DemoFile
from rmexp.data.placement import Placement
from rmexp.errors import DatasetError

Allocate = Callable[[tuple[int, int]], np.ndarray]


class ReadFrames(Protocol):
    def __call__(self, episode: int, group: str) -> np.ndarray:
        """All frames of an episode, (L, H * W * C); group is "obs" or "next_obs"."""
        ...


class ImageSet:
    """All image keys of a data set; nothing is read before `open`."""

    def __init__(
        self,
        files: Sequence[DemoFile],
        table: EpisodeTable,
        specs: Mapping[str, ArraySpec],
        shifted: np.ndarray,
        hashes: Sequence[str],
        cache_dir: str,
    ) -> None:
        self._table = table
        self._shifted = shifted
        self._shapes = {key: spec.frame_shape for key, spec in specs.items()}
        self._hashes = list(hashes)
        self._cache_dir = Path(cache_dir).expanduser()
        self._places = {
            f"{group}/{key}": _places(files, table, f"{group}/{key}", spec, but)
            for key, spec in specs.items()
            for group, but in (("obs", np.zeros_like(shifted)), ("next_obs", shifted))
        }
        self._opened: tuple[tuple[Placement, torch.device, bool], dict[str, Frames]] | None = None

    @property
    def num_bytes(self) -> int:
        return self._table.num_rows * sum(int(np.prod(s)) for s in self._shapes.values())

    def open(
        self, placement: Placement, home: torch.device, *, with_next: bool
    ) -> dict[str, Frames]:
        """Frames of every key; `with_next` when the next observations are wanted too."""
        if self._opened is not None:
            (old_placement, old_home, had_next), frames = self._opened
            if (old_placement, old_home) == (placement, home) and had_next >= with_next:
                return frames
        self._opened = None
        frames = {
            key: self._open_key(key, placement, home, with_next=with_next) for key in self._shapes
        }
        self._opened = ((placement, home, with_next), frames)
        return frames

    def _open_key(
        self, key: str, placement: Placement, home: torch.device, *, with_next: bool
    ) -> Frames:
        groups = ("obs", "next_obs") if with_next else ("obs",)
        places = {group: self._places[f"{group}/{key}"] for group in groups}
        direct = {group: place for group, place in places.items() if place is not None}
        if placement == "mmap":
            if len(direct) == len(places):
                return self._mapped(key, direct)
            return self._cached(key, with_next=with_next)
        frames, next_rows = self._pool(key, lambda s: np.empty(s, np.uint8), with_next=with_next)
        return PooledFrames(
            torch.from_numpy(frames).to(home),
            None if next_rows is None else torch.from_numpy(next_rows).to(home),
            self._shapes[key],
        )

    def _mapped(self, key: str, places: Mapping[str, np.ndarray]) -> MappedFrames:
        table, size = self._table, int(np.prod(self._shapes[key]))
        within = np.arange(table.num_rows) - np.repeat(table.starts, table.lengths)
        offsets = {
            g: np.repeat(place, table.lengths) + within * size for g, place in places.items()
        }
        if "next_obs" in offsets:
            rows = np.repeat(self._shifted, table.lengths)
            offsets["next_obs"][rows] = offsets["obs"][table.following_rows()[rows]]
        return MappedFrames(
            [np.asarray(np.memmap(path, dtype=np.uint8, mode="r")) for path in table.paths],
            np.repeat(table.file_of, table.lengths),
            offsets,
            self._shapes[key],
        )

    def _cached(self, key: str, *, with_next: bool) -> PooledFrames:
        """The pool as a file, made on first use; complete once it carries its final name."""
        name = self._cache_name(key, with_next=with_next)
        frames_path, next_path = (self._cache_dir / f"{name}{end}" for end in (".npy", ".next.npy"))
        if not frames_path.exists():
            try:
                self._cache_dir.mkdir(parents=True, exist_ok=True)
                self._write_cache(key, frames_path, next_path, with_next=with_next)
            except OSError as error:
                raise DatasetError(
                    f"{self._cache_dir}: the image cache cannot be written ({error}); make room, "
                    "give another folder with dataset.cache_dir=DIR, or dataset.placement=ram"
                ) from error
        # Copy-on-write, never written: torch wants memory that it may write to.
        frames = torch.from_numpy(np.asarray(np.load(frames_path, mmap_mode="c")))
        next_rows = torch.from_numpy(np.load(next_path)) if with_next else None
        return PooledFrames(frames, next_rows, self._shapes[key])

    def _write_cache(
        self, key: str, frames_path: Path, next_path: Path, *, with_next: bool
    ) -> None:
        made, made_next = (
            path.with_suffix(f".tmp-{platform.node()}-{os.getpid()}")
            for path in (frames_path, next_path)
        )
        _remove_torn(self._cache_dir)
        try:
            frames, next_rows = self._pool(key, lambda s: _map_new(made, s), with_next=with_next)
            assert isinstance(frames, np.memmap)
            frames.flush()
            if next_rows is not None:
                with made_next.open("wb") as file:
                    np.save(file, next_rows)
                made_next.replace(next_path)
            made.replace(frames_path)
        finally:
            made.unlink(missing_ok=True)
            made_next.unlink(missing_ok=True)

    def _cache_name(self, key: str, *, with_next: bool) -> str:
        table = self._table
        content = repr((self._hashes, key, with_next, table.demos, table.file_of.tolist()))
        digest = hashlib.sha256(content.encode()).hexdigest()[:24]
        return f"{key.replace('/', '-')}-{digest}"

    def _pool(
        self, key: str, allocate: Allocate, *, with_next: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Frames, then the next frames that are not the following row; and where each one is."""
        with ExitStack() as stack:
            read = self._reader(key, stack)
            own = ~self._shifted & with_next  # episodes whose next observations are read
            spare, size = int(own.sum()), self._frame_bytes(key)
            pool = _fill_pool(self._table, read, allocate, size, own, spare)
            if pool is None:  # the next observations are recordings of their own
                spare = self._table.num_rows
                pool = _fill_pool(self._table, read, allocate, size, own, spare)
        assert pool is not None
        return pool if with_next else (pool[0], None)

    def _frame_bytes(self, key: str) -> int:
        return int(np.prod(self._shapes[key]))

    def _reader(self, key: str, stack: ExitStack) -> ReadFrames:
        table = self._table
        files = [stack.enter_context(DemoFile(str(path))) for path in table.paths]

        def read(episode: int, group: str) -> np.ndarray:
            file, demo = files[table.file_of[episode]], table.demos[episode]
            return file.read(demo, f"{group}/{key}").reshape(table.lengths[episode], -1)

        return read


def _remove_torn(folder: Path) -> None:
    """Delete what a process of this machine that is no more had begun to write."""
    torn = re.compile(rf".+-[0-9a-f]{{24}}(\.next)?\.tmp-{re.escape(platform.node())}-(\d+)")
    for path in sorted(folder.iterdir()):
        found = torn.fullmatch(path.name)
        if found and not _is_alive(int(found.group(2))):
            path.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def _places(
    files: Sequence[DemoFile], table: EpisodeTable, key: str, spec: ArraySpec, but: np.ndarray
) -> np.ndarray | None:
    """Byte at which each episode's frames start, None unless all of them lie in one plain piece.

    The episodes `but` have none.
    """
    places = np.zeros(len(table.demos), dtype=np.int64)
    size = int(np.prod(spec.frame_shape))
    for i, (file_index, demo) in enumerate(zip(table.file_of, table.demos, strict=True)):
        if but[i]:
            continue
        place = files[file_index].byte_offset(demo, key)
        if place is None or place + size * int(table.lengths[i]) > files[file_index].size:
            return None
        places[i] = place
    return places


def _fill_pool(
    table: EpisodeTable,
    read: ReadFrames,
    allocate: Allocate,
    frame_bytes: int,
    own_next: np.ndarray,
    spare: int,
) -> tuple[np.ndarray, np.ndarray] | None:
    """None when `spare` rows do not hold the next frames that are not the following row.

    Only the episodes `own_next` have such frames.
    """
    count = table.num_rows
    pool = allocate((count + spare, frame_bytes))
    next_rows = table.following_rows()
    used = count
    for i, (start, length) in enumerate(zip(table.starts, table.lengths, strict=True)):
        rows = pool[start : start + length]
        rows[:] = read(i, "obs")
        if not own_next[i]:
            continue
        following = read(i, "next_obs")
        own = np.ones(length, dtype=bool)
        own[:-1] = (following[:-1] != rows[1:]).any(axis=1)
        needed = int(own.sum())
        if used + needed > len(pool):
            return None
        pool[used : used + needed] = following[own]
        next_rows[start : start + length][own] = np.arange(used, used + needed)
        used += needed
    return pool, next_rows


def _map_new(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """A new .npy file of this shape, mapped; its blocks are reserved, so a full disk shows here."""
    needed = shape[0] * shape[1]
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{needed:,} bytes are needed and {free:,} are free")
    mapped = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    with path.open("r+b") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return mapped
